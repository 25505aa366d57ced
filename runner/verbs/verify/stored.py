"""Every object hashed again, and each difference put into one word: which object, what happened to it, where it lies.

One thing that happened is one problem: an object whose bytes lie elsewhere is misplaced there, and neither missing
nor an extra file. What it does not know: how to mend it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from runner import store
from runner.store import Checked
from runner.store.s3 import Bucket
from runner.verbs.verify import places, survey
from runner.verbs.verify.findings import Problem, Seen, Stranger, extra
from runner.verbs.verify.progress import shown

A_LINE = "a journal line that names it"


@dataclass(slots=True)
class Look:
    """What was found in the places of objects."""

    outputs: Path
    objects: store.Objects
    bad: dict[str, Checked] = field(default_factory=dict)  # named, and not themselves
    unnamed: dict[str, Checked] = field(default_factory=dict)  # in an object's place, and no log names them
    links: set[str] = field(default_factory=set)

    @property
    def root(self) -> Path | None:
        return self.objects.root if isinstance(self.objects, store.Store) else None

    @property
    def prefix(self) -> str:
        return places.below_outputs(self.root, self.outputs) if self.root else self.objects.where

    def path(self, name: str) -> Path | None:
        """Where the object lies, if that is a file that can be looked at."""
        return self.root / name[:2] / name[2:] if self.root else None

    def place(self, name: str) -> str:
        path = self.path(name)
        return places.below_outputs(path, self.outputs) if path else self.objects.place(name)

    def there(self, name: str) -> Path | None:
        path = self.path(name)
        return path if path is not None and os.path.lexists(path) else None


def check_objects(outputs: Path, objects: store.Objects, seen: Seen, *, everything: bool, before_s: float) -> None:
    """Hash what the logs name, and with `everything` whatever else lies in the store.

    An object that no log names and that is younger than `before_s` may be a running run's: it is left out.
    """
    look = Look(outputs, objects)
    young = _survey(look, seen, before_s) if everything else set()
    names = sorted({*seen.named.sizes, *look.unnamed})
    look.unnamed.clear()
    for checked in shown(objects.check(names, len(os.sched_getaffinity(0))), len(names)):
        if checked.name not in seen.named.sizes:
            look.unnamed[checked.name] = checked
        elif not checked.sound and (checked.name in seen.named.needed or checked.found or checked.problem):
            look.bad[checked.name] = checked
    seen.checked += len(names)
    if not everything:
        look.links = {name for name in names if (path := look.path(name)) and path.is_symlink()}
    _judge(look, seen, young, everything)


def _survey(look: Look, seen: Seen, before_s: float) -> set[str]:
    """Take in what else lies in the store; returns the objects that are too young to be judged."""
    named = seen.named.sizes
    if look.root is not None:
        found = survey.of_folder(look.root, look.prefix, named)
    else:
        assert isinstance(look.objects, Bucket), look.objects
        found = survey.of_bucket(look.objects, named)
    look.links = found.links
    look.unnamed = {name: Checked(name, None, None) for name in found.unnamed}
    seen.strangers += found.strangers
    seen.notes += found.notes
    return {name for name, modified_s in found.unnamed.items() if modified_s >= before_s}


def _judge(look: Look, seen: Seen, young: set[str], everything: bool) -> None:
    """Give each difference its word; bytes that were found elsewhere are claimed by the object they belong to."""
    homes = _homes(look, seen, everything)
    claimed: set[str] = set()
    for name in sorted({*look.bad, *(look.links & seen.named.sizes.keys())}):
        problem = _problem(look, name, seen.named.sizes[name], homes[name])
        seen.problems.append(problem)
        claimed |= {problem.found} if problem.kind == "misplaced" and problem.found else set()
    for name, checked in sorted(look.unnamed.items()):
        if not (look.place(name) in claimed or (checked.sound and name in young)):
            seen.problems += _unnamed(look, checked, seen)
    strangers = sorted(seen.strangers, key=lambda stranger: stranger.at)
    seen.problems += [extra(stranger) for stranger in strangers if stranger.at not in claimed]


def _homes(look: Look, seen: Seen, everything: bool) -> dict[str, list[Stranger]]:
    """Where else the bytes of damaged objects lie: in strangers, in places of others, and anywhere below outputs."""
    wanted = {name: seen.named.sizes[name] for name in look.bad}
    found = {s.at: s for s in seen.strangers if s.digest in wanted}
    for name, checked in {**look.bad, **look.unnamed}.items():
        if checked.found in wanted and checked.found != name:
            at, read = look.place(name), partial(_read, look, name)
            found[at] = Stranger(at, checked.found, None, look.path(name), read, in_store=True)
    if wanted:
        hidden = [note.path for note in seen.notes if note.kind == "leftover" and note.path]
        skip = look.root if everything else None
        for stranger in places.seek(look.outputs, wanted, skip, hidden):
            found.setdefault(stranger.at, stranger)
    homes: dict[str, list[Stranger]] = defaultdict(list)
    for at in sorted(found):
        homes[str(found[at].digest)].append(found[at])
    return homes


def _read(look: Look, name: str) -> bytes:
    path = look.path(name)
    return path.read_bytes() if path else look.objects.get(name)


def _problem(look: Look, name: str, size: int | None, homes: list[Stranger]) -> Problem:
    """What happened to one object that is not itself, or is only a link to itself."""
    there, checked = look.there(name), look.bad.get(name)
    if there is not None and checked is None:
        leads = places.link(there)
        source = Stranger(leads, name, None, None, there.resolve().read_bytes)
        return Problem("misplaced", name, look.place(name), leads, there, source)
    strange = [home for home in homes if not places.is_copy(look.outputs, home)]
    if strange:
        return Problem("misplaced", name, look.place(name), strange[0].at, there, strange[0])
    kind, expected, found = _damage(look, checked or Checked(name, None, None), size)
    return Problem(kind, name, expected, found, there, homes[0] if homes else None)


def _damage(look: Look, checked: Checked, size: int | None) -> tuple[str, str, str | None]:
    """Kind, expected and found of an object whose bytes lie nowhere else."""
    name, there = checked.name, look.there(checked.name)
    if checked.found is not None:
        short = checked.size == 0 or (size is not None and (checked.size or 0) < size)
        return "truncated" if short else "altered", name, checked.found
    if checked.problem is not None and checked.problem.startswith("cannot"):
        return "altered", name, checked.problem
    return "missing", look.place(name), (places.no_file(there) if there else None) or checked.problem


def _unnamed(look: Look, checked: Checked, seen: Seen) -> Iterator[Problem]:
    """What lies in an object's place and no log names."""
    name, place, there = checked.name, look.place(checked.name), look.there(checked.name)
    if name in look.links and there is not None:
        yield Problem("extra", place, None, places.link(there), there, in_store=True)
    elif checked.sound:
        if not seen.named.perhaps(name):
            broken = "; a log that may have named it is altered" if seen.named.broken else ""
            yield Problem("orphan", name, A_LINE + broken, None)
    elif checked.found or checked.problem:
        what = checked.found or (places.no_file(there) if there else None) or checked.problem
        yield Problem("extra", place, None, what, there, in_store=True)
