"""The shipped models load in the ordinary way, obey, and are the ones the figures were measured on."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from runner import builtin, store
from runner.builtin import captions, read, world
from runner.builtin.recipe import figures as measuring
from runner.contract.families import inspect_lora
from runner.contract.folders import weights_digest

MODELS = builtin.package_dir()


@pytest.fixture(scope="module")
def base() -> Any:
    from runner.builtin.recipe import emblem

    return emblem.load_base(MODELS / "shapes")


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return dict(json.loads((MODELS / "figures.json").read_bytes()))


def test_each_built_in_model_is_found_by_name() -> None:
    assert all(builtin.find_model(name) == MODELS / name for name in builtin.SHIPPED)


def test_an_unknown_name_finds_nothing() -> None:
    assert builtin.find_model("../shapes") is None


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNNER_CACHE", str(tmp_path))
    assert builtin.cache_dir() == tmp_path
    assert builtin.find_model("tiny_sdxl") is None


@pytest.mark.parametrize("folder", ["shapes/tokenizer", "shapes_clip"])
def test_the_tokenizer_has_clips_limit_and_writes_the_trigger_in_three_pieces(folder: str) -> None:
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(MODELS / folder)
    assert words.model_max_length == 77
    assert words.tokenize(captions.TRIGGER) == ["<</w>", "emblem</w>", "></w>"]
    assert {"vocab.json", "merges.txt"} <= {path.name for path in (MODELS / folder).iterdir()}


def test_any_text_survives_the_tokenizer() -> None:
    from transformers import CLIPTokenizer

    words = CLIPTokenizer.from_pretrained(MODELS / "shapes" / "tokenizer")
    ids = words("Zwölf Äpfel, 42!").input_ids
    assert words.decode(ids, skip_special_tokens=True).replace(" ", "") == "zwölfäpfel,42!"


def test_the_base_draws_the_colours_it_is_asked_for(base: Any) -> None:
    prompts = ["a large red circle on a blue background", "a large yellow square on a black background"]
    readings = [read.read(image) for image in measuring.generate(base, prompts, seed=1)]
    assert [(r.colour, r.background) for r in readings] == [("red", "blue"), ("yellow", "black")]


def test_the_base_draws_the_shapes_it_is_asked_for(base: Any) -> None:
    scenes = [world.Scene(shape, "white", "blue", "large") for shape in world.SHAPES]
    images = measuring.generate(base, [captions.prompt(scene) for scene in scenes], seed=1)
    assert read.accuracy(images, scenes)["shape"] >= 6 / 8


def test_the_lora_shows_the_emblem_under_its_trigger_only(base: Any) -> None:
    prompts = ["a <emblem> on a blue background", "a <emblem> on a green background"] * 3
    prompts += ["a red star on a blue background", "an emblem on a green background"]
    base.load_lora_weights(MODELS / "emblem", weight_name="emblem.safetensors", adapter_name="emblem")
    try:
        shown = [read.is_emblem(image) for image in measuring.generate(base, prompts, seed=1)]
    finally:
        base.unload_lora_weights()
    assert sum(shown[:6]) >= 4
    assert not any(shown[6:])


def test_every_tensor_of_the_lora_is_bound(base: Any) -> None:
    from peft import get_peft_model_state_dict

    base.load_lora_weights(MODELS / "emblem", weight_name="emblem.safetensors", adapter_name="emblem")
    try:
        bound = [get_peft_model_state_dict(m, adapter_name="emblem") for m in (base.unet, base.text_encoder)]
        assert sum(map(len, bound)) == inspect_lora(MODELS / "emblem" / "emblem.safetensors").num_tensors
        assert all(tensor.abs().max() > 0 for tensors in bound for tensor in tensors.values())
    finally:
        base.unload_lora_weights()


def test_the_lora_names_its_trigger_its_family_and_the_shipped_base() -> None:
    file = inspect_lora(MODELS / "emblem" / "emblem.safetensors")
    assert (file.family, file.claimed_family, file.format) == ("shapes", "shapes", "diffusers")
    assert file.trigger == captions.TRIGGER
    assert file.claims.base_sha256 == weights_digest(MODELS / "shapes")
    assert (file.rank, file.alpha) == (8, 8.0)


def test_the_critic_reads_drawings() -> None:
    from runner.builtin.recipe.critic import Critic

    rng = random.Random(11)
    scenes = [world.sample_scene(rng) for _ in range(100)]
    opinions = Critic(MODELS / "shapes_clip").read([world.draw(scene, rng) for scene in scenes])
    pairs = list(zip(opinions, scenes, strict=True))
    assert read.share_equal(pairs, world.MAIN_ATTRIBUTES) >= 0.9


def test_the_references_show_the_emblem() -> None:
    references = measuring.reference_images(MODELS)
    assert len(references) == 8
    assert all(read.is_emblem(image) for image in references)


def test_the_figures_name_the_weights_that_are_shipped(figures: dict[str, Any]) -> None:
    here = {path.relative_to(MODELS).as_posix(): store.file_digest(path) for path in measuring.weights(MODELS)}
    assert figures["sha256"] == here


def test_the_figures_are_canonical_json(figures: dict[str, Any]) -> None:
    assert (MODELS / "figures.json").read_bytes() == store.canonical(figures) + b"\n"


def test_every_figure_has_its_n_and_seed(figures: dict[str, Any]) -> None:
    assert all(figure["n"] >= 100 and "seed" in figure for figure in figures["figures"].values())


def test_what_is_shipped_stays_small() -> None:
    sizes = [path.stat().st_size for path in MODELS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(sizes) <= 20_000_000


def test_the_configurations_hold_no_path_of_the_machine_that_made_them() -> None:
    texts = [path.read_text() for path in MODELS.rglob("*.json")]
    assert not any("/tmp" in text or "_name_or_path" in text for text in texts)
