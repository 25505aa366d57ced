"""The journal as MLflow shows it: one flat run, rebuilt from the truth at any time, and never in the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import journal, store, track
from runner.config.tree import Track
from runner.report.page import write_report
from tests import fakes, worlds

LOCAL = Track(kind="mlflow", uri=None, experiment="runner", thumbnails=True, timeout_s=60)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def client(outputs: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(track.store_uri(outputs))


def tracked_runs(outputs: Path) -> list[Any]:
    mlflow = client(outputs)
    experiment = mlflow.get_experiment_by_name("runner")
    return list(mlflow.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> journal.Run:
    """A finished run with one image that was not scored, its report drawn, projected twice."""
    outputs = tmp_path_factory.mktemp("outputs")
    judge = fakes.Judge(unscored=frozenset({"on-white.001"}))
    folder = worlds.run(worlds.accept(outputs, "critic.max_unscored_share=1"), critique=judge).folder
    write_report(folder, store.Store(outputs / "objects"))
    assert track.project(folder, LOCAL) == track.project(folder, LOCAL)
    return journal.read_run(folder)


def outputs_of(run: journal.Run) -> Path:
    return run.folder.parent.parent


# ---- names


def test_params_have_the_agreed_names(run: journal.Run) -> None:
    params = track.params_of(run.manifest)
    assert params.keys() >= {
        "base_model.id", "base_model.family", "base_model.revision", "lora.id", "lora.sha256", "lora.scale",
        "trigger.token", "trigger.mode", "critic.profile", "prompt.set", "hardware", "generate.steps",
        "generate.guidance_scale", "generate.width", "generate.height",
    }  # fmt: skip
    assert (params["lora.id"], params["trigger.token"], params["generate.steps"]) == ("emblem", "<emblem>", 2)


def test_prompts_are_no_params(run: journal.Run) -> None:
    assert not any("on a blue background" in str(value) for value in track.params_of(run.manifest).values())


def test_a_run_without_a_lora_says_none(tmp_path: Path) -> None:
    base = ("+experiment=demo_base", "track=none", worlds.prompts(1, "a red star"))
    params = track.params_of(journal.read_run(worlds.run(worlds.accept(tmp_path, base=base)).folder).manifest)
    assert [params[name] for name in ("lora.id", "lora.sha256", "lora.scale", "trigger.token")] == ["none"] * 4


def test_metrics_have_the_agreed_names(run: journal.Run) -> None:
    metrics = track.metrics_of(run)
    tokens = {f"tokens/tokenizer/{name}" for name in ("max", "mean", "p95", "share")}
    review = {f"review/concept/{name}" for name in ("mean", "p10", "p90")} | {
        "review/unscored",
        "review/image_not_seen",
    }
    phases = {f"phase/sample/{name}" for name in ("total_s", "p50_s", "p95_s")}
    assert metrics.keys() >= tokens | review | phases | {"images/planned", "images/complete"}


def test_an_unscored_image_is_counted_and_not_averaged(run: journal.Run) -> None:
    metrics = track.metrics_of(run)
    scores = [image["scores"]["concept"] for image in run.images() if image["scores"]]
    assert (metrics["review/unscored"], metrics["review/image_not_seen"], len(scores)) == (1, 1, 3)
    assert metrics["review/concept/mean"] == pytest.approx(sum(scores) / 3)


# ---- a real store


def test_projecting_twice_gives_one_run(run: journal.Run) -> None:
    (tracked,) = tracked_runs(outputs_of(run))
    assert tracked.info.run_id == track.read_pointer(run.folder)["mlflow_run_id"]
    assert (tracked.info.status, tracked.data.tags["status"]) == ("FINISHED", "complete")


def test_the_store_holds_the_params_metrics_and_tags(run: journal.Run) -> None:
    (tracked,) = tracked_runs(outputs_of(run))
    assert tracked.data.params == {name: str(value) for name, value in track.params_of(run.manifest).items()}
    assert tracked.data.metrics == pytest.approx(track.metrics_of(run))
    tags = tracked.data.tags
    assert (tags["run_id"], tags["manifest"]) == (run.id, journal.manifest_digest(run.folder))
    assert (tags["contract"], tags["fallback"]) == (run.manifest["contract"]["digest"], "none")


def test_artifacts_stand_at_the_root_under_the_same_names_for_every_run(run: journal.Run) -> None:
    mlflow = client(outputs_of(run))
    names = {artifact.path for artifact in mlflow.list_artifacts(track.read_pointer(run.folder)["mlflow_run_id"])}
    assert names >= {
        "grid.png",
        "manifest.json",
        "contract.json",
        "tokens.json",
        "review.json",
        "report.html",
        "images",
    }


def test_the_review_table_has_a_row_for_every_image(run: journal.Run) -> None:
    mlflow, mlflow_id = client(outputs_of(run)), track.read_pointer(run.folder)["mlflow_run_id"]
    folder = Path(mlflow.get_run(mlflow_id).info.artifact_uri.removeprefix("file://"))
    table = json.loads((folder / "review.json").read_text())
    digests = [row[table["columns"].index("digest")] for row in table["data"]]
    assert set(digests) == {image["digest"] for image in run.images()}


def test_the_artifact_of_the_manifest_has_the_bytes_of_the_manifest(run: journal.Run) -> None:
    mlflow, mlflow_id = client(outputs_of(run)), track.read_pointer(run.folder)["mlflow_run_id"]
    folder = Path(mlflow.get_run(mlflow_id).info.artifact_uri.removeprefix("file://"))
    assert (folder / "manifest.json").read_bytes() == (run.folder / "manifest.json").read_bytes()


def test_a_store_that_is_gone_is_made_again_with_the_same_values(run: journal.Run, tmp_path: Path) -> None:
    shutil.copytree(outputs_of(run) / "objects", tmp_path / "objects")
    folder = shutil.copytree(run.folder, tmp_path / "runs" / run.id)
    track.project(folder, LOCAL)
    (before,), (after,) = tracked_runs(outputs_of(run)), tracked_runs(tmp_path)
    assert (after.data.params, after.data.metrics) == (before.data.params, before.data.metrics)
    assert (after.data.tags["manifest"], after.info.status) == (before.data.tags["manifest"], before.info.status)


def test_a_sweep_is_a_tag(tmp_path: Path) -> None:
    run = worlds.finished(tmp_path, "sweep=sweep-1")
    assert track.tags_of(run.manifest, run.folder)["sweep"] == "sweep-1"


def test_failed_and_interrupted_runs_are_closed_as_such() -> None:
    closed = {status: track.MLFLOW_STATUS.get(status) for status in ("incomplete", "failed", "interrupted", "crashed")}
    assert closed == {"incomplete": "FAILED", "failed": "FAILED", "interrupted": "KILLED", "crashed": "KILLED"}


# ---- the tracking process


def test_the_run_of_a_killed_process_is_closed(tmp_path: Path) -> None:
    """The pipe closes when the process that holds it dies, however it dies."""
    code = f"""
import sys, time; from pathlib import Path
from runner import gpu, journal, track; from tests import test_track, worlds
folder = worlds.finished(Path({str(tmp_path)!r})).folder
log, _ = journal.open_journal(folder, journal.manifest_digest(folder))
log.append({{"event": "started", "owner": gpu.this_process("x", "y").as_dict(), "left": {{}}}})
tracker = track.Tracker(folder, 60); tracker.start(test_track.LOCAL)
print(tracker.process.pid, flush=True); time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=worlds.ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        tracker = int(holder.stdout.readline())
        holder.send_signal(signal.SIGKILL)
    _wait_for_end(tracker)
    (tracked,) = tracked_runs(tmp_path)
    assert (tracked.info.status, tracked.data.tags["status"]) == ("KILLED", "crashed")


def _wait_for_end(pid: int) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(120)
    except psutil.NoSuchProcess:
        return


def test_a_server_that_is_not_there_fails_nothing(tmp_path: Path) -> None:
    folder = worlds.finished(tmp_path).folder
    tracker = track.Tracker(folder, timeout_s=120)
    tracker.start(LOCAL.model_copy(update={"uri": "http://127.0.0.1:9"}))
    assert tracker.finish() == "failed"
    assert "127.0.0.1" in (folder / "tracking.log").read_text()
    assert journal.read_run(folder).state.status == "complete"
