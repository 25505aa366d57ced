"""The processes of a server: found by what only ours can have, and ended to the last one.

An engine starts processes of its own, which may outlive it, change their title and find another parent. Each of ours
carries a mark in its environment and writes into one pipe; the first one also has the pid and start time of the record.
A process that shows none of these is somebody else's and is never touched, whatever its pid. What it does not know:
containers, whose processes are not below ours, and processes of other machines.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from runner.gpu.owner import SAME_START_S

MARK = "RUNNER_CRITIC_SERVER"  # environment variable with the mark of a record
KILL_WAIT_S = 10.0  # for the kernel to take a killed process away
POLL_S = 0.02

Record = Mapping[str, Any]


def boot() -> str:
    """What pids and pipes are counted within: this start of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def find(record: Record) -> list[psutil.Process]:
    """The living processes of a server; nothing for a record of another machine, or from before its last start."""
    if record.get("boot") != boot() or record.get("host") != platform.node():
        return []
    everyone = list(_all())
    found = {process.pid: process for process in everyone if is_ours(process, record)}
    if record.get("pid") in found:  # it began the session, so all of the session is ours
        found |= {process.pid: process for process in everyone if _session(process) == record["pid"]}
    return [process for process in found.values() if is_alive(process)]


def is_ours(process: psutil.Process, record: Record) -> bool:
    """Whether a process is of the server that a record is about."""
    try:
        mark = _mark(process)
        if mark is not None:
            return bool(mark) and mark == record.get("mark")
        return _pipes(process).count(str(record.get("pipe"))) > 0 or _is_first(process, record)
    except (psutil.Error, OSError):
        return False


def _mark(process: psutil.Process) -> str | None:
    """The mark of a process, empty when it has none; None when it wrote its title over its environment."""
    environment = process.environ()
    return environment.get(MARK, "") if environment else None


def _pipes(process: psutil.Process) -> list[str]:
    """Where a process writes, as Linux calls it (`pipe:[123]`); nothing elsewhere."""
    places = (Path(f"/proc/{process.pid}/fd/{number}") for number in (1, 2))
    return [str(place.readlink()) for place in places if place.is_symlink()]


def _is_first(process: psutil.Process, record: Record) -> bool:
    started = record.get("process_started")
    return (
        process.pid == record.get("pid")
        and isinstance(started, int | float)
        and abs(process.create_time() - started) < SAME_START_S
    )


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and waits for its parent to look does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listens(record: Record, port: int) -> bool:
    """Whether it is the server that listens at a port; true as well where that cannot be asked."""
    try:
        sockets = [each for process in find(record) for each in process.net_connections("tcp")]
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)


def end(record: Record, within_s: float) -> list[int]:
    """Ask all of a server to end, kill what does not, and look again; the pids that are still there."""
    asked = find(record)
    _signal(asked, signal.SIGTERM)
    _wait(partial(_none_lives, asked), within_s)
    ends_at = time.monotonic() + KILL_WAIT_S
    while (left := _left(record, asked)) and time.monotonic() < ends_at:  # one may have been starting another
        _signal(left, signal.SIGKILL)
        _wait(partial(_none_lives, left), KILL_WAIT_S / 4)
    return [process.pid for process in left]


def _left(record: Record, known: list[psutil.Process]) -> list[psutil.Process]:
    """What lives of a server: what is found now, and what was found while its first process could vouch for it."""
    return list({process.pid: process for process in [*filter(is_alive, known), *find(record)]}.values())


def _none_lives(processes: list[psutil.Process]) -> bool:
    return not any(map(is_alive, processes))


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _wait(is_true: Callable[[], bool], within_s: float) -> None:
    ends_at = time.monotonic() + within_s
    while not is_true() and time.monotonic() < ends_at:
        time.sleep(POLL_S)


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _all() -> Iterator[psutil.Process]:
    for pid in psutil.pids():
        if pid != os.getpid():
            with contextlib.suppress(psutil.Error):
                yield psutil.Process(pid)
