"""`critic diff` and `critic calibrate`: run folders in, what their verdicts say out. It changes nothing.

It refuses an altered journal (Corrupt) and a run without verdicts; a run that is not complete is told as a note. What
it does not know: why two critics differ; the verdicts do, by `inspect`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import gpu, journal
from runner.critic.worth import calibrate as calibration
from runner.critic.worth import review_sets
from runner.errors import Corrupt, Fault
from runner.ledger.decided import decided
from runner.verbs.status import find_run


def diff(outputs: Path, a: str, b: str) -> dict[str, Any]:
    """What the critic of B says otherwise than that of A. Raises Refused, Corrupt."""
    runs = [_read(outputs, name) for name in (a, b)]
    value = review_sets.difference(*map(review_sets.review_set, runs))
    return {**value, "notes": [note for run in runs for note in _notes(run)]}


def calibrate(outputs: Path, name: str) -> dict[str, Any]:
    """How far a run's critic agrees with the people who decided on its images. Raises Refused, Corrupt."""
    run = _read(outputs, name)
    reviews = review_sets.review_set(run)
    value = calibration.calibrate(reviews, decided(outputs).standing, _shown_split(run))
    return {"run": run.id, "critic": dict(reviews.critic), **value, "notes": list(_notes(run))}


def _shown_split(run: journal.Run) -> str | None:
    """The split from which the profile may show decisions to its critic; None where it shows none."""
    policy = run.manifest["request"]["critic"].get("retrieval") or {"source": "none"}
    return None if policy["source"] == "none" else str(policy["split"])


def _read(outputs: Path, name: str) -> journal.Run:
    run = journal.read_run(find_run(outputs, name))
    if run.problem:
        fix = "Nothing was changed. Put the original back, or review again with run.fresh=true"
        raise Corrupt(Fault("journal_altered", str(run.folder / journal.JOURNAL), run.problem, fix))
    return run


def _notes(run: journal.Run) -> Iterator[str]:
    status = run.status(gpu.alive)
    if status != "complete":
        yield f"{run.id} is {status}: it may have verdicts still to come"
