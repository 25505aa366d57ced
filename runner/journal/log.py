"""The event log: append, read, and check every link of its chain. The line is the commit."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import store
from runner.errors import Corrupt, Failed
from runner.journal.manifest import MANIFEST, altered, not_writable

JOURNAL = "journal.jsonl"
SEAL = "seal.json"  # number and hash of the last line when an attempt ended: shows a journal that lost its end

Event = dict[str, Any]
Watcher = Callable[[Event], None]


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
            raise not_writable(self.path, error) from error


def open_journal(folder: Path, expected_manifest: str) -> tuple[Journal, list[Event]]:
    """Open a run's journal for appending; returns it and the events so far. Cuts a torn last line.

    Raises Corrupt when the chain is broken or belongs to another manifest.
    """
    path = folder / JOURNAL
    reading = read_events(folder)
    if reading.problem is not None:
        raise Corrupt(altered("journal_altered", path, reading.problem))
    if reading.events and reading.events[0]["prev"] != expected_manifest:
        raise Corrupt(altered("manifest_altered", folder / MANIFEST, "is not the one that the journal began with"))
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
