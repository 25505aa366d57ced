"""Bytes by their sha256, written once.

It never deletes, and replaces bytes only where they no longer have their name. What it does not know: what
the bytes mean; that is the journal's.
Write order is fsync of a hidden neighbour, rename, fsync of the folder: a crash leaves an orphan at worst.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import Corrupt, Failed, Fault

CHUNK_BYTES = 1 << 20


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(data: bytes) -> str:
    """The sha256 of bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """The sha256 of a JSON value in canonical form."""
    return digest(canonical(value))


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


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: bytes) -> None:
    """Write a whole file so that after a crash either the old bytes or the new ones are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.parent / f".{path.name}.{secrets.token_hex(6)}"
    try:
        with neighbour.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        neighbour.rename(path)
        fsync_folder(path.parent)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of objects: `<root>/ab/cdef...` holds the bytes whose sha256 is `abcdef...`."""

    root: Path

    def path(self, name: str) -> Path:
        return self.root / name[:2] / name[2:]

    def put(self, data: bytes) -> str:
        """Store bytes, read them back, and return their digest. Raises Failed(storage)."""
        name = digest(data)
        path = self.path(name)
        if not (path.is_file() and file_digest(path) == name):
            self._write(path, data)
        if file_digest(path) != name:
            raise _storage_failure(path, "reads back other bytes than were written")
        return name

    def get(self, name: str) -> bytes:
        """The bytes named `name`. Raises Corrupt when they are gone or are others."""
        try:
            data = self.path(name).read_bytes()
        except FileNotFoundError as error:
            raise Corrupt(_object_fault(name, "is not in the store", None)) from error
        found = digest(data)
        if found != name:
            raise Corrupt(_object_fault(name, f"holds bytes with sha256 {found[:12]}", found))
        return data

    def holds(self, name: str) -> bool:
        """Whether the object is there and its bytes have its name."""
        path = self.path(name)
        return path.is_file() and file_digest(path) == name

    def _write(self, path: Path, data: bytes) -> None:
        try:
            new_folder = not path.parent.is_dir()
            write_durably(path, data)
            if new_folder:
                fsync_folder(self.root)
        except OSError as error:
            raise _storage_failure(path, f"cannot be written ({error.strerror})") from error


def _storage_failure(path: Path, what: str) -> Failed:
    fix = "Free space or mend the permissions of that folder, then run the same command again to resume"
    return Failed("storage", Fault("storage_failed", f"outputs ({path})", what, fix))


def _object_fault(name: str, what: str, found: str | None) -> Fault:
    fix = "`python -m runner verify --all` lists every difference; the same run command makes it again"
    return Fault("object_corrupt", f"object {name[:12]}", what, fix, {"expected": name, "found": found})
