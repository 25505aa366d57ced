"""What lies in a store: one walk, no bytes of objects read. Of a folder it sees also links and empty folders.

A file at an object's place is a name, whatever its bytes. Everything else is a stranger, hashed, or a leftover of a
crashed write. What it does not know: whether an object is itself.
"""

from __future__ import annotations

import os
from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.store.folder import FILE_NAME, FOLDER_NAME, NEIGHBOUR
from runner.store.s3 import Bucket
from runner.verbs.verify import places
from runner.verbs.verify.findings import Note, Stranger


@dataclass(slots=True)
class Survey:
    """What a walk through a store came across."""

    unnamed: dict[str, float] = field(default_factory=dict)  # in an object's place, named by no log; when it changed
    links: set[str] = field(default_factory=set)  # objects that are links: no store writes any
    strangers: list[Stranger] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)


def of_bucket(objects: Bucket, named: Container[str]) -> Survey:
    """A bucket, by what it says of itself; a write to it leaves nothing behind."""
    found = Survey()
    found.unnamed = {each.name: each.modified_s for each in objects.listing() if each.name not in named}
    for stray in objects.strays():
        digest = stray.digest()
        what, read = (None, stray.read) if digest else ("cannot be read", None)
        found.strangers.append(Stranger(f"{objects.where}/{stray.place}", digest, what, None, read, in_store=True))
    return found


def of_folder(root: Path, at: str, named: Container[str]) -> Survey:
    """A folder of objects; a part of it that is closed to us is a stranger that says so."""
    found = Survey()
    try:
        names = places.names_in(root) - places.BY_THE_SYSTEM
    except OSError as error:
        found.strangers.append(Stranger(at, None, places.cannot_read(error), root))
        return found
    for name in sorted(names):
        path, place = root / name, f"{at}/{name}"
        if not FOLDER_NAME.fullmatch(name) or path.is_symlink() or not path.is_dir():
            _strange(path, place, found)
            continue
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    _entry(name, entry, f"{place}/{entry.name}", named, found)
        except OSError as error:
            found.strangers.append(Stranger(place, None, f"a folder that {places.cannot_read(error)}", path))
    return found


def _entry(prefix: str, entry: os.DirEntry[str], place: str, named: Container[str], found: Survey) -> None:
    name = prefix + entry.name
    if not FILE_NAME.fullmatch(entry.name):
        if NEIGHBOUR.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            found.notes.append(Note("leftover", place, entry.stat().st_size, Path(entry.path)))
        elif entry.name not in places.BY_THE_SYSTEM:
            _strange(Path(entry.path), place, found)
        return
    if entry.is_dir(follow_symlinks=False):
        if name not in named:
            _strange(Path(entry.path), place, found)
        else:  # that the object is a folder is its own problem
            for inner in sorted(places.names_in(Path(entry.path))):
                _strange(Path(entry.path, inner), f"{place}/{inner}", found)
        return
    if entry.is_symlink():
        found.links.add(name)
    if name not in named:
        found.unnamed[name] = entry.stat(follow_symlinks=False).st_mtime


def _strange(path: Path, place: str, found: Survey) -> None:
    for stranger in places.below(path, place):
        found.strangers.append(replace(stranger, in_store=True))
