"""The manifest and the event log of one run: append, read, fold into state.

A run folder holds `manifest.json` (written once) and `journal.jsonl` (one event a line; each line carries
the hash of the line before, the first one the digest of the manifest). What is not in the journal did not
happen. It refuses a second manifest and a broken chain; a torn last line is cut before the next append. What
it does not know: objects, MLflow, or whether the writer is still alive.
"""

from runner.journal.log import (
    JOURNAL,
    SEAL,
    Chain,
    Event,
    Journal,
    Reading,
    Watcher,
    is_sealed,
    iter_events,
    open_log,
    read_events,
    seal,
)
from runner.journal.manifest import MANIFEST, REQUIRED, manifest_digest, not_writable, read_manifest, write_manifest
from runner.journal.state import ENDED, RUNNING, Item, Run, State, fold, fold_slim, follow_run, item_of, read_run

__all__ = [
    "ENDED",
    "JOURNAL",
    "MANIFEST",
    "REQUIRED",
    "RUNNING",
    "SEAL",
    "Chain",
    "Event",
    "Item",
    "Journal",
    "Reading",
    "Run",
    "State",
    "Watcher",
    "fold",
    "fold_slim",
    "follow_run",
    "is_sealed",
    "item_of",
    "iter_events",
    "manifest_digest",
    "not_writable",
    "open_log",
    "read_events",
    "read_manifest",
    "read_run",
    "seal",
    "write_manifest",
]
