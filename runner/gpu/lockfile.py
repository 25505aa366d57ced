"""Files that one process at a time has locked and written its record into.

The lock is the kernel's (`flock`): it goes with the process that has it, so it is never left behind and never taken
from a process that lives, not even from a stopped one. The record in the file is for people; the lock decides.
A file is written in place, through the locked descriptor, so a reader may meet a half-written moment and reads again.
It refuses a file that is a symbolic link. What it does not know: processes that do not ask for the lock. A child that
was forked, and started no other program, has the lock as well until it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from runner.errors import Fault, Unavailable

FILE_MODE, FOLDER_MODE = 0o666, 0o777  # other users of the machine lock the same files
MAX_BYTES = 65_536  # of a record; a longer one is not ours
READ_TRIES, LOCK_TRIES, PAUSE_S = 5, 25, 0.004

Record = dict[str, Any]


def open_shared(path: Path) -> BinaryIO:
    """Open a lock file, new or old, that other users of the machine may lock as well. Raises Unavailable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(_open(path), "r+b", buffering=0)
    except OSError as error:
        raise unusable(path, error) from error


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)  # without O_CREAT, which kernels refuse on another user's file in a sticky folder
    except FileNotFoundError:
        handle = os.open(path, flags | os.O_CREAT, FILE_MODE)
    with contextlib.suppress(OSError):  # another user made it a moment ago
        os.fchmod(handle, FILE_MODE)  # whatever the umask says
    return handle


def make_shared_folder(folder: Path) -> None:
    """A folder in which every user of the machine may make files; one that is there keeps its mode."""
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(FOLDER_MODE)
    except OSError as error:
        raise unusable(folder, error) from error


def take(file: BinaryIO | int) -> bool:
    """Lock a file for this process; False when another one has it. Somebody who only looks does not count."""
    for _ in range(LOCK_TRIES):
        if _try(file, fcntl.LOCK_EX):
            return True
        if not _try(file, fcntl.LOCK_SH):
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
        time.sleep(PAUSE_S)  # shared locks only: others are looking, each for a moment
    return False


def taken(path: Path) -> BinaryIO | None:
    """Open and lock the file of this name; None when another process has it, or when the name moved on meanwhile."""
    file = open_shared(path)
    if take(file) and is_at(file, path):
        return file
    file.close()
    return None


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one of this name: a deleted one guards nothing."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except OSError:
        return False


def is_held(path: Path) -> bool:
    """Whether some process has this file locked now."""
    try:
        with path.open("rb") as file:
            return not _try(file, fcntl.LOCK_SH)
    except OSError:
        return False


def is_folder_held(folder: Path) -> bool:
    """Whether some process has this folder itself locked now."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try(handle, fcntl.LOCK_SH)
    except OSError:  # a file system that locks no folders
        return False
    finally:
        os.close(handle)


@contextmanager
def folder_taken(folder: Path) -> Iterator[bool]:
    """Lock a folder itself, which nobody can do away with while we are in it; False when another process has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            free = take(handle)
        except OSError:  # a file system that locks no folders: the file in it has to do
            free = True
        yield free
    finally:
        os.close(handle)


def _try(file: BinaryIO | int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(file: BinaryIO, record: Mapping[str, Any] | None) -> None:
    """Put a record in place of the one before; only the process that has the lock does this."""
    data = json.dumps(record).encode() + b"\n"
    os.pwrite(file.fileno(), data, 0)
    os.ftruncate(file.fileno(), len(data))


def read(path: Path) -> Record | None:
    """The record in a lock file; None when there is none."""
    for _ in range(READ_TRIES):
        try:
            with path.open("rb") as file:
                return _parsed(file.read(MAX_BYTES))
        except OSError:
            return None
        except (ValueError, RecursionError):
            time.sleep(PAUSE_S)
    return None


def read_left(file: BinaryIO) -> Record | None:
    """What the last holder left in a file that is ours now: None after a clean end."""
    data = os.pread(file.fileno(), MAX_BYTES, 0)
    try:
        return _parsed(data)
    except (ValueError, RecursionError):  # it was killed while it wrote
        return {"unreadable": data[:200].decode("utf-8", "replace")}


def _parsed(data: bytes) -> Record | None:
    value = json.loads(data or b"null")
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # what a journal could not hold is not ours
    return value if isinstance(value, dict) else None


def unusable(path: Path, error: OSError) -> Unavailable:
    fix = "Mend its permissions; leases of devices can be moved with RUNNER_LEASES, for every run of this machine"
    return Unavailable(Fault("lease_unusable", str(path), f"cannot be used ({error.strerror})", fix))
