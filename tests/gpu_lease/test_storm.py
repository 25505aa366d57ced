"""Many who want one device while some of them are killed or stopped: never two at once, and nobody is forgotten."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from runner import gpu
from tests.gpu_lease.takers import nobody, python, this, tickets

WORKER = """
import fcntl, sys
from pathlib import Path
from runner import gpu
from runner.gpu import held
held.POLL_S = 0.005
inside, log, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for _ in range(int(sys.argv[4])):
    with gpu.lease("cpu", gpu.this_process(name, "generator"), wait=True, on_wait=lambda holder: None) as mine:
        with inside.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when another is in here
            mine.beat(1)
    with log.open("a") as file:
        file.write(f"{name} ")
"""


@pytest.mark.slow
def test_no_two_hold_a_device_while_others_are_stopped_and_killed(tmp_path: Path) -> None:
    words, chance = (str(tmp_path / "inside"), str(tmp_path / "log")), random.Random(7)
    with ExitStack() as started:
        lives = [started.enter_context(python(WORKER, *words, f"lives-{n}", "100")) for n in range(4)]
        while any(process.poll() is None for process in lives):
            with python(WORKER, *words, "dies", "1000000") as victim:
                time.sleep(0.2 + chance.random() / 5)
                if chance.random() < 0.3:
                    victim.send_signal(signal.SIGSTOP)
                victim.kill()
                assert "Error" not in victim.communicate()[1]
        assert [process.returncode for process in lives] == [0] * 4, [process.communicate()[1] for process in lives]
    names = (tmp_path / "log").read_text().split()
    assert [names.count(f"lives-{n}") for n in range(4)] == [100] * 4
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        assert tickets() == []
