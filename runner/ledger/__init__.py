"""The journal of the store: what came in from outside, what was deleted, repaired and collected, and what is held.

`outputs/ledger/` has the form of a run's log: `journal.jsonl`, one hash-chained event a line, and `seal.json`. The
first line follows GENESIS, the sha256 of the text `runner ledger, format 1`. One process writes it at a time.

    imported     {object, bytes, width, height, media_type, name, source, license, note, prompt, says, user}
    tombstoned   {object, records, reason, user}   `records` name it and are deleted: `runs/<id>`, `ledger`
    untombstoned {object, reason, user}            takes every tombstone of this object back
    repairing    {acts}                            written before `verify --repair` acts
    repaired     {kind, name, how, bytes_from, set_aside}  what it did
    collecting   {objects, bytes}                  written before `gc` removes them
    collected    {objects, bytes, kept}            written after; `kept` were named in `collecting` and are still there

An event says nothing about where a file lay: no path of this machine, only its own name. `held` is what nobody may
delete, because a person decided on it or a dataset version is made of it. It refuses to guess: a broken chain, a
decisions journal or a dataset manifest that cannot be read is Corrupt, and nothing is deleted then.
What it does not know: the bytes; that is the store's. Whether a run names an object; that is its journal's.
"""

from runner.ledger.decided import DECISIONS, WORDS, Decision, Decisions, decided, split_of
from runner.ledger.held import DATASETS, held, read_dataset
from runner.ledger.in_use import alone, using
from runner.ledger.log import FOLDER, GENESIS, RECORD, Event, Ledger, Writer, fold, read, refuse_broken, writing

__all__ = [
    "DATASETS",
    "DECISIONS",
    "FOLDER",
    "GENESIS",
    "RECORD",
    "WORDS",
    "Decision",
    "Decisions",
    "Event",
    "Ledger",
    "Writer",
    "alone",
    "decided",
    "fold",
    "held",
    "read",
    "read_dataset",
    "refuse_broken",
    "split_of",
    "using",
    "writing",
]
