"""`verify`: hash everything again and name every difference exactly. It mends only when told: `repair`.

The kinds of problem, with name, expected and found:

    missing           object or file, where it should be, nothing (or what is there in place of a file)
    altered           object, its digest, the digest of the bytes that are there
    truncated         object, its digest, the digest of the fewer bytes that are there
    misplaced         object or run folder, its place, the place where its bytes were found
    orphan            object, a line that names it, nothing
    extra             place, nothing, the digest or kind of what lies there and nobody of ours writes
    manifest_altered  place, the digest that the journal began with, the digest or fault that is there
    journal_altered   place, an unbroken chain, the first broken link

What happened to a thing once is one problem. `notes` name what crashes left behind, which is no problem. Deleted
objects (tombstones in the ledger) may be gone or there. What it does not know: whether a picture is any good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runner.verbs.verify.examine import examine
from runner.verbs.verify.repairs import repair

__all__ = ["repair", "verify"]


def verify(outputs: Path, run: str | None) -> dict[str, Any]:
    """Check one run, or every run and the whole store; `ok` is false on any difference. Changes nothing.

    A run folder copied away from its store is checked by itself; `objects` is false then.
    """
    return examine(outputs, run).as_dict()
