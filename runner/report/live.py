"""Progress on the terminal while a run goes: the phase, images and verdicts done, the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from runner.gpu import who
from runner.journal import Event
from runner.worker import Progress

SPOKEN = {
    "waiting_for_gpu": "waiting for the device",
    "loading": "loading model",
    "warming": "warming up",
    "generating": "sampling",
    "reviewing": "reviewing",
    "releasing": "releasing model",
    "verifying": "verifying",
}

EVERY_S = 10.0
OF_CRITIC = {"loading": "loading the critic", "warming": "examining the critic"}


def spoken(status: str) -> str:
    """A status in words."""
    return SPOKEN.get(status, status)


def _told(event: Event) -> str:
    """A status, of the critic in its own words, and for whom it waits."""
    reason = event.get("reason")
    told = OF_CRITIC.get(event["status"]) if event.get("role") == "critic" else None
    return (told or spoken(event["status"])) + (f": {reason}" if reason else "")


class Live:
    """Two bars and a line that says what is being done now. Plain lines when standard error is no terminal."""

    def __init__(self, expected: Mapping[str, int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[now]}"),
            console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self._tasks = {
            kind: self._bars.add_task(f"{kind}s", total=count, now="") for kind, count in expected.items() if count
        }
        self._expected, self._shown = dict(expected), sys.stderr.isatty()
        self._told_s = time.monotonic()

    def __enter__(self) -> Live:
        self._bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def on_event(self, event: Event) -> None:
        if not self._shown and (line := plain_line(event)):
            print(line, file=sys.stderr, flush=True)
        if event["event"] == "started":
            for kind, task in self._tasks.items():
                self._bars.update(task, completed=self._expected[kind] - event["left"].get(kind, 0))
        elif event["event"] == "made":
            self._bars.advance(self._tasks[event["key"].partition("/")[0]])
        elif event["event"] == "status":
            self._say(_told(event))

    def on_progress(self, moment: Progress) -> None:
        text = f"{spoken(moment.status)} {moment.done}/{moment.total}"
        self._say(text)
        if not self._shown and time.monotonic() - self._told_s > EVERY_S:  # a log is told seldom, but is told
            self._told_s = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def _say(self, text: str) -> None:
        for task in self._tasks.values():
            self._bars.update(task, now=text)


def plain_line(event: Event) -> str | None:
    """What a log without a terminal shows of an event: statuses, and items that were not made."""
    if event["event"] == "status":
        return _told(event)
    if event["event"] == "lease_taken_over":
        return f"took over {event['device']} from a process that died: {who(event['before'])}"
    if event["event"] == "exam":
        return (
            f"the critic passed its exam in {event['took_s']:.1f} s"
            if event["passed"]
            else "the critic failed its exam"
        )
    if event["event"] == "critic_server":
        return f"critic server: {event['phase']} ({event['took_s']:.1f} s)" if "took_s" in event else None
    return f"{event['key']} was not made: {event['reason']}" if event["event"] == "unmade" else None
