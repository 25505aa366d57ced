"""The whole matrix of the contract: mode, trigger mode, trigger in the prompt, family of the LoRA. One cell, one test.

The trigger token is always `<emblem>`, the LoRA's own; `another` is a prompt with `<other>` in its place. The LoRA
files are written here: one for the shipped base, one for SDXL, one whose layers and card tell no family, or none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests import fakes

PROMPTS = {"present": "a {trigger} on red", "absent": "a star on red", "another": "a <other> on red"}
SDXL = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
NO_LORA: Mapping[str, Any] = dict.fromkeys(("id", "path", "family", "base", "trigger", "rank", "alpha"))

MATRIX = """
mode trigger    prompt   lora     expected
lora required   present  same     accepted
lora required   present  other    family_mismatch
lora required   present  unknown  cannot_tell
lora required   present  none     lora_missing
lora required   absent   same     trigger_missing
lora required   absent   other    family_mismatch trigger_missing
lora required   absent   unknown  cannot_tell trigger_missing
lora required   absent   none     lora_missing trigger_missing
lora required   another  same     trigger_mismatch
lora required   another  other    family_mismatch trigger_mismatch
lora required   another  unknown  cannot_tell trigger_mismatch
lora required   another  none     lora_missing trigger_mismatch
lora forbidden  present  same     trigger_forbidden
lora forbidden  present  other    family_mismatch trigger_forbidden
lora forbidden  present  unknown  cannot_tell trigger_forbidden
lora forbidden  present  none     lora_missing trigger_forbidden
lora forbidden  absent   same     accepted
lora forbidden  absent   other    family_mismatch
lora forbidden  absent   unknown  cannot_tell
lora forbidden  absent   none     lora_missing
lora forbidden  another  same     trigger_mismatch
lora forbidden  another  other    family_mismatch trigger_mismatch
lora forbidden  another  unknown  cannot_tell trigger_mismatch
lora forbidden  another  none     lora_missing trigger_mismatch
lora probe      present  same     accepted
lora probe      present  other    family_mismatch
lora probe      present  unknown  cannot_tell
lora probe      present  none     lora_missing
lora probe      absent   same     trigger_missing
lora probe      absent   other    family_mismatch trigger_missing
lora probe      absent   unknown  cannot_tell trigger_missing
lora probe      absent   none     lora_missing trigger_missing
lora probe      another  same     trigger_mismatch
lora probe      another  other    family_mismatch trigger_mismatch
lora probe      another  unknown  cannot_tell trigger_mismatch
lora probe      another  none     lora_missing trigger_mismatch
base required   present  same     lora_unexpected trigger_without_lora
base required   present  other    lora_unexpected trigger_without_lora
base required   present  unknown  lora_unexpected trigger_without_lora
base required   present  none     trigger_without_lora
base required   absent   same     lora_unexpected trigger_missing trigger_without_lora
base required   absent   other    lora_unexpected trigger_missing trigger_without_lora
base required   absent   unknown  lora_unexpected trigger_missing trigger_without_lora
base required   absent   none     trigger_missing trigger_without_lora
base required   another  same     lora_unexpected trigger_mismatch trigger_without_lora
base required   another  other    lora_unexpected trigger_mismatch trigger_without_lora
base required   another  unknown  lora_unexpected trigger_mismatch trigger_without_lora
base required   another  none     trigger_mismatch trigger_without_lora
base forbidden  present  same     lora_unexpected trigger_without_lora
base forbidden  present  other    lora_unexpected trigger_without_lora
base forbidden  present  unknown  lora_unexpected trigger_without_lora
base forbidden  present  none     trigger_without_lora
base forbidden  absent   same     lora_unexpected
base forbidden  absent   other    lora_unexpected
base forbidden  absent   unknown  lora_unexpected
base forbidden  absent   none     accepted
base forbidden  another  same     lora_unexpected trigger_mismatch
base forbidden  another  other    lora_unexpected trigger_mismatch
base forbidden  another  unknown  lora_unexpected trigger_mismatch
base forbidden  another  none     trigger_mismatch
base probe      present  same     lora_unexpected
base probe      present  other    lora_unexpected
base probe      present  unknown  lora_unexpected
base probe      present  none     accepted
base probe      absent   same     lora_unexpected trigger_missing
base probe      absent   other    lora_unexpected trigger_missing
base probe      absent   unknown  lora_unexpected trigger_missing
base probe      absent   none     trigger_missing
base probe      another  same     lora_unexpected trigger_mismatch
base probe      another  other    lora_unexpected trigger_mismatch
base probe      another  unknown  lora_unexpected trigger_mismatch
base probe      another  none     trigger_mismatch
"""
CELLS = [(*row[:4], set(row[4:]) - {"accepted"}) for row in map(str.split, MATRIX.strip().splitlines()[1:])]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mapping[str, Any]]:
    """What a LoRA card says, and the file it names, by what its family is to the base."""
    place = tmp_path_factory.mktemp("loras")
    same = fakes.write_lora(place / "same.safetensors", fakes.layers_of_shapes("attn2.to_k", "attn2.to_v"))
    other = fakes.write_lora(place / "other.safetensors", {SDXL: (2048, 640)})
    unknown = fakes.write_lora(place / "unknown.safetensors", fakes.layers_of_shapes("attn1.to_q"))
    return {
        "same": {"path": str(same)},
        "other": {"path": str(other), "family": "sdxl", "base": "sdxl"},
        "unknown": {"path": str(unknown), "family": None, "base": None},
        "none": NO_LORA,
    }


@pytest.mark.parametrize(("mode", "trigger", "prompt", "lora", "codes"), CELLS)
def test_a_cell_of_the_matrix(
    loras: dict[str, Mapping[str, Any]], mode: str, trigger: str, prompt: str, lora: str, codes: set[str]
) -> None:
    card = {f"lora.{name}": value for name, value in loras[lora].items()}
    asked = {"mode": mode, "trigger.mode": trigger, "prompt.items": [PROMPTS[prompt]], **card}
    assert {fault.code for fault in fakes.faults(fakes.request(asked))} == codes


def test_the_matrix_is_whole() -> None:
    assert len({cell[:4] for cell in CELLS}) == 2 * 3 * 3 * 4


@pytest.mark.parametrize("mode", ["required", "probe", "forbidden"])
def test_the_token_of_another_lora_is_refused_in_every_trigger_mode(mode: str) -> None:
    asked = {"trigger.token": "<other>", "trigger.mode": mode, "prompt.items": ["a star on red"]}
    assert "trigger_mismatch" in {fault.code for fault in fakes.faults(fakes.request(asked))}


@pytest.mark.parametrize("lora", ["other", "unknown"])
def test_a_refused_family_names_both_sides(loras: dict[str, Mapping[str, Any]], lora: str) -> None:
    asked = fakes.request({f"lora.{name}": value for name, value in loras[lora].items()})
    assert (
        fakes.said(asked)
        == {
            "other": [
                "lora: emblem was trained for family sdxl (card and 2/2 tensors agree); base_model shapes is shapes. "
                "Choose base_model=sdxl, or a LoRA for shapes."
            ],
            "unknown": [
                "lora.family: emblem: neither card, metadata nor tensors tell its family. "
                "Set lora.family on its card, or give a reason in lora.accept_unknown."
            ],
        }[lora]
    )


def test_a_reason_accepts_what_cannot_be_told(loras: dict[str, Mapping[str, Any]]) -> None:
    card = {f"lora.{name}": value for name, value in loras["unknown"].items()}
    assert not fakes.faults(fakes.request({**card, "lora.accept_unknown": "trained by me on shapes"}))


def test_a_reason_does_not_accept_another_family(loras: dict[str, Mapping[str, Any]]) -> None:
    card = {f"lora.{name}": value for name, value in loras["other"].items()}
    (fault,) = fakes.faults(fakes.request({**card, "lora.accept_unknown": "try it"}))
    assert fault.code == "family_mismatch"


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        (["lora=none"], {"lora_missing"}),
        (["lora.path="], {"lora_missing"}),
        (["lora.path=null"], {"lora_missing"}),
        (["lora.id=null", "lora.path=null"], {"lora_missing"}),
        (["trigger=none"], {"trigger_missing"}),
        (["trigger.token=null"], {"trigger_missing"}),
        (["mode=base"], {"lora_unexpected", "trigger_without_lora"}),
        (["base_model=sdxl"], {"base_missing", "family_mismatch"}),
        (["base_model.path=null"], {"base_missing"}),
    ],
)
def test_an_empty_override_cannot_turn_one_experiment_into_another(words: list[str], codes: set[str]) -> None:
    assert {fault.code for fault in fakes.faults(fakes.request({}, "demo", *words))} == codes


def test_the_lora_of_the_demo_cannot_be_slipped_under_demo_base() -> None:
    (fault,) = fakes.faults(fakes.request({}, "demo_base", "lora=emblem"))
    assert str(fault) == "lora: is emblem, and mode=base tests the base model alone. Choose mode=lora, or lora=none."


def test_every_card_is_accepted_alone(tmp_path: Path) -> None:
    for experiment in ("demo", "demo_base", "trigger_probe"):
        assert not fakes.faults(fakes.request({}, experiment))
