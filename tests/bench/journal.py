"""Journal lines per second: each with an fsync of its own, and many with one, against bare writes of the same bytes.

`append` syncs once per call, whatever is in it; a batch of images is one call. Nothing is ever left unsynced.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path

from runner import journal
from tests.bench.timed import Row, in_pairs

NUM_LINES = 2_048
FACTS = {"seed": 1, "prompt": "a <emblem> on a red background", "width": 64, "height": 64, "batch": 8}
GOALS = {1: ">= 0.5", 64: "-"}  # of 64 lines, hashing costs more than the disk
LINE = {"event": "made", "key": "image/on-red.000", "step": "0" * 64, "object": "1" * 64, "bytes": 9000, "facts": FACTS}


def measure(pairs: int) -> list[Row]:
    rows = {
        1: "journal, an fsync a line (lines/s) / bare write and fsync",
        64: "journal, an fsync for 64 lines (lines/s)",
    }
    return [
        in_pairs(name, partial(_ours, at_once), partial(_bare, at_once), pairs=pairs, goal=GOALS[at_once])
        for at_once, name in rows.items()
    ]


def _ours(at_once: int) -> float:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        log, _ = journal.open_log(Path(place), "0" * 64, list)
        began = time.perf_counter()
        for _ in range(NUM_LINES // at_once):
            log.append(*[LINE] * at_once)
        return NUM_LINES / (time.perf_counter() - began)


def _bare(at_once: int) -> float:
    """The bytes of the same lines, opened, written and synced as often."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        path = Path(place) / "bytes"
        data = b"x" * 480 * at_once
        began = time.perf_counter()
        for _ in range(NUM_LINES // at_once):
            with path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        return NUM_LINES / (time.perf_counter() - began)
