"""Any command under a lease, by real processes: its end, its signals, and a holder that is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from runner import gpu
from runner.errors import Unavailable
from runner.gpu import command as commands
from runner.verbs import gpu as verb
from tests.gpu_lease.takers import Process, heard, nobody, python, release, this, until

HOLD = """
import sys
from runner import gpu
needs, me = gpu.Needs("cpu", 300, "declared", "training"), gpu.this_process("", "training")
with gpu.lease(needs, me, wait=True, on_wait=lambda holder: None) as held:
    code = gpu.run_under(held, sys.argv[1:])
sys.exit(code)
"""
SAY_AND_READ = ("sh", "-c", "echo holds; read line; exit 7")


@contextmanager
def under_lease(*command: str) -> Iterator[Process]:
    """A process that runs a command under the lease of the processor."""
    with python(HOLD, *command) as process:
        yield process


def cpu() -> dict[str, Any]:
    """What `gpu --json` says of the processor."""
    return dict(verb.show("cpu")["devices"][0])


def is_free() -> bool:
    return (cpu()["held"], cpu()["stale"]) == (False, None)


def test_a_command_runs_under_the_lease_and_gives_its_exit_code() -> None:
    with under_lease(*SAY_AND_READ) as process:
        assert heard(process) == "holds"
        record = cpu()["holder"]
        assert (record["pid"], record["role"], record["need_mib"]) == (process.pid, "training", 300)
        until(lambda: (cpu()["holder"] or {}).get("child"))
        assert cpu()["holder"]["child"]["pid"] in [child.pid for child in psutil.Process(process.pid).children()]
        release(process)
        assert process.wait() == 7
    assert is_free()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_on_to_the_command(number: signal.Signals) -> None:
    script = f"import signal, sys; signal.signal({int(number)}, lambda n, f: sys.exit(9)); print('holds', flush=True)\n"
    with under_lease(sys.executable, "-c", script + "while True: signal.pause()") as process:
        assert heard(process) == "holds"
        process.send_signal(number)
        assert process.wait() == 9
    assert is_free()


def test_a_command_ended_by_a_signal_ends_as_in_a_shell() -> None:
    with under_lease(*SAY_AND_READ) as process:
        assert heard(process) == "holds"
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM


def test_the_lease_outlives_a_killed_holder_as_long_as_its_command_does() -> None:
    before: list[int] = []
    with under_lease(*SAY_AND_READ) as process:
        assert heard(process) == "holds"
        until(lambda: (cpu()["holder"] or {}).get("child"))
        child = cpu()["holder"]["child"]["pid"]
        process.kill()
        process.wait()
        assert (cpu()["held"], cpu()["holder"]["process"], cpu()["holder"]["child"]["pid"]) == (True, "gone", child)
        words = verb.show_text(verb.show()).split()  # a narrow column breaks the sentence anywhere between two words
        assert str(child) in " ".join(words) and "gone," in words
        with pytest.raises(Unavailable, match="cpu is held by"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass
        release(process)
        until(lambda: not cpu()["held"])
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody, on_takeover=lambda who: before.append(who["pid"])):
        assert before == [process.pid]


def test_the_beat_of_a_command_says_what_it_and_its_children_took(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "BEAT_S", 0.01)
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody) as mine, commands._beating(mine, os.getpid()):
        until(lambda: (cpu()["holder"]["peak_mib"] or 0) > 10)
