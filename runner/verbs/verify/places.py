"""What lies where: files that nobody of ours writes, what is no regular file, and copies of bytes that are sought.

It opens nothing that could make it wait, follows no link into another folder, and changes nothing. What it does not
know: what the bytes mean.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from runner import store
from runner.store.files import measure
from runner.verbs.verify.findings import Note, Seen, Stranger

LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-z]{4,32}")  # what `write_durably` writes before it renames
BY_THE_SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}  # a look into a folder with a file manager leaves these
HOLDS_COPIES = {"mlartifacts", "datasets", "quarantine"}  # at the root of outputs: copies have their place here
EXPORTS, DERIVED = "exports", "derived.json"  # a gallery, and the list of what belongs to it
EMPTY = "an empty folder"
WORDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def no_file(path: Path) -> str | None:
    """What is there in place of a regular file, in words; None for a file, or a link to one, or nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link that leads nowhere" if path.is_symlink() else None
    except OSError as error:
        return cannot_read(error)
    return WORDS.get(stat.S_IFMT(mode))


def cannot_read(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def link(path: Path) -> str:
    """Where a link leads, in words."""
    return f"a link to {path.readlink()}"


def below_outputs(path: Path, outputs: Path) -> str:
    """A path as a problem names it."""
    return path.relative_to(outputs).as_posix() if path.is_relative_to(outputs) else str(path)


def names_in(folder: Path) -> set[str]:
    """The names in a folder; nothing when it is not there. Raises OSError."""
    try:
        return set(os.listdir(folder))  # noqa: PTH208  # names, not paths
    except FileNotFoundError:
        return set()


def strangers(folder: Path, at: str, known: Collection[str], seen: Seen) -> None:
    """Everything in a folder that is not `known` by name, however deep, hashed; our own leftovers are notes."""
    for name in sorted(names_in(folder) - set(known) - BY_THE_SYSTEM):
        path, place = folder / name, f"{at}/{name}"
        hidden = LEFTOVER.fullmatch(name)
        if hidden and hidden["name"] in known:
            seen.notes.append(Note("leftover", place, path.lstat().st_size, path))
        else:
            seen.strangers += below(path, place)


def below(path: Path, at: str) -> Iterator[Stranger]:
    """A strange file; of a strange folder every file, or the folder itself when it is empty or closed to us."""
    if path.is_symlink() or not path.is_dir():
        yield _stranger(path, at)
        return
    try:
        names = sorted(names_in(path))
    except OSError as error:
        yield Stranger(at, None, f"a folder that {cannot_read(error)}", path)
        return
    if not names:
        yield Stranger(at, None, EMPTY, path)
    for name in names:
        yield from below(path / name, f"{at}/{name}")


def _stranger(path: Path, at: str) -> Stranger:
    if what := link(path) if path.is_symlink() else no_file(path):
        return Stranger(at, None, what, path)
    try:
        found = measure(path)
    except OSError as error:
        return Stranger(at, None, cannot_read(error), path)
    if found is None:
        return Stranger(at, None, "nothing any more", path)
    return Stranger(at, found[0], None, path, path.read_bytes)


def seek(
    folder: Path, wanted: Mapping[str, int | None], skip: Path | None, besides: Iterable[Path]
) -> Iterator[Stranger]:
    """Files below a folder that hold wanted bytes, by digest and size; only files of those sizes are hashed."""
    sizes = set(wanted.values())
    for path in sorted({*besides, *_files(folder, skip)}):
        if (digest := _digest_of_size(path, sizes)) in wanted:
            in_store = skip is not None and path.is_relative_to(skip)
            yield Stranger(below_outputs(path, folder), digest, None, path, path.read_bytes, in_store)


def _files(folder: Path, skip: Path | None) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if skip is None or Path(at, name) != skip]
        yield from (Path(at, name) for name in files)


def _digest_of_size(path: Path, sizes: Collection[int | None]) -> str | None:
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or not (None in sizes or facts.st_size in sizes):
            return None
        found = measure(path)
    except OSError:
        return None
    return found[0] if found else None


def is_copy(outputs: Path, stranger: Stranger) -> bool:
    """Whether bytes lie there by right, as a copy: in a projection, a dataset, an exported gallery."""
    if stranger.path is None or stranger.in_store:
        return False
    first, *rest = stranger.at.split("/")
    if first in HOLDS_COPIES:
        return True
    return first == EXPORTS and len(rest) == 2 and rest[1] in _exported(outputs / EXPORTS / rest[0])


def _exported(folder: Path) -> Collection[str]:
    try:
        files = json.loads(store.read_regular(folder / DERIVED, 1 << 28))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()
    return files if isinstance(files, dict | list) else ()
