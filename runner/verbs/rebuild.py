"""`rebuild`: the projections from the truth, as if they had never been.

It reads journals, manifests and objects, and writes only what can be deleted: the index, MLflow, the pointer of a
run to it. A run with a broken journal is named and left out. What it does not know: what a projection held before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import index, track
from runner.errors import Corrupt
from runner.verbs import records
from runner.verbs.status import status

PROJECTIONS = ("index", "mlflow")


def rebuild(outputs: Path, what: str | None = None, *, everything: bool = False) -> dict[str, Any]:
    """Make one projection again, or all: `{"index": {runs, problems}, "mlflow": {runs, projected, problems}}`.

    A problem is `{code, run_id, what, fix, exit_code}`. With `everything`, runs that were not to be tracked go in too.
    """
    records.refuse_missing(outputs)
    value: dict[str, Any] = {}
    if what in (None, "index"):
        value["index"] = {"runs": index.rebuild(outputs), "problems": list(_broken(outputs))}
    if what in (None, "mlflow"):
        value["mlflow"] = track.rebuild(outputs, everything=everything)
    return value


def exit_code(value: dict[str, Any]) -> int:
    """The worst of the problems: 4 when a run is broken, 1 when a store could not be written; 0 for none."""
    return max((int(problem["exit_code"]) for problem in _problems(value)), default=0)


def text(value: dict[str, Any]) -> str:
    """For a person: what was made again, and what was not."""
    counts = {"index": "runs", "mlflow": "projected"}
    made = [f"{name}: {value[name][number]} runs" for name, number in counts.items() if name in value]
    told = dict.fromkeys(f"- {p['run_id']}: {p['what']}. {p['fix']}" for p in _problems(value))
    return "\n".join([*made, *told])


def _problems(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [problem for projection in value.values() for problem in projection.get("problems", [])]


def _broken(outputs: Path) -> Iterator[dict[str, Any]]:
    """Runs that the index could not read whole."""
    for row in status(outputs, None):
        if row["status"] == "corrupt":
            fix = "`python -m runner verify --all` says more; put the original back"
            told = {"code": "journal_altered", "run_id": row["run_id"], "what": row["problem"], "fix": fix}
            yield {**told, "exit_code": Corrupt.exit_code}
