"""Real processes that run a command to its end or to a moment, where SIGKILL meets them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests import worlds
from tests.kill.scenes import num_lines

SMALL = ("track=none", "generate.steps=4", "generate.batch_size=2", "runtime.num_threads=1")
POLL_S = 0.002
MOST_AFTER_LINE_S = 0.03
MOST_NEW_LINES = 16  # a process that starts writes some five lines before its first item
OUTPUTS = "OUTPUTS"  # stands for the folder in a command


@dataclass(frozen=True, slots=True)
class Moment:
    """When the kill comes: so many seconds after the start, or after a line of the journal has appeared."""

    after_s: float
    line: int | None = None
    whole_group: bool = False

    def __str__(self) -> str:
        place = f"{self.after_s:.2f} s" if self.line is None else f"line {self.line} + {self.after_s * 1000:.0f} ms"
        return place + (", group" if self.whole_group else "")


def moments(seed: int, times: int, took_s: float, lines: int) -> list[Moment]:
    """Half of them anywhere in the wall time, half right after some line; one in four kills the process group."""
    chance = random.Random(seed)
    found = []
    for number in range(times):
        group = chance.random() < 0.25
        if number % 2:
            found.append(Moment(chance.uniform(0, MOST_AFTER_LINE_S), chance.randint(1, lines), group))
        else:
            found.append(Moment(chance.uniform(0, took_s), None, group))
    return found


def after_some_progress(chance: random.Random, lines: int) -> Moment:
    """A moment some lines further than a run has come, so that it ends one day."""
    line = lines + chance.randint(1, MOST_NEW_LINES)
    return Moment(chance.uniform(0, MOST_AFTER_LINE_S), line, chance.random() < 0.25)


def real(experiment: str) -> tuple[str, ...]:
    """The command that a person types, small: several batches and their verdicts."""
    return ("runner", f"+experiment={experiment}", *SMALL, f"outputs={OUTPUTS}")


PAINTED = ("tests.kill.painted", OUTPUTS)  # the same path with fake workers: no torch to wait for


def start(command: tuple[str, ...], place: Path) -> subprocess.Popen[bytes]:
    """A process of its own group, with its own leases and outputs; what it says is kept beside them."""
    place.mkdir(parents=True, exist_ok=True)
    words = [word.replace(OUTPUTS, str(place / "outputs")) for word in command]
    with (place / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", *words], cwd=worlds.ROOT, env=worlds.environment(place), stdin=subprocess.DEVNULL,
            stdout=said, stderr=said, start_new_session=True,
        )  # fmt: skip


def finish(command: tuple[str, ...], place: Path) -> tuple[int, float]:
    """Run a command to its end; its exit code and how many seconds it took."""
    begun = time.perf_counter()
    with start(command, place) as process:
        code = process.wait()
    return code, time.perf_counter() - begun


def kill(command: tuple[str, ...], place: Path, moment: Moment) -> int:
    """Run a command until the moment; its exit code, which is -SIGKILL when the kill met it alive."""
    with start(command, place) as process:
        if moment.line is not None:
            while process.poll() is None and num_lines(place / "outputs") < moment.line:
                time.sleep(POLL_S)
        try:
            process.wait(moment.after_s)
        except subprocess.TimeoutExpired:
            _strike(process, moment.whole_group)
        return process.wait()


def _strike(process: subprocess.Popen[bytes], whole_group: bool) -> None:
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
