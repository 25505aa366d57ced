"""What a LoRA file or a model folder is, from its tensor table and configs.

The tensor table counts first and metadata second. It answers None where it cannot tell; a missing claim
never means a default family. First depth: UNet families by the width of their cross-attention, transformer
families by block names; the naming formats of diffusers, PEFT and kohya.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.contract.headers import Broken, Header, Tensor, read_header, read_values

PIPELINE_FAMILIES = {
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux1",
    "Flux2Pipeline": "flux2",
    "QwenImagePipeline": "qwen-image",
    "ZImagePipeline": "z-image",
}
CROSS_ATTENTION_FAMILIES = {96: "shapes", 768: "sd1", 1024: "sd2", 2048: "sdxl"}
CLAIMED_FAMILIES = (
    (r"^shapes", "shapes"),
    (r"stable-diffusion-xl|sdxl", "sdxl"),
    (r"stable-diffusion-v1|sd_?1|sd_v1", "sd1"),
    (r"stable-diffusion-v2|sd_?2|sd_v2", "sd2"),
    (r"stable-diffusion-3|sd3", "sd3"),
    (r"flux-?\.?2", "flux2"),
    (r"flux", "flux1"),
    (r"qwen", "qwen-image"),
    (r"z-?image", "z-image"),
)
_PARTS = re.compile(
    r"\.(?:(?P<down>lora_A|lora_down|lora\.down|lora_linear_layer\.down)"
    r"|(?P<up>lora_B|lora_up|lora\.up|lora_linear_layer\.up))(?:\.[\w-]+?)??\.weight$"
    r"|\.(?P<alpha>alpha)$"
)
_COMPONENT = re.compile(r"^(unet|transformer|text_encoder_?\d?)\.(.+)$")


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted layer: widths in and out, and the rank of its decomposition."""

    num_in: int
    num_out: int
    rank: int


@dataclass(frozen=True, slots=True)
class LoraFile:
    """What a LoRA file is; `modules` by their name in the pipeline, such as `unet.mid_block...to_q`."""

    kind: str
    family: str | None
    format: str
    modules: Mapping[str, Module]
    num_tensors: int
    rank: int | None
    alpha: float | None
    text_encoders: tuple[str, ...]
    trigger: str | None
    claimed_family: str | None
    claimed_base_sha256: str | None
    evidence: tuple[str, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    claimed_components: frozenset[str] = frozenset()  # parts that its adapter metadata says were trained


def inspect_lora(path: Path) -> LoraFile:
    """Say what a .safetensors file is. Raises headers.Broken when it is no sound file."""
    header = read_header(path)
    modules, format_name = _modules(header)
    family, evidence = _family(modules)
    claimed = _claimed_family(header.metadata)
    encoders = tuple(sorted({name.split(".")[0] for name in modules if name.startswith("text_encoder")}))
    ranks = {module.rank for module in modules.values()}
    return LoraFile(
        kind="lora" if modules else "unknown",
        family=family,
        format=format_name,
        modules=modules,
        num_tensors=len(header.tensors),
        rank=ranks.pop() if len(ranks) == 1 else max(ranks, default=None),
        alpha=_alpha(path, header),
        text_encoders=encoders,
        trigger=header.metadata.get("modelspec.trigger_phrase"),
        claimed_family=claimed,
        claimed_base_sha256=header.metadata.get("runner.base_sha256"),
        claimed_components=frozenset(key.partition(".")[0] for key in _adapter(header.metadata) if "." in key),
        evidence=(*evidence, f"metadata says {claimed}" if claimed else "metadata makes no family claim"),
        metadata=header.metadata,
    )


def plain_name(name: str) -> str:
    """A layer's name without `text_model.`, which transformers 5 dropped inside CLIP text encoders."""
    return re.sub(r"^(text_encoder\w*)\.text_model\.", r"\1.", name)


def pipeline_family(pipeline: str, denoiser_config: Mapping[str, Any]) -> str | None:
    """The family of a model folder, from its pipeline class and its denoiser's config."""
    if pipeline in PIPELINE_FAMILIES:
        return PIPELINE_FAMILIES[pipeline]
    width = denoiser_config.get("cross_attention_dim")
    return CROSS_ATTENTION_FAMILIES.get(width) if isinstance(width, int) else None


def _modules(header: Header) -> tuple[dict[str, Module], str]:
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    formats: set[str] = set()
    for name, tensor in header.tensors.items():
        if found := _PARTS.search(name):
            owner = name[: found.start()]
            formats.add(_format(owner))
            target = downs if found["down"] else ups if found["up"] else {}
            target[owner] = tensor
    both = {owner: _module(downs[owner], ups[owner]) for owner in sorted(downs.keys() & ups.keys())}
    return both, formats.pop() if len(formats) == 1 else "mixed" if formats else "unknown"


def _module(down: Tensor, up: Tensor) -> Module:
    if len(down.shape) < 2 or len(up.shape) < 2:
        raise Broken("has LoRA halves that are no matrices")
    return Module(num_in=down.shape[1], num_out=up.shape[0], rank=down.shape[0])


def _format(owner: str) -> str:
    if owner.startswith("base_model.model."):
        return "peft"
    if owner.startswith(("lora_unet_", "lora_te")):
        return "kohya"
    if owner.startswith("diffusion_model."):
        return "native"
    return "diffusers" if _COMPONENT.match(owner) else "bare"


def _family(modules: Mapping[str, Module]) -> tuple[str | None, tuple[str, ...]]:
    names = " ".join(modules)
    if "single_transformer_blocks" in names or "single_blocks" in names:
        family = "flux2" if "double_stream_modulation" in names or "to_qkv_mlp_proj" in names else "flux1"
        return family, (f"{len(modules)} modules have the block names of {family}",)
    widths = {m.num_in for name, m in modules.items() if re.search(r"attn2[._]to_[kv]$", name)}
    if len(widths) == 1:
        width = widths.pop()
        found = CROSS_ATTENTION_FAMILIES.get(width)
        return found, (f"cross-attention reads {width} wide text, as {found or 'no family we know'}",)
    return None, (f"{len(modules)} modules, none with a telling name",)


def _claimed_family(metadata: Mapping[str, str]) -> str | None:
    claim = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version") or ""
    return next((family for pattern, family in CLAIMED_FAMILIES if re.search(pattern, claim.lower())), None)


def _adapter(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """diffusers' own table of what was trained: `unet.r`, `text_encoder.lora_alpha` ... Empty when there is none."""
    try:
        adapter = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    return adapter if isinstance(adapter, dict) else {}


def _adapter_alpha(metadata: Mapping[str, str]) -> float | None:
    """The one alpha that the adapter metadata declares for all components."""
    named = _adapter(metadata).items()
    alphas = {value for key, value in named if key.endswith("lora_alpha") and type(value) in (int, float)}
    return float(alphas.pop()) if len(alphas) == 1 else None


def _alpha(path: Path, header: Header) -> float | None:
    if (declared := _adapter_alpha(header.metadata)) is not None:
        return declared
    for name, tensor in header.tensors.items():
        if name.endswith(".alpha") and tensor.num_values == 1 and tensor.dtype in ("F32", "F16", "BF16"):
            raw = read_values(path, tensor)
            raw = b"\0\0" + raw if tensor.dtype == "BF16" else raw  # bfloat16 is the upper half of a float32
            return float(struct.unpack("<e" if tensor.dtype == "F16" else "<f", raw)[0])
    return None
