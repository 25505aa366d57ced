"""The lease: one holder, seen from real processes, and gone when the holder is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    assert gpu.is_held(file)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not gpu.is_held(file)
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


WRITER = """
import sys
from pathlib import Path
from runner import gpu
with gpu.only_writer(Path(sys.argv[1]), gpu.this_process("demo-1", "generator")):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "demo-1"


def owner(**changes: Any) -> dict[str, Any]:
    return {**this().as_dict(), **changes}


def test_a_run_is_alive_while_its_writer_holds_the_lock(run: Path) -> None:
    with gpu.only_writer(run, this()):
        assert gpu.is_held(run / gpu.LOCK) and gpu.alive(run, owner())
    assert (run / gpu.LOCK).exists() and not gpu.alive(run, owner())


def test_a_run_whose_writer_was_killed_is_not_alive(run: Path) -> None:
    with killable(run) as writer:
        who = gpu.read_owner(run / gpu.LOCK)
        assert who and (who["pid"], gpu.alive(run, who)) == (writer.pid, True)
        writer.kill()
        writer.wait()
        assert not gpu.alive(run, who)


def test_a_zombie_is_not_alive(run: Path) -> None:
    with killable(run) as writer:
        writer.kill()
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        assert not gpu.alive(run, gpu.read_owner(run / gpu.LOCK))


@contextmanager
def killable(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes into the run folder."""
    home = {**os.environ, "PYTHONPATH": str(fakes.ROOT)}
    words = [sys.executable, "-c", WRITER, str(run)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=home) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


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


# ---- admission


@pytest.mark.parametrize(("need", "have"), [(0, 0), (10, 10), (10, 11), (10**9, None)])
@pytest.mark.parametrize("which", ["total", "free"])
def test_what_fits_or_cannot_be_asked_is_admitted(need: int, have: int | None, which: str) -> None:
    assert gpu.admit(need, have, "cpu", which) is None


@pytest.mark.parametrize("which", ["total", "free"])
def test_what_does_not_fit_is_refused_with_both_figures(which: str) -> None:
    fault = gpu.admit(20_000, 8_000, "cuda:0", which)
    assert str(fault) == (
        f"hardware: cuda:0 has 8000 MiB of {which} memory; the weights alone need about 20000 MiB. "
        "Choose a smaller runtime.dtype, runtime.offload=model, or another device."
    )
    assert fault and fault.evidence == {"need_mib": 20_000, f"{which}_mib": 8_000}


def test_the_memory_of_the_machine_is_known_and_of_no_card_is_not() -> None:
    assert 0 < (gpu.free_mib("cpu") or 0) <= (gpu.total_mib("cpu") or 0)
    assert (gpu.free_mib("cuda:99"), gpu.total_mib("cuda:99")) == (None, None)
