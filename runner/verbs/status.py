"""`status`: one line of truth per run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import gpu, journal, ledger, track
from runner.errors import Corrupt, Fault, Refused, Unavailable, choose

POLL_S = 0.5
Reader = Callable[[], journal.Run]


def status(outputs: Path, run: str | None) -> list[dict[str, Any]]:
    """Every run of an outputs folder, or the one whose id begins with `run`; oldest first."""
    return _rows(outputs, run, {})


def follow(outputs: Path, run: str | None, every_s: float = POLL_S) -> Iterator[list[dict[str, Any]]]:
    """The status again and again, until no run is open. A journal is read on from where it was left."""
    known: dict[Path, Reader] = {}
    while True:
        rows = _rows(outputs, run, known)
        yield rows
        if not any(row["alive"] for row in rows):
            return
        time.sleep(every_s)


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what changes by itself: whether something happened."""
    return [{key: value for key, value in row.items() if key not in MOVING} for row in rows]


def _rows(outputs: Path, run: str | None, known: dict[Path, Reader]) -> list[dict[str, Any]]:
    folders = run_folders(outputs) if run is None else [find_run(outputs, run)]
    book = ledger.read(outputs)
    return sorted((_row(folder, known, book) for folder in folders), key=lambda row: row["started"] or "")


def run_folders(outputs: Path) -> list[Path]:
    """Folders that are or were a run, readable or not; a run copied elsewhere is one by itself.

    Raises Unavailable when they cannot be listed.
    """
    if (outputs / journal.MANIFEST).exists():
        return [outputs]
    try:
        return sorted(path for path in (outputs / "runs").iterdir() if path.is_dir() and _is_run(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        fix = "Mend the permissions of that folder"
        fault = Fault("outputs_unreadable", str(outputs / "runs"), f"cannot be listed ({error.strerror})", fix)
        raise Unavailable(fault) from error


def _is_run(folder: Path) -> bool:
    try:
        return any((folder / name).exists() for name in (journal.MANIFEST, journal.JOURNAL))
    except OSError:  # cannot be looked into: its row says so
        return True


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


def _row(folder: Path, known: dict[Path, Reader], book: ledger.Ledger) -> dict[str, Any]:
    try:
        if folder not in known:
            known[folder] = journal.follow_run(folder, slim=True)
        run = known[folder]()
    except Corrupt as error:
        return {**_EMPTY, "run_id": folder.name, "status": "corrupt", "problem": error.faults[0].what}
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        return {**_EMPTY, "run_id": folder.name, "status": "corrupt", "problem": problem}
    images, verdicts = run.state.count("image"), run.state.count("verdict")
    return {
        "run_id": run.id,
        "experiment": run.manifest["request"]["name"],
        "status": "corrupt" if run.problem else run.status(gpu.alive),
        "planned": len(run.manifest["images"]),
        "complete": images["made"] + len(run.manifest.get("given", {})),
        "failed": images["unmade"],
        "phase": run.state.phase,
        "started": run.state.started,
        "ended": run.state.ended,
        "mlflow_run_id": track.read_pointer(folder).get("mlflow_run_id"),
        "deleted": _num_deleted(run, book),
        "verdicts": verdicts["made"],
        "unscored": verdicts["unscored"],
        "attempts": run.state.attempts,
        "fallback": run.manifest["fallback"],
        "failure": run.state.failure,
        "not_repeatable": run.state.num_differing,
        "problem": run.problem,
        "alive": gpu.alive(folder, run.state.owner) and not run.state.ended,
        **_life(run.state),
    }


def _num_deleted(run: journal.Run, book: ledger.Ledger) -> int:
    """Images of this run that a human deleted; their bytes may be gone."""
    if not book.tombstones:
        return 0
    images = (item.object for key, item in run.state.made().items() if key.startswith("image/"))
    return sum(name is not None and book.deletes(name, f"runs/{run.id}") for name in images)


def _life(state: journal.State) -> dict[str, Any]:
    """How long an open run has been in its phase, how far that is, and when it last gave a sign of life."""
    if not state.open:
        return dict.fromkeys(LIFE)
    beat = state.beat or {}
    told = (state.phase_at, _since_s(state.phase_at), state.last_event, _since_s(state.last_event))
    return dict(
        zip(LIFE, (*told, beat.get("phase"), beat.get("done"), beat.get("total"), state.waits_for), strict=True)
    )


def _since_s(moment: str | None) -> float | None:
    if moment is None:
        return None
    return round(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()), 1)


LIFE = ("phase_at", "phase_s", "heartbeat", "silent_s", "beat_phase", "done", "total", "waits_for")
MOVING = ("phase_s", "silent_s")
_EMPTY: dict[str, Any] = {
    "experiment": None, "planned": 0, "complete": 0, "failed": 0, "phase": None, "started": None, "ended": None,
    "mlflow_run_id": None, "alive": False, **dict.fromkeys(LIFE),
}  # fmt: skip
