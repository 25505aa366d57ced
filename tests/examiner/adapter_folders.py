"""LoRAs whose rank and alpha are told beside the tensors: PEFT's folders, diffusers' own metadata.

It does not know what other metadata claims (`claims`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.examiner.dressed import dressed
from tests.examiner.expect import Entry
from tests.examiner.lora import lora_tensors
from tests.examiner.models import ALL, MODELS, Names, named
from tests.examiner.picks import denoiser_slots
from tests.examiner.spellings import SPELLINGS

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": TARGETS,
    "base_model_name_or_path": None,
    "use_dora": False,
    "bias": "none",
}


def told_entries(among: Names = ALL) -> Iterator[Entry]:
    """Each model's LoRA as a PEFT folder, as the file in it, and as diffusers saves it."""
    for model in named(among):
        yield _peft(model, "file", among)
        yield replace(_peft(model, "folder", among), as_folder=True)
        yield _diffusers(model, among)


def _peft(model: str, where: str, among: Names) -> Entry:
    """peft's save_pretrained: adapter_config.json beside adapter_model.safetensors."""
    slots = denoiser_slots(model, "diffusers", "attn")
    tensors = partial(lora_tensors, model, SPELLINGS["peft"], slots, "lora", 4)
    metadata, alpha = {"format": "pt"}, frozenset[float | None]({8.0})
    name = f"{model}/peft_{where}"
    return dressed(name, model, slots, tensors, among, alpha=alpha, adapter_config=CONFIG, metadata=metadata)


def _diffusers(model: str, among: Names) -> Entry:
    """diffusers since 0.34: rank and alpha in `lora_adapter_metadata`."""
    slots = denoiser_slots(model, "diffusers", "attn")
    part = MODELS[model].part
    told = {f"{part}.r": 4, f"{part}.lora_alpha": 16, f"{part}.target_modules": TARGETS}
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(told)}
    tensors = partial(lora_tensors, model, SPELLINGS["diffusers"], slots, "lora", 4)
    alpha = frozenset[float | None]({16.0})
    return dressed(f"{model}/adapter_metadata", model, slots, tensors, among, alpha=alpha, metadata=metadata)
