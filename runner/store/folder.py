"""The folder of objects, read: what lies in it, in its place or not, and whether it is itself. It writes nothing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from runner.store.files import measure
from runner.store.objects import Checked, Leftover, Listed

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


def is_object_place(place: str) -> bool:
    """Whether a place below the root is one that only an object may have."""
    folder, _, file = place.partition("/")
    return bool(FOLDER_NAME.fullmatch(folder) and FILE_NAME.fullmatch(file))


def _folders(root: Path) -> list[os.DirEntry[str]]:
    """Folders that objects have their place in; a link to one leads to another's objects, and is none."""
    of_objects = (entry for entry in _entries(root) if FOLDER_NAME.fullmatch(entry.name))
    return [entry for entry in of_objects if entry.is_dir(follow_symlinks=False)]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing when there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
