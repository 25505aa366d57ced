"""Bytes by their sha256, written once: in a folder, or in a bucket that speaks S3.

It replaces bytes only where they no longer have their name; `remove` is gc's alone, nothing else deletes. It
refuses to mix two kinds of store in one outputs folder. What it does not know: what the bytes mean; that is the
journal's. Write order is bytes, read back and hash, name; a crash leaves an orphan or a hidden leftover at worst.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import Corrupt, Failed, Fault, Refused, Unavailable
from runner.store import folder
from runner.store.files import CHUNK_BYTES, file_digest, fsync_folder, make_folder, measure, read_regular, write_durably
from runner.store.kinds import FOLDER, OBJECTS, RECORD, Kind, asked, machine_faults, recorded, storage_faults
from runner.store.names import canonical, digest, digest_of, is_name
from runner.store.objects import Checked, Leftover, Listed, Objects, altered, check_in_threads, gone, shared

if TYPE_CHECKING:
    from runner.config.tree import Storage

__all__ = [
    "CHUNK_BYTES",
    "RECORD",
    "Checked",
    "Leftover",
    "Listed",
    "Objects",
    "Store",
    "canonical",
    "digest",
    "digest_of",
    "file_digest",
    "fsync_folder",
    "is_name",
    "open_store",
    "read_regular",
    "storage_faults",
    "write_durably",
]


def open_store(outputs: Path, settings: Storage | None) -> Objects:
    """The store of an outputs folder. A run gives its settings: it is tried, and the first run decides the kind.

    Without settings (a verb) nothing is written. Raises Unavailable, Refused(storage_mismatch ...) and Corrupt.
    """
    if settings is None:
        return _opened(outputs, recorded(outputs) or FOLDER)
    decided = recorded(outputs)  # asked first: what is decided stays so
    if faults := storage_faults(settings, outputs):
        raise Refused(faults)
    if decided is None or (decided != FOLDER and decided.owner is None):
        return _decide(outputs, settings)
    objects = _opened(outputs, decided)
    objects.probe()
    return objects


def _opened(outputs: Path, kind: Kind) -> Objects:
    if kind.kind == "folder":
        return Store(outputs / OBJECTS)
    if faults := machine_faults(kind):
        raise Refused(faults)
    from runner.store import s3

    return s3.connect(kind)


def _decide(outputs: Path, settings: Storage) -> Objects:
    """Record the kind of a new outputs folder once it works; two first runs decide one after the other."""
    from filelock import FileLock

    with _before_a_run(outputs):
        make_folder(outputs)
        with FileLock(outputs / ".storage.lock"):
            if faults := storage_faults(settings, outputs):
                raise Refused(faults)
            objects = _opened(outputs, asked(settings))
            objects.probe()  # makes the folder of objects, which is its record
            return objects if isinstance(objects, Store) else _own(outputs, recorded(outputs) or asked(settings))


def _own(outputs: Path, kind: Kind) -> Objects:
    """Record a bucket with an id of this outputs folder, then put its mark there; every run puts it again."""
    owned = kind if kind.owner else replace(kind, owner=secrets.token_hex(16))
    write_durably(outputs / RECORD, canonical(owned.as_dict()))
    objects = _opened(outputs, owned)
    objects.probe()
    return objects


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of objects: `<root>/ab/cdef...` holds the bytes whose sha256 is `abcdef...`."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    def path(self, name: str) -> Path:
        return self.root / name[:2] / name[2:]

    def place(self, name: str) -> str:
        return str(self.path(name))

    def there(self) -> bool:
        return self.root.is_dir()

    def probe(self) -> None:
        """The folder is made, and can be written. Raises Unavailable."""
        with _before_a_run(self.root):
            make_folder(self.root)
            with tempfile.TemporaryFile(dir=self.root) as file:
                os.fsync(file.fileno())

    def shared(self) -> Fault | None:
        if not self.root.is_symlink():
            return None
        fix = (
            "Name the outputs folder that the objects lie in with --outputs DIR, or move them here in place of the link"
        )
        return shared(f"{self.root} is a link", fix)

    def put(self, data: bytes) -> str:
        """Store bytes, read them back, and return their digest. Raises Failed(storage)."""
        name = digest(data)
        path = self.path(name)
        held = self.holds(name)
        with _failing(path, "written"):
            if held:  # by another process perhaps, which has not come as far as this
                fsync_folder(path.parent)
            else:
                write_durably(path, data)
            fsync_folder(self.root)
        if not self.holds(name):
            raise _failed(path, "reads back other bytes than were written")
        return name

    def get(self, name: str) -> bytes:
        path = self.path(name)
        with _failing(path, "read"):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise Corrupt(gone(name)) from error
        found = digest(data)
        if found != name:
            raise Corrupt(altered(name, found))
        return data

    def holds(self, name: str) -> bool:
        path = self.path(name)
        with _failing(path, "read"):
            found = measure(path)
        return found is not None and found[0] == name

    def look(self, num_names: int) -> Callable[[str], Listed | None]:  # noqa: ARG002  # buckets need it
        root = str(self.root)  # a stat for each: their number is no matter here

        def look_at(name: str) -> Listed | None:
            try:
                return folder.look_at(root, name)
            except OSError as error:
                raise _failed(self.path(name), f"cannot be read ({error.strerror})") from error

        return look_at

    def listing(self) -> Iterator[Listed]:
        with _failing(self.root, "read"):
            yield from folder.listing(self.root)

    def check(self, names: Iterable[str], num_threads: int) -> Iterator[Checked]:
        return check_in_threads(partial(folder.check_one, str(self.root)), names, num_threads)

    def leftovers(self) -> Iterator[Leftover]:
        with _failing(self.root, "read"):
            yield from folder.leftovers(self.root)

    def remove(self, name: str) -> None:
        assert is_name(name), name
        self._unlink(self.path(name))

    def discard(self, place: str) -> None:
        assert not folder.is_object_place(place) and ".." not in Path(place).parts, place
        self._unlink(self.root / place)

    def _unlink(self, path: Path) -> None:
        with _failing(path, "removed"):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                fsync_folder(path.parent)


@contextmanager
def _failing(path: Path, verb: str) -> Iterator[None]:
    """The operating system's errors as ours."""
    try:
        yield
    except OSError as error:
        raise _failed(path, f"cannot be {verb} ({error.strerror or error})") from error


@contextmanager
def _before_a_run(path: Path) -> Iterator[None]:
    """The operating system's errors before anything has started."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        fix = "Free space, or mend the permissions of that folder"
        raise Unavailable(Fault("storage_unwritable", f"outputs ({path})", what, fix)) from error


def _failed(path: Path, what: str) -> Failed:
    fix = "Free space or mend the permissions of that folder, then run the same command again to resume"
    return Failed("storage", Fault("storage_failed", f"outputs ({path})", what, fix))
