"""Mending what can be mended without guessing, only when told, and with a record. It deletes nothing.

The order is: the ledger says what is going to be done (`repairing`), it is done, the ledger says what was done
(`repaired`). A crash between leaves an intent without an end, never a change without a record, and every act can be
done again. Bytes that are in the way are moved to `quarantine/` before anything is written, so that two objects that
changed places both come back. It refuses while a run is being written. It never touches a manifest or a log with a
broken chain: what they said cannot be known.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import gpu, journal, ledger, store
from runner.errors import Fault, Refused, RunnerError, first_line
from runner.store.files import make_folder, measure
from runner.store.folder import FOLDER_NAME
from runner.verbs import records
from runner.verbs.verify import logs, places
from runner.verbs.verify.examine import RUNS, examine
from runner.verbs.verify.findings import Note, Problem, Seen

QUARANTINE = "quarantine"
CLOSED = "cannot be read"
OF_OBJECTS = ("missing", "altered", "truncated", "misplaced")


@dataclass(frozen=True, slots=True)
class Act:
    """One repair: what is moved aside, whose bytes are put in place."""

    kind: str
    name: str
    how: str  # put_back, restored, set_aside, sealed, cut
    aside: tuple[Path, ...] = ()
    problem: Problem | None = None  # of which the bytes are put in place
    folder: Path | None = None  # of the log that is cut or sealed


def repair(outputs: Path) -> dict[str, Any]:
    """Mend what can be mended; the value is `verify`'s afterwards, with `repaired` and `failed`.

    Raises Unavailable while a run is being written, Refused for a folder without a store, Corrupt when the ledger
    cannot take a record.
    """
    if (outputs / journal.MANIFEST).exists():
        fix = "Name the whole outputs folder: --outputs DIR"
        raise Refused(Fault("bad_option", "--repair", f"{outputs} is one run; its store is elsewhere", fix))
    records.refuse_missing(outputs)
    with ledger.alone(outputs):
        records.refuse_while_written(outputs, "--repair")
        seen = examine(outputs, None)
        acts = plan(seen)
        done, failed = _carry_out(outputs, acts) if acts else ([], [])
        left = examine(outputs, None) if acts else seen
    return {**left.as_dict(), "repaired": done, "failed": failed}


def plan(seen: Seen) -> list[Act]:
    """What can be done about problems and notes, in order; pure."""
    acts = [act for problem in seen.problems for act in _acts(problem)]
    return acts + [act for note in seen.notes for act in _cuts(note)]


def _acts(problem: Problem) -> Iterator[Act]:
    kind, name, path = problem.kind, problem.name, problem.path
    if (problem.found or "").startswith(CLOSED):
        return  # the bytes may be sound: permissions are a person's to mend
    if kind == "extra" and problem.in_store and path is not None:
        yield Act(kind, name, "set_aside", (path,))
    elif kind == "missing" and name == f"{ledger.FOLDER}/{journal.SEAL}":
        yield Act(kind, name, "sealed")  # the record of it seals
    elif kind == "missing" and name.endswith(f"/{journal.SEAL}") and path is not None:
        yield Act(kind, name, "sealed", folder=path)
    elif kind in OF_OBJECTS and problem.source is not None and store.is_name(name):
        source = problem.source.path if problem.source.in_store else None
        aside = tuple(dict.fromkeys(each for each in (path, source) if each is not None))
        yield Act(kind, name, "put_back" if kind == "misplaced" else "restored", aside, problem)
    elif kind in OF_OBJECTS and path is not None and store.is_name(name):
        yield Act(kind, name, "set_aside", (path,))


def _cuts(note: Note) -> Iterator[Act]:
    if note.kind == "torn" and note.path is not None and note.path.parent.name == RUNS:
        yield Act(note.kind, note.name, "cut", folder=note.path)


def _carry_out(outputs: Path, acts: list[Act]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Say it, do it, say that it was done. What fails is said too, and the rest goes on."""
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    intents = [_record(outputs, act, at) for act in acts]
    done: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    with ledger.writing(outputs) as book:
        book.append({"event": "repairing", "acts": intents})
        moved: dict[Path, Path] = {}
        reasons = {act: reason for act in acts if (reason := _try(_move_aside, outputs, act, at, moved))}
        for act, record in zip(acts, intents, strict=True):
            reason = reasons.get(act) or _try(_mend, outputs, act, at, moved)
            (failed if reason else done).append({**record, "reason": reason} if reason else record)
        book.append(*({"event": "repaired", **record} for record in done))
    return done, failed


def _record(outputs: Path, act: Act, at: str) -> dict[str, Any]:
    """What the ledger keeps of an act: places below outputs, never a path of this machine."""
    aside = {places.below_outputs(path, outputs): _quarantine_name(path, outputs, at) for path in act.aside}
    source = act.problem.source if act.problem else None
    return {"kind": act.kind, "name": act.name, "how": act.how, "bytes_from": source and source.at, "set_aside": aside}


def _try(do: Any, outputs: Path, act: Act, at: str, moved: dict[Path, Path]) -> str | None:
    try:
        do(outputs, act, at, moved)
    except RunnerError as error:
        return error.faults[0].what
    except OSError as error:
        return first_line(error)
    return None


def _move_aside(outputs: Path, act: Act, at: str, moved: dict[Path, Path]) -> None:
    """Move what is in the way to quarantine; bytes that turn out to be right after all stay where they are."""
    for path in act.aside:
        if path in moved or not os.path.lexists(path) or _is_sound(path):
            continue
        target = outputs / _quarantine_name(path, outputs, at)
        make_folder(target.parent)
        _move(path, target)
        moved[path] = target
        _remove_emptied(path.parent, outputs / "objects")


def _remove_emptied(folder: Path, objects: Path) -> None:
    """A folder that somebody made among the objects, once what lay in it is moved: it would be the next stranger."""
    while objects in folder.parents and not FOLDER_NAME.fullmatch(folder.name):
        try:
            folder.rmdir()
        except OSError:  # something else is in it
            return
        folder = folder.parent


def _is_sound(path: Path) -> bool:
    """Whether an object is in its place after all: a run may have made it again meanwhile."""
    name = "".join(path.parts[-2:])
    found = measure(path) if store.is_name(name) and not path.is_symlink() else None
    return found is not None and found[0] == name


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        store.write_durably(target, store.read_regular(path, 1 << 40))  # the store is on another disk
        path.unlink()
    store.fsync_folder(target.parent)
    store.fsync_folder(path.parent)


def _quarantine_name(path: Path, outputs: Path, at: str) -> str:
    """`quarantine/<where it lay, in one word>-<time>`: for an object its digest."""
    parts = path.parts[-2:]
    if store.is_name("".join(parts)):
        return f"{QUARANTINE}/{''.join(parts)}-{at}"
    return f"{QUARANTINE}/{places.below_outputs(path, outputs).strip('/').replace('/', '__')}-{at}"


def _mend(outputs: Path, act: Act, at: str, moved: dict[Path, Path]) -> None:
    if act.problem is not None:
        _put(outputs, act.problem, moved)
    if act.folder is not None:
        _seal(outputs, act.folder, at)


def _put(outputs: Path, problem: Problem, moved: dict[Path, Path]) -> None:
    """Put an object's bytes in its place, from wherever they are now. Raises Refused when they are others."""
    source = problem.source
    assert source is not None and source.read is not None
    now = _now(source.path, moved) if source.path else None
    data = now.read_bytes() if now else source.read()
    if store.digest(data) != problem.name:
        what = f"{source.at} holds other bytes by now"
        raise Refused(Fault("source_changed", "--repair", what, "Type the same command again"))
    store.open_store(outputs, None).put(data)


def _now(path: Path, moved: Mapping[Path, Path]) -> Path:
    """Where a file is now, when it or a folder that it is in was moved aside."""
    for above in (path, *path.parents):
        if above in moved:
            return moved[above] / path.relative_to(above)
    return path


def _seal(outputs: Path, folder: Path, at: str) -> None:
    """Cut a torn last line, after keeping it in quarantine, and seal the last end that the chain bears out."""
    with gpu.only_writer(folder, gpu.this_process(folder.name, "keeper")):
        chain = journal.Chain(folder)
        for _ in chain:
            pass
        tail = logs.tail_of(folder / journal.JOURNAL, chain.sound_bytes) if chain.problem is None else b""
        if tail:
            store.write_durably(outputs / QUARANTINE / f"{folder.name}-torn-{at}", tail)
        _, end = journal.open_log(folder, journal.manifest_digest(folder), _last_end)
        if end is not None and not (folder / journal.SEAL).exists():
            journal.seal(folder, journal.Journal(folder / journal.JOURNAL, end["hash"], end["n"] + 1))


def _last_end(events: Iterable[journal.Event]) -> journal.Event | None:
    last = None
    for event in events:
        last = event if event["event"] == "ended" else last
    return last
