"""The device: whether a plan fits it, and who holds it.

A lease is a file that one process has locked (`flock`) and written its name into. The kernel lets go of the
lock when the process dies, so a lease cannot be left behind, and a live one is never stolen. The same lock
guards a run folder against a second writer. What it does not know: processes that ignore the lease.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from runner.errors import Fault, Unavailable

POLL_S = 0.2
LOCK = "lock"  # in a run folder: who writes it


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lease: a pid alone can be reused, a pid with its process start time cannot."""

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


def alive(run_folder: Path, owner: dict[str, Any] | None) -> bool:
    """Whether a run's writer is at work: it holds the folder's lock, which the kernel takes back when it dies.

    A writer on another machine cannot be asked; it counts as alive while its lock file is in place here.
    """
    if owner and owner.get("host") != platform.node():
        return (run_folder / LOCK).exists()
    return is_held(run_folder / LOCK)


def lease_file(device: str) -> Path:
    """The lease of one device of this machine; shared by every run of every output folder."""
    folder = Path(os.environ.get("RUNNER_LEASES") or Path(tempfile.gettempdir()) / "runner-leases")
    return folder / f"{device.replace(':', '-')}.json"


@contextmanager
def lease(device: str, owner: Owner, *, wait: bool, on_wait: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Hold a device (`cpu`, `cuda:0`). Raises Unavailable when it is held and `wait` is false."""
    path = lease_file(device)
    file = _open_shared(path)
    try:
        _lock(file, path, device, wait, on_wait)
        _write_owner(file, owner)
        yield
        _write_owner(file, None)
    finally:
        file.close()


@contextmanager
def only_writer(run_folder: Path, owner: Owner) -> Iterator[None]:
    """Hold a run folder for writing. Raises Unavailable when another process writes into it."""
    file = _open_shared(run_folder / LOCK)
    try:
        if not _try_lock(file):
            raise Unavailable(_second_writer(run_folder, read_owner(run_folder / LOCK)))
        _write_owner(file, owner)
        yield
    finally:
        file.close()


def admit(need_mib: int, have_mib: int | None, device: str, which: str) -> Fault | None:
    """Whether work of this size may start; memory that cannot be asked admits, and the device's own error decides.

    `which` is `total` before the lease (too little of it is a wrong request) and `free` under it (try later).
    """
    if have_mib is None or need_mib <= have_mib:
        return None
    what = f"{device} has {have_mib} MiB of {which} memory; the weights alone need about {need_mib} MiB"
    fix = "Choose a smaller runtime.dtype, runtime.offload=model, or another device"
    return Fault("over_capacity", "hardware", what, fix, {"need_mib": need_mib, f"{which}_mib": have_mib})


def free_mib(device: str) -> int | None:
    """Free memory in MiB, of the machine for `cpu` and of the card for `cuda:N`; None when it cannot be asked."""
    return int(psutil.virtual_memory().available >> 20) if device == "cpu" else _card_mib(device, "memory.free")


def total_mib(device: str) -> int | None:
    """All memory in MiB; None when it cannot be asked."""
    return int(psutil.virtual_memory().total >> 20) if device == "cpu" else _card_mib(device, "memory.total")


def _card_mib(device: str, field: str) -> int | None:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "-i", device.partition(":")[2]]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        return int(answer.split()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def read_owner(path: Path) -> dict[str, Any] | None:
    """The name in a lease file; None when nobody's is there."""
    try:
        owner = json.loads(path.read_bytes() or b"null")
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def is_held(path: Path) -> bool:
    """Whether some process holds this lease now."""
    try:
        with path.open("rb") as file:
            return not _try_lock(file, shared=True)
    except OSError:
        return False


def _lock(file: BinaryIO, path: Path, device: str, wait: bool, on_wait: Callable[[dict[str, Any]], None]) -> None:
    told = False
    while not _try_lock(file):
        holder = read_owner(path) or {}
        if not wait:
            raise Unavailable(_device_held(device, holder))
        if not told:
            on_wait(holder)
            told = True
        time.sleep(POLL_S)


def _try_lock(file: BinaryIO, *, shared: bool = False) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_shared(path: Path) -> BinaryIO:
    """Open a lease file that other users of the machine may lock as well."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # another user's file already has its mode
            os.fchmod(handle, 0o666)
        return os.fdopen(handle, "r+b", buffering=0)
    except OSError as error:
        fix = "Mend its permissions, or set RUNNER_LEASES to a folder that every run of this machine shares"
        raise Unavailable(Fault("lease_unusable", str(path), f"cannot be opened ({error.strerror})", fix)) from error


def _write_owner(file: BinaryIO, owner: Owner | None) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(owner.as_dict() if owner else None).encode())


def _second_writer(run_folder: Path, holder: dict[str, Any] | None) -> Fault:
    who = _who(holder or {})
    what = f"run {run_folder.name} is being written by {who}"
    return Fault("run_locked", "run", what, "Follow it with `python -m runner status`, or wait until it ends")


def _device_held(device: str, holder: dict[str, Any]) -> Fault:
    what = f"{device} is held by {_who(holder)}"
    return Fault("device_held", "hardware.device", what, "Wait for it, or set hardware.wait=true", {"holder": holder})


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid', 'unknown')} (run {holder.get('run_id', 'unknown')})"
