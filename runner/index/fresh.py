"""Bringing the index up to date, and making it again from nothing."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from runner import ledger
from runner.errors import Fault, Unavailable
from runner.index import source, table

INDEX = "index.db"
LOCK = ".index.lock"  # who brings it up to date; readers do not need it
NEW = ".index.db.new"  # what is being made from nothing; left over, it is thrown away
LOCK_S = 600.0
# What SQLite says when the place is at fault and not the file: no right to write, no room, in use for too long.
OF_THE_PLACE = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
}  # fmt: skip
DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, 0}
_KNOWN = "id, run_id, status, folded, open, owner, signature"
Answer = TypeVar("Answer")


def refresh(outputs: Path) -> int:
    """Read again what changed since the last time; returns how many runs had."""
    return ask(outputs, lambda db, changed: changed)


def rebuild(outputs: Path) -> int:
    """Make the index from nothing; returns how many runs it holds. A crash leaves the one before.

    Raises Unavailable where it cannot be written.
    """
    try:
        with _alone(outputs):
            return _make_again(outputs)
    except (OSError, sqlite3.DatabaseError) as error:
        if not _of_the_place(error):
            raise
        fix = "Mend the permissions of that folder or free space, then type it again"
        raise Unavailable(Fault("index_unwritable", str(outputs / INDEX), f"cannot be made ({error})", fix)) from error


def ask(outputs: Path, question: Callable[[sqlite3.Connection, int], Answer]) -> Answer:
    """Answer a question from an index that says what is true now; it is told how many runs had changed.

    Damage that shows only while answering is mended as well, once.
    """
    try:
        with closing(_current(outputs)) as current:
            return question(current.db, current.changed)
    except sqlite3.DatabaseError as error:
        if _of_the_place(error):
            raise Unavailable(_in_use(outputs, str(error))) from error
        if _code(error) not in DAMAGE:
            raise
        _say(f"{outputs / INDEX} is damaged ({error}); it is made again")
    rebuild(outputs)
    with closing(_current(outputs)) as current:
        return question(current.db, current.changed)


@dataclass(frozen=True, slots=True)
class Current:
    """An index that says what is true now, and how many runs had changed."""

    db: sqlite3.Connection
    changed: int

    def close(self) -> None:
        self.db.close()


def _current(outputs: Path) -> Current:
    if not _keeps_an_index(outputs):
        return _private(outputs)
    try:
        with _alone(outputs):
            return _refreshed(outputs)
    except (OSError, sqlite3.DatabaseError) as error:
        if not _of_the_place(error):
            raise
        _say(f"{outputs / INDEX} cannot be written ({error}); this answer comes from a private copy")
        return _private(outputs)


def _keeps_an_index(outputs: Path) -> bool:
    """A run folder copied elsewhere gets no file that no run writes; where nothing is, nothing is made."""
    return any((outputs / name).is_dir() for name in ("runs", ledger.FOLDER)) and not source.is_run(outputs)


def _refreshed(outputs: Path) -> Current:
    path = outputs / INDEX
    (outputs / NEW).unlink(missing_ok=True)
    if not path.exists():
        return Current(table.connect(path), _make_again(outputs))
    db = table.connect(path)
    try:
        if table.whole(db):
            return Current(db, _update(db, outputs))
        why = "is no index of this version"
    except sqlite3.DatabaseError as error:
        if _of_the_place(error):
            db.close()
            raise
        why = f"is damaged ({error})"
    db.close()
    _say(f"{path} {why}; it is made again")
    return Current(table.connect(path), _make_again(outputs))


def _make_again(outputs: Path) -> int:
    new = outputs / NEW
    new.unlink(missing_ok=True)
    try:
        with closing(table.connect(new)) as db:
            num_runs = _fill(db, outputs)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        _install(new, outputs / INDEX)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return num_runs


def _fill(db: sqlite3.Connection, outputs: Path) -> int:
    """Fill a file that nobody else sees yet: no journal, no fsync, indices last."""
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    table.create(db)
    num_runs = _update(db, outputs)
    table.finish(db)
    return num_runs


def _install(new: Path, path: Path) -> None:
    """Put a new index in the place of the old one.

    A file that other processes have open must not be renamed over: their rollback journal is found by name. So a sound
    one gets the new content in one transaction of SQLite; only a damaged one is thrown away.
    """
    if path.exists():
        with contextlib.suppress(sqlite3.DatabaseError), closing(table.connect(path)) as old:
            old.execute("PRAGMA schema_version").fetchone()  # rolls back what a crash left
            with closing(table.connect(new)) as content:
                content.backup(old)
            new.unlink()
            return
    for name in (path.name, *(f"{path.name}-{side}" for side in ("journal", "wal", "shm"))):
        path.with_name(name).unlink(missing_ok=True)
    new.replace(path)


def _private(outputs: Path) -> Current:
    """An index of this process alone, begun with what the shared one holds; SQLite puts a large one on disk."""
    db = table.connect("")
    with contextlib.suppress(OSError, sqlite3.DatabaseError), closing(table.connect_to_read(outputs / INDEX)) as shared:
        shared.backup(db)
    if not _sound(db):
        db.close()
        db = table.connect("")
        table.create(db)
        table.finish(db)
    return Current(db, _update(db, outputs))


def _sound(db: sqlite3.Connection) -> bool:
    try:
        return table.whole(db)
    except sqlite3.DatabaseError:
        return False


def _update(db: sqlite3.Connection, outputs: Path) -> int:
    """One transaction for each run that came, went, changed, or whose writer is gone."""
    known = {row["run_id"]: row for row in db.execute(f"SELECT {_KNOWN} FROM runs WHERE id <> ?", [table.IMPORTS])}
    folders = source.run_folders(outputs)
    changed = 0
    for name in sorted(known.keys() - folders.keys()):
        with table.transaction(db):
            table.remove_run(db, known[name]["id"])
        changed += 1
    for name, folder in folders.items():
        changed += _update_run(db, known.get(name), folder)
    _update_ledger(db, outputs)
    return changed


def _update_run(db: sqlite3.Connection, row: sqlite3.Row | None, folder: Path) -> bool:
    sign = source.sign_of(folder)
    if row is not None and row["signature"] == sign.text:
        return bool(row["open"]) and _judge_again(db, row, folder)
    try:
        run = source.read(folder)
        with _in_place_of(db, row) as number:
            counts: Counter[str] = Counter()
            table.put_images(db, number, run.manifest["prompts"], source.counted(source.images_of(run), counts))
            table.put_run(db, number, source.run_row(run, counts, sign), run.state.peaks)
    except source.NOT_OURS as error:
        with _in_place_of(db, row) as number:
            table.put_run(db, number, source.corrupt_row(folder.name, error))
    return True


@contextmanager
def _in_place_of(db: sqlite3.Connection, row: sqlite3.Row | None) -> Iterator[int]:
    """One transaction that takes the old row of a run out and gives the number for the new one."""
    with table.transaction(db):
        if row is not None:
            table.remove_run(db, row["id"])
        yield table.next_run(db)


def _judge_again(db: sqlite3.Connection, row: sqlite3.Row, folder: Path) -> bool:
    """An open run with the same journal: does its writer still live?"""
    status = source.status_of_open(row["folded"], row["owner"], folder)
    if status == row["status"]:
        return False
    with table.transaction(db):
        db.execute("UPDATE runs SET status = ? WHERE id = ?", [status, row["id"]])
    return True


def _update_ledger(db: sqlite3.Connection, outputs: Path) -> None:
    known = db.execute("SELECT signature, problem FROM ledger").fetchone()
    sign = source.sign_of(outputs / ledger.FOLDER)
    if sign.size < 0 and known is None:
        return
    problem = known["problem"] if known else None
    if known is None or known["signature"] != sign.text:
        said = source.ledger_of(outputs)
        problem = said.problem
        with table.transaction(db):
            table.put_ledger(db, said.imports, said.tombstones, sign.text, problem)
    if problem:
        _say(f"the ledger {problem}; what came from outside and what was deleted may not be complete")


@contextmanager
def _alone(outputs: Path) -> Iterator[None]:
    """One process brings the index up to date; the others wait, and find it done."""
    lock = FileLock(outputs / LOCK, mode=0o666)
    try:
        lock.acquire(timeout=LOCK_S)
    except Timeout as error:
        raise Unavailable(_in_use(outputs, f"another process holds {LOCK} for {LOCK_S:g} s")) from error
    try:
        yield
    finally:
        lock.release()


def _of_the_place(error: Exception) -> bool:
    """Whether the place is at fault, or another process: the file itself may be sound."""
    return isinstance(error, OSError) or _code(error) in OF_THE_PLACE


def _code(error: Exception) -> int:
    """SQLite's own number of an error; 0 for text that is not UTF-8, which Python finds."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _in_use(outputs: Path, what: str) -> Fault:
    fix = "Wait until that process ends, or end it; the index can be deleted at any time"
    return Fault("index_in_use", str(outputs / INDEX), f"cannot be used ({what})", fix)


def _say(text: str) -> None:
    print(f"index: {text}", file=sys.stderr)
