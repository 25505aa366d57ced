"""`verify`: hash everything again and name every difference exactly. Repairs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import gpu, journal
from runner.errors import Corrupt, Fault, Refused
from runner.store import Store, file_digest
from runner.verbs.status import find_run

DERIVED = {"tracking.json", "tracking.log", "grid.png", "report.html"}
RUN_FILES = {journal.MANIFEST, journal.JOURNAL, journal.SEAL, gpu.LOCK, *DERIVED}
Problem = dict[str, Any]


def verify(outputs: Path, run: str | None) -> dict[str, Any]:
    """Check one run, or every run and the whole store; `ok` is false on any difference.

    A run folder copied away from its store is checked by itself; `objects` is false then.
    """
    folders = _all_runs(outputs) if run is None else [find_run(outputs, run)]
    objects = Store(outputs / "objects")
    problems: list[Problem] = []
    known: dict[str, int | None] = {}
    for folder in folders:
        problems += _check_run(folder, known)
    with_objects = objects.root.is_dir()
    if with_objects:
        for name, size in sorted(known.items()):
            problems += _check_object(objects, name, size)
        if run is None:
            problems += _check_places(objects, set(known))
    checked = len(known) * with_objects + 2 * len(folders)
    return {"ok": not problems, "checked": checked, "objects": with_objects, "problems": problems}


def _all_runs(outputs: Path) -> list[Path]:
    """Every folder that is or was a run, with or without its manifest. Raises Refused where nothing was written."""
    if (outputs / journal.MANIFEST).exists():
        return [outputs]
    if not (outputs / "runs").is_dir():
        fix = "Name the outputs folder of your runs with --outputs DIR"
        raise Refused(Fault("outputs_missing", "--outputs", f"{outputs} holds no runs", fix))
    return sorted(path for path in (outputs / "runs").iterdir() if path.is_dir())


def _check_run(folder: Path, known: dict[str, int | None]) -> Iterator[Problem]:
    reading = journal.read_events(folder)
    name = f"{folder.name}/{journal.JOURNAL}"
    if reading.problem:
        yield _problem("journal_altered", name, "an unbroken chain", reading.problem)
    elif not reading.events and (folder / journal.SEAL).exists():
        yield _problem("missing", name, "a journal", None)
    yield from _check_manifest(folder, reading.events[0]["prev"] if reading.events else None)
    for event in journal.fold(reading.events).made().values():
        known[event["object"]] = event.get("bytes")
    for path in sorted(folder.iterdir()):
        if path.name not in RUN_FILES and not path.name.startswith("."):
            yield _problem("extra", f"{folder.name}/{path.name}", None, "a file that no run writes")


def _check_manifest(folder: Path, expected: str | None) -> Iterator[Problem]:
    name = f"{folder.name}/{journal.MANIFEST}"
    if not (folder / journal.MANIFEST).exists():
        yield _problem("missing", name, expected, None)
        return
    found = journal.manifest_digest(folder)
    try:
        journal.read_manifest(folder)
    except Corrupt as error:
        yield _problem("manifest_altered", name, expected, error.faults[0].what)
    else:
        if expected and found != expected:
            yield _problem("manifest_altered", name, expected, found)


def _check_object(objects: Store, name: str, size: int | None) -> Iterator[Problem]:
    path = objects.path(name)
    if not path.is_file():
        yield _problem("missing", name, str(path), None)
        return
    found = file_digest(path)
    if found != name:
        short = size is not None and path.stat().st_size < size
        yield _problem("truncated" if short else "altered", name, name, found)


def _check_places(objects: Store, known: set[str]) -> Iterator[Problem]:
    """What lies in the store and should not: objects that no journal names, and files with other names."""
    for path in sorted(objects.root.rglob("*")):
        name = path.parent.name + path.name
        if path.is_dir() or name in known or path.name.startswith("."):
            continue
        at = str(path.relative_to(objects.root))
        found = file_digest(path)
        if found in known:
            yield _problem("misplaced", at, str(objects.path(found).relative_to(objects.root)), found)
        elif found == name and objects.path(name) == path:
            yield _problem("orphan", name, "a journal line that names it", None)
        else:
            yield _problem("extra", at, None, found)


def _problem(kind: str, name: str, expected: Any, found: Any) -> Problem:
    return {"kind": kind, "name": name, "expected": expected, "found": found}
