"""What a run's events add up to, and a run folder as it can be read anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.journal.log import Event, read_events
from runner.journal.manifest import manifest_digest, read_manifest

RUNNING = ("planned", "waiting_for_gpu", "loading", "warming", "generating", "reviewing", "releasing", "verifying")
ENDED = ("complete", "incomplete", "failed", "interrupted", "blocked")  # and `crashed`, which nobody lives to write


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
