"""Progress on the terminal while a run goes: the phase, images and verdicts done, the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from runner.journal import Event
from runner.worker import Progress

SPOKEN = {
    "waiting_for_gpu": "waiting for the device",
    "loading": "loading model",
    "warming": "proving the LoRA",
    "generating": "sampling",
    "reviewing": "reviewing",
    "releasing": "releasing model",
    "verifying": "verifying",
}


class Live:
    """Two bars and a line that says what is being done now. Silent when the terminal is not one."""

    def __init__(self, expected: Mapping[str, int], kept: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars
        from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bars = Bars(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[now]}"),
            console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._tasks = {
            kind: self._bars.add_task(f"{kind}s", total=count, now="") for kind, count in expected.items() if count
        }
        self._kept = kept

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def on_event(self, event: Event) -> None:
        if event["event"] == "made":
            kind = event["key"].partition("/")[0]
            self._bars.advance(self._tasks[kind])
        elif event["event"] == "status":
            self._say(SPOKEN.get(event["status"], event["status"]))

    def on_progress(self, moment: Progress) -> None:
        self._say(f"{SPOKEN.get(moment.status, moment.status)} {moment.done}/{moment.total}")

    def _say(self, text: str) -> None:
        for task in self._tasks.values():
            self._bars.update(task, now=text)


def plain_line(event: Event) -> str | None:
    """What a log without a terminal shows of an event: statuses, failures and the end."""
    facts: dict[str, Any] = event
    if event["event"] == "status":
        return SPOKEN.get(event["status"], event["status"])
    if event["event"] == "unmade":
        return f"{facts['key']} was not made: {facts['reason']}"
    return None
