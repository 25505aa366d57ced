"""Files of the operating system, read with care and written durably: fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

CHUNK_BYTES = 1 << 20


def file_digest(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file from elsewhere. Raises OSError; a pipe is not waited for, a large file not read."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("is no regular file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(f"has more than {max_bytes} bytes")
    return data


def measure(path: str | Path) -> tuple[str, int] | None:
    """The sha256 of a regular file and how many bytes were read; None where there is none. Raises OSError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        sha, size = hashlib.sha256(), 0
        while data := os.read(handle, CHUNK_BYTES):
            sha.update(data)
            size += len(data)
        return sha.hexdigest(), size
    finally:
        os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each durably in the one above."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        fsync_folder(each.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file so that after a crash either the old bytes or the new ones are there."""
    make_folder(path.parent)
    neighbour = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        with neighbour.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        neighbour.rename(path)
        fsync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # a disk that lets go may not let us clean up either
            neighbour.unlink(missing_ok=True)
        raise
