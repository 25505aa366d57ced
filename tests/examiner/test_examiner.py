"""The inspector before the examiner: it may say that it cannot tell, it may not say what is not so."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.examiner.entries import entries
from tests.examiner.examine import examine_files, examine_pairs
from tests.examiner.marks import WRONG, Mark, listed
from tests.examiner.pairs import pairs, quantised_pairs, rounds

NUM_SAMPLED = 150
QUICK = (  # one of most families, a tenth of a second each to build; rivals are looked for among these alone
    "sd15", "sd21", "sdxl", "sd35_medium", "flux1_dev", "flux2_klein_4b", "qwen_image", "z_image", "wan21_1b",
    "chroma", "anima", "lumina2", "tiny_sdxl",
)  # fmt: skip
KNOWN = {  # (file, what is asked) -> why the examiner and the inspector differ
    ("chroma/comfy/attn_mlp/lora/te", "text_encoders"): "ComfyUI's `t5xxl` is named by SD3's number for it",
}


def faults(marks: Iterable[Mark]) -> str:
    return "\n".join(listed([mark for mark in marks if (mark.name, mark.asked) not in KNOWN], {WRONG}))


def test_nothing_false_is_said_of_a_sample_of_files(tmp_path: Path) -> None:
    chosen = random.Random(1).sample(entries(QUICK), NUM_SAMPLED)
    assert not (wrong := faults(examine_files(tmp_path, chosen))), wrong


def test_nothing_false_is_said_of_a_sample_of_pairs(tmp_path: Path) -> None:
    chosen = random.Random(1).sample(list(pairs(24, QUICK)), NUM_SAMPLED)
    assert not (wrong := faults(examine_pairs(tmp_path, chosen, "weights"))), wrong


@pytest.mark.slow
def test_nothing_false_is_said_of_any_file(tmp_path: Path) -> None:
    assert not (wrong := faults(examine_files(tmp_path, entries()))), wrong


@pytest.mark.slow
@pytest.mark.parametrize("how", ["weights", "fp16", "configs", "nf4"])
def test_nothing_false_is_said_of_any_pair(tmp_path: Path, how: str) -> None:
    chosen = rounds(list(pairs(24)), list(quantised_pairs()))[how]
    assert not (wrong := faults(examine_pairs(tmp_path, chosen, how))), wrong
