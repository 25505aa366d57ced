"""The LoRAs people make: models times spellings, parts, adapters, text encoders, alphas, trigger words.

It does not know what a trainer claims about a model (`claims`), nor files that no spelling makes (`dressed`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.examiner.expect import Entry
from tests.examiner.lora import lora_entry
from tests.examiner.models import ALL, MODELS, Names, named
from tests.examiner.spellings import main_spelling
from tests.examiner.tensors import Maker

GENERAL = ("attn", "attn_mlp", "blocks", "all", "first5", "one")
UNET = (*GENERAL, "conv", "self", "cross")
WILD: dict[str, tuple[str, ...]] = {  # which spellings exist in the wild for a model's family
    "sd1": ("kohya", "kohya_no_alpha", "diffusers", "diffusers_mid", "peft", "comfy", "comfy_down_up", "kohya_native"),
    "sd2": ("kohya", "kohya_no_alpha", "diffusers", "diffusers_mid", "peft", "comfy_down_up"),
    "sdxl": ("kohya", "kohya_diffusers", "diffusers", "diffusers_mid", "peft", "comfy", "comfy_down_up", "kohya_ab",
        "model_native", "diffusers_down_up", "lycoris"),
    "sd3": ("diffusers", "kohya", "onetrainer", "peft", "comfy", "comfy_down_up", "lycoris"),
    "flux1": (
        "diffusers", "diffusers_alpha", "diffusers_down_up", "kohya", "kohya_no_alpha", "onetrainer", "peft",
        "peft_default", "bare", "bare_default", "comfy", "comfy_down_up", "native", "native_peft", "lycoris",
        "bare_down_up", "compiled", "kohya_ab",
    ),
    "flux2": ("diffusers", "comfy", "comfy_down_up", "kohya", "peft", "bare_default", "native", "comfy_diffusers"),
    "qwen-image": (
        "diffusers", "comfy_diffusers", "comfy_diffusers_down_up", "kohya", "bare", "bare_default", "peft", "lycoris",
        "bare_down_up", "diffsynth",
    ),
    "z-image": (
        "diffusers", "comfy_diffusers", "comfy_diffusers_down_up", "comfy", "kohya", "kohya_native", "bare_default",
        "peft", "lycoris",
    ),
    "wan": (
        "diffusers", "comfy", "comfy_down_up", "kohya", "native", "native_default", "native_down_up", "peft", "bare",
        "kohya_diffusers", "lycoris", "diffsynth_native",
    ),
    "chroma": ("diffusers", "comfy", "comfy_down_up", "kohya", "onetrainer", "peft", "bare"),
    "anima": ("kohya", "comfy", "comfy_down_up", "diffusers", "native"),
    "lumina2": ("diffusers", "comfy", "kohya", "peft", "comfy_down_up"),
    "hunyuanvideo": ("diffusers", "comfy", "kohya", "native_transformer", "peft", "comfy_down_up", "onetrainer",
        "kohya_diffusers"),
    "auraflow": ("diffusers", "comfy", "lycoris", "peft", "bare", "kohya_native"),
    "other": ("diffusers", "peft", "comfy_diffusers", "kohya_diffusers", "lycoris", "bare"),
}  # fmt: skip


def denoiser_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """Every model in every spelling of its family, every part."""
    make = partial(lora_entry, among=among)
    for model in among:
        spec = MODELS[model]
        picks: tuple[str, ...] = UNET if spec.part == "unet" else (*GENERAL, "mlp")
        picks = picks if spec.family != "other" else ("attn", "all", "first5")
        for spelling, pick in itertools.product(WILD[spec.family], picks):
            yield make(model, spelling, pick)


def part_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """The partial files people train on purpose: block by block, keys and values, modulation, the ends."""
    make = partial(lora_entry, among=among)
    if "pixart" in among:
        yield make("pixart", "peft_part", "attn")
    for model in named(among):
        for pick in ("kv", "qv", "mod", "ends", "double", "single", "odd", "last", "up0", "two", "adapter"):
            for spelling in ("diffusers", "kohya", "comfy"):
                yield make(model, spelling, pick)
    for model in among:
        if MODELS[model].obscure:
            for spelling, pick in itertools.product(("diffusers", "kohya", "peft"), ("attn", "all", "conv")):
                yield make(model, spelling, pick)
    for model in named(among):
        for adapter in ("loha", "lokr", "lokr_full", "dora"):
            yield make(model, "diffusers", "attn_mlp", adapter)
            yield make(model, "onetrainer", "attn", adapter, encoders=tuple(MODELS[model].encoders)[:1])


LYCORIS = (
    "loha", "lokr", "lokr_full", "lokr_both", "dora", "dora_out", "diff", "set_weight", "oft", "glora", "ia3", "boft",
)  # fmt: skip


def adapter_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """The adapters other than plain LoRA, in the spelling that trainers of them use."""
    make = partial(lora_entry, among=among)
    for model in named(among):
        unet = MODELS[model].part == "unet"
        for adapter in LYCORIS:
            yield make(model, "kohya", "attn_mlp", adapter)
        for adapter in ("loha", "lokr", "lokr_full"):
            yield make(model, "kohya", "blocks", adapter)
            yield make(model, "lycoris", "attn", adapter)
            yield make(model, "comfy", "attn_mlp", adapter)
            yield make(model, "comfy_diffusers", "attn_mlp", adapter)
        for adapter in ("dora_magnitude", "lokr_dora"):
            yield make(model, "comfy", "attn_mlp", adapter)
            yield make(model, "comfy_diffusers", "attn_mlp", adapter)
        for adapter in ("dora_peft", "lora_bias", "oft_peft"):
            yield make(model, "diffusers", "attn_mlp", adapter)
        for adapter in ("diff", "lora_diff_b", "set_weight"):
            yield make(model, "comfy_down_up", "all", adapter)
        if unet:
            for adapter in ("loha", "lokr", "tucker", "dora", "diff"):
                yield make(model, "kohya", "conv", adapter)


def encoder_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """With text encoders beside the denoiser, and text encoders alone."""
    make = partial(lora_entry, among=among)
    for model in named(among):
        components = tuple(MODELS[model].encoders)
        if MODELS[model].te:
            yield make(model, "kohya", "attn_mlp", encoders=components)
            yield make(model, "kohya", "none", encoders=components)
            yield make(model, "kohya", "attn", encoders=components[:1], label="first")
            yield make(model, "kohya", "attn_mlp", "lokr", encoders=components[:1])
        if "onetrainer" in WILD[MODELS[model].family]:
            yield make(model, "onetrainer", "attn_mlp", encoders=components)
        if MODELS[model].te and all(MODELS[model].encoders[c].startswith(("clip", "t5")) for c in components):
            yield make(model, "diffusers", "attn_mlp", encoders=components)
            yield make(model, "diffusers_linear_layer", "attn_mlp", encoders=components)
            yield make(model, "diffusers", "none", encoders=components)
            yield make(model, "comfy", "attn_mlp", encoders=components)


def alpha_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """Alpha in every type, and other ranks."""
    make = partial(lora_entry, among=among)
    for model in named(among):
        for dtype in ("F16", "BF16", "F32", "I64"):
            yield make(model, "kohya", "attn", alpha=8.0, rank=16, alpha_dtype=dtype, label=f"alpha_{dtype}")
        for rank in (1, 2, 8, 16, 32, 64, 128):
            yield make(model, "diffusers", "attn_mlp", rank=rank, label=f"rank_{rank}")
            yield make(model, "kohya", "blocks", rank=rank, alpha=rank / 2, label=f"rank_{rank}")


def word_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """Trigger words that trainers wrote down; other types of numbers."""
    make = partial(lora_entry, among=among)
    for model in named(among):
        told = {"modelspec.trigger_phrase": "zqx emblem", "modelspec.sai_model_spec": "1.0.1"}
        entry = make(model, main_spelling(model), "attn_mlp", metadata=told, label="trigger", claimed=False)
        yield entry and replace(entry, expect=replace(entry.expect, trigger="zqx emblem"))
        for dtype in ("BF16", "F32", "F8_E4M3"):
            entry = make(model, "diffusers", "attn", label=f"type_{dtype}")
            yield entry and replace(entry, tensors=_retyped(entry.tensors, dtype))
        entry = make(model, "kohya", "attn", label="alpha_list")
        yield entry and replace(entry, tensors=_listed(entry.tensors))


def _retyped(tensors: Maker, dtype: str) -> Maker:
    return lambda: {name: (dtype, shape) for name, (_, shape) in tensors().items()}


def _listed(tensors: Maker) -> Maker:
    return lambda: {name: (dtype, shape or (1,)) for name, (dtype, shape) in tensors().items()}
