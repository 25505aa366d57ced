"""The shipped critic on real pictures: evidence, determinism, and what it does with bytes that are none."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import builtin, contract, critic, plan, store
from runner.builtin import world
from runner.contract.folders import weights_digest
from runner.errors import Failed, Refused
from runner.worker import Bench, Outcome
from tests import worlds

CRITIC = builtin.package_dir() / "shapes_clip"
PROMPTS = 'prompt.items=[{id:one,sections:{subject:"a red circle",background:"on a blue background"}}]'
BASE = ("+experiment=demo_base", "track=none", PROMPTS, "generate.images_per_prompt=3", "runtime.num_threads=1")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench with a drawn red circle on blue, bytes that are no picture, and a third image that was not made."""
    made = worlds.bench(worlds.accept(tmp_path_factory.mktemp("outputs"), base=BASE), images={})
    images = {"image/one.000": made.store.put(drawing()), "image/one.001": made.store.put(b"not a picture")}
    made.images = images
    return made


@pytest.fixture(scope="module")
def outcome(bench: Bench) -> Outcome:
    return critic.work(step(bench), bench)


def drawing() -> bytes:
    """A sharp red disc on blue, as the critic's own world draws them."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (64, 64), (30, 60, 220))
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=(220, 30, 30))
    buffer = io.BytesIO()
    picture.save(buffer, format="png")
    return buffer.getvalue()


def step(bench: Bench) -> plan.Step:
    accepted = worlds.accept(Path(bench.request.outputs), base=BASE)
    return next(step for step in accepted.plan.steps if step.kind == "critique")


def record(outcome: Outcome, number: int) -> dict[str, Any]:
    return dict(json.loads(outcome.made[number].data))


def test_the_profile_asks_for_shapes_and_colours_of_the_world() -> None:
    asked = {c.id: set(c.labels) for c in worlds.accept(Path("x"), base=BASE).request.critic.criteria}
    assert asked["shape"] <= set(world.SHAPES)


def test_every_score_is_inside_the_scale_with_a_similarity_for_every_label(outcome: Outcome, bench: Bench) -> None:
    verdict = record(outcome, 0)
    assert (verdict["status"], set(verdict["criteria"])) == ("scored", {"shape", "colour", "background"})
    for criterion in bench.request.critic.criteria[:3]:
        score = verdict["criteria"][criterion.id]
        assert 0 <= score["score"] <= 1
        assert set(score["similarities"]) == set(criterion.labels)


def test_a_red_circle_on_blue_is_seen_as_one(outcome: Outcome) -> None:
    criteria = record(outcome, 0)["criteria"]
    assert [criteria[name]["found"] for name in ("colour", "background")] == ["red", "blue"]
    assert [criteria[name]["asked"] for name in ("shape", "colour", "background")] == ["circle", "red", "blue"]


def test_bytes_that_do_not_decode_are_unscored_with_the_class_and_no_scores(outcome: Outcome) -> None:
    verdict = record(outcome, 1)
    assert (verdict["status"], verdict["criteria"], verdict["tags"]) == ("unscored", {}, [])
    assert verdict["reason"].startswith("image_not_seen: does not decode")
    assert dict(outcome.made[1].facts)["scores"] == {}


def test_the_reason_is_the_same_text_every_time(outcome: Outcome, bench: Bench) -> None:
    again = critic.work(step(bench), bench)
    assert again.made[1].data == outcome.made[1].data


def test_an_image_that_was_not_made_has_no_verdict(outcome: Outcome) -> None:
    assert [(lost.item, lost.reason) for lost in outcome.unmade] == [("verdict/one.002", "its image was not made")]


def test_the_same_image_gets_the_same_verdict_bytes(outcome: Outcome, bench: Bench) -> None:
    assert critic.work(step(bench), bench).made[0].data == outcome.made[0].data


def test_every_verdict_carries_profile_digest_and_the_critics_weights(outcome: Outcome, bench: Bench) -> None:
    pins = contract.pin(bench.facts)
    for number in (0, 1):
        verdict = record(outcome, number)
        assert verdict["profile"] == {"id": "shapes_v1", "version": 1, "digest": pins.profile}
        assert verdict["model"]["weights"] == weights_digest(CRITIC)


def test_the_record_is_canonical_and_names_the_image(outcome: Outcome, bench: Bench) -> None:
    verdict = record(outcome, 0)
    assert store.canonical(verdict) == outcome.made[0].data
    assert verdict["image"] == bench.images["image/one.000"] == dict(outcome.made[0].facts)["image"]


def test_an_image_that_is_not_itself_gets_no_verdict_and_is_no_crash(bench: Bench) -> None:
    gone = worlds.bench(worlds.accept(Path(bench.request.outputs), base=BASE), images={"image/one.000": "ab" * 32})
    outcome = critic.work(step(bench), gone)
    assert not outcome.made
    assert (outcome.unmade[0].kind, outcome.unmade[0].reason) == ("storage", "its image is not in the store")


def test_a_folder_that_is_no_critic_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=r"has no config\.json") as refusal:
        worlds.accept(tmp_path, f"critic.path={tmp_path}/empty", base=BASE)
    assert {fault.code for fault in refusal.value.faults} == {"critic_missing"}


def test_a_critic_whose_weights_are_cut_off_fails_with_its_path(tmp_path: Path) -> None:
    folder = shutil.copytree(CRITIC, tmp_path / "critic")
    (folder / "model.safetensors").write_bytes((CRITIC / "model.safetensors").read_bytes()[:-1000])
    accepted = worlds.accept(tmp_path, f"critic.path={folder}", base=BASE)
    bench = worlds.bench(accepted, images={"image/one.000": "ab" * 32})
    with pytest.raises(Failed, match="does not load as a CLIP model"):
        critic.work(step(bench), bench)


def test_the_concept_is_judged_only_where_the_trigger_stands(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path, "generate.images_per_prompt=1")
    bench = worlds.bench(accepted)
    bench.images = {f"image/{image.key}": bench.store.put(drawing()) for image in accepted.plan.images}
    step = next(step for step in accepted.plan.steps if step.kind == "critique")
    verdict = record(critic.work(step, bench), 0)
    assert set(verdict["criteria"]) == {"background", "concept"}
    assert verdict["criteria"]["concept"]["tags"] == ["concept_missing"]
