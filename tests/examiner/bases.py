"""Base model folders as from_pretrained lays them out: configs, tokenizers, weights as real headers over holes.

It does not know a LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.examiner.models import MODELS
from tests.examiner.parts import PARTS
from tests.examiner.quantised import nf4
from tests.examiner.tables import built, encoder_parameters, params
from tests.examiner.tensors import Table, shards
from tests.examiner.write import write_file

VAE_OF = {
    "flux2": "vae_flux2", "wan": "vae_wan", "qwen-image": "vae_qwen", "anima": "vae_qwen",
    "hunyuanvideo": "vae_hunyuan",
    "auraflow": "vae_sd", "other": "vae_sd", "sd1": "vae_sd", "sd2": "vae_sd", "sdxl": "vae_sd",
}  # fmt: skip
STEM = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
DTYPE = "BF16"
TOKENIZER = {
    "CLIP": "CLIPTokenizer",
    "T5": "T5Tokenizer",
    "UM": "T5Tokenizer",
    "Ge": "GemmaTokenizer",
    "Qw": "Qwen2Tokenizer",
}


class Component(NamedTuple):
    """One folder of a base that has weights."""

    library: str
    cls: str
    config: Mapping[str, Any]
    table: Table


def write_base(folder: Path, name: str, weights: bool = True, variant: str = "") -> Path:
    """A base model's folder: model_index.json, each component's config, and its weights as real headers over holes."""
    index: dict[str, Any] = {"_class_name": MODELS[name].pipeline, "_diffusers_version": "0.42.1"}
    for part, component in _components(name).items():
        index[part] = [component.library, component.cls]
        _write_json(folder / part, component.config, "config.json")
        if weights:
            _write_weights(folder / part, STEM[component.library], component.table, variant)
        if component.library == "transformers":
            index |= _write_tokenizer(folder, part, component.cls)
    if name == "wan22_i2v":
        index["boundary_ratio"] = 0.9
    if name == "anima":
        _write_json(folder, {part: told for part, told in index.items() if part != "vae"}, "modular_model_index.json")
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    _write_json(folder / "scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "scheduler_config.json")
    _write_json(folder, index, "model_index.json")
    return folder


def _components(name: str) -> dict[str, Component]:
    model = MODELS[name]
    made = {model.part: Component("diffusers", model.cls, built(name)["config"], params(name))}
    for part, key in model.encoders.items():
        config = built("te:" + key)["config"]
        made[part] = Component("transformers", config["architectures"][0], config, encoder_parameters(key))
    if name == "wan22_i2v":  # two experts of one shape
        made["transformer_2"] = made[model.part]
    if name == "anima":
        made["text_conditioner"] = _of_diffusers("anima:adapter")
    return {**made, "vae": _of_diffusers(VAE_OF.get(model.family, "vae_flux"))}


def _of_diffusers(key: str) -> Component:
    return Component("diffusers", PARTS[key][0], built(key)["config"], params(key))


def write_quantised(folder: Path, name: str) -> Path:
    """A base whose denoiser is packed to four bits, as people with small cards keep it."""
    write_base(folder, name)
    place = folder / MODELS[name].part
    for old in place.iterdir():
        old.unlink()
    how = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    _write_json(place, {**built(name)["config"], "quantization_config": how}, "config.json")
    packed = nf4(params(name), num_state=120, narrowest=64)
    write_file(place / f"{STEM['diffusers']}.safetensors", packed, {"format": "pt"}, {})
    return folder


def _write_weights(folder: Path, stem: str, table: Table, variant: str) -> None:
    cut = shards(table, DTYPE)
    dot = f".{variant}" if variant else ""
    names = [f"{stem}{dot}-{num:05}-of-{len(cut):05}.safetensors" for num in range(1, len(cut) + 1)]
    names = names if len(cut) > 1 else [f"{stem}{dot}.safetensors"]
    for name, shard in zip(names, cut, strict=True):
        write_file(folder / name, {param: (DTYPE, shape) for param, shape in shard.items()}, {"format": "pt"}, {})
    if len(cut) > 1:
        index = {param: name for name, shard in zip(names, cut, strict=True) for param in shard}
        _write_json(folder, {"metadata": {}, "weight_map": index}, f"{stem}.safetensors.index{dot}.json")


def _write_tokenizer(folder: Path, component: str, encoder: str) -> dict[str, list[str]]:
    """The tokenizer beside an encoder: its names and a vocabulary too small to use."""
    name = component.replace("text_encoder", "tokenizer")
    cls = next((cls for start, cls in TOKENIZER.items() if encoder.startswith(start)), "LlamaTokenizerFast")
    _write_json(folder / name, {"tokenizer_class": cls, "model_max_length": 77}, "tokenizer_config.json")
    _write_json(folder / name, {"a": 0, "b": 1, "<|endoftext|>": 2}, "vocab.json")
    (folder / name / "merges.txt").write_text("#version: 0.2\n")
    return {name: ["transformers", cls]}


def _write_json(folder: Path, config: Mapping[str, Any], name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config, indent=2))
