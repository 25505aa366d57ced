"""`gpu` and `gpu hold`: what people see of leases, and any command under one, by real processes."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runner import gpu
from runner.errors import Refused, Unavailable
from runner.gpu import tickets as queue
from runner.verbs import gpu as verb
from tests.gpu_lease.takers import holder, nobody, python, this, until, waiting

HOLD = "import sys; from runner.verbs import gpu; sys.exit(gpu.hold('cpu', 'training', 300, True, sys.argv[1:]))"


def row(device: str = "cpu") -> dict[str, Any]:
    """What `gpu --json` says of a device."""
    return dict(verb.show(device)["devices"][0])


# ---- show


def test_nobody_has_leased_anything_yet(leases: Path) -> None:
    assert verb.show() == {"leases": str(leases), "devices": []}
    assert verb.show_text(verb.show()) == f"No device has been leased on this machine ({leases})."
    assert (row()["held"], row()["holder"], row()["stale"], row()["queue"]) == (False, None, None, [])


def test_holder_queue_memory_and_beat_are_shown() -> None:
    with gpu.lease(gpu.Needs("cpu", 300, "measured"), this(), wait=False, on_wait=nobody) as mine:
        mine.beat(250)
        with ExitStack() as drawn:
            for name in ("next-1", "next-2"):
                drawn.enter_context(queue.drawn(gpu.queue_folder("cpu"), {"run_id": name, "pid": 5, "need_mib": 7}))
            found = row()
            text = verb.show_text(verb.show())
    assert (found["held"], found["holder"]["run_id"], found["holder"]["process"]) == (True, "mine-1", "running")
    assert [waiter["run_id"] for waiter in found["queue"]] == ["next-1", "next-2"]
    assert found["beat_age_s"] >= 0 and found["memory"]["total_mib"] >= found["memory"]["free_mib"] > 0
    assert {str(os.getpid()), "mine-1)", "250", "300"} <= {
        *text.split()
    }  # a narrow column breaks between any two words
    assert text.index("(run next-1)") < text.index("(run next-2)")


def test_a_holder_that_died_is_shown_as_stale_and_a_stopped_one_as_stopped() -> None:
    with holder() as other:
        other.send_signal(signal.SIGSTOP)
        until(lambda: row()["holder"]["process"] == "stopped")
        assert {str(other.pid), "other-1),", "stopped"} <= {*verb.show_text(verb.show()).split()}
        other.kill()
        other.wait()
        assert (row()["held"], row()["holder"], row()["stale"]["pid"]) == (False, None, other.pid)
        assert {"nobody;", str(other.pid), "other-1)", "died"} <= {*verb.show_text(verb.show()).split()}


@pytest.mark.parametrize("data", [b'{"pid": "\\u001b[2J", "beat": 7, "since": [], "peak_mib": {}}', b"{", b"[]"])
def test_a_strange_lease_file_is_shown_and_steers_no_terminal(leases: Path, data: bytes) -> None:
    leases.mkdir()
    (leases / "cuda-0.json").write_bytes(data)
    (leases / "notes.json").write_bytes(b"not a device")
    assert [found["device"] for found in verb.show()["devices"]] == ["cuda:0"]
    assert "\x1b[2J" not in verb.show_text(verb.show())


@pytest.mark.parametrize("device", ["gpu0", "cuda", "cuda:x", "../cpu", ""])
def test_a_device_is_called_as_torch_calls_it(device: str) -> None:
    with pytest.raises(Refused, match=r"--device: is '.*'\. Write cpu, mps, cuda:0, cuda:1"):
        verb.show(device)
    with pytest.raises(Refused, match="--device"):
        verb.hold(device, "training", 0, True, ["true"])


# ---- hold


def test_a_command_waits_for_its_turn_says_for_whom_and_gives_its_exit_code() -> None:
    with python(HOLD, "sh", "-c", "echo done; exit 7") as process:
        with gpu.lease("cpu", this(), wait=True, on_wait=lambda holder: None):
            assert process.stderr is not None
            until(lambda: waiting() == [""])
            words = f"waiting: cpu is held by process {os.getpid()} (run mine-1)"
            assert process.stderr.readline().startswith(words)
        assert (process.communicate()[0], process.returncode) == ("done\n", 7)


def test_a_command_that_will_not_wait_ends_unavailable() -> None:
    with (
        gpu.lease("cpu", this(), wait=False, on_wait=nobody),
        pytest.raises(Unavailable, match=r"gpu hold: cpu is held by .*\. Try again later, or leave out --no-wait"),
    ):
        verb.hold("cpu", "training", 0, False, ["true"])


def test_what_cannot_run_is_refused_before_anybody_waits(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    with gpu.lease("cpu", this(), wait=False, on_wait=nobody):
        for command, words in (([], "got no command"), (["no-such-program"], "'no-such-program' is no program here")):
            with pytest.raises(Refused, match=words):
                verb.hold("cpu", "training", 0, True, command)
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(Refused, match=r"cannot start .*text \(Exec format error\)"):
        verb.hold("cpu", "training", 0, True, [str(tmp_path / "text")])
    assert not row()["held"]


def test_a_command_that_never_fits_is_refused() -> None:
    with pytest.raises(Refused, match="this said that it needs 1000000000 MiB"):
        verb.hold("cpu", "training", 10**9, True, ["true"])
