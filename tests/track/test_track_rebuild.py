"""MLflow deleted and made again from the journals: the same values, however often."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import journal, track
from runner.errors import Refused
from runner.verbs.rebuild import exit_code, rebuild, text
from tests import worlds
from tests.track import stores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def mlflow_again(outputs: Path) -> dict[str, Any]:
    answer: dict[str, Any] = rebuild(outputs, "mlflow")["mlflow"]
    return answer


@pytest.fixture(scope="module")
def before(outputs: Path, runs: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """What MLflow held before it was deleted by hand and made again."""
    held = stores.dump(outputs)
    (outputs / "mlflow.db").unlink()
    shutil.rmtree(outputs / "mlartifacts")
    answer = mlflow_again(outputs)
    assert answer == {"runs": len(runs) + 1, "projected": len(runs) + 1, "problems": []}
    return held


@pytest.fixture(scope="module")
def after(before: dict[str, Any], outputs: Path) -> dict[str, dict[str, Any]]:
    return stores.dump(outputs)


def test_a_deleted_store_is_made_again_with_the_same_values(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert after.keys() == before.keys()
    for run_id, values in before.items():
        for name, value in values.items():
            assert after[run_id][name] == value, (run_id, name)


def test_a_second_rebuild_adds_nothing(after: dict[str, Any], outputs: Path) -> None:
    ids = {run.info.run_id for run in stores.tracked_runs(outputs)}
    mlflow_again(outputs)
    assert stores.dump(outputs) == after
    assert {run.info.run_id for run in stores.tracked_runs(outputs)} == ids


def test_deleted_artifacts_alone_come_back(before: dict[str, Any], runs: dict[str, Path]) -> None:
    folder = runs["complete"]
    shutil.rmtree(Path(stores.tracked(folder).info.artifact_uri.removeprefix("file://")))
    track.project(folder, stores.LOCAL, again=True)
    assert stores.artifacts(stores.tracked(folder)) == before[folder.name]["artifacts"]


def test_runs_that_were_not_to_be_tracked_are_left_out(tmp_path: Path) -> None:
    assert worlds.finished(tmp_path).manifest["request"]["track"]["kind"] == "none"
    assert mlflow_again(tmp_path) == {"runs": 1, "projected": 0, "problems": []}


def test_a_broken_run_is_named_and_the_others_are_projected(
    runs: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stores.give_store(tmp_path, tmp_path_factory.getbasetemp())
    for name in ("complete", "failed", "blocked"):
        shutil.copytree(runs[name], tmp_path / "runs" / runs[name].name)
    path = tmp_path / "runs" / runs["failed"].name / journal.JOURNAL
    path.write_bytes(path.read_bytes()[:-200] + b"\n")
    (tmp_path / "runs" / runs["blocked"].name / journal.MANIFEST).unlink()
    answer = rebuild(tmp_path, "mlflow")
    assert (answer["mlflow"]["projected"], exit_code(answer)) == (1, 4)
    assert {(p["run_id"], p["code"]) for p in answer["mlflow"]["problems"]} == {
        (runs["failed"].name, "journal_altered"), (runs["blocked"].name, "manifest_altered"),
    }  # fmt: skip


def test_a_store_that_cannot_be_written_is_named_for_every_run(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["complete"], tmp_path / "runs" / runs["complete"].name)
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    answer = rebuild(tmp_path, "mlflow")
    (problem,) = answer["mlflow"]["problems"]
    assert (problem["code"], exit_code(answer)) == ("tracker_down", 1)
    assert "cannot be written (file is not a database)" in text(answer)


def test_an_outputs_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="holds no runs"):
        rebuild(tmp_path)
