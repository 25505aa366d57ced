"""What a server says: kept in a file that does not grow without end, and understood as phases of its start.

A key never reaches the file: it is taken out of every line first. A full disk loses lines, not the server: somebody has
to go on reading, or it would stop at its next word. What it does not know: what a line means beyond the profile's
regular expressions.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from runner.config.critic import ServerPhase
from runner.contract import critic_server

NAME = "critic-server.log"
MAX_BYTES = 4 << 20  # of the file; the one before is kept beside it
MAX_CHARS = 2000  # of a line that is kept
KEPT_LINES = 200
FIRST, LAST = "begin", "ready"  # before any line matches, and when it answers
HIDDEN = "[key]"
TELLING = re.compile(r"error|exception|fatal|failed|cannot|can't|unable|out of memory|in use|not found|no such", re.I)
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(slots=True)
class Phases:
    """The parts of one start, each begun by the first line that matches it, with seconds by `now`."""

    patterns: Mapping[str, re.Pattern[str]]
    now: Callable[[], float] = time.monotonic
    begun: list[tuple[str, float]] = field(default_factory=list)
    finished: bool = False
    _told: int = 0

    def __post_init__(self) -> None:
        self.begun.append((FIRST, self.now()))

    def hear(self, line: str) -> None:
        """A line of the log. Any thread may call it; after `finish` nothing begins."""
        if self.finished:
            return
        known = {name for name, _ in self.begun}
        for name, pattern in self.patterns.items():
            if name not in known and pattern.search(line):
                self.begun.append((name, self.now()))
                return

    def finish(self) -> None:
        """The start is over: the phase that goes on ends now."""
        self.finished = True
        self.begun.append((LAST, self.now()))

    def ended(self) -> list[tuple[str, float]]:
        """Phases that ended since this was asked last, with the seconds that each took."""
        pairs = list(pairwise(self.begun))[self._told :]
        self._told += len(pairs)
        return [(name, round(after - at, 3)) for (name, at), (_, after) in pairs]

    def current(self) -> tuple[str, float]:
        """The phase that goes on, and for how many seconds it has."""
        name, at = self.begun[-1]
        return name, round(self.now() - at, 3)

    def total_s(self) -> float:
        return round(self.now() - self.begun[0][1], 3)


@dataclass(slots=True)
class Log:
    """The log file of one server over all its starts, its last lines, and the phases of its present start."""

    path: Path
    phases: Phases
    key: str = field(default="", repr=False)
    max_bytes: int = MAX_BYTES
    last: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, phases: Sequence[ServerPhase], key: str, title: str) -> None:
        """A new start: its phases begin now, and its lines are told apart from those of the one before."""
        self.key, self.phases = key, Phases(critic_server.patterns(phases))
        self.last.clear()
        self._write(f"---- {datetime.now(UTC).isoformat(timespec='seconds')} {title}")

    def hear(self, line: str) -> None:
        """A line of the server's output; never raises for what a disk does."""
        line = self.clean(line)
        if line:
            self.last.append(line)
            self.phases.hear(line)
            self._write(line)

    def clean(self, text: str) -> str:
        """A text without the key and without control characters, cut to a length that can be read."""
        hidden = text.replace(self.key, HIDDEN) if self.key else text
        return CONTROL.sub("", hidden).rstrip()[:MAX_CHARS]

    def tail(self, count: int) -> list[str]:
        return list(self.last)[-count:]

    def telling(self) -> str | None:
        """The last line that says what went wrong; else the last one."""
        said = self.tail(KEPT_LINES)
        return next((line for line in reversed(said) if TELLING.search(line)), said[-1] if said else None)

    def _write(self, line: str) -> None:
        with self._one_at_a_time, contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size > self.max_bytes:
                self.path.replace(self.path.with_suffix(".log.1"))
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
