"""Waiting: first come, first served; the dead and the stopped do not stand in the way."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from runner import gpu
from runner.errors import Unavailable
from runner.gpu import lockfile
from runner.gpu import tickets as queue
from tests.gpu_lease.takers import (
    Process,
    heard,
    holder,
    nobody,
    python,
    release,
    taker,
    this,
    tickets,
    until,
    waiting,
)

WORKER = """
import sys
from pathlib import Path
from runner import gpu
log, name = Path(sys.argv[1]), sys.argv[2]
def note(word):
    with log.open("a") as file:
        file.write(f"{word}{name} ")
with gpu.lease("cpu", gpu.this_process(name, "generator"), wait=True, on_wait=lambda holder: None):
    note("+")
    note("-")
"""


def test_five_who_wait_are_served_in_order_and_one_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started_ones: list[Process] = []
    with ExitStack() as started:
        with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            for number in range(1, 6):
                started_ones.append(started.enter_context(python(WORKER, str(log), str(number))))
                until(lambda: len(waiting()) == len(started_ones))
            assert waiting() == ["1", "2", "3", "4", "5"]
        until(lambda: log.exists() and log.read_text().endswith("-5 "))
    assert log.read_text() == "+1 -1 +2 -2 +3 -3 +4 -4 +5 -5 "


@contextmanager
def line_up(name: str) -> Iterator[Process]:
    """A taker that holds the device or waits for it."""
    with taker(name) as process:
        assert heard(process) in ("holds", "waits other-1")
        yield process


def test_a_dead_waiter_blocks_nobody() -> None:
    with ExitStack() as started:
        first, dead, last = (started.enter_context(line_up(name)) for name in ("other-1", "dies-1", "next-1"))
        dead.kill()
        dead.wait()
        release(first)
        assert heard(last) == "holds"
        assert tickets() == []


def test_a_stopped_waiter_is_passed_over_and_goes_on_later() -> None:
    with ExitStack() as started:
        first, stopped, last = (started.enter_context(line_up(name)) for name in ("other-1", "stops-1", "next-1"))
        stopped.send_signal(signal.SIGSTOP)
        release(first)
        assert heard(last) == "holds"
        stopped.send_signal(signal.SIGCONT)
        release(last)
        assert heard(stopped) in ("holds", "waits next-1")


def test_who_will_not_wait_does_not_pass_those_who_do() -> None:
    with queue.drawn(gpu.queue_folder("cpu"), {"pid": 1, "run_id": "first-1"}):
        words = r"cpu is next for process 1 \(run first-1\), which waits before this\. Wait for it"
        with pytest.raises(Unavailable, match=words), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass
        assert waiting() == ["first-1"]
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        assert waiting() == []


def test_a_waiter_that_is_interrupted_leaves_the_queue() -> None:
    def interrupt(holder: object) -> None:
        raise KeyboardInterrupt

    with holder(), pytest.raises(KeyboardInterrupt), gpu.lease("cpu", this(), wait=True, on_wait=interrupt):
        pass
    assert tickets() == []


def test_a_ticket_taken_away_before_it_was_locked_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    open_shared = lockfile.open_shared

    def open_and_be_looked_at(path: Path) -> object:
        file = open_shared(path)
        if not looked:
            looked.append(path)
            assert queue.waiters(path.parent) == []  # it sees a free lock, and takes the ticket away
            assert not path.exists()
        return file

    monkeypatch.setattr(lockfile, "open_shared", open_and_be_looked_at)
    with queue.drawn(gpu.queue_folder("cpu"), {"run_id": "mine-1"}) as ticket:
        assert (looked, ticket.exists(), waiting()) == ([ticket], True, ["mine-1"])


def test_two_who_look_at_a_living_ticket_leave_it(leases: Path) -> None:
    seen: list[int] = []
    with queue.drawn(gpu.queue_folder("cpu"), {"run_id": "mine-1"}):
        looks = [threading.Thread(target=lambda: seen.extend(len(waiting()) for _ in range(50))) for _ in range(4)]
        for look in looks:
            look.start()
        for look in looks:
            look.join()
    assert seen == [1] * 200


def test_what_is_no_ticket_is_left_alone() -> None:
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        pass
    note = gpu.queue_folder("cpu") / "README"
    note.write_text("not ours")
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        assert note.read_text() == "not ours"


@pytest.mark.parametrize("data", [b"", b"{", b'{"pid": "x", "host": 1, "process_started": []}'])
def test_a_ticket_that_says_nothing_still_counts(data: bytes) -> None:
    with queue.drawn(gpu.queue_folder("cpu"), {}) as ticket:
        ticket.write_bytes(data)
        with pytest.raises(Unavailable, match="cpu is next for"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass


# ---- other programs


needs_flock = pytest.mark.skipif(shutil.which("flock") is None, reason="no flock program here")


@needs_flock
def test_a_shell_script_honours_the_lease_with_plain_flock(leases: Path) -> None:
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        done = subprocess.run(["flock", "-n", leases / "cpu.json", "true"], check=False)
        assert done.returncode == 1
    assert subprocess.run(["flock", "-n", leases / "cpu.json", "true"], check=False).returncode == 0


@needs_flock
def test_a_lease_of_plain_flock_is_honoured(leases: Path) -> None:
    leases.mkdir()
    script = f"flock {leases / 'cpu.json'} sh -c 'echo holds; read line'"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert heard(shell) == "holds"
        words = "cpu is held by a process that wrote no name. Wait for it"
        with pytest.raises(Unavailable, match=words), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass
        shell.communicate("\n")
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody, on_takeover=nobody):
        assert (gpu.read_owner(leases / "cpu.json") or {})["pid"] == os.getpid()


def test_any_program_that_locks_the_file_is_honoured(leases: Path) -> None:
    leases.mkdir()
    with (leases / "cpu.json").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="wrote no name"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass
