"""Who holds a lease or waits for one: the record that stands in its file, and how it is said to people.

A pid alone can be used again; a pid with its process start time cannot. Records come from files that anybody on the
machine may write: every value is taken for what it is, or as unknown. What it does not know: processes of other
machines, of which it says what they wrote.
"""

from __future__ import annotations

import getpass
import platform
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import psutil

FORMAT = 1  # of the record; see the protocol in the docstring of the room
MAX_COMMAND = 300  # characters of a command line that are kept
SAME_START_S = 10.0  # start times are counted from the time of boot, which moves when the clock is set


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds something, and for which run and role; `run_id` is empty when it works for none."""

    pid: int
    process_started: float
    host: str
    run_id: str
    role: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def this_process(run_id: str, role: str) -> Owner:
    process = psutil.Process()
    return Owner(process.pid, process.create_time(), platform.node(), run_id, role)


def record(owner: Owner, device: str, need_mib: int) -> dict[str, Any]:
    """What a holder or waiter writes into its file."""
    now = now_iso()
    return {
        "format": FORMAT, "device": device, **owner.as_dict(), "user": _user(), "need_mib": need_mib, "peak_mib": None,
        "since": now, "beat": now, "child": None, "command": shlex.join(psutil.Process().cmdline())[:MAX_COMMAND],
    }  # fmt: skip


def now_iso() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def who(record: Mapping[str, Any]) -> str:
    """A holder in one phrase: `process 12 (run demo-1)`."""
    if "pid" not in record:
        return "a process that wrote no name"
    child = record.get("child")
    pid = f"{record['pid']}, whose command is process {child.get('pid')}" if isinstance(child, dict) else record["pid"]
    works_for = f"run {record['run_id']}" if record.get("run_id") else str(record.get("command") or "no run")
    return f"process {pid} ({works_for})"


def state_of(record: Mapping[str, Any]) -> str:
    """`running`, `stopped` (Ctrl-Z, SIGSTOP) or `gone`; `unknown` for another machine's, or when it cannot be asked."""
    pid, started = record.get("pid"), record.get("process_started")
    if record.get("host") != platform.node() or not isinstance(pid, int) or not isinstance(started, int | float):
        return "unknown"
    try:
        process = psutil.Process(pid)
        same, status = abs(process.create_time() - started) < SAME_START_S, process.status()
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return "gone"
    except psutil.Error:
        return "unknown"
    if not same or status == psutil.STATUS_ZOMBIE:
        return "gone"
    return "stopped" if status == psutil.STATUS_STOPPED else "running"


def of_holder(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record of a lease that is held, or nothing when it is of a process that died: then another wrote no name."""
    child = (record or {}).get("child")
    child = {"host": (record or {}).get("host"), **child} if isinstance(child, dict) else {"pid": None}
    gone = record is None or (state_of(record) == "gone" and state_of(child) not in ("running", "stopped"))
    return {} if record is None or gone else dict(record)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return "unknown"
