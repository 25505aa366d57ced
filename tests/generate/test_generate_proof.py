"""A LoRA that does not do what it says: the run ends before its first image, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import execute, generate, journal
from runner.errors import Refused
from tests import worlds

Tensors = dict[str, Any]
ONLY_IMAGES = ("stages=[generate]", "critic=none", worlds.prompts(1), "generate.steps=1")


def attempt(place: Path, change: Callable[[Tensors], Tensors], *overrides: str, **metadata: str | None) -> Any:
    """A real run with the shipped LoRA changed."""
    path = worlds.lora_file(place / "changed.safetensors", change, metadata)
    accepted = worlds.accept(place / "outputs", f"lora.path={path}", *ONLY_IMAGES, *overrides)
    return worlds.run(accepted, generate=generate.work)


def assert_failed_without_an_image(result: execute.Result, text: str) -> None:
    assert (result.status, result.exit_code) == ("failed", 3)
    assert result.failure is not None
    assert text in str(result.failure)
    assert (result.failure.code, dict(result.made)) == ("lora_inert", {})
    failure = journal.read_run(result.folder).state.failure or {}
    assert (failure["kind"], failure["phase"]) in {("load", "warmup"), ("load", "load_lora")}


def halves(end: str, change: Callable[[Any], Any]) -> Callable[[Tensors], Tensors]:
    """Change the tensors whose name ends so."""
    return lambda tensors: {name: change(t) if name.endswith(end) else t for name, t in tensors.items()}


def test_the_shipped_lora_is_proved_and_the_proof_is_noted(tmp_path: Path) -> None:
    result = attempt(tmp_path, dict)
    (proof,) = worlds.events(result.folder, "proved")
    assert (result.status, proof["modules"], proof["difference_at_zero"]) == ("complete", 64, 0.0)
    assert proof["difference"] > 0


def test_zeros_in_every_up_weight_are_found(tmp_path: Path) -> None:
    result = attempt(tmp_path, halves("lora_B.weight", lambda tensor: tensor * 0))
    assert_failed_without_an_image(result, "has only zeros in its up weights: it was never trained")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_single_nan_or_infinity_is_found(tmp_path: Path, value: float) -> None:
    def poison(tensors: Tensors) -> Tensors:
        tensors[sorted(tensors)[9]][0, 0] = value
        return tensors

    assert_failed_without_an_image(attempt(tmp_path, poison), "has NaN or infinite weights in ")


def test_a_lost_alpha_is_found_by_what_the_loader_applies(tmp_path: Path) -> None:
    result = attempt(tmp_path, dict, "lora.alpha=16", lora_adapter_metadata=None)
    assert_failed_without_an_image(result, "is loaded with alpha/rank 1 in ")
    assert "its card says 2" in str(result.failure)


def test_a_card_with_another_alpha_than_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"lora\.alpha: is 16; the file has 8"):
        attempt(tmp_path, dict, "lora.alpha=16")


def test_a_card_with_another_rank_than_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"lora\.rank: is 4; the file has 8"):
        attempt(tmp_path, dict, "lora.rank=4")


def test_names_that_the_base_does_not_have_are_refused(tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> Tensors:
        return {name.replace("attn1", "attn7"): tensor for name, tensor in tensors.items()}

    with pytest.raises(Refused, match="28 of 64 modules have no place in the base"):
        attempt(tmp_path, rename)


def test_other_widths_are_refused(tmp_path: Path) -> None:
    wide = halves("attn1.to_q.lora_A.weight", lambda tensor: tensor.repeat(1, 2))
    with pytest.raises(Refused, match="7 of 64 modules have other widths than the base"):
        attempt(tmp_path, wide)


def bare(tensors: Tensors) -> Tensors:
    return {name.removeprefix("unet."): t for name, t in tensors.items() if name.startswith("unet.")}


def test_names_without_a_component_are_refused_where_the_file_says_that_there_was_more(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="says in its metadata that text_encoder was trained, and has no tensor of it"):
        attempt(tmp_path, bare)


def test_names_without_a_component_are_loaded_whole_where_nothing_is_missing(tmp_path: Path) -> None:
    """diffusers warns, and draws every image without the LoRA."""
    result = attempt(tmp_path, bare, "lora.alpha=null", lora_adapter_metadata=None)
    (proof,) = worlds.events(result.folder, "proved")
    assert (result.status, proof["modules"]) == ("complete", 56)


def test_a_file_that_lost_its_text_encoder_part_is_found_by_its_own_claim(tmp_path: Path) -> None:
    """Its metadata still says that the text encoder was trained; without it the trigger shows nothing."""

    def drop(tensors: Tensors) -> Tensors:
        return {name: tensor for name, tensor in tensors.items() if name.startswith("unet.")}

    try:
        result = attempt(tmp_path, drop)
    except Refused as refusal:
        assert "text_encoder" in str(refusal)
    else:
        assert_failed_without_an_image(result, "text_encoder")


def test_up_weights_without_their_down_weights_are_found(tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> Tensors:
        downs = sorted(name for name in tensors if name.endswith("lora_A.weight"))
        return {name: tensor for name, tensor in tensors.items() if name not in downs[:20]}

    try:
        result = attempt(tmp_path, drop)
    except Refused as refusal:
        assert "lora" in str(refusal)
    else:
        assert_failed_without_an_image(result, "lora")


def test_a_lora_that_is_too_faint_to_show_is_found(tmp_path: Path) -> None:
    result = attempt(tmp_path, halves("lora_B.weight", lambda tensor: tensor.float() * 1e-12))
    assert_failed_without_an_image(result, "changes nothing: a one-step picture with it equals the one without it")


def test_a_half_precision_lora_is_as_good(tmp_path: Path) -> None:
    assert attempt(tmp_path, lambda tensors: {n: t.half() for n, t in tensors.items()}).status == "complete"


def test_after_a_mended_file_the_run_is_another_one(tmp_path: Path) -> None:
    broken = attempt(tmp_path, halves("lora_B.weight", lambda tensor: tensor * 0))
    worlds._agreed.cache_clear()
    mended = attempt(tmp_path, dict)
    assert (mended.status, mended.run_id != broken.run_id) == ("complete", True)
