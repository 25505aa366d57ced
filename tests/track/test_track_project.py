"""A run in a real MLflow store: status, values, files; the same however often and whenever it is projected."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from runner import gpu, journal, track
from runner.errors import Corrupt
from tests.track import stores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
ENDINGS = {
    "complete": "FINISHED", "incomplete": "FAILED", "failed": "FAILED", "blocked": "FAILED",
    "interrupted": "KILLED", "crashed": "KILLED", "resumed": "FINISHED",
}  # fmt: skip


def test_projecting_twice_gives_one_run(run: journal.Run) -> None:
    tracked = stores.tracked(run.folder)
    assert tracked.info.run_id == track.read_pointer(run.folder)["mlflow_run_id"]
    assert (tracked.info.status, tracked.data.tags["status"]) == ("FINISHED", "complete")


def test_the_store_holds_the_params_metrics_and_tags(run: journal.Run) -> None:
    tracked = stores.tracked(run.folder)
    assert tracked.data.params == {name: str(value) for name, value in track.params_of(run.manifest).items()}
    assert tracked.data.metrics == pytest.approx(track.metrics_of(run))
    tags = tracked.data.tags
    assert (tags["run_id"], tags["manifest"]) == (run.id, journal.manifest_digest(run.folder))
    assert (tags["contract"], tags["fallback"]) == (run.manifest["contract"]["digest"], "none")


def test_artifacts_stand_at_the_root_under_the_same_names_for_every_run(run: journal.Run) -> None:
    names = {name.partition("/")[0] for name in stores.artifacts(stores.tracked(run.folder))}
    records = {"manifest.json", "contract.json", "tokens.json", "review.json"}
    assert names >= {"grid.png", "report.html", "images", *records}


def test_the_review_table_has_a_row_for_every_image(run: journal.Run) -> None:
    folder = Path(stores.tracked(run.folder).info.artifact_uri.removeprefix("file://"))
    table = json.loads((folder / "review.json").read_text())
    digests = [row[table["columns"].index("digest")] for row in table["data"]]
    assert set(digests) == {image["digest"] for image in run.images()}


def test_the_manifest_and_the_pictures_are_there_byte_for_byte(run: journal.Run) -> None:
    files = stores.artifacts(stores.tracked(run.folder))
    assert files["manifest.json"] == journal.manifest_digest(run.folder)
    assert {image["digest"] for image in run.images()} <= set(files.values())


def test_each_image_has_one_picture_and_one_small_one_under_names_that_mlflow_reads(run: journal.Run) -> None:
    """The gallery of the UI takes key, step and time from the file name, as `log_image` writes it."""
    names = [name for name in stores.artifacts(stores.tracked(run.folder)) if name.startswith("images/")]
    keys = {image["key"] for image in run.images()}
    assert {name.removeprefix("images/").split("+step+0+timestamp+")[0] for name in names} == keys
    assert len(names) == 2 * len(keys)
    assert sum(1 for name in names if name.endswith("+compressed.webp")) == len(keys)


# ---- status


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_has_the_same_status_everywhere(runs: dict[str, Path], ending: str) -> None:
    status = "complete" if ending == "resumed" else ending
    tracked = stores.tracked(runs[ending])
    assert journal.read_run(runs[ending]).status(gpu.alive) == status
    assert (tracked.data.tags["status"], tracked.info.status) == (status, ENDINGS[ending])


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_begins_and_ends_in_mlflow_when_it_did(runs: dict[str, Path], ending: str) -> None:
    from runner.track.numbers import milliseconds

    info, state = stores.tracked(runs[ending]).info, journal.read_run(runs[ending]).state
    assert (info.start_time, info.end_time) == (milliseconds(state.started), milliseconds(state.last_event))


def test_a_run_that_goes_on_runs_in_mlflow_until_it_ends(runs: dict[str, Path]) -> None:
    folder = runs["interrupted"]
    stores.open_attempt(folder)
    with gpu.only_writer(folder, gpu.this_process(folder.name, "generator")):
        track.project(folder, stores.LOCAL)
        tracked, pointer = stores.tracked(folder), track.read_pointer(folder)
        assert (tracked.info.status, tracked.data.tags["status"], pointer["closed"]) == ("RUNNING", "planned", False)
        log, _ = journal.open_log(folder, journal.manifest_digest(folder), list)
        log.append({"event": "ended", "status": "interrupted", "timings": {}, "failure": None})
    track.project(folder, stores.LOCAL)
    assert (stores.tracked(folder).info.status, track.read_pointer(folder)["closed"]) == ("KILLED", True)


def test_the_history_tells_how_it_stood_after_each_attempt(runs: dict[str, Path]) -> None:
    history = stores.dump(runs["resumed"].parent.parent)[runs["resumed"].name]["history"]
    assert [value for _, value in history["run.attempts"]] == [1, 2]
    assert {value for _, value in history["images/failed"]} == {1, 0}
    assert stores.tracked(runs["resumed"]).data.metrics["images/complete"] == 4


def test_a_broken_journal_is_not_projected(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["complete"], tmp_path / "runs" / "x")
    path = folder / journal.JOURNAL
    path.write_bytes(path.read_bytes().replace(b'"status":"complete"', b'"status":"complett"'))
    with pytest.raises(Corrupt, match="was altered"):
        track.project(folder, stores.LOCAL)
    assert not (tmp_path / "mlflow.db").exists()


def test_an_address_with_a_password_is_not_kept(run: journal.Run) -> None:
    from runner.track.place import settings_of, shown_uri

    assert shown_uri("https://me:secret@host:5000/x") == "https://host:5000/x"
    manifest = {"request": {"track": stores.at("http://me:secret@host").model_dump()}}
    pointer = {"mlflow_run_id": "1", "uri": "http://host", "experiment": "runner"}
    assert settings_of(manifest, pointer).uri == "http://me:secret@host"


def test_a_run_that_was_resumed_with_another_server_is_looked_for_there() -> None:
    from runner.track.place import settings_of

    manifest = {"request": {"track": stores.LOCAL.model_dump()}}
    pointer = {"mlflow_run_id": "1", "uri": "http://other", "experiment": "mine"}
    assert (settings_of(manifest, pointer).uri, settings_of(manifest, pointer).experiment) == ("http://other", "mine")
    assert settings_of(manifest, {}).uri is None
