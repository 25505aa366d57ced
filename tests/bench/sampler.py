"""What stands round the sampler once everything is loaded: seconds of the warm generate stage per second of sampling.

The warm generate stage is encode_prompt, sample, decode, write, store and record; sampling is `sample` alone. The
first batch is left out, because it is cold.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from runner import journal
from tests.bench.timed import Row

STAGE = ("encode_prompt", "sample", "decode", "write", "store", "record")
REQUEST = [
    "+experiment=demo", "stages=[generate]", "critic=none", "track=none", "generate.images_per_prompt=8",
]  # fmt: skip


def measure(pairs: int) -> list[Row]:
    runs = [_one() for _ in range(pairs)]
    stage, sampling = (sorted(values)[len(values) // 2] for values in zip(*runs, strict=True))
    ratios = tuple(whole / part for whole, part in runs)
    return [Row("warm generate stage / sampling (s)", stage, sampling, ratios, "<= 1.11 later")]


def _one() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "runner", *REQUEST, f"outputs={outputs}"]
        subprocess.run(command, capture_output=True, check=True)
        (folder,) = (Path(outputs) / "runs").iterdir()
        ended = journal.read_events(folder).events[-1]
    spent = {name: row["total_s"] for name, row in ended["timings"].items()}
    return sum(spent.get(name, 0.0) for name in STAGE), spent["sample"]
