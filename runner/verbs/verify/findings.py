"""What verifying finds, as values: problems by exact name, what crashes left behind, and where sound bytes lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Stranger:
    """Something that lies where nothing of ours has its place."""

    at: str
    digest: str | None
    what: str | None = None  # in words, where there are no bytes to hash
    path: Path | None = None
    read: Callable[[], bytes] | None = None
    in_store: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One difference: the four fields that everybody sees, and what a repair must know besides."""

    kind: str
    name: str
    expected: str | None
    found: str | None
    path: Path | None = None  # what lies wrongly and can be moved aside
    source: Stranger | None = None  # sound bytes of a misplaced or damaged object
    in_store: bool = False  # whether what lies there lies in the folder of objects

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "expected": self.expected, "found": self.found}


@dataclass(frozen=True, slots=True)
class Note:
    """What a crashed write left behind; nothing is wrong with it, and the next write or a repair clears it."""

    kind: str  # torn: a last line without its end; leftover: a neighbour that was never renamed
    name: str
    bytes: int
    path: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "bytes": self.bytes}


def extra(stranger: Stranger) -> Problem:
    """A stranger that nothing explains."""
    found = stranger.digest or stranger.what
    return Problem("extra", stranger.at, None, found, stranger.path, in_store=stranger.in_store)


@dataclass(slots=True)
class Named:
    """What the logs say of objects."""

    sizes: dict[str, int | None] = field(default_factory=dict)  # every digest that a line names -> bytes
    needed: set[str] = field(default_factory=set)  # those that must be there
    doubtful: set[str] = field(default_factory=set)  # what logs with a broken link name as well, letter for letter
    broken: bool = False  # whether there is such a log
    _pieces: set[str] = field(default_factory=set)

    def name(self, digest: str, size: int | None, *, needed: bool) -> None:
        self.sizes[digest] = size or self.sizes.get(digest)
        if needed:
            self.needed.add(digest)

    def perhaps(self, digest: str) -> bool:
        """Whether a broken log named this object before some letters of it changed."""
        if self.doubtful and not self._pieces:
            self._pieces = {piece for text in self.doubtful for piece in _pieces(text)}
        return not self._pieces.isdisjoint(_pieces(digest))


def _pieces(text: str) -> list[str]:
    return [text[at : at + 16] for at in range(0, 64, 16)]


@dataclass(slots=True)
class Seen:
    """What one look at an outputs folder has found so far."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    strangers: list[Stranger] = field(default_factory=list)
    named: Named = field(default_factory=Named)
    checked: int = 0  # objects hashed, and files of truth read
    objects: bool = True  # whether there was a store to look into

    def problem(self, kind: str, name: str, expected: str | None, found: str | None, path: Path | None = None) -> None:
        self.problems.append(Problem(kind, name, expected, found, path))

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "checked": self.checked,
            "objects": self.objects,
            "problems": [problem.as_dict() for problem in self.problems],
            "notes": [note.as_dict() for note in self.notes],
        }
