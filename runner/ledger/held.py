"""What nobody may delete: images that a person decided on, and what a dataset version is made of.

A decision (see `decided`) holds its image as long as one reviewer's word stands, known or not. A dataset version is a
room that is written elsewhere; the shape this expects is `outputs/datasets/<version>/manifest.json`: canonical JSON, an
object whose `items` is a list of objects, each with a digest under `object`. Hidden folders are unfinished and count
for nothing.

Whatever of this cannot be read holds everything: Corrupt. What it does not know: what a decision or a dataset means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runner import journal, store
from runner.errors import Corrupt, Fault, first_line
from runner.ledger.decided import DECISIONS, WORDS, decided

DATASETS = "datasets"
MAX_MANIFEST_BYTES = 1 << 30


def held(outputs: Path) -> dict[str, str]:
    """Why each held object is held, by digest. Raises Corrupt when a part of it cannot be read: all is held then."""
    reasons = _decided(outputs)
    folder = outputs / DATASETS
    try:
        versions = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except FileNotFoundError:
        versions = []
    except OSError as error:
        raise _unreadable(folder, f"cannot be read ({error.strerror})") from error
    for version in versions:
        for item in read_dataset(version)["items"]:
            reasons[item["object"]] = f"dataset version {version.name} holds it"
    return reasons


def _decided(outputs: Path) -> dict[str, str]:
    try:
        return {decision.image: _said(decision.word) for decision in decided(outputs).standing}
    except Corrupt as error:
        raise _unreadable(outputs / DECISIONS / journal.JOURNAL, error.faults[0].what) from error


def _said(word: str) -> str:
    known = f"a person decided on it: {word}"
    return known if word in WORDS else f"a person decided on it, in a word that is not known here ({word[:40]!r})"


def read_dataset(version: Path) -> dict[str, Any]:
    """The manifest of one dataset version. Raises Corrupt unless it is exactly what it should be."""
    path = version / journal.MANIFEST
    try:
        data = store.read_regular(path, MAX_MANIFEST_BYTES)
        value = json.loads(data)
        sound = isinstance(value, dict) and store.canonical(value) == data
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, f"cannot be read ({first_line(error)})") from error
    items = value.get("items") if sound else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _unreadable(path, "is not canonical JSON with a list of `items`")
    for item in items:
        if not (isinstance(item.get("object"), str) and store.is_name(item["object"])):
            raise _unreadable(path, f"has an item without a digest ({str(item.get('object'))[:80]!r})")
    return dict(value)


def _unreadable(path: Path, what: str) -> Corrupt:
    fix = "Nothing was changed, and nothing is deleted while this cannot be read. Put the original back"
    return Corrupt(Fault("holder_unreadable", str(path), what, fix))
