"""The manifest and the event log of one run: append, read, fold into state.

A run folder holds `manifest.json` (written once) and `journal.jsonl` (one event a line; each line carries
the hash of the line before, the first one the digest of the manifest). What is not in the journal did not
happen. It refuses a second manifest and a broken chain; a torn last line is cut before the next append. What
it does not know: objects, MLflow, or whether the writer is still alive.
"""

from runner.journal.log import JOURNAL, SEAL, Event, Journal, Reading, Watcher, open_journal, read_events, seal
from runner.journal.manifest import MANIFEST, REQUIRED, manifest_digest, read_manifest, write_manifest
from runner.journal.state import ENDED, RUNNING, Run, State, fold, read_run

__all__ = [
    "ENDED",
    "JOURNAL",
    "MANIFEST",
    "REQUIRED",
    "RUNNING",
    "SEAL",
    "Event",
    "Journal",
    "Reading",
    "Run",
    "State",
    "Watcher",
    "fold",
    "manifest_digest",
    "open_journal",
    "read_events",
    "read_manifest",
    "read_run",
    "seal",
    "write_manifest",
]
