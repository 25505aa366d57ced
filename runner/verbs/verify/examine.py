"""One look at an outputs folder: its logs first, then the objects that they name, then whatever else lies there.

Known at the root, and left alone: everything. People keep notes there, and models, datasets, exports, `mlflow.db`,
`index.db` and sweeps have their own ways. Below `objects/`, `runs/` and `ledger/` nothing may lie that nobody of
ours writes. A run folder that was copied away from its store is checked by itself. It changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from runner import gpu, journal, ledger, store
from runner.errors import Corrupt, Fault
from runner.verbs import records
from runner.verbs.status import find_run
from runner.verbs.verify import logs, places
from runner.verbs.verify.findings import Seen, extra
from runner.verbs.verify.stored import check_objects

RUNS = "runs"


def examine(outputs: Path, run: str | None) -> Seen:
    """Check everything below `outputs`, or one run and its objects. Raises Refused where nothing was written."""
    if run is not None:
        return _examine_run(outputs, _run_folder(outputs, run))
    if (outputs / journal.MANIFEST).exists():
        return _examine_run(outputs, outputs)
    records.refuse_missing(outputs)
    seen, folders = Seen(), _folders(outputs)
    before_s = min([time.time(), *(_started(folder) for folder in folders if gpu.is_written(folder))])
    known = logs.check_ledger(outputs, seen)
    claims = {folder.name: _check_run(outputs, folder, known, seen) for folder in folders}
    _check_ids(claims, seen)
    places.strangers(outputs / RUNS, RUNS, {folder.name for folder in folders}, seen)
    logs.check_held(outputs, seen)
    _check_store(outputs, seen, everything=True, before_s=before_s)
    return seen


def _examine_run(outputs: Path, folder: Path) -> Seen:
    """One run. Its store is looked for beside it; a run folder copied away from its store has none."""
    home = folder.parent.parent if folder.parent.name == RUNS else None
    seen, ours = Seen(), home == outputs
    has_store = home is not None and (ours or any((home / name).exists() for name in ("objects", store.RECORD)))
    if home is None or not has_store:
        logs.check_run(folder, folder.name, lambda digest: False, seen)
        seen.objects = False
        seen.problems += [extra(stranger) for stranger in seen.strangers]
        return seen
    known = logs.check_ledger(home, Seen())
    _check_ids({folder.name: _check_run(home, folder, known, seen)}, seen)
    _check_store(home, seen, everything=False, before_s=0)
    return seen


def _check_run(outputs: Path, folder: Path, known: ledger.Ledger, seen: Seen) -> logs.Claim | None:
    record = f"{RUNS}/{folder.name}"
    return logs.check_run(folder, record, partial(known.deletes, record=record), seen)


def _check_ids(claims: Mapping[str, logs.Claim | None], seen: Seen) -> None:
    """A run folder under another name than its manifest's: moved there, or a copy of one that is in its place."""
    for name, claim in claims.items():
        if claim is None or claim.run_id == name:
            continue
        if claims.get(claim.run_id) == claim:
            seen.problem("extra", f"{RUNS}/{name}", None, f"a copy of run {claim.run_id}")
        else:
            seen.problem("misplaced", f"{RUNS}/{name}", f"{RUNS}/{claim.run_id}", f"{RUNS}/{name}")


def _check_store(outputs: Path, seen: Seen, *, everything: bool, before_s: float) -> None:
    try:
        if what := places.no_file(outputs / store.RECORD):
            raise Corrupt(Fault("storage_altered", store.RECORD, what, "Put the original back"))
        objects = store.open_store(outputs, None)
    except Corrupt as error:
        seen.problem("manifest_altered", store.RECORD, "where the objects are", error.faults[0].what)
        seen.objects = False
        return
    seen.objects = objects.there()
    check_objects(outputs, objects, seen, everything=everything, before_s=before_s)


def _folders(outputs: Path) -> list[Path]:
    """Every folder that is or was a run, with or without its manifest."""
    runs = outputs / RUNS
    return sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []


def _run_folder(outputs: Path, run: str) -> Path:
    """The run that a name means, also one that lost its manifest."""
    exact = outputs / RUNS / run
    return exact if run in map(os.path.basename, _folders(outputs)) else find_run(outputs, run)


def _started(folder: Path) -> float:
    """Since when a run that is held now is being written: its writer put its name into the lock then."""
    try:
        return (folder / gpu.LOCK).stat().st_mtime
    except OSError:
        return 0.0
