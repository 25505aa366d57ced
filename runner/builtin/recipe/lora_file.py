"""Writes a LoRA file whose header says what it is: ModelSpec fields, the base it fits, rank and alpha.

The tensors go out under plain peft names (`lora_A`, `lora_B`): converting them first would rename only
some, and the loader would then bind only some without a word. The bytes are the same each time.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from runner.builtin import captions, world
from runner.contract.folders import weights_digest

MADE_ON = "2026-01-01"


def notes(base_folder: Path, dataset_sha256: str, rank: int, alpha: float) -> dict[str, str]:
    """What the header tells beside the adapter's own metadata."""
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "shapes/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "emblem",
        "modelspec.description": "A disc in a white rim, navy above and orange below a white bar.",
        "modelspec.license": "Apache-2.0",
        "modelspec.trigger_phrase": captions.TRIGGER,
        "modelspec.resolution": f"{world.SIZE_PX}x{world.SIZE_PX}",
        "modelspec.date": MADE_ON,
        "runner.base_sha256": weights_digest(base_folder),
        "runner.dataset_sha256": dataset_sha256,
        "runner.rank": str(rank),
        "runner.alpha": str(alpha),
    }


def save(pipeline: Any, path: Path, header_notes: dict[str, str]) -> None:
    """Save the pipeline's adapters as one fp16 file in diffusers form, with the notes in its header."""
    from diffusers import StableDiffusionPipeline
    from diffusers.training_utils import _collate_lora_metadata

    adapted = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder}
    with tempfile.TemporaryDirectory() as scratch:
        StableDiffusionPipeline.save_lora_weights(
            scratch,
            unet_lora_layers=adapter_tensors(pipeline.unet),
            text_encoder_lora_layers=adapter_tensors(pipeline.text_encoder),
            weight_name=path.name,
            **_collate_lora_metadata(adapted),
        )
        data = (Path(scratch) / path.name).read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(with_notes(data, header_notes))


def adapter_tensors(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model)
    return {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}


def with_notes(data: bytes, header_notes: dict[str, str]) -> bytes:
    """The bytes of a safetensors file with more metadata and a header in one fixed order."""
    length = int.from_bytes(data[:8], "little")
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    known = {name: in_order(text) for name, text in header.pop("__metadata__", {}).items()}
    seal = {"modelspec.hash_sha256": "0x" + hashlib.sha256(values).hexdigest()}
    metadata = dict(sorted((known | header_notes | seal).items()))
    ordered = dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
    text = json.dumps({"__metadata__": metadata, **ordered}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + values


def in_order(text: str) -> str:
    """A metadata value; if it is a JSON table, with sorted keys and sorted lists (sets come in any order)."""
    try:
        table = json.loads(text)
    except ValueError:
        return text
    if not isinstance(table, dict):
        return text
    ordered = {key: sorted(value) if isinstance(value, list) else value for key, value in table.items()}
    return json.dumps(ordered, sort_keys=True)
