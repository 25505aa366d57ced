"""`status`: one line of truth per run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import gpu, journal, track
from runner.errors import Corrupt, Fault, Refused, choose

POLL_S = 0.5


def status(outputs: Path, run: str | None) -> list[dict[str, Any]]:
    """Every run of an outputs folder, or the one whose id begins with `run`; oldest first."""
    folders = run_folders(outputs) if run is None else [find_run(outputs, run)]
    rows = [_row(folder) for folder in folders]
    return sorted(rows, key=lambda row: row["started"] or "")


def follow(outputs: Path, run: str | None) -> Iterator[list[dict[str, Any]]]:
    """The status again and again, at each change, until no run is open."""
    before: list[dict[str, Any]] | None = None
    while True:
        rows = status(outputs, run)
        if rows != before:
            yield rows
        if all(row["ended"] or row["status"] in ("crashed", "corrupt") for row in rows):
            return
        before = rows
        time.sleep(POLL_S)


def run_folders(outputs: Path) -> list[Path]:
    """Folders that hold a manifest; a run copied elsewhere is one by itself."""
    if (outputs / journal.MANIFEST).exists():
        return [outputs]
    return sorted(path.parent for path in (outputs / "runs").glob(f"*/{journal.MANIFEST}"))


def find_run(outputs: Path, name: str) -> Path:
    """The run that a name means: a folder, an id, or the one id that begins with it. Raises Refused."""
    if (Path(name) / journal.MANIFEST).exists():
        return Path(name).absolute()
    folders = {folder.name: folder for folder in run_folders(outputs)}
    if name in folders:
        return folders[name]
    matches = [folder for run_id, folder in folders.items() if run_id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    what = f"{name!r} is no run of {outputs}" if not matches else f"{name!r} begins {len(matches)} run ids"
    raise Refused(Fault("unknown_run", "RUN", what, choose(name, folders)))


def _row(folder: Path) -> dict[str, Any]:
    try:
        run = journal.read_run(folder)
    except Corrupt as error:
        return {**_EMPTY, "run_id": folder.name, "status": "corrupt", "problem": error.faults[0].what}
    images = run.images()
    verdicts = [image for image in images if image["verdict"]]
    return {
        "run_id": run.id,
        "experiment": run.manifest["request"]["name"],
        "status": run.status(gpu.alive),
        "planned": len(images),
        "complete": sum(1 for image in images if image["status"] == "complete"),
        "failed": sum(1 for image in images if image["status"] == "failed"),
        "phase": run.state.phase,
        "started": run.state.started,
        "ended": run.state.ended,
        "mlflow_run_id": track.read_pointer(folder).get("mlflow_run_id"),
        "verdicts": len(verdicts),
        "unscored": sum(1 for image in verdicts if image["unscored"]),
        "attempts": run.state.attempts,
        "fallback": run.manifest["fallback"],
        "failure": run.state.failure,
        "not_repeatable": run.state.num_differing,
        "problem": run.problem,
    }


_EMPTY: dict[str, Any] = {
    "experiment": None, "planned": 0, "complete": 0, "failed": 0, "phase": None, "started": None, "ended": None,
    "mlflow_run_id": None,
}  # fmt: skip
