"""Real processes that want a device, and say on a pipe what becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner import gpu
from tests import fakes

TAKER = """
import sys
from runner import gpu
device, name, wait = sys.argv[1:4]
say = lambda *words: print(*words, flush=True)
with gpu.lease(
    device, gpu.this_process(name, "generator"), wait=wait == "wait",
    on_wait=lambda holder: say("waits", holder.get("run_id")),
    on_takeover=lambda before: say("takes over", before["pid"]),
):
    say("holds")
    sys.stdin.readline()
    say("lets go")
"""
Process = subprocess.Popen[str]


@contextmanager
def python(*words: str) -> Iterator[Process]:
    """A Python process on this code with pipes to it; it is killed at the end."""
    home = {**os.environ, "PYTHONPATH": str(fakes.ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", *words], text=True, env=home, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def taker(name: str, device: str = "cpu", wait: str = "wait") -> Iterator[Process]:
    """A process that takes a device and holds it until it reads a line."""
    with python(TAKER, device, name, wait) as process:
        yield process


@contextmanager
def holder(name: str = "other-1", device: str = "cpu") -> Iterator[Process]:
    with taker(name, device) as process:
        assert heard(process) == "holds"
        yield process


def heard(process: Process) -> str:
    """The next line that a process says."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def release(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def until(true: Callable[[], object]) -> None:
    """Wait for something that another process does; a minute means that it does not."""
    for _ in range(6000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def this(run_id: str = "mine-1") -> gpu.Owner:
    return gpu.this_process(run_id, "generator")


def nobody(holder: Mapping[str, Any]) -> None:
    raise AssertionError(f"waited for {holder}")


def waiting(device: str = "cpu") -> list[Any]:
    """Who stands in the queue, by run."""
    return [waiter.get("run_id") for waiter in gpu.waiters(gpu.queue_folder(device))]


def tickets(device: str = "cpu") -> list[Path]:
    return sorted(gpu.queue_folder(device).glob("*"))
