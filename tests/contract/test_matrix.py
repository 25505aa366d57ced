"""The whole matrix of the contract: mode, trigger mode, trigger in the prompt, family of the LoRA. One cell, one test.

The trigger token is always `<emblem>`, the LoRA's own; `another` is a prompt with `<other>` in its place. The LoRA
files are written here: one for the shipped base, one for SDXL, one whose layers and card tell no family, or none.
Then the same from the command line: overrides that would make another experiment of the one that was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runner.contract.folders import read_model_folder
from tests import fakes, worlds
from tests.contract import drawn

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
    unknown = fakes.write_lora(place / "unknown.safetensors", {"unet.my_own.layer": (64, 64)})
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


def test_a_reason_accepts_what_cannot_be_told_and_not_what_does_not_fit(
    loras: dict[str, Mapping[str, Any]], tmp_path: Path
) -> None:
    reason = {"lora.accept_unknown": "trained by me on shapes"}
    card = {f"lora.{name}": value for name, value in loras["unknown"].items()}
    assert [fault.code for fault in fakes.faults(fakes.request({**card, **reason}))] == ["lora_inert"]
    layers = drawn.prefixed("unet.", read_model_folder(worlds.SHAPES).layouts["unet"].expand())
    more = drawn.write(tmp_path / "more.safetensors", {**drawn.lora(layers, rank=8), "bundle_emb.a": ("F16", (4, 96))})
    asked = {"lora.path": str(more), "lora.alpha": None}
    assert [fault.code for fault in fakes.faults(fakes.request(asked))] == ["cannot_tell"]
    assert not fakes.faults(fakes.request({**asked, **reason}))


def test_a_reason_does_not_accept_another_family(loras: dict[str, Mapping[str, Any]]) -> None:
    card = {f"lora.{name}": value for name, value in loras["other"].items()}
    (fault,) = fakes.faults(fakes.request({**card, "lora.accept_unknown": "try it"}))
    assert fault.code == "family_mismatch"


# ---- from the command line: nothing of this makes another experiment of the one that was asked for

DEMO, BASE = "+experiment=demo", "+experiment=demo_base"
OVERRIDES: tuple[tuple[tuple[str, ...], set[str]], ...] = (
    ((DEMO, "lora=none"), {"lora_missing"}),
    ((DEMO, "lora.path="), {"lora_missing"}),
    ((DEMO, "lora.path=null"), {"lora_missing"}),
    ((DEMO, "lora.id=null", "lora.path=null"), {"lora_missing"}),
    ((DEMO, "~lora"), {"missing_value"}),
    ((DEMO, "lora="), {"unknown_option"}),
    ((DEMO, "lora=null"), {"missing_value"}),
    ((DEMO, "lora=sdxl_style"), {"lora_missing", "trigger_mismatch"}),
    ((DEMO, "lora.family=sdxl"), {"family_mismatch"}),
    ((DEMO, "trigger=none"), {"trigger_missing"}),
    ((DEMO, "trigger.token=null"), {"trigger_missing"}),
    ((DEMO, "trigger.token="), {"bad_name"}),
    ((DEMO, "~trigger"), {"missing_value"}),
    ((DEMO, "trigger=null"), {"missing_value"}),
    ((DEMO, "mode=base"), {"lora_unexpected", "trigger_without_lora"}),
    ((DEMO, "mode="), {"unknown_option"}),
    ((DEMO, "mode=null"), {"unknown_option"}),
    ((DEMO, "~mode"), {"missing_value"}),
    ((DEMO, "mode=base", "lora=none"), {"trigger_without_lora"}),
    ((DEMO, "mode=base", "trigger=none"), {"lora_unexpected", "trigger_without_lora"}),
    ((DEMO, "mode=base", "lora=none", "trigger=none"), {"trigger_without_lora"}),
    ((DEMO, "lora=none", "trigger=none"), {"lora_missing", "trigger_missing"}),
    ((DEMO, "base_model=sdxl"), {"base_missing", "family_mismatch"}),
    ((DEMO, "base_model=tiny_sdxl"), {"base_missing", "family_mismatch"}),
    ((DEMO, "base_model=flux2_dev"), {"base_missing", "family_mismatch"}),
    ((DEMO, "base_model.path="), {"base_missing"}),
    ((DEMO, "base_model.path=null"), {"base_missing"}),
    ((DEMO, "base_model.family=sdxl"), {"family_mismatch"}),
    ((DEMO, "base_model.pipeline=FluxPipeline"), {"family_mismatch"}),
    ((DEMO, "~base_model"), {"missing_value"}),
    ((DEMO, "prompt=shapes"), {"trigger_missing"}),
    ((DEMO, "prompt.items=null"), {"missing_value"}),
    ((DEMO, "critic=none"), {"critic_missing"}),
    ((DEMO, BASE), {"bad_config"}),
    ((BASE, "lora=emblem"), {"lora_unexpected"}),
    ((BASE, "trigger=emblem"), {"trigger_missing", "trigger_without_lora"}),
    ((BASE, "prompt=emblem"), {"trigger_without_lora"}),
    ((BASE, "mode=lora"), {"lora_missing"}),
    ((BASE, "lora.scale=0.5"), {"setting_ignored"}),
    ((), {"missing_value"}),
)
PROGRAM = """
import contextlib, io, json, sys
from runner.__main__ import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main([*words, "output=json", "outputs=outputs"])
    codes = [fault["code"] for fault in json.loads(out.getvalue().splitlines()[-1])["faults"]]
    heavy = [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
    print(json.dumps([code, codes, heavy, "Traceback" in err.getvalue()]))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one process answers to all of them: exit code, codes of the faults, heavy libraries, tracebacks."""
    place = tmp_path_factory.mktemp("overrides")
    answer = fakes.python("-c", PROGRAM, json.dumps([words for words, _ in OVERRIDES]), cwd=place)
    assert list(place.iterdir()) == []
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.mark.parametrize("number", range(len(OVERRIDES)), ids=[" ".join(words) or "nothing" for words, _ in OVERRIDES])
def test_an_override_cannot_turn_one_experiment_into_another(answers: list[Any], number: int) -> None:
    code, codes, heavy, traceback = answers[number]
    assert (code, set(codes), heavy, traceback) == (2, OVERRIDES[number][1], [], False)


def test_the_lora_of_the_demo_cannot_be_slipped_under_demo_base() -> None:
    (fault,) = fakes.faults(fakes.request({}, "demo_base", "lora=emblem"))
    assert str(fault) == "lora: is emblem, and mode=base tests the base model alone. Choose mode=lora, or lora=none."


def test_every_card_is_accepted_alone(tmp_path: Path) -> None:
    for experiment in ("demo", "demo_base", "trigger_probe"):
        assert not fakes.faults(fakes.request({}, experiment))
