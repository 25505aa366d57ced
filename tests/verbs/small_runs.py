"""Runs of a few lines for what asks who names an object: a manifest, a journal, objects, and no worker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runner import journal, ledger, store

OWNER = {"pid": 1, "process_started": 0.0, "host": "here", "run_id": "r", "role": "generator"}
LATER_S = time.time() + 24 * 3600  # everything written by a test is old by then


def put(outputs: Path, *texts: str) -> list[str]:
    """Objects whose bytes are these texts."""
    return [store.Store(outputs / "objects").put(text.encode()) for text in texts]


def tell(outputs: Path, *events: dict[str, Any]) -> None:
    """Commit events to the ledger."""
    with ledger.writing(outputs) as book:
        book.append(*events)


def run(outputs: Path, name: str, images: Iterable[str], **facts: Any) -> Path:
    """A run that made these objects as images; `facts` stand in a line of their own."""
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    request = {"name": name, "generate": {"width": 8, "height": 8}}
    shape: dict[str, Any] = {"run_id": name, "request": request, "prompts": [], "images": []}
    manifest = {key: {} for key in journal.REQUIRED} | shape
    log, _ = journal.open_log(folder, journal.write_manifest(folder, manifest), list)
    made = [{"event": "made", "key": f"image/{n}", "object": d, "step": "s"} for n, d in enumerate(images)]
    log.append({"event": "started", "owner": OWNER}, *made, {"event": "noted", **facts})
    return folder


def tombstone(digest: str, *records: str) -> dict[str, Any]:
    return {"event": "tombstoned", "object": digest, "records": list(records), "reason": "no licence", "user": "me"}


def decide(outputs: Path, image: str, word: str | None) -> None:
    (outputs / ledger.DECISIONS).mkdir(parents=True, exist_ok=True)
    log, _ = journal.open_log(outputs / ledger.DECISIONS, "0" * 64, list)
    log.append({"event": "decided", "image": image, "decision": word})


def dataset(outputs: Path, name: str, *digests: str) -> Path:
    path = outputs / ledger.DATASETS / name / journal.MANIFEST
    path.parent.mkdir(parents=True)
    path.write_bytes(store.canonical({"items": [{"object": digest} for digest in digests]}))
    return path


def objects(outputs: Path) -> set[str]:
    return {listed.name for listed in store.Store(outputs / "objects").listing()}


def age(outputs: Path, hours: float) -> None:
    """Make every object look that old."""
    for path in (outputs / "objects").glob("*/*"):
        os.utime(path, (time.time() - 3600 * hours,) * 2)
