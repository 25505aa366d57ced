"""Many runs at once: close what dead processes left open in MLflow, and make MLflow again from the journals.

Both only project, under the lock that each run has, so two at once, or one beside a tracking process, do no harm.
It refuses a run whose manifest or journal is broken, by name. What it does not know: whether a process lives that
writes from another machine; that is `gpu.alive`'s to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runner import gpu, journal
from runner.config.tree import Track
from runner.errors import Corrupt, Fault, RunnerError, Unavailable, first_line
from runner.track.place import lean_mlflow, read_pointer, settings_of, store_uri
from runner.track.probe import unreachable
from runner.track.project import project

TAIL_BYTES = 1 << 16
Problem = dict[str, Any]


def run_folders(outputs: Path) -> list[Path]:
    """Every folder of an outputs folder that is or was a run."""
    places = (
        path.parent for name in (journal.MANIFEST, journal.JOURNAL) for path in (outputs / "runs").glob(f"*/{name}")
    )
    return sorted(set(places))


def left_behind(outputs: Path, but: Path | None = None) -> Iterator[Path]:
    """Runs that MLflow would show as running although nobody works on them; found without importing MLflow."""
    for folder in run_folders(outputs):
        if folder == but or not _is_behind(folder):
            continue
        try:
            run = journal.read_run(folder, slim=True)
        except (Corrupt, OSError):
            continue
        if run.problem or not run.state.attempts or settings_of(run.manifest, read_pointer(folder)).kind == "none":
            continue
        if run.state.ended or run.status(gpu.alive) == "crashed":
            yield folder


def _is_behind(folder: Path) -> bool:
    """Whether the last line of a journal is not in MLflow, or never got there closed. Runs that ended without ever
    being in MLflow are not missed: their tracker was down, and `rebuild mlflow` is for them."""
    pointer, last = read_pointer(folder), _last_event(folder)
    if pointer.get("mlflow_run_id"):
        return not (pointer.get("closed") and last.get("hash") == pointer.get("hash"))
    return bool(last.get("event") != "ended")


def is_open(folder: Path) -> bool:
    """Whether a journal has no end yet, by its last line alone."""
    return bool(_last_event(folder).get("event") != "ended")


def _last_event(folder: Path) -> journal.Event:
    """The last whole line of a journal; empty when there is none, or when it is very long."""
    try:
        with (folder / journal.JOURNAL).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            tail = file.read()
        event = json.loads(tail[: tail.rindex(b"\n")].splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return event if isinstance(event, dict) else {}


def _has_begun(folder: Path) -> bool:
    try:
        return (folder / journal.JOURNAL).stat().st_size > 0
    except OSError:
        return False


def reap(outputs: Path, tell: Callable[[Problem], None]) -> int:
    """Close the MLflow runs of processes that are gone; returns how many. What cannot be closed now stays for later."""
    with lean_mlflow():
        doing = _Projecting(outputs)
        done = [doing.project(folder) for folder in left_behind(outputs)]
    for problem in filter(None, done):
        tell(problem)
    return done.count(None)


def rebuild(outputs: Path, *, everything: bool = False) -> dict[str, Any]:
    """Project every run again: `{"runs": n, "projected": n, "problems": [{code, run_id, what, fix, exit_code}]}`.

    Runs that were never to be tracked are left out unless `everything`; so are runs that never started.
    """
    folders, problems, num_projected = run_folders(outputs), [], 0
    with lean_mlflow():
        doing = _Projecting(outputs, everything=everything)
        for folder in folders:
            if not doing.wanted(folder):
                continue
            if problem := doing.project(folder, again=True):
                problems.append(problem)
            else:
                num_projected += 1
    return {"runs": len(folders), "projected": num_projected, "problems": problems}


class _Projecting:
    """Projects run after run, and asks each store only once whether it answers."""

    def __init__(self, outputs: Path, *, everything: bool = False) -> None:
        self.outputs, self.everything = outputs, everything
        self.asked: dict[str, Fault | None] = {}

    def wanted(self, folder: Path) -> bool:
        """Broken runs are wanted, so that they are named."""
        try:
            track = settings_of(journal.read_manifest(folder), read_pointer(folder))
        except (Corrupt, OSError):
            return True
        return (self.everything or track.kind != "none") and _has_begun(folder)

    def project(self, folder: Path, *, again: bool = False) -> Problem | None:
        """Project one run; returns what stood in the way."""
        try:
            track = settings_of(journal.read_manifest(folder), read_pointer(folder))
            self._project(folder, track, again)
        except RunnerError as error:
            return _problem(folder, error.faults[0], error.exit_code)
        except Exception as error:
            what = f"MLflow could not be written ({first_line(error)})"
            fix = "Mend what it says, then `python -m runner rebuild mlflow` again"
            return _problem(folder, Fault("tracker_failed", "track.uri", what, fix), Unavailable.exit_code)
        return None

    def _project(self, folder: Path, track: Track, again: bool) -> None:
        uri = store_uri(self.outputs, track)
        if uri not in self.asked:
            self.asked[uri] = unreachable(uri)
        if fault := self.asked[uri]:
            raise Unavailable(fault)
        try:
            project(folder, track, again=again)
        except RunnerError:
            raise
        except Exception:
            del self.asked[uri]  # it may have gone away: the next run asks again
            raise


def _problem(folder: Path, fault: Fault, exit_code: int) -> Problem:
    return {"code": fault.code, "run_id": folder.name, "what": fault.what, "fix": fault.fix, "exit_code": exit_code}
