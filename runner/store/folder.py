"""The folder of objects, read: what lies in it, in its place or not, and whether it is itself. It writes nothing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from runner.store.files import measure
from runner.store.objects import Checked, Leftover, Listed, Stray

FOLDER_NAME, FILE_NAME = re.compile(r"[0-9a-f]{2}"), re.compile(r"[0-9a-f]{62}")
NEIGHBOUR = re.compile(r"\.[0-9a-f]{62}\..+")  # what `write_durably` writes before it renames


def listing(root: Path) -> Iterator[Listed]:
    """Objects by name; one stat a file."""
    for folder in _folders(root):
        for entry in _entries(folder.path):
            if FILE_NAME.fullmatch(entry.name) and entry.is_file():
                facts = entry.stat()
                yield Listed(folder.name + entry.name, facts.st_size, facts.st_mtime)


def look_at(root: str, name: str) -> Listed | None:
    """Size and time of one object; None where no file is in its place. Raises OSError."""
    try:
        facts = os.stat(f"{root}/{name[:2]}/{name[2:]}")  # noqa: PTH116  # a Path costs more than the call
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Listed(name, facts.st_size, facts.st_mtime) if stat.S_ISREG(facts.st_mode) else None


def check_one(root: str, name: str) -> Checked:
    """What is in the place of `name`; an unreadable file is a finding, not an error."""
    path = f"{root}/{name[:2]}/{name[2:]}"
    try:
        found = measure(path)
    except OSError as error:
        return Checked(name, None, None, f"cannot be read ({error.strerror})")
    if found is None:
        return Checked(name, None, None, "is no file" if os.path.lexists(path) else None)
    return Checked(name, *found)


def leftovers(root: Path) -> Iterator[Leftover]:
    for folder in _folders(root):
        for entry in _entries(folder.path):
            if NEIGHBOUR.fullmatch(entry.name):
                facts = entry.stat(follow_symlinks=False)
                yield Leftover(f"{folder.name}/{entry.name}", facts.st_size, facts.st_mtime)


def strays(root: Path) -> Iterator[Stray]:
    for entry in _entries(root):
        if not entry.is_dir(follow_symlinks=False):
            yield _stray(root, entry)
        elif FOLDER_NAME.fullmatch(entry.name):
            for inner in _entries(entry.path):
                yield from _strays_among_objects(root, inner)
        else:
            yield from _everything(root, entry)


def is_object_place(place: str) -> bool:
    """Whether a place below the root is one that only an object may have."""
    folder, _, file = place.partition("/")
    return bool(FOLDER_NAME.fullmatch(folder) and FILE_NAME.fullmatch(file))


def _strays_among_objects(root: Path, entry: os.DirEntry[str]) -> Iterator[Stray]:
    if entry.is_dir(follow_symlinks=False):
        yield from _everything(root, entry)
    elif not NEIGHBOUR.fullmatch(entry.name) and not (FILE_NAME.fullmatch(entry.name) and entry.is_file()):
        yield _stray(root, entry)


def _everything(root: Path, folder: os.DirEntry[str]) -> Iterator[Stray]:
    """Every file in a folder that is not ours, however deep."""
    for entry in _entries(folder.path):
        yield from _everything(root, entry) if entry.is_dir(follow_symlinks=False) else [_stray(root, entry)]


def _stray(root: Path, entry: os.DirEntry[str]) -> Stray:
    path, facts = Path(entry.path), entry.stat(follow_symlinks=False)
    place = path.relative_to(root).as_posix()
    return Stray(place, facts.st_size, facts.st_mtime, partial(_digest, path), path.read_bytes)


def _digest(path: Path) -> str | None:
    try:
        found = measure(path)
    except OSError:
        return None
    return found[0] if found else None


def _folders(root: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(root) if FOLDER_NAME.fullmatch(entry.name) and entry.is_dir()]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing when there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
