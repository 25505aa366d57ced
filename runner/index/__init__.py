"""The index: `outputs/index.db`, an SQLite projection of journals, manifests and the ledger for questions across runs.

Nothing is known here that is not in those files: delete it at any time, `rebuild` makes the same values. Whoever asks
is answered from an index that was brought up to date first: runs whose files changed are read again, open ones are
asked whether their writer lives. One process brings it up to date at a time; a run is one transaction, so a crash
leaves a sound index. A file that is damaged, foreign or of another version is thrown away and made again. Where it
cannot be written, the answer comes from a private copy. It refuses names that no run or image has. What it does not
know: whether stored bytes are still themselves; that is what `verify` is for.
"""

from runner.index.answer import Found, find_images, peak_mib, runs, verdicts_by_key, where_is
from runner.index.fresh import INDEX, rebuild, refresh
from runner.index.query import ImageQuery

__all__ = [
    "INDEX",
    "Found",
    "ImageQuery",
    "find_images",
    "peak_mib",
    "rebuild",
    "refresh",
    "runs",
    "verdicts_by_key",
    "where_is",
]
