"""The lease: one holder, seen from real processes, gone when the holder is, and never taken from one that lives."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from runner import gpu
from runner.errors import Refused, Unavailable
from runner.gpu import held, lockfile
from tests.gpu_lease.takers import heard, holder, nobody, python, release, taker, this, tickets, until

RECORD = {
    "format", "device", "pid", "process_started", "host", "run_id", "role", "user", "need_mib", "peak_mib", "since",
    "beat", "child", "command",
}  # fmt: skip


def test_a_lease_says_who_holds_it_and_for_what_and_is_emptied(leases: Path) -> None:
    file, needs = gpu.lease_file("cuda:1"), gpu.Needs("cuda:1", 300, "measured")
    with gpu.lease(needs, this(), wait=False, on_wait=nobody):
        record = gpu.read_owner(file) or {}
        assert (gpu.is_held(file), set(record)) == (True, RECORD)
        assert record.items() >= {**this().as_dict(), "format": 1, "device": "cuda:1", "need_mib": 300}.items()
    assert (file, gpu.is_held(file), file.read_bytes()) == (leases / "cuda-1.json", False, b"null\n")


def test_a_lease_is_let_go_and_emptied_when_the_work_fails() -> None:
    with pytest.raises(ValueError, match=r"^torn$"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        raise ValueError("torn")
    assert (gpu.is_held(gpu.lease_file("cpu")), gpu.read_owner(gpu.lease_file("cpu"))) == (False, None)
    assert tickets() == []


def test_two_devices_have_two_leases() -> None:
    with (
        gpu.lease("cuda:0", this(), wait=False, on_wait=nobody),
        gpu.lease("cuda:1", this(), wait=False, on_wait=nobody),
    ):
        assert gpu.is_held(gpu.lease_file("cuda:0")) and gpu.is_held(gpu.lease_file("cuda:1"))


def test_one_card_has_one_lease_whatever_number_a_process_knows_it_by(
    leases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert [gpu.lease_file(f"cuda:{n}").name for n in range(3)] == ["cuda-3.json", "cuda-1.json", "cuda-2.json"]
    with gpu.lease("cuda:1", this(), wait=False, on_wait=nobody):
        assert (gpu.read_owner(leases / "cuda-1.json") or {})["device"] == "cuda:1"


def test_a_card_named_by_its_uuid_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-aa-1'\necho '1, GPU-bb-2'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb,MIG-cc/1/0")
    assert [gpu.lease_file(f"cuda:{n}").name for n in range(2)] == ["cuda-1.json", "cuda-MIG-cc_1_0.json"]


def test_a_second_holder_is_refused_and_told_who_holds_it() -> None:
    with (
        holder() as other,
        pytest.raises(Unavailable) as refusal,
        gpu.lease("cpu", this(), wait=False, on_wait=nobody),
    ):
        pass
    assert str(refusal.value) == (
        f"- hardware.device: cpu is held by process {other.pid} (run other-1). Wait for it, or set hardware.wait=true."
    )
    assert refusal.value.faults[0].code == "device_held"
    assert tickets() == []


def test_a_second_holder_waits_until_the_first_lets_go() -> None:
    waited_for: list[int] = []
    with holder() as other:

        def ask_it_to_let_go(who: dict[str, Any]) -> None:
            waited_for.append(who["pid"])
            assert who["reason"] == f"cpu is held by process {other.pid} (run other-1)"
            release(other)

        with gpu.lease("cpu", this(), wait=True, on_wait=ask_it_to_let_go):
            assert (gpu.read_owner(gpu.lease_file("cpu")) or {})["run_id"] == "mine-1"
        assert waited_for == [other.pid]


def test_the_lease_of_a_killed_holder_is_taken_over_and_names_it() -> None:
    before: list[dict[str, Any]] = []
    with holder() as other:
        other.kill()
        other.wait()
        assert (gpu.read_owner(gpu.lease_file("cpu")) or {})["pid"] == other.pid
        with gpu.lease("cpu", this(), wait=False, on_wait=nobody, on_takeover=before.append):
            assert (gpu.read_owner(gpu.lease_file("cpu")) or {})["pid"] == os.getpid()
    assert [(owner["pid"], owner["run_id"]) for owner in before] == [(other.pid, "other-1")]
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody, on_takeover=nobody):
        pass  # after a clean end there is nothing to take over


def test_a_waiter_takes_over_when_the_holder_is_killed() -> None:
    with holder() as first, taker("next-1") as second:
        assert heard(second) == "waits other-1"
        first.kill()
        assert [heard(second), heard(second)] == [f"takes over {first.pid}", "holds"]


def test_a_stopped_holder_keeps_its_device() -> None:
    with holder() as first, taker("next-1") as second:
        first.send_signal(signal.SIGSTOP)
        assert heard(second) == "waits other-1"
        with pytest.raises(Unavailable, match="cpu is held by"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass
        first.send_signal(signal.SIGCONT)
        release(first)
        assert (heard(first), heard(second)) == ("lets go", "holds")


@pytest.mark.parametrize("left", [b'{"pid": 1, "proc', b"\xff", b"[" * 50_000], ids=["torn", "no text", "deep"])
def test_a_record_torn_by_a_kill_is_taken_over_as_it_is(leases: Path, left: bytes) -> None:
    before: list[dict[str, Any]] = []
    leases.mkdir()
    gpu.lease_file("cpu").write_bytes(left)
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody, on_takeover=before.append):
        assert before == [{"unreadable": left[:200].decode("utf-8", "replace")}]


def test_a_takeover_that_cannot_be_told_gives_the_lease_back(leases: Path) -> None:
    leases.mkdir()
    gpu.lease_file("cpu").write_bytes(b'{"pid": 1}')
    told = pytest.raises(AssertionError, match="waited for")
    with told, gpu.lease("cpu", this(), wait=False, on_wait=nobody, on_takeover=nobody):
        pass
    assert not gpu.is_held(gpu.lease_file("cpu"))


def test_a_deleted_lease_file_is_made_again_and_guards(leases: Path) -> None:
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        pass
    gpu.lease_file("cpu").unlink()
    file = lockfile.taken(gpu.lease_file("cpu"))
    assert file is not None and lockfile.taken(gpu.lease_file("cpu")) is None
    gpu.lease_file("cpu").rename(leases / "old")
    assert not lockfile.is_at(file, gpu.lease_file("cpu"))
    file.close()


def test_somebody_who_only_looks_is_no_holder() -> None:
    looking = threading.Event()

    def look() -> None:
        while not looking.is_set():
            gpu.is_held(gpu.lease_file("cpu"))

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
                pass
    finally:
        looking.set()
        for thread in threads:
            thread.join()


# ---- the beat


def test_a_beat_says_that_the_holder_lives_and_the_most_it_took() -> None:
    file = gpu.lease_file("cpu")
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody) as mine:
        at = mine.record["beat"]

        def later() -> bool:
            mine.beat(40)
            return bool((gpu.read_owner(file) or {})["beat"] > at)

        until(later)
        mine.beat(30)
        mine.beat()
        assert (gpu.read_owner(file) or {})["peak_mib"] == 40
    mine.beat(90)  # the beating thread may come a moment late
    assert file.read_bytes() == b"null\n"


def test_a_late_beat_writes_into_no_other_file(tmp_path: Path) -> None:
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody) as mine:
        pass
    with (tmp_path / "other").open("wb") as other:  # it may have been given the same descriptor
        mine.beat(1)
        other.write(b"kept")
    assert (tmp_path / "other").read_bytes() == b"kept"


def test_beats_of_many_threads_leave_one_whole_record() -> None:
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody) as mine:

        def beat(most: int) -> None:
            for peak_mib in range(most):
                mine.beat(peak_mib)

        threads = [threading.Thread(target=beat, args=(most,)) for most in (20, 40, 60, 80)]
        for thread in threads:
            thread.start()
        records = [gpu.read_owner(gpu.lease_file("cpu")) for _ in range(50)]
        for thread in threads:
            thread.join()
        assert all(records)
        assert json.loads(gpu.lease_file("cpu").read_bytes())["peak_mib"] == 79


# ---- memory under the lease


def test_work_that_never_fits_is_refused_although_it_would_wait() -> None:
    needs, memory = gpu.Needs("cpu", 900, "headers"), gpu.Memory(100, 800)
    words = r"cpu has 800 MiB of memory in all; the weights alone need about 900 MiB"
    with (
        pytest.raises(Refused, match=words),
        gpu.lease(needs, this(), wait=True, on_wait=nobody, ask_memory=lambda device: memory),
    ):
        pass
    assert not gpu.is_held(gpu.lease_file("cpu"))


def test_work_that_does_not_fit_now_ends_when_it_shall_not_wait() -> None:
    needs, memory = gpu.Needs("cpu", 500, "measured"), gpu.Memory(100, 800)
    words = r"cpu has 100 MiB of memory free of 800 MiB; this took 500 MiB when it was measured before"
    with (
        pytest.raises(Unavailable, match=words) as refusal,
        gpu.lease(needs, this(), wait=False, on_wait=nobody, ask_memory=lambda device: memory),
    ):
        pass
    assert refusal.value.faults[0].code == "over_capacity"
    assert not gpu.is_held(gpu.lease_file("cpu"))


def test_work_waits_for_memory_and_keeps_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "POLL_MEMORY_S", 0.01)
    free = iter([gpu.Memory(100, 800), gpu.Memory(100, 800), gpu.Memory(600, 800)])
    told: list[dict[str, Any]] = []

    def on_wait(facts: dict[str, Any]) -> None:
        told.append(facts)
        with pytest.raises(Unavailable, match=r"cpu is next for process \d+ \(run mine-1\), which waits before this"):
            gpu.lease("cpu", this("other-2"), wait=False, on_wait=nobody).__enter__()

    needs = gpu.Needs("cpu", 500)
    with gpu.lease(needs, this(), wait=True, on_wait=on_wait, ask_memory=lambda device: next(free)):
        assert told == [{"reason": "cpu has 100 MiB of memory free of 800 MiB; this said that it needs 500 MiB"}]


# ---- folders, files and other users


def test_leases_are_open_to_every_user_of_the_machine(leases: Path) -> None:
    before = os.umask(0o077)
    try:
        with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
            pass
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (leases, *leases.iterdir())}
    assert modes == {"leases": 0o777, "cpu.queue": 0o777, "cpu.json": 0o666}


def test_a_folder_that_is_there_keeps_its_mode(leases: Path) -> None:
    leases.mkdir(mode=0o700)
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        assert stat.S_IMODE(leases.stat().st_mode) == 0o700


def test_a_lease_file_that_is_a_link_is_not_written_through(leases: Path, tmp_path: Path) -> None:
    leases.mkdir()
    (tmp_path / "precious").write_bytes(b"kept")
    gpu.lease_file("cpu").symlink_to(tmp_path / "precious")
    with pytest.raises(Unavailable, match="cannot be used"), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        pass
    assert (tmp_path / "precious").read_bytes() == b"kept"


def test_a_lease_folder_that_cannot_be_made_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RUNNER_LEASES", str(tmp_path / "file" / "leases"))
    words = r"cannot be used \(Not a directory\)\. Mend its permissions; leases of devices can be moved"
    with pytest.raises(Unavailable, match=words), gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        pass


@pytest.mark.parametrize(
    "data", [b"", b"null", b"{", b"[1]", b"\xff", b"[" * 50_000, b'{"a": NaN}', b'{"a": "\\ud800"}']
)
def test_a_lease_file_without_a_name_has_no_owner(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cpu.json").write_bytes(data)
    assert gpu.read_owner(tmp_path / "cpu.json") is None


OTHER_USER = """
import os, sys
from runner import gpu
os.setgid(65534), os.setuid(65534)
os.umask(0o077)
with gpu.lease("cpu", gpu.this_process(sys.argv[1], "generator"), wait=True, on_wait=lambda holder: None):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_share_the_leases_of_a_machine(leases: Path) -> None:
    for folder in (leases.parent, *leases.parent.parents[:2]):
        folder.chmod(0o755)  # pytest keeps its folders to one user
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        pass
    with python(OTHER_USER, "theirs-1") as theirs:
        assert heard(theirs) == "holds"
        with (
            pytest.raises(Unavailable, match=r"\(run theirs-1\)"),
            gpu.lease("cpu", this(), wait=False, on_wait=nobody),
        ):
            pass
        theirs.kill()
        theirs.wait()
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody), python(OTHER_USER, "theirs-2") as theirs:
        until(lambda: len(tickets()) == 1)
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        assert tickets() == []  # also the ticket of another user who died


def test_a_lease_is_held_since_it_was_taken_and_not_since_its_holder_waits() -> None:
    drawn: list[str] = []
    with holder() as other:

        def let_go(who: dict[str, Any]) -> None:
            drawn.append(gpu.waiters(gpu.queue_folder("cpu"))[0]["since"])
            release(other)

        with gpu.lease("cpu", this(), wait=True, on_wait=let_go):
            assert (gpu.read_owner(gpu.lease_file("cpu")) or {})["since"] > drawn[0]
