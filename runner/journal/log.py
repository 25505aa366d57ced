"""The event log: append, read, and check every link of its chain. The line is the commit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import orjson

from runner import store
from runner.errors import Corrupt, Failed, Fault
from runner.journal.manifest import MANIFEST, altered, not_writable

JOURNAL = "journal.jsonl"
SEAL = "seal.json"  # number and hash of the last line when an attempt ended: shows a journal that lost its end
MAX_LOOKALIKES = 8  # texts in a line that look like its hash

Event = dict[str, Any]
Watcher = Callable[[Event], None]
Read = TypeVar("Read")


@dataclass(slots=True)
class Journal:
    """The appending end of one log; one process holds it at a time (the caller's lock sees to that), any of its
    threads may append."""

    path: Path
    last_hash: str
    next_number: int
    watchers: list[Watcher] = field(default_factory=list)
    size: int = 0  # bytes of the file that are ours and whole
    _is_torn: bool = False  # a write of ours left more than that, and it could not be cut
    _one_at_a_time: threading.RLock = field(default_factory=threading.RLock)
    _committing: int | None = None  # the thread inside a commit: a signal must not break it, see `interrupt`
    _stop: BaseException | None = None

    def append(self, *events: Event) -> None:
        """Commit events in order with one write and one fsync, then tell the watchers. Raises Failed(storage)."""
        if not events:
            return
        with self._one_at_a_time:
            for line in self._commit(events):
                self._tell(line)
        if self._stop is not None and threading.current_thread() is threading.main_thread():
            stop, self._stop = self._stop, None
            raise stop

    def _commit(self, events: tuple[Event, ...]) -> list[Event]:
        lines = self._chained(events)
        data = b"".join(store.canonical(line) + b"\n" for line in lines)
        self._check_end()
        self._committing = threading.get_ident()
        try:
            self._write(data)
            self.last_hash, self.next_number = lines[-1]["hash"], lines[-1]["n"] + 1
            self.size += len(data)
        except Failed:
            self._stop = None  # the failure ends the run anyway
            self._is_torn = True
            with contextlib.suppress(Failed):  # a disk that cuts nothing now may do so before the next line
                self._cut()
            raise
        finally:
            self._committing = None
        return lines

    def _tell(self, line: Event) -> None:
        """A watcher that breaks (a closed terminal) is told no more; the line is committed in any case."""
        for watch in list(self.watchers):
            try:
                watch(line)
            except Exception:
                self.watchers.remove(watch)

    def interrupt(self, stop: BaseException) -> None:
        """Raise `stop` now, or after the commit that this thread is in: between write and chain it would break both."""
        if self._committing != threading.get_ident():
            raise stop
        self._stop = stop

    def _chained(self, events: tuple[Event, ...]) -> list[Event]:
        before, number, lines = self.last_hash, self.next_number, []
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        for event in events:
            line = {**event, "n": number, "at": at, "prev": before}
            before, number = store.digest_of(line), number + 1
            lines.append({**line, "hash": before})
        return lines

    def _check_end(self) -> None:
        """The file must end where our last line does: nothing is appended to a torn line, or to another's."""
        if self._is_torn:
            self._cut()
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise not_writable(self.path, error) from error
        if size != self.size:
            what = f"has {size} bytes where this attempt left {self.size}: something else wrote into it"
            raise Failed(
                "storage", Fault("storage_failed", str(self.path), what, "Look with `python -m runner verify`")
            )

    def _cut(self) -> None:
        """Take away what a full disk let through of a line."""
        try:
            os.truncate(self.path, self.size)
        except OSError as error:
            raise not_writable(self.path, error) from error
        self._is_torn = False

    def _write(self, data: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_writable(self.path, error) from error


def open_log(folder: Path, genesis: str, read: Callable[[Iterable[Event]], Read]) -> tuple[Journal, Read]:
    """Open a log for appending; returns it and what `read` made of its events, which stream. Cuts a torn last line.

    `genesis` is what the first line follows: the digest of a run's manifest. Raises Corrupt when the chain is broken
    or follows something else.
    """
    path = folder / JOURNAL
    chain = Chain(folder)
    known = read(chain)
    if chain.problem is not None:
        raise Corrupt(altered("journal_altered", path, chain.problem))
    if chain.genesis not in (None, genesis):
        raise Corrupt(altered("manifest_altered", folder / MANIFEST, "is not the one that the journal began with"))
    try:
        if path.exists() and path.stat().st_size != chain.sound_bytes:
            os.truncate(path, chain.sound_bytes)
        journal = Journal(path, chain.last_hash or genesis, chain.num_lines, size=chain.sound_bytes)
        if not path.exists():
            journal._write(b"")
            store.fsync_folder(folder)
    except OSError as error:
        raise not_writable(path, error) from error
    return journal, known


@dataclass(slots=True)
class Chain:
    """The events of a log, read one by one with every link checked; stops at the first broken link.

    Iterated again, it goes on with what was appended since. A missing file reads as no events, a file that cannot be
    read as a broken one; a last line without its end is not read.
    """

    folder: Path
    num_lines: int = 0
    sound_bytes: int = 0  # how many bytes of the file are whole lines, once all was read
    genesis: str | None = None  # what the first line follows
    last_hash: str | None = None
    problem: str | None = None  # the first broken link, once all was read
    _inode: int | None = None

    def __iter__(self) -> Iterator[Event]:
        sealed = _sealed(self.folder)  # before the lines: a writer may add to both meanwhile
        known = self.num_lines
        at_seal = None
        for event in self._events():
            at_seal = event["hash"] if sealed and event["n"] == sealed[0] else at_seal
            yield event
        if sealed and (sealed == UNREADABLE or sealed[0] >= known):
            self.problem = self.problem or _lost_end(sealed, at_seal, self.num_lines)

    def _events(self) -> Iterator[Event]:
        try:
            file = self._open()
        except OSError as error:
            self.problem = f"cannot be read ({error.strerror or error})"
            return
        if file is None:
            return
        with file:
            for line in file:
                event = _parse(line)
                if event is None and not line.endswith(b"\n"):
                    return
                problem = "is not one of our lines" if event is None else self._broken_link(line, event)
                if event is None or problem:
                    self.problem = f"line {self.num_lines + 1} {problem}"
                    return
                self.num_lines, self.last_hash = self.num_lines + 1, event["hash"]
                self.sound_bytes += len(line)
                yield event

    def _open(self) -> BinaryIO | None:
        """The file where we left it; None where there is none. A pipe in its place is not waited for."""
        try:
            handle = os.open(self.folder / JOURNAL, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self.num_lines:
                raise OSError("is gone since it was read") from None
            return None
        file = os.fdopen(handle, "rb", buffering=1 << 20)
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            file.close()
            raise OSError("is no regular file")
        if facts.st_size < self.sound_bytes or self._inode not in (None, facts.st_ino):
            file.close()
            raise OSError("is another or a shorter file than the one that was read before")
        self._inode = facts.st_ino
        file.seek(self.sound_bytes)
        return file

    def _broken_link(self, line: bytes, event: Event) -> str | None:
        if not _is_hash_of(event["hash"], line[:-1]):
            return "was altered: its hash is not that of its content"
        if self.last_hash is None:
            self.genesis = event["prev"]
        elif event["prev"] != self.last_hash:
            return "does not follow the line before it: lines are missing or were moved"
        return None if event["n"] == self.num_lines else "has the wrong number"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a journal says: its events, how many bytes of it are whole lines, and the first broken link."""

    events: list[Event]
    sound_bytes: int
    problem: str | None


def read_events(folder: Path) -> Reading:
    """Read a whole journal into memory, every link checked. A missing file reads as no events."""
    chain = Chain(folder)
    events = list(chain)
    return Reading(events, chain.sound_bytes, chain.problem)


def iter_events(folder: Path) -> Iterator[Event]:
    """The events of a journal up to its first broken link, one by one."""
    return iter(Chain(folder))


def seal(folder: Path, log: Journal) -> None:
    """Note where the journal ends, so that a journal cut short afterwards shows."""
    store.write_durably(folder / SEAL, store.canonical({"n": log.next_number - 1, "hash": log.last_hash}))


def is_sealed(folder: Path, log: Journal) -> bool:
    """Whether the journal's last line is the one that was sealed."""
    return _sealed(folder) == (log.next_number - 1, log.last_hash)


Seal = tuple[int, str]
UNREADABLE: Seal = (-1, "")


def _sealed(folder: Path) -> Seal | None:
    try:
        sealed = orjson.loads((folder / SEAL).read_bytes())
        place = (sealed["n"], sealed["hash"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return UNREADABLE
    return place if isinstance(place[0], int) and isinstance(place[1], str) else UNREADABLE


def _lost_end(sealed: Seal, found: str | None, num_lines: int) -> str | None:
    if sealed == UNREADABLE:
        return f"has a {SEAL} beside it that cannot be read"
    if num_lines <= sealed[0]:
        return f"is cut short: it has {num_lines} lines and had at least {sealed[0] + 1}"
    return None if found == sealed[1] else "is not the one that was sealed when the run ended"


OURS = frozenset(("hash", "prev", "event", "n", "at"))  # what every line has
UTC_ENDING = "+00:00"


def _parse(line: bytes) -> Event | None:
    """A whole line as an event; its form is settled by its hash, which is over its very bytes."""
    if not line.endswith(b"\n"):
        return None
    try:
        event = orjson.loads(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not event.keys() >= OURS:
        return None
    sound = isinstance(event["event"], str) and isinstance(event["n"], int) and isinstance(event["at"], str)
    return event if sound and event["at"].endswith(UTC_ENDING) else None


def _is_hash_of(claimed: Any, line: bytes) -> bool:
    """Whether a line without its own hash has that hash. Texts inside that look the same are tried as well."""
    entry = f'"hash":"{claimed}",'.encode()
    place = line.find(entry)
    for _ in range(MAX_LOOKALIKES):
        if place < 0:
            return False
        if hashlib.sha256(line[:place] + line[place + len(entry) :]).hexdigest() == claimed:
            return True
        place = line.find(entry, place + 1)
    return False
