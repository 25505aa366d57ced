"""Where a module belongs by its name: prefixes of trainers and tools taken off, the part of the pipeline told.

`lora_unet_`, `base_model.model.`, `diffusion_model.`, `text_encoder_2.` and their like say which part of the
pipeline a module adapts and who wrote the file. What it does not know: which model; that is `families`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from runner.contract.adapters import Module
from runner.contract.layers import Name, split_name

DENOISER, TEXT, UNSAID = "denoiser", "text", ""
SECOND = "transformer_2"  # the second denoiser of a pipeline, by its component's name
WRAPPED = re.compile(
    r"^(?:base_model\.model\.|module\.|_orig_mod\.|net\.|lora\.(?=(?:unet|transformer|text_encoder)\.))+"
)
TRAINERS = re.compile(
    r"^(?:(?P<denoiser>(?:model[._])?diffusion_model[._]|unet[._]|(?P<second>transformer_2)\.|transformer\.|lora_unet_+|lora_transformer_|lora_prior_unet_"
    r"|lora_dit_|lycoris_unet_|Hunyuan_video_I2V_lora_|lora_model_|denoiser\.|dit\.|pipe\.dit\.|model\.(?=(?:double|single|joint|input|output|down|up)_blocks))"
    r"|(?P<text>text_encoders?(?P<n1>_\d)?\.|lora_te(?P<n2>\d?)_|lycoris_te(?P<n4>\d?)_|lora_(?=clip_|t5)|te(?P<n3>\d)?\.|text_encoder(?P<n5>_\d)?_(?=text_model|encoder_)"
    r"|conditioner\.embedders\.(?P<n6>\d)\.|cond_stage_model\.)"
    r"|lycoris_)"
)
NAMED_ENCODER = re.compile(
    r"^(?P<encoder>clip_l|clip_g|clip_h|t5xxl|t5|umt5xxl|qwen\w*?|gemma\w*?|llama\w*?|mistral\w*?)[._](?:transformer[._])?"
)
INNER = re.compile(
    r"^(?:text_model_|language_model_|transformer_(?=text_model|encoder_)|model_(?=layers_|language_model_|embed_tokens|text_model_))+"
)
DOTTED_INNER = re.compile(
    r"^(?:text_model\.|language_model\.|transformer\.(?=text_model|encoder\.)|model\.(?=layers\.|language_model\.|embed_tokens|text_model\.))+"
)


def plain_name(name: str) -> str:
    """A layer's name in a pipeline without the wrappers inside text encoders, which differ between versions."""
    component, dot, rest = name.partition(".")
    return f"{component}.{DOTTED_INNER.sub('', rest)}" if dot and component.startswith("text_encoder") else name


class Located(NamedTuple):
    """A module of a file, the part it names, and its own name without prefixes."""

    owner: str
    module: Module
    part: str  # denoiser | text | "" when the name does not say
    number: str  # which text encoder the name counts, as written: "", "1", "2", "_2", "clip_l", "t5xxl"
    name: Name


def locate(owner: str, module: Module) -> Located:
    """Take the prefixes off a module's name, and tell which part of the pipeline they name."""
    part, number, name = _located(owner)
    return Located(owner, module, part, number, name)


@lru_cache(maxsize=1 << 16)  # names repeat from file to file
def _located(owner: str) -> tuple[str, str, Name]:
    rest = WRAPPED.sub("", owner)
    part, number = UNSAID, ""
    if found := TRAINERS.match(rest):
        part = DENOISER if found["denoiser"] else TEXT if found["text"] else UNSAID
        number = next((found[n] for n in ("second", "n1", "n2", "n3", "n4", "n5", "n6") if found[n]), "")
        rest = WRAPPED.sub("", rest[found.end() :])
    if found := NAMED_ENCODER.match(rest):
        part, number, rest = TEXT, found["encoder"], rest[found.end() :]
    key, index = split_name(rest)
    if part != DENOISER:
        key = INNER.sub("", key)
    return part, number, Name(key, index)


STYLES = {
    "lora.down": "diffusers-old",
    "lora_linear_layer": "diffusers-old",
    "processor": "attn-processor",
    "xlabs": "xlabs",
}
OWNERS = (
    (re.compile(r"^base_model\.model\."), "peft"),
    (re.compile(r"^lora_(?:unet|te\d?|prior_unet|dit)_+(?:input|output|middle)_block"), "kohya-ldm"),
    (re.compile(r"^(?:lora_(?:unet|te\d?|prior_unet|dit|model)_|Hunyuan_video)"), "kohya"),
    (re.compile(r"^lora_transformer_"), "onetrainer"),
    (re.compile(r"^lycoris_"), "lycoris"),
    (re.compile(r"^(?:model\.)?diffusion_model\."), "native"),
    (re.compile(r"^(?:unet|transformer(?:_2)?|text_encoders?(?:_\d)?|te\d?)\."), "diffusers"),
)


def format_of(modules: Iterable[tuple[str, Module]]) -> str:
    """The naming of a file: one word, `mixed` for several, `unknown` for none."""
    found = {_format(_beginning(owner), module.style) for owner, module in modules}
    if "kohya-ldm" in found:
        found.discard("kohya")  # its text encoders, and the layers outside of blocks
    return found.pop() if len(found) == 1 else "mixed" if found else "unknown"


def _beginning(owner: str) -> str:
    return owner[:64]


@lru_cache(maxsize=1 << 16)
def _format(owner: str, style: str) -> str:
    if style in STYLES:
        return STYLES[style]
    return next((name for pattern, name in OWNERS if pattern.match(owner)), "bare")
