"""What MLflow is told of a run: names and numbers, from the journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runner import journal, track
from runner.track.numbers import NUM_CURVE_POINTS, History, ended_points
from tests import worlds

AT = "2026-01-01T00:00:00.000+00:00"


def made(key: str) -> journal.Event:
    return {"event": "made", "key": key, "at": AT, "hash": key}


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
    assert metrics.keys() >= tokens | review | phases | {"images/planned", "images/complete", "run.attempts"}


def test_an_unscored_image_is_counted_and_not_averaged(run: journal.Run) -> None:
    metrics = track.metrics_of(run)
    scores = [image["scores"]["concept"] for image in run.images() if image["scores"]]
    assert (metrics["review/unscored"], metrics["review/image_not_seen"], len(scores)) == (1, 1, 3)
    assert metrics["review/concept/mean"] == pytest.approx(sum(scores) / 3)


def test_the_peak_of_a_role_is_the_highest_that_was_measured(run: journal.Run) -> None:
    peaks = [{"role": role, "peak_mib": mib} for role, mib in (("generator", 900), ("generator", 700), ("critic", 80))]
    state = journal.fold([])
    state.peaks = peaks
    metrics = track.metrics_of(journal.Run(run.folder, run.manifest, state, None))
    assert (metrics["memory/generator/peak_mib"], metrics["memory/critic/peak_mib"]) == (900, 80)


def test_a_sweep_is_a_tag(tmp_path: Path) -> None:
    run = worlds.finished(tmp_path, "sweep=sweep-1")
    assert track.tags_of(run.manifest, run.folder)["sweep"] == "sweep-1"


# ---- history


def test_a_long_run_has_a_curve_of_few_points() -> None:
    history = History(num_planned=1000).read(made(f"image/{n}") for n in range(1000))
    assert [count for count, _ in history.curve] == list(range(20, 1001, 20))
    assert len(history.curve) == NUM_CURVE_POINTS


def test_an_image_that_is_made_twice_counts_once() -> None:
    history = History(num_planned=2).read([made("image/a"), made("image/a"), made("verdict/a"), made("image/b")])
    assert [count for count, _ in history.curve] == [1, 2]


def test_a_class_of_failures_that_is_gone_after_a_resumption_is_no_more(run: journal.Run) -> None:
    """MLflow shows the last value that it was told: of what is no longer there, too."""
    mended: dict[str, Any] = dict(run.state.items)
    mended.pop("verdict/on-white.001")
    state = journal.State(items=mended, last_event=AT)
    points = ended_points([run, journal.Run(run.folder, run.manifest, state, None)])
    assert [point.value for point in points if point.name == "review/image_not_seen"] == [1, 0]
