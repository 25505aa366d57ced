"""The files of truth: every chain read to its end, every manifest held against it, and what they say must be stored.

It finds edited, cut, moved and lost lines, manifests and seals. A last line without its end is a crashed write: a
note, no problem. What it does not know: the bytes of objects. Nor does it see through a chain that somebody wrote
anew as a whole, manifest, journal and seal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runner import gpu, journal, ledger, store, track
from runner.errors import Corrupt
from runner.verbs.verify import places
from runner.verbs.verify.findings import Named, Note, Seen

AFTER_THE_END = {"grid.png", "report.html"}  # written when an attempt has ended and its journal is sealed
AFTER_THE_START = {track.POINTER, "tracking.log", *AFTER_THE_END}  # written when the journal has begun
LOG_FILES = {journal.JOURNAL, journal.SEAL, gpu.LOCK}
RUN_FILES = {journal.MANIFEST, *LOG_FILES, *AFTER_THE_START}
BESIDE = {".reserve"}  # room that a running attempt keeps on the disk; says nothing of a run
MAX_TAIL_BYTES = 1 << 26
OBJECT = re.compile(rb'"[^"]{6}":"([^"]{64})"')  # `"object":"<digest>"`, or what a changed letter made of it
CHAIN = "an unbroken chain"
NO_SEAL = "is not what a run writes when it ends"


@dataclass(slots=True)
class Lines:
    """What a log's lines come to, without what only other verbs want."""

    last: dict[str, str | None] = field(default_factory=dict)  # item -> its object, None when it was not made
    sizes: dict[str, int | None] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)  # the numbers of the lines that end an attempt
    times: set[str] = field(default_factory=set)  # the first two times at which lines were written

    def read(self, events: Iterable[journal.Event]) -> None:
        for event in events:
            made = event.get("object") if event["event"] == "made" else None
            if event["event"] in ("made", "unmade"):
                self.last[str(event.get("key"))] = made
            if made is not None:
                self.sizes[made] = event.get("bytes")
            if event["event"] == "ended":
                self.ends.add(event["n"])
            if len(self.times) < 2:
                self.times.add(event["at"])


@dataclass(frozen=True, slots=True)
class Log:
    """One log as it was read."""

    lines: Lines
    there: bool  # whether it could be read
    sound: bool
    genesis: str | None  # what its first line follows
    sealed_at: int | None  # the number of the line that its seal names


@dataclass(frozen=True, slots=True)
class Claim:
    """Which run a sound manifest says that it is, and the manifest's digest."""

    run_id: str
    digest: str


def check_run(folder: Path, at: str, deleted: Callable[[str], bool], seen: Seen) -> Claim | None:
    """A run's manifest, journal, seal and whatever else lies there; `seen` learns what objects the run needs."""
    try:
        there = places.names_in(folder)
    except OSError as error:
        seen.problem("missing", at, "a run", places.cannot_read(error))
        return None
    claim = None
    if there & (RUN_FILES - {gpu.LOCK}):
        log = check_log(folder, at, seen)
        _check_ends(folder, at, log, there, seen)
        claim = _check_manifest(folder, at, log.genesis, seen)
        needed = {digest for digest in log.lines.last.values() if digest and not deleted(digest)}
        for digest, size in log.lines.sizes.items():
            seen.named.name(digest, size, needed=digest in needed)
        seen.checked += 2
    places.strangers(folder, at, RUN_FILES | BESIDE, seen)
    return claim


def check_ledger(outputs: Path, seen: Seen) -> ledger.Ledger:
    """The ledger's chain, and what it says; imported objects are needed."""
    folder, at = outputs / ledger.FOLDER, ledger.FOLDER
    if not folder.exists():
        return ledger.Ledger()
    log = check_log(folder, at, seen)
    if log.sound and log.genesis not in (None, ledger.GENESIS):
        seen.problem("journal_altered", f"{at}/{journal.JOURNAL}", ledger.GENESIS, "does not begin as a ledger does")
    if log.sound and log.sealed_at is None and len(log.lines.times) > 1:
        seen.problem("missing", f"{at}/{journal.SEAL}", "the seal of this log", None)
    places.strangers(folder, at, LOG_FILES, seen)
    seen.checked += 1
    known = ledger.read(outputs) if log.there else ledger.Ledger()
    for digest, event in known.imports.items():
        seen.named.name(digest, event.get("bytes"), needed=not known.deletes(digest, ledger.RECORD))
    return known


def check_held(outputs: Path, seen: Seen) -> None:
    """What people decided on and what datasets are made of: their logs and manifests, and the objects they hold."""
    if (outputs / ledger.DECISIONS).exists():
        seen.checked += 1
        if not check_log(outputs / ledger.DECISIONS, ledger.DECISIONS, seen).sound:
            return
    try:
        held = ledger.held(outputs)
    except Corrupt as error:
        fault = error.faults[0]
        seen.problem("manifest_altered", places.below_outputs(Path(fault.where), outputs), "its objects", fault.what)
        return
    for digest in held:
        seen.named.name(digest, None, needed=True)


def check_log(folder: Path, at: str, seen: Seen) -> Log:
    """Every link of a chain, its end and its seal. What cannot be opened without waiting is not opened."""
    name, lines = f"{at}/{journal.JOURNAL}", Lines()
    seal_problem, sealed_at = _read_seal(folder)
    if seal_problem:
        seen.problem("journal_altered", f"{at}/{journal.SEAL}", "the number and hash of a line", seal_problem)
    what = places.no_file(folder / journal.JOURNAL)
    if what or places.no_file(folder / journal.SEAL):
        if what:
            seen.problem("journal_altered", name, CHAIN, what)
        return Log(lines, False, False, None, None)
    chain = journal.Chain(folder)
    try:
        lines.read(chain)
        problem = None if seal_problem and journal.SEAL in (chain.problem or "") else chain.problem
        problem = problem or _check_tail(folder, name, chain, seen)
        if problem:
            lines = _broken(folder, name, problem, seen)
    except OSError as error:
        seen.problem("journal_altered", name, CHAIN, places.cannot_read(error))
        return Log(lines, False, False, None, None)
    genesis = chain.genesis if chain.num_lines else None  # a first line that is not sound says nothing of it
    return Log(lines, True, problem is None, genesis, sealed_at)


def _broken(folder: Path, name: str, problem: str, seen: Seen) -> Lines:
    """A log that is not sound: gone altogether, or there with a broken link."""
    path, lines = folder / journal.JOURNAL, Lines()
    if path.exists():
        _take_in(path, lines, seen.named)
        seen.problem("journal_altered", name, CHAIN, problem)
    else:
        seen.problem("missing", name, "a journal", None)
    return lines


def _take_in(path: Path, lines: Lines, named: Named) -> None:
    """What a broken log says: lines that are themselves count, wherever they stand; nothing of the rest is nobody's."""
    named.broken = True
    with path.open("rb") as file:
        for line in file:
            if event := _itself(line):
                lines.read([event])
            named.doubtful |= {text.decode("latin-1") for text in OBJECT.findall(line)}
    for text in named.doubtful:
        if store.is_name(text):
            named.name(text, None, needed=False)


def _itself(line: bytes) -> journal.Event | None:
    """A line as it was written, by its own hash; the links between lines are not looked at."""
    try:
        event = json.loads(line)
        body = {name: value for name, value in event.items() if name != "hash"}
        return event if store.digest_of(body) == event["hash"] and {"event", "n", "at"} <= event.keys() else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _check_tail(folder: Path, name: str, chain: journal.Chain, seen: Seen) -> str | None:
    """What stands after the last whole line: the beginning of one (a crashed write), or what no run writes."""
    tail = tail_of(folder / journal.JOURNAL, chain.sound_bytes)
    if not tail or b"\n" in tail or gpu.is_written(folder):  # somebody writes at this moment
        return None
    if not _is_torn(tail):
        return f"ends in {len(tail)} bytes that no run writes"
    seen.notes.append(Note("torn", name, len(tail), folder))
    return None


def tail_of(path: Path, begin: int) -> bytes:
    """What stands in a file from a byte on."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(MAX_TAIL_BYTES)
    except FileNotFoundError:
        return b""


def _is_torn(tail: bytes) -> bool:
    """Whether bytes can be the beginning of a line; after a power cut the rest of it can be zeros."""
    text = tail.rstrip(b"\0").decode("utf-8", "replace")
    if not text.startswith('{"'[: len(text)]):
        return False
    try:
        return not text or json.JSONDecoder().raw_decode(text)[1] == len(text)
    except (ValueError, RecursionError):
        return True  # a beginning without an end


def _read_seal(folder: Path) -> tuple[str | None, int | None]:
    """What is wrong with the form of a seal, and the number of the line that it names."""
    path = folder / journal.SEAL
    if what := places.no_file(path):
        return what, None
    try:
        data = path.read_bytes()
        value = json.loads(data)
        number = value["n"]
        sound = isinstance(value["hash"], str) and type(number) is int and store.canonical(value) == data
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return places.cannot_read(error), None
    except (ValueError, KeyError, TypeError, RecursionError):
        return NO_SEAL, None
    return (None, number) if sound and len(value) == 2 else (NO_SEAL, None)


def _check_ends(folder: Path, at: str, log: Log, there: set[str], seen: Seen) -> None:
    """A journal and a seal that must have been there, and a seal that names no end of an attempt."""
    if not log.sound:
        return
    if journal.JOURNAL not in there and there & AFTER_THE_START:
        seen.problem("missing", f"{at}/{journal.JOURNAL}", "a journal", None)
    elif journal.SEAL not in there and log.lines.ends and there & AFTER_THE_END:
        seen.problem("missing", f"{at}/{journal.SEAL}", "the seal of this journal", None, folder)
    elif log.sealed_at is not None and log.sealed_at not in log.lines.ends:
        what = f"names line {log.sealed_at + 1}, where no attempt ended"
        seen.problem("journal_altered", f"{at}/{journal.SEAL}", "the end of an attempt", what)


def _check_manifest(folder: Path, at: str, expected: str | None, seen: Seen) -> Claim | None:
    """The manifest is the one that the journal began with, and the canonical JSON that a run writes."""
    path, found, claim = folder / journal.MANIFEST, places.no_file(folder / journal.MANIFEST), None
    if found is None and not path.exists():
        seen.problem("missing", f"{at}/{journal.MANIFEST}", expected, None)
        return None
    try:
        if found is None:
            claim = Claim(str(journal.read_manifest(folder)["run_id"]), journal.manifest_digest(folder))
            found = None if expected in (None, claim.digest) else claim.digest
    except Corrupt as error:
        found = error.faults[0].what
    except OSError as error:
        found = places.cannot_read(error)
    if found is not None:
        seen.problem("manifest_altered", f"{at}/{journal.MANIFEST}", expected, found)
    return claim if found is None else None
