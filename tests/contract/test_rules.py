"""Stages, settings, devices, digests and how a LoRA meets its base: each rule with its exact words."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import builtin, contract
from runner.config.tree import Request
from runner.contract.folders import read_model_folder, weights_digest
from runner.errors import Refused
from tests import fakes
from tests.contract import drawn

PACKAGE = builtin.package_dir()
NO_CANNOT_TELL = {"lora.accept_unknown": "the base is not here"}
DIGESTS: Mapping[str, Callable[[], str]] = {
    "base_model": lambda: weights_digest(PACKAGE / "shapes"),
    "lora": lambda: hashlib.sha256((PACKAGE / "emblem" / "emblem.safetensors").read_bytes()).hexdigest(),
    "critic_runtime": lambda: weights_digest(PACKAGE / "shapes_clip"),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stages": ["critique", "generate"]},
            "stages: are ['critique', 'generate']: images must be generated before they are reviewed, each stage once. "
            "Use stages=[generate] or stages=[generate,critique].",
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
        ({"hardware.index": 1}, "hardware.index: 1 would be ignored: cpu is one device. Set hardware.index=0."),
        (
            {"hardware.index": 2, "hardware.device": "mps", "hardware.on_missing": "cpu"},
            "hardware.index: 2 would be ignored: mps is one device. Set hardware.index=0.",
        ),
        (
            {"runtime.offload": "model"},
            "runtime.offload: model would be ignored: there is no device to move weights to. "
            "Set runtime.offload=none.",
        ),
        (
            {"prompt.budget.min": 70, "prompt.budget.max": 60},
            "prompt.budget.min: is 70, above prompt.budget.max 60. Lower it, or raise the maximum.",
        ),
        (
            {"prompt.required": ["subject", "sky"]},
            "prompt.required: names 'sky', which prompt.sections does not list. Known: subject, background.",
        ),
        (
            {"generate.scheduler": "EulerScheduler"},
            "generate.scheduler: EulerScheduler is not in the installed diffusers. "
            "Name a class that it exports, such as EulerDiscreteScheduler or StableDiffusionXLPipeline.",
        ),
        (
            {"generate.scheduler": "FluxPipeline"},
            "generate.scheduler: FluxPipeline is not in the installed diffusers. "
            "Name a class that it exports, such as EulerDiscreteScheduler or StableDiffusionXLPipeline.",
        ),
        (
            {"lora.base": "other"},
            "lora.base: emblem was trained on other; base_model is shapes. "
            "Choose base_model=other, or give a reason in lora.accept_unknown.",
        ),
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
            "lora.path: nowhere.safetensors is not there. Set lora.path to the .safetensors file, or the PEFT folder.",
        ),
        (
            {"base_model.path": "nowhere", **NO_CANNOT_TELL},
            "base_model.path: nowhere is not there. Set base_model.path to the model's folder.",
        ),
        (
            {"base_model.path": "nowhere", "base_model.repository": "me/base", **NO_CANNOT_TELL},
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
        "lora.path: emblem is unknown, not a LoRA: 1 tensors and no LoRA layer. Point lora.path at a LoRA."
    ]


def test_other_widths_are_a_conflict(place: Path) -> None:
    layers = {name: (num_in, num_out + 1) for name, (num_in, num_out) in fakes.layers_of_shapes("attn2.to_k").items()}
    fakes.write_lora(place, layers)
    name, (num_in, num_out) = min(layers.items())
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem: {len(layers)} of {len(layers)} modules have other widths than the base "
        f"(first {name}: file {num_out}x{num_in}, base {num_out - 1}x{num_in}) [shapes]. "
        "Choose the base it was trained on."
    ]


def test_layers_without_a_place_are_inert(place: Path) -> None:
    layers = fakes.layers_of_shapes("attn2.to_k")
    fakes.write_lora(place, {**layers, "unet.zzz.attn2.to_k": (96, 64)})
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem: 1 of {len(layers) + 1} modules have no place in the base (first unet.zzz.attn2.to_k) [shapes]. "
        "Choose the base it was trained on, or get or convert the whole file."
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


def test_the_name_of_a_file_denies_nothing(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata={"ss_sd_model_name": "sdxl.safetensors"})
    assert fakes.said(fakes.request(lora(place))) == []


def test_a_part_that_the_metadata_promises_and_the_file_has_not_is_missed(place: Path) -> None:
    trained = {"lora_adapter_metadata": '{"unet.r": 8, "text_encoder.r": 8}'}
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata=trained)
    assert fakes.said(fakes.request(lora(place))) == [
        "lora: emblem: says in its metadata that text_encoder was trained, and has no tensor of it: the file is not "
        "whole [shapes]. Choose the base it was trained on, or get or convert the whole file."
    ]


def test_ranks_that_differ_are_no_rank_for_a_card(place: Path) -> None:
    shapes = read_model_folder(PACKAGE / "shapes").layouts["unet"].expand()
    named = {f"unet.{name}": shape for name, shape in shapes.items() if name.endswith("attn2.to_k")}
    first, *others = named
    tensors = drawn.lora({first: named[first]}, rank=4) | drawn.lora({name: named[name] for name in others}, rank=8)
    drawn.write(place, tensors, {"lora_adapter_metadata": '{"unet.lora_alpha": 8}'})
    assert fakes.said(fakes.request(lora(place))) == [
        "lora.rank: is 8; the file has ranks 4, 8. Set lora.rank=null on the card: it differs between modules."
    ]


def test_a_lora_trained_on_other_weights_is_a_mismatch(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata={"runner.base_sha256": "a" * 64})
    agreed = contract.check(fakes.request())
    found = str(contract.pin(agreed).base_sha256)
    assert fakes.said(fakes.request(lora(place))) == [
        f"lora: emblem was trained on base weights {'a' * 12}...; these are {found[:12]}.... "
        "Choose the base it was trained on."
    ]


def test_a_reason_does_not_accept_other_weights(place: Path) -> None:
    fakes.write_lora(place, fakes.layers_of_shapes("attn2.to_k"), metadata={"runner.base_sha256": "a" * 64})
    (fault,) = fakes.faults(fakes.request(lora(place, accept_unknown="a merge of the same base")))
    assert fault.code == "base_mismatch"


def test_a_reason_accepts_a_base_of_another_name() -> None:
    assert not fakes.faults(fakes.request({"lora.base": "other", "lora.accept_unknown": "a merge of the same base"}))


def test_a_base_that_is_not_there_is_one_fault_and_not_two() -> None:
    (fault,) = fakes.faults(fakes.request({"base_model.path": "nowhere"}))
    assert fault.code == "base_missing"


@pytest.mark.parametrize("party", ["base_model", "lora", "critic_runtime"])
def test_weights_with_another_digest_than_the_card_are_altered(party: str) -> None:
    (fault,) = fakes.faults(fakes.request({f"{party}.sha256": "0" * 64}))
    assert (fault.code, fault.where) == ("weights_altered", f"{party}.sha256")
    assert fault.what.startswith("is 000000000000...; the files have ")
    assert fault.fix == "Get the files again, or mend the card if they are the right ones"


@pytest.mark.parametrize("party", ["base_model", "lora", "critic_runtime"])
def test_weights_with_the_digest_of_the_card_are_accepted(party: str) -> None:
    assert not fakes.faults(fakes.request({f"{party}.sha256": DIGESTS[party]()}))


def test_every_fault_of_a_request_is_said_at_once() -> None:
    asked = fakes.request({"lora.path": "a", "base_model.path": "b", "critic_runtime.path": "c", "hardware.index": 2})
    codes = [fault.code for fault in fakes.faults(asked)]
    assert codes == ["critic_missing", "setting_ignored", "base_missing", "lora_missing"]


# ---- what a card and a reason can settle, on bases of which the configs are here

FLUX, SCHNELL, CHROMA, SD35 = "FLUX.1-dev", "FLUX.1-schnell", "Chroma1-HD", "Stable Diffusion 3.5 medium"
REASON = {"accept_unknown": "trained by me on it"}


def on_base(
    folder: Path, model: str, tensors: drawn.Tensors, claim: str, card: Mapping[str, Any], **config: Any
) -> Request:
    """A LoRA, its claim and its card, on the configs of a published model that config calls `mine`."""
    base, family = drawn.write_base(folder / "base", model, **config), drawn.LAYOUTS[model].family
    told = {"modelspec.architecture": claim} if claim else {}
    said = {"family": None, "base": None, "rank": None, "alpha": None, **card}
    return fakes.request({
        "base_model.id": "mine", "base_model.path": str(base), "base_model.family": family,
        "base_model.pipeline": drawn.PIPELINES[family], "until": "contract", "generate.guidance_scale": 0,
        "lora.path": str(drawn.write(folder / "lora.safetensors", tensors, told)),
        **{f"lora.{name}": value for name, value in said.items()},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("model", "of", "pattern", "claim", "card", "codes"),
    [
        (FLUX, FLUX, "attn", "", {}, ["cannot_tell"]),
        (FLUX, FLUX, "attn", "", {"family": "flux1"}, []),
        (FLUX, FLUX, "attn", "", {"family": "chroma"}, ["family_mismatch"]),
        (FLUX, FLUX, "attn", "", {"family": "sdxl"}, ["family_mismatch"]),
        (FLUX, FLUX, "attn", "", REASON, []),
        (FLUX, FLUX, "attn", "chroma", REASON, ["family_mismatch"]),
        (FLUX, FLUX, "attn", "flux-1-dev", {}, []),
        (FLUX, FLUX, "attn", "flux-1-schnell", {}, ["cannot_tell"]),
        (FLUX, FLUX, "attn", "flux-1-schnell", {"base": "mine"}, ["cannot_tell"]),
        (FLUX, FLUX, "attn", "flux-1-schnell", REASON, []),
        (SCHNELL, FLUX, "attn", "", {"family": "flux1"}, ["cannot_tell"]),
        (SCHNELL, FLUX, "attn", "", {"family": "flux1", "base": "mine"}, []),
        (SCHNELL, FLUX, "attn", "", {"family": "flux1", **REASON}, []),
        (SCHNELL, FLUX, "", "", {"family": "flux1", "base": "mine", **REASON}, ["lora_inert"]),
        (CHROMA, FLUX, "", "", {"base": "mine", **REASON}, ["family_mismatch"]),
        (SD35, "Stable Diffusion 3 medium", "attn", "", {}, ["cannot_tell"]),
        (SD35, "Stable Diffusion 3 medium", "attn", "", {"base": "mine"}, []),
        (SD35, "Stable Diffusion 3 medium", "", "", {"base": "mine", **REASON}, ["shape_conflict"]),
    ],
)
def test_a_card_settles_what_the_tensors_leave_open_and_a_reason_excuses_no_more(
    tmp_path: Path, model: str, of: str, pattern: str, claim: str, card: Mapping[str, Any], codes: list[str]
) -> None:
    asked = on_base(tmp_path, model, drawn.NAMINGS["diffusers"](of, pattern), claim, card)
    assert refused(asked) == codes


def refused(asked: Request) -> list[str]:
    """The codes of a contract whose weights are not here to be pinned."""
    try:
        contract.check(asked)
    except Refused as refusal:
        return [fault.code for fault in refusal.faults]
    return []


WHOLE = drawn.NAMINGS["diffusers"](FLUX, "attn")
TO_Q = "transformer.transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("tensors", "config", "codes"),
    [
        (WHOLE, {"num_layers": 3}, []),
        ({**WHOLE, "bundle_emb.a": ("F16", (4, 768))}, {}, []),
        ({**WHOLE, f"{TO_Q}.lora_B.bias": ("F16", (3072,))}, {}, ["lora_unloadable"]),
        ({**WHOLE, f"{TO_Q}.lora_B.weight": ("F16", (3072, 5))}, {}, ["lora_inert"]),
        ({**WHOLE, f"{TO_Q}.lora_B.weight": ("F16", (3073, 4))}, {}, ["shape_conflict"]),
        ({f"{n}.weight": ("F16", s) for n, s in drawn.layers(FLUX).items()}, {}, ["lora_inert"]),
    ],
    ids=["no layers known", "left over", "unloadable", "damaged", "widths", "checkpoint"],
)
def test_a_reason_excuses_only_what_nothing_can_tell(
    tmp_path: Path, tensors: drawn.Tensors, config: Mapping[str, Any], codes: list[str]
) -> None:
    for number, card in enumerate(({"family": "flux1", **REASON}, {"family": "flux1"})):
        (tmp_path / str(number)).mkdir()
        asked = on_base(tmp_path / str(number), FLUX, tensors, "", card, **config)
        assert refused(asked) == (codes or ([] if "accept_unknown" in card else ["cannot_tell"]))


def test_both_sides_of_an_undecided_family_are_named(tmp_path: Path) -> None:
    asked = on_base(tmp_path, FLUX, WHOLE, "", {"family": "sdxl"})
    with pytest.raises(Refused, match=r"card sdxl, 532/532 tensors chroma or flux1\. Mend the card, or use the file"):
        contract.check(asked)


# ---- pins


@pytest.mark.parametrize(
    ("party", "file", "pin"),
    [
        ("base_model", "unet/config.json", "base_files"),
        ("base_model", "tokenizer/merges.txt", "base_files"),
        ("critic_runtime", "preprocessor_config.json", "critic_files"),
    ],
)
def test_a_config_beside_the_weights_is_pinned(tmp_path: Path, party: str, file: str, pin: str) -> None:
    shipped = PACKAGE / {"base_model": "shapes", "critic_runtime": "shapes_clip"}[party]
    folder = Path(shutil.copytree(shipped, tmp_path / "copy"))
    asked = fakes.request({f"{party}.path": str(folder)})
    before = contract.pin(contract.check(asked)).as_dict()
    with (folder / file).open("a") as text:
        text.write("\n")
    after = contract.pin(contract.check(asked)).as_dict()
    assert {key for key in before if before[key] != after[key]} == {pin}


# ---- what the card shows


def test_the_contract_card_answers_every_question_of_the_demo() -> None:
    found = {finding.question: finding.answer for finding in contract.check(fakes.request()).findings}
    questions = ("base family", "LoRA family", "trigger token", "rank", "alpha", "binding", "critic profile")
    assert found == dict.fromkeys(questions, "agrees")


def test_runs_of_the_same_contract_share_its_digest() -> None:
    def digest(changes: Mapping[str, Any]) -> str:
        agreed = contract.check(fakes.request(changes))
        return str(contract.card(agreed, contract.pin(agreed))["digest"])

    assert digest({"seed": 1}) == digest({"seed": 2, "generate.steps": 3})
    assert digest({"lora.scale": 0.5}) != digest({"lora.scale": 1.0})
