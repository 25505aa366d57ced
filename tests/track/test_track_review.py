"""What MLflow is told of a review: figures and tags from the journal alone, and the table with pictures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner import journal, store, track
from runner.track import review_table
from runner.track.numbers import ended_points
from runner.track.review_numbers import gone, review_metrics, review_tags
from tests import browser, worlds
from tests.critic import reviewed
from tests.report import judged
from tests.track import stores

SERVED = [
    {"event": "critic_server", "phase": phase, "took_s": took_s}
    for phase, took_s in (("orphan_ended", 1.0), ("begin", 2.0), ("weights", 3.5), ("ready", 6.0), ("ended", 0.5))
]
AT = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> judged.World:
    made = judged.world(tmp_path_factory.getbasetemp())
    stores.give_store(made.outputs, tmp_path_factory.getbasetemp())
    return made


@pytest.fixture
def first(world: judged.World) -> journal.Run:
    return world.first


@pytest.fixture
def stopped(world: judged.World) -> journal.Run:
    return world.stopped


def table_of(run: journal.Run) -> list[dict[str, Any]]:
    """The review table in MLflow, a row as a mapping."""
    track.project(run.folder, stores.LOCAL)
    folder = Path(stores.tracked(run.folder).info.artifact_uri.removeprefix("file://"))
    table = json.loads((folder / "review.json").read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


# ---- figures


def test_scores_advice_tags_and_failures_are_those_of_the_images(first: journal.Run) -> None:
    metrics = review_metrics(first)
    assert metrics["review/colour/mean"] == pytest.approx(2 / 3)
    advice = [metrics[f"review/advice/{word}"] for word in ("accept", "unsure", "reject")]
    assert (advice, metrics["hit_rate/recommended"], metrics["review/tag/wrong_colour"]) == ([2, 0, 1], 0.5, 1)
    assert (metrics["review/unscored"], metrics["review/refused"], metrics["review/quarantined"]) == (1, 1, 0)


def test_attempts_tokens_and_time_are_those_of_what_was_asked(first: journal.Run) -> None:
    metrics = review_metrics(first)
    assert (metrics["review/retried"], metrics["review/failures_per_100"]) == (1, 40)
    assert (metrics["review/tokens/prompt"], metrics["review/tokens/completion"]) == (3 * 700, 3 * 90)
    assert metrics["review/first_token_s/p50"] == 0.05
    speed = 60 * 4 / first.state.timings["review"]["total_s"]
    assert metrics["review/images_per_min"] == pytest.approx(speed)


def test_the_speed_is_that_of_the_last_attempt_alone(tmp_path: Path) -> None:
    few = ("name=stopped", "critic.budget.max_in_a_row=1")
    stopped = judged.run(tmp_path, *few, backend=judged.Moody([None, None, "refused"]))
    before = len(worlds.events(stopped.folder, "made"))
    run = judged.finished(tmp_path, *few)
    num_asked = len(worlds.events(run.folder, "made")) - before
    speed = 60 * num_asked / run.state.timings["review"]["total_s"]
    assert review_metrics(run)["review/images_per_min"] == pytest.approx(speed)


def test_verdicts_that_were_taken_from_a_run_before_cost_nothing(world: judged.World) -> None:
    metrics = review_metrics(world.again)
    assert (metrics["review/cached"], metrics["review/colour/mean"]) == (3, 0.75)
    assert metrics["review/tokens/prompt"] == 700  # of the image that had no verdict


def test_quarantined_verdicts_are_counted_and_nothing_else(stopped: journal.Run) -> None:
    metrics = review_metrics(stopped)
    assert (metrics["review/quarantined"], metrics["review/unscored"], metrics["exam/passed"]) == (3, 0, 0)
    assert not any(name.endswith("/mean") for name in metrics) and "hit_rate/recommended" not in metrics


def test_a_start_of_our_server_is_told_by_its_parts(first: journal.Run) -> None:
    state = replace(first.state, servers=[*SERVED, {"event": "critic_server", "phase": "begin", "took_s": 9.0}])
    metrics = review_metrics(replace(first, state=state))
    parts = {name: value for name, value in metrics.items() if name.startswith("critic/")}
    assert parts == {"critic/start/begin_s": 9.0, "critic/start/weights_s": 3.5, "critic/start/ready_s": 6.0}


def test_a_comparison_has_no_advice_and_no_hit_rate(first: journal.Run) -> None:
    request = {**first.manifest["request"], "critic": {**first.manifest["request"]["critic"], "mode": "pairwise"}}
    metrics = review_metrics(replace(first, manifest={**first.manifest, "request": request}))
    assert not any(name.startswith(("review/advice", "hit_rate")) for name in metrics)


def test_a_run_of_before_has_its_scores_and_no_advice(tmp_path: Path) -> None:
    before = {"profile": "shapes", "version": 1, "criteria": [{"id": "concept", "tag": "off"}]}
    said = {"a": reviewed.Said({"concept": 0.5}), "b": reviewed.Said(unscored="image_not_seen: torn")}
    run = journal.read_run(reviewed.run(tmp_path, "old", said, critic=before))
    metrics = review_metrics(run)
    assert (metrics["review/concept/mean"], metrics["review/image_not_seen"]) == (0.5, 1)
    assert not any(name.startswith(("hit_rate", "exam", "review/advice")) for name in metrics)
    assert review_table.review_table(run, None, {})["columns"][4:6] == ["score/concept", "tags"]


def test_who_judged_is_told_by_tags(first: journal.Run, stopped: journal.Run) -> None:
    tags = review_tags(first)
    assert (tags["critic.profile_digest"], tags["critic.model"]) == (first.manifest["pins"]["profile"], "e" * 64)
    assert tags["exam.digest"] == first.state.exams[-1]["digest"]
    assert (tags["critic.quarantined"], review_tags(stopped)["critic.quarantined"]) == (0, 3)


def test_what_counts_no_more_is_zero_or_no_number(stopped: journal.Run) -> None:
    """MLflow shows the last value that it was told."""
    before = replace(stopped.state, exams=[], last_event=AT)
    before.items = {key: replace(item, quarantined=False) for key, item in stopped.state.items.items()}
    points = ended_points([replace(stopped, state=before), stopped])
    said = {point.name: point.value for point in points}
    assert (said["review/refused"], said["review/tag/wrong_colour"], said["review/quarantined"]) == (0, 0, 3)
    assert math.isnan(said["review/colour/mean"]) and math.isnan(said["hit_rate/recommended"])


def test_what_a_review_took_stays_when_nothing_was_asked_again() -> None:
    measured = ("review/images_per_min", "review/failures_per_100", "review/latency_s/p50", "review/tokens/prompt")
    assert gone((*measured, "review/cached", "images/complete"), {}) == {"review/cached": 0}


# ---- the table


def test_the_table_shows_picture_advice_scores_tags_and_evidence(first: journal.Run) -> None:
    row = table_of(first)[1]
    assert (row["key"], row["advice"], row["score/colour"], row["score/concept"]) == ("on-blue.001", "reject", 0, None)
    assert (row["tags"], row["evidence"]) == ("wrong_colour", "wrong_colour: colour is not as asked @120,80,620,710")
    assert (row["digest"], row["verdict"]) == tuple(first.images()[1][name] for name in ("digest", "verdict"))


def test_the_pictures_of_the_table_are_the_logged_ones(first: journal.Run) -> None:
    rows, files = table_of(first), stores.artifacts(stores.tracked(first.folder))
    cells = [row["image"] for row in rows]
    assert [cell["type"] for cell in cells] == ["image"] * 4
    assert [files[cell["filepath"]] for cell in cells] == [row["digest"] for row in rows]
    assert {cell["compressed_filepath"] for cell in cells} <= files.keys()


def test_no_column_has_a_dot_because_mlflow_would_show_it_empty(first: journal.Run) -> None:
    assert not [name for name in review_table.review_table(first, None, {"a": "b"})["columns"] if "." in name]


def test_what_is_unscored_or_quarantined_says_so(first: journal.Run, stopped: journal.Run) -> None:
    assert table_of(first)[2]["unscored"] == "refused: as told"
    assert [row["quarantined"] for row in table_of(stopped)] == ["quarantined"] * 3 + [""]


def test_of_a_pair_both_pictures_are_shown(world: judged.World) -> None:
    row, files = table_of(world.pairs)[1], stores.artifacts(stores.tracked(world.pairs.folder))
    digests = [files[row[name]["filepath"]] for name in ("image", "against")]
    assert (digests, row["winner"], "advice" in row) == (world.pairs.manifest["given"]["on-blue.001"], "B", False)
    assert row["evidence"].startswith("A prompt_ignored: ")


def test_an_image_that_was_not_made_has_a_blank_in_its_place(runs: dict[str, Path]) -> None:
    rows, files = table_of(journal.read_run(runs["incomplete"])), stores.artifacts(stores.tracked(runs["incomplete"]))
    assert [row["image"]["filepath"] == review_table.BLANK for row in rows] == [False, False, False, True]
    assert review_table.BLANK in files


def test_of_many_images_the_first_have_pictures_and_evidence_and_the_others_say_where(world: judged.World) -> None:
    pictures = review_table.pictures_of(world.first, 1)
    objects = store.Store(world.outputs / "objects")
    table = review_table.review_table(world.first, objects, pictures, max_records=1)
    row = dict(zip(table["columns"], table["data"][1], strict=True))
    blank = {"type": "image", "filepath": review_table.BLANK, "compressed_filepath": review_table.BLANK}
    assert (list(pictures), row["image"]) == (["on-blue.000"], blank)
    assert row["evidence"] == f"python -m runner inspect {world.first.images()[1]['verdict']}"


def test_without_thumbnails_or_a_store_the_table_has_what_the_journal_says(first: journal.Run) -> None:
    table = review_table.review_table(first, None, {})
    assert table["columns"][:2] == ["key", "prompt"]
    assert not review_table.has_pictures(table)
    row = dict(zip(table["columns"], table["data"][1], strict=True))
    assert (row["tags"], row["evidence"], row["score/colour"]) == ("wrong_colour", "", 0)


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself_shows_pictures_scores_and_tags(world: judged.World) -> None:
    table_of(world.first)
    run = stores.tracked(world.first.folder)
    with browser.mlflow_ui(world.outputs) as address, browser.page(width=3000) as tab:
        tab.goto(f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/review.json")
        tab.get_by_text("wrong_colour: colour is not as asked @120,80,620,710").first.wait_for(timeout=60_000)
        sizes = tab.locator("img[src*='get-artifact']").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert len(sizes) == 4 and min(sizes) > 0
        shown = [cell.inner_text() for cell in tab.get_by_role("row").nth(2).get_by_role("cell").all()]
        assert shown[4:9] == ["reject", "1", "0", "1", "null"]
