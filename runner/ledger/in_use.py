"""Who stores bytes and who removes them, kept apart.

Bytes are stored before the line that names them: between the two an object looks like nobody's. And an object that
lies there already is not written again. So whoever stores for a run shares a lock (`using`), and whoever removes has
it `alone`. The kernel lets go of it when a process dies. What it does not know: processes of other machines on the
same bucket; there only the age of an object protects it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.errors import Fault, Unavailable

IN_USE = ".in-use"


@contextmanager
def using(outputs: Path) -> Iterator[None]:
    """Store bytes into this outputs folder; waits while `gc` removes some, for as long as one removal takes."""
    handle = _open(outputs)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(outputs: Path) -> Iterator[None]:
    """Remove bytes of this outputs folder. Raises Unavailable while a run uses it."""
    handle = _open(outputs)
    try:
        _lock_alone(handle, outputs)
        yield
    finally:
        os.close(handle)


def _lock_alone(handle: int, outputs: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        what = f"{outputs} is in use: a run or another gc works in it"
        fix = "Wait until it ends: python -m runner status"
        raise Unavailable(Fault("outputs_in_use", "gc", what, fix)) from error


def _open(outputs: Path) -> int:
    path = outputs / IN_USE
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        fix = "Mend the permissions of that folder"
        what = f"cannot be opened ({error.strerror})"
        raise Unavailable(Fault("lease_unusable", str(path), what, fix)) from error
