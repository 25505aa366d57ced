"""Any command under a lease: it inherits the lock, so the lease lasts as long as it does, also when we are killed.

Signals go on to it, its exit code comes back, and the lease's record tells what it and its children take. What it
does not know: children that it leaves behind; they have inherited the lock as well, and keep it without a name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

from runner.errors import Fault, Refused
from runner.gpu.held import Held

BEAT_S = 2.0
FORWARDED = (signal.SIGINT, signal.SIGTERM)
FIX = "Name a program: python -m runner gpu hold --device cpu -- python train.py"


def run_under(held: Held, command: Sequence[str]) -> int:
    """Run a command to its end; returns its exit code, 128+n after signal n. Raises Refused when it cannot start."""
    with _forwarding() as started:
        child = _start(held, command)
        _name_child(held, child.pid)
        started(child)
        with _beating(held, child.pid):
            code = child.wait()
    return code if code >= 0 else 128 - code


def _name_child(held: Held, pid: int) -> None:
    with contextlib.suppress(psutil.Error):  # it has ended already
        held.name_child(pid, psutil.Process(pid).create_time())


def _start(held: Held, command: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, pass_fds=(held.file.fileno(),))
    except OSError as error:
        what = f"cannot start {command[0]} ({error.strerror})"
        raise Refused(Fault("command_missing", "gpu hold", what, FIX)) from error


@contextmanager
def _forwarding() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Send INT and TERM on to the command, also one that comes while it starts."""
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, frame: Any) -> None:
        if number == signal.SIGINT and _typed():
            return  # the terminal has sent it to the command as well
        for child in children:
            child.send_signal(number)
        if not children:
            early.append(number)

    def started(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        for number in early:
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _typed() -> bool:
    """Whether we work in a terminal's foreground, where Ctrl-C reaches every process of the group."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):  # no terminal; no standard input
        return False


@contextmanager
def _beating(held: Held, pid: int) -> Iterator[None]:
    """Keep the lease's beat and peak true while the command works."""
    ending = threading.Event()

    def beat() -> None:
        while not ending.wait(BEAT_S):
            held.beat(_resident_mib(pid) if held.device == "cpu" else None)

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def _resident_mib(pid: int) -> int | None:
    """Resident memory of a process and all below it."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family) >> 20
    except psutil.Error:
        return None
