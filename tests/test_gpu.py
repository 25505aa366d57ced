"""The lease: one holder, seen from real processes, and gone when the holder is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import gpu
from runner.errors import Unavailable
from tests import fakes

HOLDER = """
import sys
from runner import gpu
with gpu.lease("cpu", gpu.this_process("other-1", "generator"), wait=True, on_wait=lambda holder: None):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RUNNER_LEASES", str(tmp_path / "leases"))
    return tmp_path / "leases"


@pytest.fixture
def holder(leases: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the processor until it is told to let go."""
    home = {**os.environ, "PYTHONPATH": str(fakes.ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=home
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def this() -> gpu.Owner:
    return gpu.this_process("mine-1", "generator")


def nobody(holder: dict[str, Any]) -> None:
    raise AssertionError(f"waited for {holder}")


def test_a_lease_names_its_holder_and_is_let_go(leases: Path) -> None:
    file = gpu.lease_file("cuda:1")
    with gpu.lease("cuda:1", this(), wait=False, on_wait=nobody):
        assert (gpu.is_held(file), gpu.read_owner(file)) == (True, this().as_dict())
    assert (file, gpu.is_held(file), gpu.read_owner(file)) == (leases / "cuda-1.json", False, None)


def test_a_lease_is_let_go_when_the_work_fails(leases: Path) -> None:
    with pytest.raises(ValueError, match=r"^torn$"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        raise ValueError("torn")
    assert not gpu.is_held(gpu.lease_file("cpu"))


def test_two_devices_have_two_leases(leases: Path) -> None:
    with (
        gpu.lease("cuda:0", this(), wait=False, on_wait=nobody),
        gpu.lease("cuda:1", this(), wait=False, on_wait=nobody),
    ):
        assert gpu.is_held(gpu.lease_file("cuda:0")) and gpu.is_held(gpu.lease_file("cuda:1"))


def test_a_second_holder_is_refused_and_told_who_holds_it(holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(Unavailable) as refusal,
        gpu.lease("cpu", this(), wait=False, on_wait=nobody),
    ):
        pass
    assert str(refusal.value) == (
        f"- hardware.device: cpu is held by process {holder.pid} (run other-1). Wait for it, or set hardware.wait=true."
    )


def test_a_second_holder_waits_until_the_first_lets_go(holder: subprocess.Popen[str]) -> None:
    waited_for: list[int] = []

    def ask_it_to_let_go(who: dict[str, Any]) -> None:
        waited_for.append(who["pid"])
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with gpu.lease("cpu", this(), wait=True, on_wait=ask_it_to_let_go):
        assert gpu.read_owner(gpu.lease_file("cpu")) == this().as_dict()
    assert waited_for == [holder.pid]


def test_a_killed_holder_leaves_no_lease_behind(holder: subprocess.Popen[str]) -> None:
    file = gpu.lease_file("cpu")
    assert gpu.alive(gpu.read_owner(file))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (gpu.is_held(file), gpu.alive(gpu.read_owner(file))) == (False, False)
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        assert gpu.read_owner(file) == this().as_dict()


def test_a_run_folder_has_one_writer(tmp_path: Path) -> None:
    run = tmp_path / "demo-1"
    with gpu.only_writer(run, this()), pytest.raises(Unavailable) as refusal, gpu.only_writer(run, this()):
        pass
    assert str(refusal.value) == (
        f"- run: run demo-1 is being written by process {os.getpid()} (run mine-1). "
        "Follow it with `python -m runner status`, or wait until it ends."
    )


def test_a_lease_folder_that_cannot_be_made_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RUNNER_LEASES", str(tmp_path / "file" / "leases"))
    words = r"cannot be opened \(Not a directory\)\. Mend its permissions, or set RUNNER_LEASES"
    with pytest.raises(Unavailable, match=words), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        pass


@pytest.mark.parametrize("data", [b"", b"null", b"{", b"[1]", b"\xff"])
def test_a_lease_file_without_a_name_has_no_owner(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cpu.json").write_bytes(data)
    assert gpu.read_owner(tmp_path / "cpu.json") is None


# ---- alive


def test_this_process_is_alive() -> None:
    assert gpu.alive(this().as_dict())


@pytest.mark.parametrize("changes", [{"process_started": 1.0}, {"host": "elsewhere"}, {"pid": 2**22 + 1}])
def test_a_reused_pid_another_host_and_a_pid_that_is_gone_are_not_alive(changes: dict[str, Any]) -> None:
    assert not gpu.alive({**this().as_dict(), **changes})


def test_nobody_is_not_alive() -> None:
    assert not gpu.alive(None)
    assert not gpu.alive({})


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(child.pid).create_time()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    try:
        assert not gpu.alive({**this().as_dict(), "pid": child.pid, "process_started": started})
    finally:
        child.wait()


# ---- admission


@pytest.mark.parametrize(("need", "free"), [(0, 0), (10, 10), (10, 11), (10**9, None)])
def test_what_fits_or_cannot_be_asked_is_admitted(need: int, free: int | None) -> None:
    assert gpu.admit(need, free, "cpu") is None


def test_what_does_not_fit_is_refused_with_both_figures() -> None:
    fault = gpu.admit(20_000, 8_000, "cuda:0")
    assert str(fault) == (
        "hardware: cuda:0 has 8000 MiB free; the weights alone need about 20000 MiB. "
        "Choose a smaller runtime.dtype, runtime.offload=model, another device, or free memory."
    )


def test_the_free_memory_of_the_machine_is_known_and_of_no_card_is_not() -> None:
    assert (gpu.free_mib("cpu") or 0) > 0
    assert gpu.free_mib("cuda:99") is None
