"""A run folder has one writer, and a run is alive while it has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runner import gpu
from runner.errors import Unavailable
from tests.gpu_lease.takers import Process, heard, python, this

WRITER = """
import sys
from pathlib import Path
from runner import gpu
with gpu.only_writer(Path(sys.argv[1]), gpu.this_process("demo-1", "generator")):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "demo-1"


@contextmanager
def writer(run: Path) -> Iterator[Process]:
    """Another process that writes into the run folder."""
    with python(WRITER, str(run)) as process:
        assert heard(process) == "holds"
        yield process


def owner(**changes: Any) -> dict[str, Any]:
    return {**this().as_dict(), **changes}


def test_a_run_folder_has_one_writer(run: Path) -> None:
    with gpu.only_writer(run, this()), pytest.raises(Unavailable) as refusal, gpu.only_writer(run, this()):
        pass
    assert str(refusal.value) == (
        f"- run: run demo-1 is being written by process {os.getpid()} (run mine-1). "
        "Follow it with `python -m runner status`, or wait until it ends."
    )


def test_a_run_is_alive_while_its_writer_holds_the_lock(run: Path) -> None:
    with gpu.only_writer(run, this()):
        assert gpu.is_held(run / gpu.LOCK) and gpu.alive(run, owner())
    assert (run / gpu.LOCK).exists() and not gpu.alive(run, owner())


def test_a_run_whose_writer_was_killed_is_not_alive(run: Path) -> None:
    with writer(run) as process:
        who = gpu.read_owner(run / gpu.LOCK)
        assert who and (who["pid"], gpu.alive(run, who)) == (process.pid, True)
        process.kill()
        process.wait()
        assert not gpu.alive(run, who)


def test_a_zombie_is_not_alive(run: Path) -> None:
    with writer(run) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        assert not gpu.alive(run, gpu.read_owner(run / gpu.LOCK))


@pytest.mark.parametrize("changes", [{"process_started": 1.0}, {"pid": 2**22 + 1}, {"pid": 1}])
def test_the_lock_is_asked_and_not_the_name_in_it(run: Path, changes: dict[str, Any]) -> None:
    assert not gpu.alive(run, owner(**changes))
    with gpu.only_writer(run, this()):
        assert gpu.alive(run, owner(**changes))
    assert not gpu.alive(run, owner(**changes))


def test_a_writer_on_another_machine_is_alive_while_its_lock_file_is_here(run: Path) -> None:
    run.mkdir(parents=True)
    assert not gpu.alive(run, owner(host="elsewhere"))
    (run / gpu.LOCK).write_bytes(b"")
    assert gpu.alive(run, owner(host="elsewhere"))


@pytest.mark.parametrize("nobody", [None, {}])
def test_nobody_is_not_alive(run: Path, nobody: dict[str, Any] | None) -> None:
    assert not gpu.alive(run, nobody)


# ---- the process of a record


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"process_started": 1.0}, "gone"),
        ({"pid": 2**22 + 1}, "gone"),
        ({"pid": -1}, "gone"),
        ({"pid": 10**30}, "gone"),
        ({"pid": "1"}, "unknown"),
        ({"process_started": None}, "unknown"),
        ({"host": "elsewhere"}, "unknown"),
    ],
)
def test_the_process_of_a_record_is_known_by_pid_and_start(changes: dict[str, Any], state: str) -> None:
    assert gpu.state_of(owner(**changes)) == state


def test_a_held_lease_with_a_dead_name_in_it_is_held_by_somebody_else() -> None:
    child = {"pid": os.getpid(), "process_started": this().process_started}
    assert gpu.of_holder(None) == gpu.of_holder(owner(pid=2**22 + 1)) == {}
    assert gpu.of_holder(owner(pid=2**22 + 1, child=child))["child"] == child
    assert gpu.of_holder(owner())["run_id"] == "mine-1"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "a process that wrote no name"),
        ({"pid": 5, "run_id": "demo-1"}, "process 5 (run demo-1)"),
        ({"pid": 5, "run_id": "", "command": "python train.py"}, "process 5 (python train.py)"),
        ({"pid": 5, "child": {"pid": 6}, "command": "x"}, "process 5, whose command is process 6 (x)"),
        ({"pid": None}, "process None (no run)"),
    ],
)
def test_a_holder_is_said_in_one_phrase(record: dict[str, Any], words: str) -> None:
    assert gpu.who(record) == words
