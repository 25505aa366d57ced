"""Timing whole processes in pairs, and the row that a benchmark reports."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One ratio: medians of both sides (unit in the name), every pair's ratio, and the goal in words."""

    name: str
    ours: float
    peer: float
    ratios: tuple[float, ...]
    goal: str
    note: str = ""

    def spread(self) -> tuple[float, float, float]:
        return statistics.median(self.ratios), min(self.ratios), max(self.ratios)

    def as_dict(self) -> dict[str, Any]:
        median, low, high = self.spread()
        return {
            "ours": self.ours, "peer": self.peer, "ratio": median, "min": low, "max": high,
            "pairs": len(self.ratios), "goal": self.goal, "note": self.note,
        }  # fmt: skip


def process_s(command: Sequence[str], *, exit_code: int = 0) -> float:
    """Wall seconds of a process that must end with `exit_code`."""
    began = time.perf_counter()
    ended = subprocess.run(list(command), capture_output=True, text=True, check=False)
    spent = time.perf_counter() - began
    assert ended.returncode == exit_code, f"{command} ended with {ended.returncode}: {ended.stderr[-2000:]}"
    return spent


def in_pairs(name: str, ours: Callable[[], float], peer: Callable[[], float], *, pairs: int, goal: str) -> Row:
    """Run both in turn, once unmeasured (files into the page cache) and then `pairs` times."""
    ours(), peer()
    both = [(ours(), peer()) for _ in range(pairs)]
    ratios = tuple(a / b for a, b in both)
    return Row(name, statistics.median(a for a, _ in both), statistics.median(b for _, b in both), ratios, goal)
