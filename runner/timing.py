"""Phases on a clock that is passed in: where the wall time of a run went.

Phases never overlap: entering one stops the one around it, so the totals plus `unaccounted` are the wall
time. What it does not know: what happens on other threads, and device work nobody waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = (
    "compose", "validate", "plan", "gpu_wait", "load_base", "load_lora", "warmup", "encode_prompt", "sample",
    "decode", "write", "store", "verify", "release", "load_critic", "review", "record",
)  # fmt: skip


@dataclass(slots=True)
class Clock:
    """A stack of phases; `now` gives seconds, `sync` waits for the device before a phase ends."""

    now: Callable[[], float] = time.perf_counter
    sync: Callable[[], None] = lambda: None
    durations_s: dict[str, list[float]] = field(default_factory=dict)
    broke_in: str | None = None  # the innermost phase that an exception left
    _stack: list[list[float]] = field(default_factory=list)
    _open: list[tuple[str, float]] = field(default_factory=list)  # phases that are entered, with their beginning
    _started: float | None = None

    def start(self, at: float | None = None) -> None:
        """Begin the wall clock, at an earlier reading of `now` if the process is older than this object."""
        self._started = self.now() if at is None else at

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block as `name`; time spent in a phase inside it is not counted twice."""
        assert name in PHASES, f"unknown phase {name!r}"
        inner = [0.0]
        self._stack.append(inner)
        begun = self.now()
        self._open.append((name, begun))
        try:
            yield
        except BaseException:
            self.broke_in = self.broke_in or name
            raise
        finally:
            self.sync()
            spent = self.now() - begun
            self._stack.pop()
            self._open.pop()
            if self._stack:
                self._stack[-1][0] += spent
            self.durations_s.setdefault(name, []).append(spent - inner[0])

    def lasting(self, at_least_s: float) -> tuple[str, float] | None:
        """The innermost phase that was entered at least so long ago, and its seconds. Any thread may ask."""
        now = self.now()
        spans = [(name, now - begun) for name, begun in reversed(self._open)]
        return next((span for span in spans if span[1] >= at_least_s), None)

    def add(self, name: str, seconds: float) -> None:
        """Count a phase that was over before this clock existed."""
        self.durations_s.setdefault(name, []).append(seconds)

    def total_s(self, name: str) -> float:
        return sum(self.durations_s.get(name, ()))

    def wall_s(self) -> float:
        return 0.0 if self._started is None else self.now() - self._started

    def summary(self) -> dict[str, dict[str, float]]:
        """Per phase: count, total, p50 and p95 in seconds; `unaccounted` is the rest of the wall time."""
        table = {name: _figures(spent) for name, spent in self.durations_s.items()}
        known = sum(row["total_s"] for row in table.values())
        table["unaccounted"] = _figures([max(0.0, self.wall_s() - known)])
        return table


def percentile(values: list[float], share: float) -> float:
    """The value at `share` (0..1) of the sorted values, by linear interpolation; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _figures(spent: list[float]) -> dict[str, float]:
    return {
        "count": len(spent),
        "total_s": round(sum(spent), 6),
        "p50_s": round(percentile(spent, 0.5), 6),
        "p95_s": round(percentile(spent, 0.95), 6),
    }
