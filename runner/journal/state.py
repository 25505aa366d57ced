"""What a run's events add up to, and a run folder as it can be read anywhere."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import Corrupt, first_line
from runner.journal.log import JOURNAL, Chain, Event
from runner.journal.manifest import altered, manifest_digest, read_manifest

RUNNING = ("planned", "waiting_for_gpu", "loading", "warming", "generating", "reviewing", "releasing", "verifying")
ENDED = ("complete", "incomplete", "failed", "interrupted", "blocked")  # and `crashed`, which nobody lives to write


@dataclass(slots=True)
class Item:
    """The last word on one planned item; `facts` are the worker's, empty when folded `slim`."""

    made: bool
    object: str | None  # digest of its bytes
    bytes: int | None
    step: str
    at: str
    image: str | None  # of a verdict: the digest of the picture it judged
    scored: bool  # of a verdict: whether it has scores
    quarantined: bool = False  # of a verdict: its critic failed an exam since
    kind: str | None = None  # of an item that was not made: its kind of failure
    reason: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


NO_FACTS: Mapping[str, Any] = {}


@dataclass(slots=True)
class State:
    """What a run's events add up to."""

    status: str = "planned"
    phase: str | None = None
    phase_at: str | None = None  # since when
    beat: Event | None = None  # the last sign of life in a long phase
    waits_for: str | None = None  # what a waiting run waits for
    owner: dict[str, Any] | None = None
    attempts: int = 0
    started: str | None = None
    ended: str | None = None
    items: dict[str, Item] = field(default_factory=dict)
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    failure: dict[str, Any] | None = None
    peaks: list[Event] = field(default_factory=list)  # measured memory by role
    exams: list[Event] = field(default_factory=list)  # what the critic was examined on, and how it did
    since_exam: list[str] = field(default_factory=list)  # verdicts given since it last passed
    servers: list[Event] = field(default_factory=list)  # how servers of the critic started
    last_event: str | None = None
    num_differing: int = 0  # kept images that came out with other bytes when their batch was sampled again

    @property
    def open(self) -> bool:
        """Whether the last attempt has no end: it runs, or its process is gone."""
        return self.ended is None and self.attempts > 0

    def count(self, kind: str) -> Counter[str]:
        """How many items of a kind (`image`, `verdict`) are made, unmade, and made without scores."""
        items = [item for key, item in self.items.items() if key.startswith(f"{kind}/")]
        made = sum(item.made for item in items)
        unscored = sum(item.made and not item.scored for item in items)
        return Counter(made=made, unmade=len(items) - made, unscored=unscored)

    def made(self) -> dict[str, Item]:
        return {key: item for key, item in self.items.items() if item.made}


def fold(events: Iterable[Event], state: State | None = None, *, slim: bool = False) -> State:
    """Add events up in order, to a state that others led to; unknown ones only move the clock.

    `slim` leaves out the workers' facts. Raises Corrupt for a line that no run writes.
    """
    state = state or State()
    for event in events:
        try:
            if event["event"] in ("made", "unmade"):
                state.items[event["key"]] = item_of(event, slim=slim)
                if event["key"].startswith("verdict/"):
                    state.since_exam.append(event["key"])
            else:
                _FOLDS.get(event["event"], _nothing)(state, event)
        except NOT_OURS as error:
            what = f"line {event['n'] + 1} is no event of a run ({type(error).__name__}: {first_line(error)})"
            raise Corrupt(altered("journal_altered", Path(JOURNAL), what)) from error
        state.last_event = event["at"]
    return state


NOT_OURS = (KeyError, TypeError, ValueError, AttributeError)  # what a chained line raises that no run wrote


def fold_slim(events: Iterable[Event]) -> State:
    """What a resumption needs to know, and no more: a run may have hundreds of thousands of items."""
    return fold(events, slim=True)


def item_of(event: Event, *, slim: bool) -> Item:
    """The item of a `made` or `unmade` line. Raises one of NOT_OURS for a line that no run writes."""
    facts, name = event.get("facts", NO_FACTS), event.get("object")
    if not (name is None or isinstance(name, str)) or not (slim or _are_facts(facts)):
        raise TypeError("its object or its facts are of another kind")
    return Item(
        event["event"] == "made", name, event.get("bytes"), sys.intern(event["step"]), event["at"],
        facts.get("image"), facts.get("status") != "unscored", False,
        event.get("kind"), event.get("reason"), NO_FACTS if slim else facts,
    )  # fmt: skip


def _are_facts(facts: Any) -> bool:
    return all(isinstance(facts.get(key, kind()), kind) for key, kind in KINDS)


KINDS = (("scores", dict), ("timing", dict), ("tags", list))  # of facts that readers take apart


def _started(state: State, event: Event) -> None:
    state.attempts += 1
    state.owner, state.failure, state.ended = event["owner"], None, None
    state.started = state.started or event["at"]
    state.status, state.phase, state.phase_at, state.beat = "planned", None, event["at"], None


def _status(state: State, event: Event) -> None:
    state.status, state.phase = event["status"], event.get("phase")
    state.phase_at, state.beat, state.waits_for = event["at"], None, event.get("reason")


def _beat(state: State, event: Event) -> None:
    state.beat = event


def _peak(state: State, event: Event) -> None:
    state.peaks.append(event)


def _exam(state: State, event: Event) -> None:
    """A critic that fails is quarantined: what it said since it last passed stays, marked."""
    state.exams.append(event)
    if not event["passed"]:
        for key in state.since_exam:
            state.items[key].quarantined = True
    state.since_exam = []


def _server(state: State, event: Event) -> None:
    state.servers.append(event)


def _ended(state: State, event: Event) -> None:
    state.status, state.ended, state.phase, state.phase_at = event["status"], event["at"], None, event["at"]
    state.timings, state.failure = event.get("timings", {}), _failure(event.get("failure"))


def _failure(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """How an attempt failed; early journals called cause and hint what and fix."""
    return record and {"cause": record.get("what"), "hint": record.get("fix"), **record}


def _differs(state: State, event: Event) -> None:
    state.num_differing += 1


def _nothing(state: State, event: Event) -> None:
    del state, event


_FOLDS: dict[str, Callable[[State, Event], None]] = {
    "started": _started,
    "status": _status,
    "beat": _beat,
    "peak": _peak,
    "exam": _exam,
    "critic_server": _server,
    "ended": _ended,
    "differs": _differs,
}


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder as it can be read anywhere: no GPU, no MLflow, no network, no writer."""

    folder: Path
    manifest: dict[str, Any]
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
        item = self.state.items.get(f"image/{key}")
        verdict = self.state.items.get(f"verdict/{key}")
        judged = verdict.facts if verdict else NO_FACTS
        given = self.manifest.get("given", {}).get(key)
        settings = self.manifest["request"]["generate"]
        return {
            "key": key,
            "digest": item.object if item else given and given[0],
            "seed": seed,
            "prompt": prompt["text"],
            "prompt_key": prompt["key"],
            "prompt_id": prompt["id"],
            "width": settings["width"],
            "height": settings["height"],
            "status": _status_of(item, given),
            "reason": item.reason if item else None,
            "at": item.at if item else None,
            "bytes": item.bytes if item else None,
            "timing": item.facts.get("timing", {}) if item else {},
            "verdict": verdict.object if verdict else None,
            "scores": judged.get("scores", {}),
            "tags": judged.get("tags", []),
            "advice": judged.get("advice"),
            "unscored": judged.get("reason"),
            "verdict_key": judged.get("key"),
            "quarantined": verdict is not None and verdict.quarantined,
        }


def _status_of(item: Item | None, given: list[str] | None) -> str:
    """Of an image; one that another run made and this one only reviews is complete."""
    if item is None:
        return "complete" if given else "planned"
    return "complete" if item.made else "failed"


def read_run(folder: Path, *, slim: bool = False) -> Run:
    """Read a run folder. Raises Corrupt when its manifest cannot be read. `slim` is for counts: no scores, no facts."""
    return follow_run(folder, slim=slim)()


def follow_run(folder: Path, *, slim: bool) -> Callable[[], Run]:
    """A way to read a run again and again; what was read before is not read anew. Raises as `read_run`."""
    chain, state, manifest = Chain(folder), State(), read_manifest(folder)
    began_with = manifest_digest(folder)

    def read() -> Run:
        try:
            fold(chain, state, slim=slim)
        except Corrupt as error:
            chain.problem = error.faults[0].what
        other = chain.genesis not in (None, began_with)
        return Run(folder, manifest, state, chain.problem or (OTHER_MANIFEST if other else None))

    return read


OTHER_MANIFEST = "the manifest is not the one that the journal began with"
