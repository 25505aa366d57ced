"""The ledger's events: written, read, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner import gpu, journal, store
from runner.errors import Corrupt, Failed, Fault, Unavailable

FOLDER = "ledger"
RECORD = "ledger"  # how a tombstone names an import; a run's record is `runs/<id>`
GENESIS = "58bd6cc3ab1e98f249ebbd0abcfda3800ab853f90bc1045d095f003556ab3b75"
NOT_OURS = "is no event of a ledger"

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger's events add up to; digests are the keys."""

    imports: Mapping[str, Event] = field(default_factory=dict)  # the last `imported` of each
    tombstones: Mapping[str, Event] = field(default_factory=dict)  # deleted now, with the `records` of them all
    repairs: tuple[Event, ...] = ()
    collecting: Mapping[str, None] = field(default_factory=dict)  # begun, and not said to be done
    collected: Mapping[str, str] = field(default_factory=dict)  # removed by gc, and when
    problem: str | None = None  # the first broken link of its chain

    def deletes(self, digest: str, record: str) -> bool:
        """Whether the object is deleted as far as this record goes: `runs/<id>`, or RECORD for an import."""
        tombstone = self.tombstones.get(digest)
        return tombstone is not None and record in tombstone["records"]


@dataclass(frozen=True, slots=True)
class Writer:
    """The appending end of the ledger, held alone; `known` is what it said when it was opened."""

    folder: Path
    known: Ledger
    log: journal.Journal

    def append(self, *events: Event) -> None:
        """Commit events and seal them, so that an end cut off afterwards shows. Raises Failed(storage)."""
        if not events:
            return
        self.log.append(*events)
        try:
            journal.seal(self.folder, self.log)
        except OSError as error:
            raise _not_written(self.folder / journal.SEAL, error) from error


def read(outputs: Path) -> Ledger:
    """What the ledger of an outputs folder says; one that is not there says nothing. Raises Corrupt if unreadable."""
    chain = journal.Chain(outputs / FOLDER)
    try:
        known = fold(chain)
    except OSError as error:
        raise Corrupt(_altered(outputs, f"cannot be read ({error.strerror})")) from error
    except (KeyError, TypeError, ValueError) as error:
        return Ledger(problem=f"line {chain.num_lines} {NOT_OURS} ({error})")
    foreign = "does not begin as a ledger does" if chain.genesis not in (None, GENESIS) else None
    return replace(known, problem=chain.problem or foreign)


def refuse_broken(outputs: Path, known: Ledger) -> None:
    """Raise Corrupt when what was read of the ledger is not all of it."""
    if known.problem is not None:
        raise Corrupt(_altered(outputs, known.problem))


@contextmanager
def writing(outputs: Path) -> Iterator[Writer]:
    """Hold the ledger for writing, alone: for whoever stores or removes bytes and then says so.

    Raises Unavailable while another process writes it or nobody may, and Corrupt when its chain is broken.
    """
    folder = outputs / FOLDER
    refuse_broken(outputs, read(outputs))
    with ExitStack() as held:
        _hold(folder, held)
        try:
            store.fsync_folder(outputs)
            log, known = journal.open_log(folder, GENESIS, fold)
        except Corrupt as error:
            raise Corrupt(_altered(outputs, error.faults[0].what)) from error
        except OSError as error:
            raise _not_written(folder, error) from error
        yield Writer(folder, known, log)


def fold(events: Iterable[Event]) -> Ledger:
    """Add events up in order; unknown ones change nothing."""
    imports: dict[str, Event] = {}
    tombstones: dict[str, Event] = {}
    repairs: list[Event] = []
    collecting: dict[str, None] = {}
    collected: dict[str, str] = {}
    for event in events:
        match event["event"]:
            case "imported":
                imports[event["object"]] = event
                collected.pop(event["object"], None)
                _bury(tombstones, event["object"], _records(tombstones, event["object"]) - {RECORD}, None)
            case "tombstoned":
                _bury(tombstones, event["object"], _records(tombstones, event["object"]) | {*event["records"]}, event)
            case "untombstoned":
                tombstones.pop(event["object"], None)
            case "repaired":
                repairs.append(event)
            case "collecting":
                collecting.update(dict.fromkeys(event["objects"]))
            case "collected":
                collected.update(dict.fromkeys(event["objects"], event["at"]))
                for digest in (*event["objects"], *event.get("kept", ())):
                    collecting.pop(digest, None)
    return Ledger(imports, tombstones, tuple(repairs), collecting, collected)


def _records(tombstones: Mapping[str, Event], digest: str) -> set[str]:
    return set(tombstones[digest]["records"]) if digest in tombstones else set()


def _bury(tombstones: dict[str, Event], digest: str, records: set[str], event: Event | None) -> None:
    """Set which records of an object are deleted; none of them is no tombstone."""
    said = event or tombstones.get(digest)
    if said and records:
        tombstones[digest] = {**said, "records": sorted(records)}
    else:
        tombstones.pop(digest, None)


def _hold(folder: Path, held: ExitStack) -> None:
    try:
        held.enter_context(gpu.only_writer(folder, gpu.this_process(FOLDER, "keeper")))
    except Unavailable as error:
        fault = error.faults[0]
        if fault.code != "run_locked":  # the lock cannot be made: it lies with the ledger, not with the leases
            raise Unavailable(replace(fault, fix="Mend the permissions of that folder")) from error
        what = f"is being written by process {(gpu.read_owner(folder / gpu.LOCK) or {}).get('pid', 'unknown')}"
        fix = "Wait until that import, delete or gc ends, then type the same command again"
        raise Unavailable(Fault("ledger_locked", "ledger", what, fix)) from error


def _altered(outputs: Path, what: str) -> Fault:
    fix = f"Nothing was changed. Put the {FOLDER}/ folder back from a copy"
    return Fault("ledger_altered", str(outputs / FOLDER / journal.JOURNAL), what, fix)


def _not_written(path: Path, error: OSError) -> Failed:
    fix = "Free space or mend the permissions of that folder, then run the same command again"
    return Failed("storage", Fault("storage_failed", str(path), f"cannot be written ({error.strerror})", fix))
