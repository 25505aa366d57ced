"""The generator on the shipped base: what an image carries, what it depends on, and what is no image."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runner import generate, plan, store
from runner.errors import Failed, Refused
from runner.generate import png
from runner.generate.pipeline import load_artist
from runner.worker import Bench
from tests import worlds

BASE_ALONE = ("+experiment=demo_base", "track=none", "generate.steps=2", "runtime.num_threads=1")
ONLY_IMAGES = ("stages=[generate]", "critic=none")
PROVENANCE = {
    "mode": "lora", "base_model": "shapes", "lora": {"id": "emblem", "scale": 0.5}, "trigger": "<emblem>",
    "prompt": "a <emblem> on a blue background", "negative_prompt": "", "seed": 5, "key": "on-blue.000",
    "width": 64, "height": 48, "steps": 8, "guidance_scale": 4.0, "scheduler": None,
}  # fmt: skip


class Sampler:
    """A loaded pipeline that gives the arrays it was told to give."""

    def __init__(self, *arrays: Any) -> None:
        self.arrays = arrays

    def __call__(self, texts: Any, generators: Any, settings: Any, *, on_step: Any) -> Any:
        return np.stack(self.arrays)


def first_step(bench: Bench) -> plan.Step:
    return worlds.accept(Path(bench.request.outputs), *ONLY_IMAGES).plan.steps[0]


def sampled(outputs: Path, *arrays: Any) -> Any:
    bench = worlds.bench(worlds.accept(outputs, *ONLY_IMAGES), _role=generate.ROLE, _model=Sampler(*arrays))
    return generate.work(first_step(bench), bench)


def noise(seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((64, 64, 3), dtype=np.float32)


def images(
    outputs: Path, *overrides: str, base: tuple[str, ...] = (*worlds.TINY, *ONLY_IMAGES), loaded: Bench | None = None
) -> dict[str, Any]:
    """Every image of a request, made by the real generator, as pixels by key; `loaded` lends its pipeline."""
    accepted = worlds.accept(outputs, *overrides, base=base)
    lent = {"_role": generate.ROLE, "_model": loaded._model} if loaded else {}
    bench = worlds.bench(accepted, **lent)
    made = [made for step in accepted.plan.steps for made in generate.work(step, bench).made]
    return {each.item.removeprefix("image/"): np.asarray(Image.open(io.BytesIO(each.data))) for each in made}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench on which the shipped base and LoRA are loaded and proved."""
    bench = worlds.bench(worlds.accept(tmp_path_factory.mktemp("loaded"), *ONLY_IMAGES))
    bench.model(generate.ROLE, load_artist)
    return bench


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, loaded: Bench) -> dict[str, Any]:
    return images(tmp_path_factory.mktemp("plain"), loaded=loaded)


# ---- PNG


def test_a_png_carries_its_parameters_as_web_uis_read_them() -> None:
    image: Any = Image.open(io.BytesIO(png.encode_png(np.zeros((48, 64, 3), np.uint8), PROVENANCE)))
    assert image.text["parameters"] == (
        "a <emblem> on a blue background\n"
        "Steps: 8, Sampler: default, CFG scale: 4.0, Seed: 5, Size: 64x48, Model: shapes, Lora: emblem: 0.5"
    )


def test_a_negative_prompt_has_a_line_of_its_own() -> None:
    data = png.encode_png(np.zeros((48, 64, 3), np.uint8), {**PROVENANCE, "negative_prompt": "red", "lora": None})
    image: Any = Image.open(io.BytesIO(data))
    assert image.text["parameters"].splitlines()[1] == "Negative prompt: red"
    assert "Lora" not in image.text["parameters"]


def test_a_png_carries_its_provenance_as_canonical_json() -> None:
    image: Any = Image.open(io.BytesIO(png.encode_png(np.zeros((48, 64, 3), np.uint8), PROVENANCE)))
    assert image.text["runner"] == store.canonical(PROVENANCE).decode()


def test_the_bytes_of_a_png_depend_on_pixels_and_provenance_alone() -> None:
    array = (noise() * 255).astype(np.uint8)
    assert png.encode_png(array, PROVENANCE) == png.encode_png(array.copy(), dict(reversed(PROVENANCE.items())))
    assert png.encode_png(array, PROVENANCE) != png.encode_png(array, {**PROVENANCE, "seed": 6})


def test_a_prompt_in_any_script_survives_in_the_png() -> None:
    said = {**PROVENANCE, "prompt": "ein Stern \u661f\nzweite Zeile"}
    image: Any = Image.open(io.BytesIO(png.encode_png(np.zeros((8, 8, 3), np.uint8), said)))
    assert json.loads(image.text["runner"])["prompt"] == said["prompt"]


# ---- what is no image


def test_nan_is_unmade_and_its_neighbour_is_kept(tmp_path: Path) -> None:
    broken = noise()
    broken[3, 3, 1] = np.nan
    outcome = sampled(tmp_path, broken, noise())
    assert [(lost.item, lost.kind, lost.reason) for lost in outcome.unmade] == [
        ("image/on-blue.000", "sampling", "has NaN or infinite values")
    ]
    assert [made.item for made in outcome.made] == ["image/on-blue.001"]


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_one_colour_all_over_is_unmade(tmp_path: Path, value: float) -> None:
    outcome = sampled(tmp_path, np.full((64, 64, 3), value, np.float32), noise())
    assert [lost.reason for lost in outcome.unmade] == ["is blank: one colour all over"]


def test_a_flat_colour_that_is_no_grey_is_blank_too(tmp_path: Path) -> None:
    flat = np.broadcast_to(np.array([1.0, 0.2, 0.0], np.float32), (64, 64, 3))
    assert len(sampled(tmp_path, flat, noise()).unmade) == 1


def test_a_pipeline_that_returns_too_few_images_fails(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="the pipeline returned 1 images for 2 prompts"):
        sampled(tmp_path, noise())


# ---- real images


def test_every_planned_image_is_made_at_its_size_and_all_differ(plain: dict[str, Any]) -> None:
    assert set(plain) == {"on-blue.000", "on-blue.001", "on-white.000", "on-white.001"}
    assert {array.shape for array in plain.values()} == {(64, 64, 3)}
    assert len({array.tobytes() for array in plain.values()}) == 4


def test_the_same_request_gives_the_same_bytes_in_another_folder(plain: dict[str, Any], tmp_path: Path) -> None:
    again = images(tmp_path)
    assert all(np.array_equal(again[key], plain[key]) for key in plain)


def test_a_journal_fact_says_seed_text_size_and_share_of_time(tmp_path: Path) -> None:
    outcome = sampled(tmp_path, noise(0), noise(1))
    facts = dict(outcome.made[0].facts)
    assert (facts["prompt"], facts["width"], facts["height"], facts["batch"]) == (
        "a <emblem> on a blue background", 64, 64, 2,
    )  # fmt: skip
    assert set(facts["timing"]) == {"encode_prompt_s", "sample_s", "decode_s"}


def test_each_distinct_prompt_is_encoded_once_whatever_batches_it_is_in(tmp_path: Path, loaded: Bench) -> None:
    accepted = worlds.accept(tmp_path, *ONLY_IMAGES, "generate.images_per_prompt=3")
    bench = worlds.bench(accepted, _role=generate.ROLE, _model=loaded._model)
    artist = bench.model(generate.ROLE, load_artist)
    artist.pipe.encode_prompt._known.clear()
    rows: list[int] = []
    artist.pipe.text_encoder.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    for step in accepted.plan.steps:
        generate.work(step, bench)
    assert len(accepted.plan.steps) == 3
    assert sum(rows) == 2 * 2  # two prompts, each with its empty negative


def test_an_image_does_not_depend_on_the_other_prompts_of_its_run(
    plain: dict[str, Any], loaded: Bench, tmp_path: Path
) -> None:
    alone = images(tmp_path, worlds.prompts(1), loaded=loaded)
    assert np.array_equal(alone["on-blue.000"], plain["on-blue.000"])


def test_tokens_that_differ_from_the_count_fail_the_run(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path, *ONLY_IMAGES)
    wrong = tuple(replace(count, templated=count.templated - 1) for count in accepted.contract.tokens)
    bench = worlds.bench(accepted, facts=replace(accepted.contract, tokens=wrong))
    seen, counted = accepted.contract.tokens[0].templated, wrong[0].templated
    with pytest.raises(Failed, match=f"gave its encoder {seen} tokens; {counted} were counted for") as failure:
        generate.work(accepted.plan.steps[0], bench)
    assert failure.value.faults[0].code == "tokens_differ"


def test_a_negative_prompt_changes_the_image(plain: dict[str, Any], loaded: Bench, tmp_path: Path) -> None:
    other = images(tmp_path, "generate.negative_prompt=a red circle", loaded=loaded)
    assert all(not np.array_equal(other[key], plain[key]) for key in plain)


def test_another_scheduler_works_and_changes_the_image(plain: dict[str, Any], tmp_path: Path) -> None:
    other = images(tmp_path, "generate.scheduler=EulerDiscreteScheduler")
    assert all(array.std() > 1 for array in other.values())
    assert all(not np.array_equal(other[key], plain[key]) for key in plain)


def test_the_scale_of_the_lora_changes_the_image(plain: dict[str, Any], tmp_path: Path) -> None:
    other = images(tmp_path, "lora.scale=0.5")
    assert all(not np.array_equal(other[key], plain[key]) for key in plain)


def test_scale_0_is_accepted_and_equals_the_base(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path, *ONLY_IMAGES, "lora.scale=0")
    bench = worlds.bench(accepted)
    step = accepted.plan.steps[0]
    at_zero = [made.data for made in generate.work(step, bench).made]
    bench.model(generate.ROLE, load_artist).pipe.unload_lora_weights()
    bench.model(generate.ROLE, load_artist).pipe.encode_prompt._known.clear()
    assert [made.data for made in generate.work(step, bench).made] == at_zero


def test_base_mode_makes_images_without_a_lora(tmp_path: Path) -> None:
    base = (*BASE_ALONE, *ONLY_IMAGES, worlds.prompts(1, "a red star"))
    made = images(tmp_path, base=base)
    assert set(made) == {"on-blue.000", "on-blue.001"}


def test_a_scheduler_that_diffusers_does_not_have_is_refused_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="EulerScheduler is not in the installed diffusers"):
        worlds.accept(tmp_path, *ONLY_IMAGES, "generate.scheduler=EulerScheduler")


def test_a_class_that_is_no_scheduler_is_never_used_as_one(tmp_path: Path) -> None:
    with pytest.raises((Refused, Failed), match="StableDiffusionPipeline"):
        accepted = worlds.accept(tmp_path, *ONLY_IMAGES, "generate.scheduler=StableDiffusionPipeline")
        generate.work(accepted.plan.steps[0], worlds.bench(accepted))


def test_a_pipeline_class_that_diffusers_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = worlds.model_folder(tmp_path / "model", {"_class_name": "NoSuchPipeline"})
    card = (f"base_model.path={folder}", "base_model.pipeline=NoSuchPipeline")
    with pytest.raises(Refused, match="NoSuchPipeline is not in the installed diffusers"):
        worlds.accept(tmp_path / "outputs", *ONLY_IMAGES, *card)


def test_a_base_without_a_part_is_refused_with_its_folder(tmp_path: Path) -> None:
    folder = worlds.model_folder(tmp_path / "model", {})
    (folder / "vae").unlink()
    with pytest.raises(Refused, match="has no vae/, which its model_index") as refusal:
        worlds.accept(tmp_path / "outputs", *ONLY_IMAGES, f"base_model.path={folder}")
    assert str(folder) in refusal.value.faults[0].what


def test_a_prompt_over_the_window_is_cut_where_it_was_counted_to_be_cut(tmp_path: Path) -> None:
    long = " ".join(["very"] * 90)
    over = (worlds.prompts(1, "a {trigger} " + long), "prompt.overflow=truncate", "prompt.budget.max=400")
    assert len(images(tmp_path, *over)) == 2  # the encoder saw exactly the tokens that were counted, cut at its limit


@pytest.mark.slow
def test_a_tiny_sdxl_runs_through_the_same_path(tmp_path: Path) -> None:
    from runner.builtin.recipe import tiny_sdxl

    folder = tiny_sdxl.make(tmp_path / "sdxl")
    card = ("base_model=tiny_sdxl", f"base_model.path={folder}", "generate.guidance_scale=3")
    base = (*BASE_ALONE, *ONLY_IMAGES, worlds.prompts(1, "a red star"))
    made = images(tmp_path / "outputs", *card, base=base)
    assert {array.shape for array in made.values()} == {(64, 64, 3)}
    assert len(made) == 2
