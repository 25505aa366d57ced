"""LoRA files drawn from the table of layers: real names and widths, and a hole on the disk where the weights would be.

What it does not know: whether the table is right; `test_layers` asks diffusers.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from runner.builtin.recipe import originals as recipe
from runner.contract.families import LoraFile, inspect_lora
from runner.contract.layers import Layout, Place, Shape, find_places, split_name, table

Layers = Mapping[str, Shape]
Tensors = dict[str, tuple[str, Shape]]
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1, "F8_E4M3": 1}
LAYOUTS = {layout.model: layout for layout in table().layouts if layout.part != "text"}
ENCODERS = {layout.model: layout for layout in table().layouts if layout.part == "text" and layout.model != "shapes"}


def layers(model: str, pattern: str = "") -> dict[str, Shape]:
    """The layers of a published model by their names in diffusers; those that a pattern finds."""
    whole = (LAYOUTS.get(model) or ENCODERS[model]).expand()
    return {name: shape for name, shape in whole.items() if re.search(pattern, name)}


# ---- names of the original repositories


@functools.cache
def places(model: str) -> Mapping[str, Place]:
    """The original names of a model's layers, dotted, and where they belong."""
    layout = LAYOUTS[model]
    found: dict[str, Place] = {}
    for pattern, first in _patterns(layout).items():
        for name in _numbered(pattern, layout, first):
            there = find_places(layout, split_name(name))
            found |= {name: there[0]} if there and _spelled_so(name, layout) else {}
    named = {layer for place in found.values() for layer in place.layers}
    same = {n: find_places(layout, split_name(n))[0] for n in layout.expand() if n not in named}
    return {**found, **same}


def originals(model: str, pattern: str = "") -> dict[str, Shape]:
    """The layers of a published model by their names in its original repository."""
    return {n: (p.num_out, p.num_in, *p.kernel) for n, p in places(model).items() if re.search(pattern, n)}


def _patterns(layout: Layout) -> dict[str, str]:
    """Dotted original pattern -> the first of its layers in diffusers."""
    if layout.natives == "ldm":
        return {name: entries[0][0][0] for name, entries in recipe._ldm().items()}
    rules = recipe.ORIGINALS.get(layout.natives, {})
    firsts = {name: target if isinstance(target, str) else target[0] for name, target in rules.items()}
    return {name: first.removeprefix("~") for name, first in firsts.items() if ".processor." not in name}


def _numbered(pattern: str, layout: Layout, first: str) -> Iterator[str]:
    """An original pattern with every block number that it has, or might have in the original UNets."""
    parts = pattern.split("#")
    many = [range(12)] * (len(parts) - 1)
    for index in itertools.product(*many) if layout.natives == "ldm" else layout.at(first.replace(".", "_")):
        yield parts[0] + "".join(f"{number}{part}" for number, part in zip(index, parts[1:], strict=True))


def _spelled_so(name: str, layout: Layout) -> bool:
    """Of the original UNets: an upsampler stands third behind an attention, and second without one."""
    if not (found := re.fullmatch(r"output_blocks\.(\d+)\.([12])\.conv", name)):
        return True
    attention = any(find_places(layout, split_name(f"output_blocks.{found[1]}.1.proj_in")))
    return attention == (found[2] == "2")


# ---- tensors


class Halves(NamedTuple):
    """How a naming writes the halves of a layer, and whether a scalar alpha stands beside them."""

    down: str
    up: str
    alpha: bool = False


PEFT = Halves("lora_A.weight", "lora_B.weight")
NAMED = Halves("lora_A.default.weight", "lora_B.default.weight")
KOHYA = Halves("lora_down.weight", "lora_up.weight", alpha=True)
OLD = Halves("lora.down.weight", "lora.up.weight")


def lora(named: Layers, halves: Halves = PEFT, *, rank: int = 4, dtype: str = "F16") -> Tensors:
    """The two halves of a LoRA for every layer."""
    made: Tensors = {}
    for name, (num_out, num_in, *kernel) in named.items():
        made[f"{name}.{halves.down}"] = (dtype, (rank, num_in, *kernel))
        made[f"{name}.{halves.up}"] = (dtype, (num_out, rank, *(1 for _ in kernel)))
        if halves.alpha:
            made[f"{name}.alpha"] = ("F32", ())
    return made


def prefixed(prefix: str, named: Layers) -> dict[str, Shape]:
    return {prefix + name: shape for name, shape in named.items()}


def flat(prefix: str, named: Layers) -> dict[str, Shape]:
    """As kohya and LyCORIS write names: no dots."""
    return {prefix + name.replace(".", "_"): shape for name, shape in named.items()}


def _within(model: str, pattern: str) -> dict[str, Shape]:
    return prefixed(f"{LAYOUTS[model].part}.", layers(model, pattern))


NAMINGS: Mapping[str, Callable[[str, str], Tensors]] = {  # naming -> how the layers of a model are written in it
    "diffusers": lambda model, pattern: lora(_within(model, pattern)),
    "peft": lambda model, pattern: lora(prefixed("base_model.model.", layers(model, pattern))),
    "bare": lambda model, pattern: lora(layers(model, pattern), NAMED),
    "native": lambda model, pattern: lora(prefixed("diffusion_model.", originals(model, pattern))),
    "kohya": lambda model, pattern: lora(flat("lora_unet_", layers(model, pattern)), KOHYA),
    "kohya-original": lambda model, pattern: lora(flat("lora_unet_", originals(model, pattern)), KOHYA),
    "onetrainer": lambda model, pattern: lora(flat("lora_transformer_", layers(model, pattern)), KOHYA),
    "lycoris": lambda model, pattern: lora(flat("lycoris_", layers(model, pattern)), KOHYA),
    "diffusers-old": lambda model, pattern: lora(_within(model, pattern), OLD),
}


# ---- files


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, *, scalar: float = 2.0) -> Path:
    """A file with this table. Scalars have the value `scalar`; everything else is a hole of zeros."""
    head: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    scalars = [name for name, (_, shape) in tensors.items() if shape == ()]
    places, place = {}, 0
    for name in [*scalars, *(name for name, (_, shape) in tensors.items() if shape != ())]:
        dtype, shape = tensors[name]
        places[name] = [place, place + BYTES[dtype] * prod(shape)]
        place = places[name][1]
    for name, (dtype, shape) in tensors.items():
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": places[name]}
    raw = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw + struct.pack("<f", scalar) * len(scalars))
        file.truncate(8 + len(raw) + place)
    return path


def inspected(
    folder: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, *, scalar: float = 2.0
) -> LoraFile:
    """What the inspector says of a file with this table."""
    return inspect_lora(write(folder / "drawn.safetensors", tensors, metadata, scalar=scalar))


# ---- bases

PIPELINES = {
    "sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline", "flux1": "FluxPipeline", "chroma": "ChromaPipeline", "flux2": "Flux2Pipeline",
    "qwen-image": "QwenImagePipeline", "z-image": "ZImagePipeline", "wan": "WanPipeline", "lumina2": "Lumina2Pipeline",
    "hunyuanvideo": "HunyuanVideoPipeline", "auraflow": "AuraFlowPipeline", "anima": "AnimaAutoBlocks",
}  # fmt: skip


def write_base(
    folder: Path, model: str, encoders: Mapping[str, str] | None = None, *, weights: bool = False, **config: Any
) -> Path:
    """A pipeline folder of configs, with `weights` of holes in their place; `config` changes the denoiser's."""
    layout = LAYOUTS[model]
    index: dict[str, Any] = {"_class_name": PIPELINES[layout.family], layout.part: ["diffusers", layout.class_name]}
    _write_part(folder / layout.part, {"_class_name": layout.class_name, **layout.config, **config}, layout, weights)
    for component, name in (encoders or {}).items():
        index[component] = ["transformers", ENCODERS[name].class_name]
        _write_part(folder / component, ENCODERS[name].config, ENCODERS[name], weights)
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    return folder


def _write_part(folder: Path, config: Mapping[str, Any], layout: Layout, weights: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if weights:
        shapes = {f"{name}.weight": ("F16", shape) for name, shape in layout.expand().items()}
        stem = "model" if layout.part == "text" else "diffusion_pytorch_model"
        write(folder / f"{stem}.safetensors", shapes)
