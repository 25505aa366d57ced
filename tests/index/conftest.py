"""An outputs folder with everything in it that the index can hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.index.dumped import ENDINGS, KEY, accepted, finished, opened
from tests.verbs import small_runs


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with a run of every ending, a crashed one, peaks, an import and a tombstone."""
    outputs = tmp_path_factory.mktemp("outputs")
    for seed, painter in enumerate(ENDINGS.values()):
        worlds.run(accepted(outputs, seed), generate=painter)
    peaks = [{"event": "peak", "role": "generator", "key": KEY, "peak_mib": mib} for mib in (700, 900, 800)]
    gone = opened(finished(outputs, 8), *peaks)
    entered = {"event": "imported", "bytes": 9, "width": 8, "height": 8, "media_type": "image/png", "name": "cat.png"}
    told: dict[str, Any] = {
        "source": "a friend",
        "license": None,
        "note": None,
        "prompt": "a cat",
        "says": {},
        "user": "u",
    }
    small_runs.tell(outputs, {**entered, **told, "object": "c" * 64})
    first = gone.images()[0]["digest"]
    small_runs.tell(outputs, {"event": "tombstoned", "object": first, "records": [f"runs/{gone.id}"], "reason": "dull"})
    return outputs


@pytest.fixture
def outputs(made: Path, tmp_path: Path) -> Path:
    """The same, to do with as one likes."""
    return shutil.copytree(made, tmp_path / "outputs", ignore=shutil.ignore_patterns("index.db*", ".index*"))
