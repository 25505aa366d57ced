"""One fold: the status verb, the exit code, the index and MLflow say the same of every way in which a run can end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import gpu, index, track
from runner.__main__ import main
from runner.verbs import rebuild
from runner.verbs.status import status
from tests import acting, fakes, worlds

TRACKED = ("track=mlflow", "track.thumbnails=false")
ENDINGS = {  # how -> (status, exit code of its process or call, MLflow's word)
    "complete": ("complete", 0, "FINISHED"),
    "failed": ("failed", 3, "FAILED"),
    "incomplete": ("incomplete", 3, "FAILED"),
    "blocked": ("blocked", 1, "FAILED"),
    "int": ("interrupted", 130, "KILLED"),
    "term": ("interrupted", 130, "KILLED"),
    "crashed": ("crashed", -signal.SIGKILL, "KILLED"),
    "resumed": ("complete", 0, "FINISHED"),
}


SHARED = ("status", "planned", "complete", "failed", "failure", "attempts", "verdicts", "unscored")


def ended_in_process(place: Path, seed: int, painter: fakes.Painter | None = None, *words: str) -> int:
    accepted = worlds.accept(place / "outputs", f"seed={seed}", *TRACKED, *words)
    return worlds.run(accepted, generate=painter or fakes.Painter()).exit_code


def stopped(place: Path, seed: int, number: signal.Signals) -> int:
    with acting.start(place, 30, f"seed={seed}", *TRACKED) as process:
        acting.until_batch(process, 1)
        os.kill(process.pid, number)
        return process.wait(120)


def blocked(place: Path, seed: int) -> int:
    with gpu.lease("cpu", gpu.this_process("other", "generator"), wait=False, on_wait=print):
        return ended_in_process(place, seed, None, "hardware.wait=false")


def resumed(place: Path, seed: int) -> int:
    assert ended_in_process(place, seed, fakes.Painter(error=MemoryError("x"), error_at=1)) == 3
    return ended_in_process(place, seed)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """All endings in one outputs folder, with what each of the four says."""
    place = tmp_path_factory.mktemp("statuses")
    lost = fakes.Painter(broken=frozenset({"on-blue.000"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNNER_LEASES", str(place / "leases"))
        codes = {
            "complete": ended_in_process(place, 1),
            "failed": ended_in_process(place, 2, fakes.Painter(error=MemoryError("x"))),
            "incomplete": ended_in_process(place, 3, lost),
            "blocked": blocked(place, 4),
            "int": stopped(place, 5, signal.SIGINT),
            "term": stopped(place, 6, signal.SIGTERM),
            "crashed": stopped(place, 7, signal.SIGKILL),
            "resumed": resumed(place, 8),
        }
        refused = ("+experiment=demo", "trigger.token=<emblm>", f"outputs={place / 'outputs'}")
        assert main([*refused, *TRACKED]) == 2
    outputs = place / "outputs"
    assert rebuild.rebuild(outputs, "mlflow")["mlflow"]["problems"] == []
    seeds = {how: number for number, how in enumerate(ENDINGS, 1)}
    yield {"codes": codes, "seeds": seeds, "outputs": outputs, "mlflow": _mlflow(outputs)}


def _mlflow(outputs: Path) -> dict[str, tuple[str, str]]:
    """run id -> MLflow's status and our tag."""
    import mlflow

    client = mlflow.MlflowClient(track.store_uri(outputs))
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {run.data.tags["run_id"]: (run.info.status, run.data.tags["status"]) for run in found}


@pytest.mark.parametrize("how", ENDINGS)
def test_all_four_say_the_same(world: dict[str, Any], how: str) -> None:
    word, code, theirs = ENDINGS[how]
    outputs, seed = world["outputs"], world["seeds"][how]
    run_id = f"demo-{worlds.accept(outputs, f'seed={seed}').plan.identity[:10]}"
    row = next(row for row in status(outputs, None) if row["run_id"] == run_id)
    indexed = next(other for other in index.runs(outputs) if other["run_id"] == run_id)
    assert (row["status"], world["codes"][how]) == (word, code)
    assert [indexed[name] for name in SHARED] == [row[name] for name in SHARED]
    assert world["mlflow"][run_id] == (theirs, word)


def test_a_refused_request_is_known_to_none_of_them(world: dict[str, Any]) -> None:
    ids = {row["run_id"] for row in status(world["outputs"], None)}
    assert ids == {row["run_id"] for row in index.runs(world["outputs"])} == world["mlflow"].keys()
    assert len(ids) == len(ENDINGS)
