"""Stages, settings, devices, digests and how a LoRA meets its base: each rule with its exact words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import contract
from runner.contract.families import LoraFile, Module
from runner.contract.rules import bind
from tests import fakes

FLUX2 = {"base_model.pipeline": "Flux2Pipeline", "base_model.negative_prompt": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages": ["critique", "generate"]},
            "stages: are ['critique', 'generate']: images must be generated before they are reviewed, each stage once. "
            "Use stages=[generate] or stages=[generate,critique].",
        ),
        (
            {"stages": ["generate"]},
            "critic: shapes_v1 would be ignored: stages has no critique. "
            "Choose critic=none, or stages=[generate,critique].",
        ),
        (
            {"critic.profile": None},
            "critic: is none, and stages asks for critique. Choose critic=shapes_v1, or stages=[generate].",
        ),
        (
            {"generate.negative_prompt": "ugly", "generate.guidance_scale": 1},
            "generate.negative_prompt: 'ugly' would be ignored at guidance_scale 1. "
            'Set generate.negative_prompt="", or generate.guidance_scale above 1.',
        ),
        (
            {"generate.negative_prompt": "ugly", "base_model.negative_prompt": False},
            "generate.negative_prompt: 'ugly' would be ignored: StableDiffusionPipeline takes no negative prompt. "
            'Set generate.negative_prompt="".',
        ),
        ({"hardware.index": 1}, "hardware.index: 1 would be ignored: the processor is one device. "
         "Set hardware.index=0."),
        (
            {"trigger.without": "shape"},
            "trigger.without: 'shape' would be ignored in mode required. Set trigger.mode=probe, or leave it empty.",
        ),
        (
            {"lora.scale": 3},
            "lora.scale: is 3; emblem was found usable from 0 to 1.5. Choose a scale from 0 to 1.5.",
        ),
        ({"lora.rank": 4}, "lora.rank: is 4; the file has 8. Mend the card."),
        ({"lora.alpha": 2}, "lora.alpha: is 2; the file has 8. Mend the card."),
        (
            {"lora.path": "nowhere.safetensors"},
            "lora.path: nowhere.safetensors is not there. Set lora.path to the .safetensors file.",
        ),
        (
            {"critic.path": "nowhere"},
            "critic.path: nowhere is not there. Name the folder that holds it.",
        ),
        (
            {"base_model.path": "nowhere"},
            "base_model.path: nowhere is not there. Set base_model.path to the model's folder.",
        ),
        (
            {"base_model.path": "nowhere", "base_model.repository": "me/base"},
            "base_model.path: nowhere is not there. "
            "Get it with `hf download me/base --local-dir nowhere`, or set base_model.path.",
        ),
        (
            {"base_model.family": "sdxl", "lora.family": None},
            "base_model.family: is sdxl on the card; the folder's configs say shapes. Set base_model.family=shapes.",
        ),
        (
            {"base_model.pipeline": "FluxPipeline"},
            "base_model.pipeline: is FluxPipeline on the card; the folder says StableDiffusionPipeline. "
            "Set base_model.pipeline=StableDiffusionPipeline if that is the model you mean.",
        ),
    ],
)  # fmt: skip
def test_a_setting_that_does_not_fit_is_refused(changes: Mapping[str, Any], message: str) -> None:
    assert fakes.said(fakes.request(changes)) == [message]


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_a_scale_inside_its_range_is_accepted(scale: float) -> None:
    assert not fakes.faults(fakes.request({"lora.scale": scale}))


def test_a_scale_without_a_lora_is_refused() -> None:
    message = "lora.scale: 0.5 would be ignored: there is no LoRA. Leave it."
    assert fakes.said(fakes.request({"lora.scale": 0.5}, "demo_base")) == [message]


def test_a_negative_prompt_with_guidance_is_accepted() -> None:
    assert not fakes.faults(fakes.request({"generate.negative_prompt": "ugly", "generate.guidance_scale": 2}))


def test_the_card_of_flux2_takes_no_negative_prompt() -> None:
    asked = fakes.request({"generate.negative_prompt": "ugly"}, "flux2_lora")
    message = "generate.negative_prompt: 'ugly' would be ignored: Flux2Pipeline takes no negative prompt. "
    assert message + 'Set generate.negative_prompt="".' in fakes.said(asked)


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused() -> None:
    asked = fakes.request({"hardware.device": "cuda"})
    message = "hardware.device: is cuda:0, which this machine does not have. "
    assert fakes.said(asked) == [
        message + "Choose hardware=cpu, or allow it with hardware.on_missing=cpu (recorded as a fallback)."
    ]


def test_a_missing_device_may_be_allowed() -> None:
    assert not fakes.faults(fakes.request({"hardware.device": "mps", "hardware.on_missing": "cpu"}))


# ---- files that are not what they should be


def lora(file: Path, **card: Any) -> Mapping[str, Any]:
    return {"lora.path": str(file), **{f"lora.{name}": value for name, value in card.items()}}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "mine.safetensors"


def test_a_damaged_lora_says_what_is_wrong_with_it(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"))
    os.truncate(place, place.stat().st_size - 1)
    (fault,) = fakes.faults(fakes.request(lora(place)))
    assert (fault.code, fault.where) == ("lora_broken", "lora.path")
    assert fault.what.startswith(f"{place} should have ") and "truncated" in fault.what
    assert fault.fix == "Get or save the file again; nothing of it was loaded"


def test_a_file_that_is_no_lora_is_inert(place: Path) -> None:
    table = {"vae.x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    fakes.write_safetensors(place, table, b"1")
    assert fakes.said(fakes.request(lora(place))) == [
        "lora.path: emblem has 1 tensors and no LoRA layer. Point lora.path at a LoRA."
    ]


def test_other_widths_are_a_conflict(place: Path) -> None:
    layers = {name: (num_in, num_out + 1) for name, (num_in, num_out) in fakes.layers_of_shapes("attn2.to_k").items()}
    fakes.write_lora(place, layers)
    name, (num_in, num_out) = min(layers.items())
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem: {len(layers)} of {len(layers)} modules have other widths than shapes "
        f"(first {name}: file {num_out}x{num_in}, base {num_out - 1}x{num_in}). Choose the base it was trained on."
    ]


def test_layers_without_a_place_are_inert(place: Path) -> None:
    layers = fakes.layers_of_shapes("attn2.to_k")
    fakes.write_lora(place, {**layers, "unet.zzz.attn2.to_k": (96, 64)})
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem: 1 of {len(layers) + 1} modules have no place in shapes (first unet.zzz.attn2.to_k). "
        "Choose the base it was trained on, or convert the file's names."
    ]


def test_a_layer_on_a_vector_is_a_fault_and_no_crash(place: Path) -> None:
    fakes.write_lora(place, {**fakes.layers_of_shapes("attn2.to_k"), "unet.conv_norm_out": (8, 8)})
    assert fakes.faults(fakes.request(lora(place)))


def test_a_family_that_the_metadata_denies_is_a_mismatch(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata={"modelspec.architecture": "sdxl/lora"})
    num = 2 * len(fakes.layers_of_shapes("attn2.to_k"))
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem says different things: card shapes, file sdxl, {num}/{num} tensors shapes. "
        "Mend the card, or use the file that it describes."
    ]


def test_a_lora_trained_on_other_weights_is_a_mismatch(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata={"runner.base_sha256": "a" * 64})
    agreed = contract.check(fakes.request())
    found = contract.pin(agreed).base_sha256
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem was trained on base weights {'a' * 12}...; these are {found[:12]}.... "
        "Choose the base it was trained on, or give a reason in lora.accept_unknown."
    ]


def test_a_reason_accepts_other_weights(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata={"runner.base_sha256": "a" * 64})
    assert not fakes.faults(fakes.request(lora(place, accept_unknown="a merge of the same base")))


@pytest.mark.parametrize("party", ["base_model", "lora", "critic"])
def test_weights_with_another_digest_than_the_card_are_altered(party: str) -> None:
    (fault,) = fakes.faults(fakes.request({f"{party}.sha256": "0" * 64}))
    assert (fault.code, fault.where) == ("weights_altered", f"{party}.sha256")
    assert fault.what.startswith("is 000000000000...; the files have ")
    assert fault.fix == "Get the files again, or mend the card if they are the right ones"


@pytest.mark.parametrize("party", ["base_model", "lora", "critic"])
def test_weights_with_the_digest_of_the_card_are_accepted(party: str) -> None:
    pins = contract.pin(contract.check(fakes.request())).as_dict()
    digest = pins[{"base_model": "base"}.get(party, party) + "_sha256"]
    assert not fakes.faults(fakes.request({f"{party}.sha256": digest}))


def test_every_fault_of_a_request_is_said_at_once() -> None:
    asked = fakes.request({"lora.path": "a", "base_model.path": "b", "critic.path": "c", "hardware.index": 2})
    codes = [fault.code for fault in fakes.faults(asked)]
    assert codes == ["setting_ignored", "base_missing", "lora_missing", "critic_missing"]


# ---- binding, and what the card shows


def lora_file(modules: Mapping[str, Module]) -> LoraFile:
    return LoraFile("lora", None, "diffusers", modules, 2 * len(modules), 4, None, (), None, None, None, ())


def test_binding_is_by_name_and_widths() -> None:
    modules = {"unet.a": Module(3, 5, 4), "unet.b": Module(3, 5, 4), "unet.c": Module(3, 5, 4)}
    binding = bind(lora_file(modules), {"unet.a.weight": (5, 3), "unet.b.weight": (5, 4)})
    assert (binding.bound, binding.unbound) == (("unet.a",), ("unet.c",))
    assert binding.conflicts == ("unet.b: file 5x3, base 5x4",)


def test_a_convolution_binds_by_its_channels() -> None:
    binding = bind(lora_file({"unet.conv": Module(3, 5, 4)}), {"unet.conv.weight": (5, 3, 3, 3)})
    assert binding.bound == ("unet.conv",)


def test_an_older_name_of_a_text_encoder_layer_binds() -> None:
    modules = {"text_encoder.text_model.encoder.q": Module(8, 8, 4)}
    assert bind(lora_file(modules), {"text_encoder.encoder.q.weight": (8, 8)}).num_modules == 1
    assert bind(lora_file(modules), {"text_encoder.encoder.q.weight": (8, 8)}).unbound == ()


def test_the_contract_card_answers_every_question_of_the_demo() -> None:
    found = {finding.question: finding.answer for finding in contract.check(fakes.request()).findings}
    questions = ("base family", "LoRA family", "trigger token", "rank", "alpha", "binding")
    assert found == dict.fromkeys(questions, "agrees")


def test_runs_of_the_same_contract_share_its_digest() -> None:
    def digest(changes: Mapping[str, Any]) -> str:
        agreed = contract.check(fakes.request(changes))
        return str(contract.card(agreed, contract.pin(agreed))["digest"])

    assert digest({"seed": 1}) == digest({"seed": 2, "generate.steps": 3})
    assert digest({"lora.scale": 0.5}) != digest({"lora.scale": 1.0})
