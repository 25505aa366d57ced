"""A run by fake workers in a process of its own, to be followed, stopped and killed: `python -m tests.acting OUTPUTS`.

Further words: `SECONDS` that each batch takes, or `told` for a batch that ends when a line comes on standard input;
then overrides of the tiny demo. Says `batch N` on standard output as each batch begins; ends with the exit code of the
run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from runner.worker import Bench, Progress
from tests import fakes, worlds

TOLD = "told"


def start(place: Path, seconds: float | str, *overrides: str) -> subprocess.Popen[str]:
    """Start such a run with leases of its own below `place`."""
    command = [sys.executable, "-m", "tests.acting", str(place / "outputs"), str(seconds), *overrides]
    return subprocess.Popen(
        command, cwd=worlds.ROOT, env=worlds.environment(place), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def until_batch(process: subprocess.Popen[str], number: int) -> None:
    """Wait until that batch has begun."""
    assert process.stdout is not None
    for line in process.stdout:
        if line == f"batch {number}\n":
            return
    raise AssertionError(f"the run ended before batch {number}")


def end_batch(process: subprocess.Popen[str]) -> None:
    """Let the batch end that waits to be told."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def main() -> int:
    outputs, seconds, *overrides = sys.argv[1:]
    painter = fakes.Painter()

    def act(bench: Bench) -> None:
        bench.status("generating")
        with bench.clock.phase("sample"):
            bench.progress(Progress("generating", "sample", 1, 2))
            print(f"batch {len(painter.calls) + 1}", flush=True)
            if seconds == TOLD:
                sys.stdin.readline()
            else:
                time.sleep(float(seconds))

    painter.before = act
    return worlds.run(worlds.accept(Path(outputs), *overrides), generate=painter).exit_code


if __name__ == "__main__":
    sys.exit(main())
