"""The manifest and the event log of one run: append, read, fold into state.

A run folder holds `manifest.json` (written once) and `journal.jsonl` (one event a line; each line carries
the hash of the line before, the first one the digest of the manifest). The line is the commit: what is not
in the journal did not happen. It refuses a second manifest and a broken chain; a torn last line is cut
before the next append. What it does not know: objects, MLflow, or whether the writer is still alive.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import store
from runner.errors import Corrupt, Failed, Fault, RunnerError

MANIFEST = "manifest.json"
JOURNAL = "journal.jsonl"
RUNNING = ("planned", "waiting_for_gpu", "loading", "warming", "generating", "reviewing", "releasing", "verifying")
ENDED = ("complete", "incomplete", "failed", "interrupted", "blocked")  # and `crashed`, which nobody lives to write
SEAL = "seal.json"  # number and hash of the last line when an attempt ended: shows a journal that lost its end
REQUIRED = ("run_id", "identity", "request", "contract", "pins", "prompts", "images", "tokens", "environment")

Event = dict[str, Any]
Watcher = Callable[[Event], None]


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Write the manifest once, durably, before any model loads; returns its digest."""
    path = folder / MANIFEST
    if path.exists():
        raise Corrupt(Fault("manifest_exists", str(path), "is already written", "Leave it; start a new run"))
    data = store.canonical(manifest)
    try:
        store.write_durably(path, data)
        store.fsync_folder(folder.parent)
    except OSError as error:
        raise _not_writable(path, error) from error
    return store.digest(data)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder. Raises Corrupt when it is gone or is not the canonical JSON we wrote."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        sound = isinstance(manifest, dict) and store.canonical(manifest) == data
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(_altered("manifest_altered", path, f"cannot be read ({error})")) from error
    if not sound or any(name not in manifest for name in REQUIRED):
        raise Corrupt(_altered("manifest_altered", path, "is not the canonical JSON that a run writes"))
    return dict(manifest)


def manifest_digest(folder: Path) -> str:
    return store.file_digest(folder / MANIFEST)


@dataclass(slots=True)
class Journal:
    """The appending end of one run's log; one process holds it at a time (the caller's lease sees to that)."""

    path: Path
    last_hash: str
    next_number: int
    watchers: list[Watcher] = field(default_factory=list)
    committing: bool = False  # a signal that arrives now must wait: see `interrupt`
    _stop: BaseException | None = None

    def append(self, *events: Event) -> None:
        """Commit events in order with one write and one fsync, then tell the watchers. Raises Failed(storage)."""
        if not events:
            return
        lines = self._chained(events)
        data = b"".join(store.canonical(line) + b"\n" for line in lines)
        size = self.path.stat().st_size
        self.committing = True
        try:
            self._write(data)
            self.last_hash, self.next_number = lines[-1]["hash"], lines[-1]["n"] + 1
        except Failed:
            self._stop = None  # the failure ends the run anyway
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # what a full disk let through of it
            raise
        finally:
            self.committing = False
        for line in lines:
            self._tell(line)
        if self._stop is not None:
            stop, self._stop = self._stop, None
            raise stop

    def _tell(self, line: Event) -> None:
        """A watcher that breaks (a closed terminal) is told no more; the line is committed in any case."""
        for watch in list(self.watchers):
            try:
                watch(line)
            except Exception:
                self.watchers.remove(watch)

    def interrupt(self, stop: BaseException) -> None:
        """Raise `stop` now, or after the commit that is under way: between write and chain it would break both."""
        if not self.committing:
            raise stop
        self._stop = stop

    def _chained(self, events: tuple[Event, ...]) -> list[Event]:
        before, number, lines = self.last_hash, self.next_number, []
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        for event in events:
            line = {**event, "n": number, "at": at, "prev": before}
            before, number = store.digest_of(line), number + 1
            lines.append({**line, "hash": before})
        return lines

    def _write(self, data: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _not_writable(self.path, error) from error


def open_journal(folder: Path, expected_manifest: str) -> tuple[Journal, list[Event]]:
    """Open a run's journal for appending; returns it and the events so far. Cuts a torn last line.

    Raises Corrupt when the chain is broken or belongs to another manifest.
    """
    path = folder / JOURNAL
    reading = read_events(folder)
    if reading.problem is not None:
        raise Corrupt(_altered("journal_altered", path, reading.problem))
    if reading.events and reading.events[0]["prev"] != expected_manifest:
        raise Corrupt(_altered("manifest_altered", folder / MANIFEST, "is not the one that the journal began with"))
    if path.exists() and path.stat().st_size != reading.sound_bytes:
        os.truncate(path, reading.sound_bytes)
    fresh = not path.exists()
    last = reading.events[-1]["hash"] if reading.events else expected_manifest
    journal = Journal(path, last, len(reading.events))
    if fresh:
        journal._write(b"")
        store.fsync_folder(folder)
    return journal, reading.events


@dataclass(frozen=True, slots=True)
class Reading:
    """What a journal says: its events, how many bytes of it are whole lines, and the first broken link."""

    events: list[Event]
    sound_bytes: int
    problem: str | None


def read_events(folder: Path) -> Reading:
    """Read a journal and check every link of its chain. A missing file reads as no events."""
    path = folder / JOURNAL
    data = path.read_bytes() if path.exists() else b""
    sound = data.rfind(b"\n") + 1
    events: list[Event] = []
    before: str | None = None
    for number, line in enumerate(data[:sound].splitlines(), start=1):
        event = _parse(line)
        problem = "is not one of our lines" if event is None else _broken_link(event, before, number)
        if event is None or problem:
            return Reading(events, sound, f"line {number} {problem}")
        events.append(event)
        before = event["hash"]
    return Reading(events, sound, _lost_end(folder, events))


def seal(folder: Path, log: Journal) -> None:
    """Note where the journal ends, so that a journal cut short afterwards shows."""
    store.write_durably(folder / SEAL, store.canonical({"n": log.next_number - 1, "hash": log.last_hash}))


def _lost_end(folder: Path, events: list[Event]) -> str | None:
    try:
        sealed = json.loads((folder / SEAL).read_bytes())
        there = events[sealed["n"]]["hash"] == sealed["hash"]
    except FileNotFoundError:
        return None
    except IndexError:
        return f"is cut short: it has {len(events)} lines and had at least {sealed['n'] + 1}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"has a {SEAL} beside it that cannot be read"
    return None if there else "is not the one that was sealed when the run ended"


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(event, dict) and {"hash", "prev", "event", "n"} <= event.keys() and _canonical(event) == line
    return event if sound else None


def _canonical(event: Event) -> bytes | None:
    try:
        return store.canonical(event)
    except ValueError:  # NaN, or half of a surrogate pair: no line of ours has them
        return None


def _broken_link(event: Event, before: str | None, number: int) -> str | None:
    body = {key: value for key, value in event.items() if key != "hash"}
    if store.digest_of(body) != event["hash"]:
        return "was altered: its hash is not that of its content"
    if before is not None and event["prev"] != before:
        return "does not follow the line before it: lines are missing or were moved"
    return None if event["n"] == number - 1 else "has the wrong number"


@dataclass(slots=True)
class State:
    """What a run's events add up to."""

    status: str = "planned"
    phase: str | None = None
    owner: dict[str, Any] | None = None
    attempts: int = 0
    started: str | None = None
    ended: str | None = None
    items: dict[str, Event] = field(default_factory=dict)  # item key -> its last `made` or `unmade` event
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    last_event: str | None = None
    num_differing: int = 0  # kept images that came out with other bytes when their batch was sampled again

    @property
    def open(self) -> bool:
        """Whether the last attempt has no end: it runs, or its process is gone."""
        return self.ended is None and self.attempts > 0

    def made(self) -> dict[str, Event]:
        return {key: event for key, event in self.items.items() if event["event"] == "made"}


def fold(events: list[Event]) -> State:
    """Add events up in order; unknown ones only move the clock."""
    state = State()
    for event in events:
        _FOLDS.get(event["event"], _nothing)(state, event)
        state.last_event = event["at"]
    return state


def _started(state: State, event: Event) -> None:
    state.attempts += 1
    state.owner, state.failure, state.ended = event["owner"], None, None
    state.started = state.started or event["at"]
    state.status, state.phase = "planned", None


def _status(state: State, event: Event) -> None:
    state.status, state.phase = event["status"], event.get("phase")


def _item(state: State, event: Event) -> None:
    state.items[event["key"]] = event


def _ended(state: State, event: Event) -> None:
    state.status, state.ended, state.phase = event["status"], event["at"], None
    state.timings, state.failure = event.get("timings", {}), event.get("failure")


def _differs(state: State, event: Event) -> None:
    state.num_differing += 1


def _nothing(state: State, event: Event) -> None:
    del state, event


_FOLDS: dict[str, Callable[[State, Event], None]] = {
    "started": _started,
    "status": _status,
    "made": _item,
    "unmade": _item,
    "ended": _ended,
    "differs": _differs,
}


def _altered(code: str, path: Path, what: str) -> Fault:
    fix = "Nothing was changed. Put the original back, or start again with run.fresh=true"
    return Fault(code, str(path), what, fix)


def _not_writable(path: Path, error: OSError) -> RunnerError:
    fix = "Free space or mend the permissions of that folder, then run the same command again"
    return Failed("storage", Fault("storage_failed", str(path), f"cannot be written ({error.strerror})", fix))


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as it can be read anywhere: no GPU, no MLflow, no network, no writer."""

    folder: Path
    manifest: dict[str, Any]
    events: list[Event]
    state: State
    problem: str | None  # the first broken link of its journal

    @property
    def id(self) -> str:
        return self.folder.name

    def status(self, alive: Callable[[Path, dict[str, Any] | None], bool]) -> str:
        """The folded status; `crashed` when the journal has no end and its writer is gone."""
        return "crashed" if self.state.open and not alive(self.folder, self.state.owner) else self.state.status

    def images(self) -> list[dict[str, Any]]:
        """Every planned image with what became of it."""
        return [self._image(key, self.manifest["prompts"][place], seed) for key, place, seed in self.manifest["images"]]

    def _image(self, key: str, prompt: Mapping[str, Any], seed: int) -> dict[str, Any]:
        event = self.state.items.get(f"image/{key}", {})
        verdict = self.state.items.get(f"verdict/{key}", {})
        settings = self.manifest["request"]["generate"]
        made = event.get("event") == "made"
        return {
            "key": key,
            "digest": event.get("object"),
            "seed": seed,
            "prompt": prompt["text"],
            "prompt_key": prompt["key"],
            "prompt_id": prompt["id"],
            "width": settings["width"],
            "height": settings["height"],
            "status": "complete" if made else "failed" if event else "planned",
            "reason": event.get("reason"),
            "verdict": verdict.get("object"),
            "scores": verdict.get("facts", {}).get("scores", {}),
            "tags": verdict.get("facts", {}).get("tags", []),
            "unscored": verdict.get("facts", {}).get("reason"),
        }


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises Corrupt when its manifest cannot be read."""
    reading, manifest = read_events(folder), read_manifest(folder)
    problem = reading.problem
    if problem is None and reading.events and reading.events[0]["prev"] != manifest_digest(folder):
        problem = "the manifest is not the one that the journal began with"
    return Run(folder, manifest, reading.events, fold(reading.events), problem)
