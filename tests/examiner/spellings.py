"""How files spell a layer's name: the conventions of trainers and tools, as prefix, joiner and suffixes.

It does not know which spellings exist for a model (`loras`), nor an adapter's shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

from tests.examiner.models import MODELS
from tests.examiner.picks import Slot


class Spelling(NamedTuple):
    """A naming convention: prefix and joiner of the denoiser's layers, prefixes of the encoders', the two suffixes."""

    layout: str  # diffusers, native, kohya (what the model's own kohya trainer names)
    prefix: str
    joiner: str = "."
    down: str = "lora_A.weight"
    up: str = "lora_B.weight"
    te: str = ""  # "": names the component; kohya, onetrainer: lora_te*_; comfy: text_encoders.clip_l.transformer.
    alpha: bool = False


class Suffixes(TypedDict):
    """What follows a layer's name."""

    down: str
    up: str


DOWN_UP: Suffixes = {"down": "lora_down.weight", "up": "lora_up.weight"}
DEFAULT: Suffixes = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
SPELLINGS: dict[str, Spelling] = {
    "diffusers": Spelling("diffusers", "{part}."),
    "diffusers_alpha": Spelling("diffusers", "{part}.", alpha=True),
    "diffusers_down_up": Spelling("diffusers", "{part}.", alpha=True, **DOWN_UP),
    "diffusers_mid": Spelling("diffusers", "{part}.", down="lora.down.weight", up="lora.up.weight"),
    "diffusers_linear_layer": Spelling(
        "diffusers", "{part}.", down="lora_linear_layer.down.weight", up="lora_linear_layer.up.weight"
    ),
    "peft": Spelling("diffusers", "base_model.model."),
    "peft_default": Spelling("diffusers", "base_model.model.", **DEFAULT),
    "peft_part": Spelling("diffusers", "{part}.base_model.model."),  # the old PixArt script
    "bare": Spelling("diffusers", ""),
    "bare_default": Spelling("diffusers", "", **DEFAULT),  # DiffSynth-Studio
    "comfy_diffusers": Spelling("diffusers", "diffusion_model.", te="comfy"),  # ai-toolkit: qwen, z-image
    "comfy_diffusers_down_up": Spelling("diffusers", "diffusion_model.", alpha=True, te="comfy", **DOWN_UP),
    "comfy": Spelling("native", "diffusion_model.", te="comfy"),  # ai-toolkit, diffusion-pipe
    "comfy_down_up": Spelling("native", "diffusion_model.", alpha=True, te="comfy", **DOWN_UP),
    "native": Spelling("native", ""),
    "native_down_up": Spelling("native", "", alpha=True, **DOWN_UP),
    "native_default": Spelling("native", "", **DEFAULT),
    "native_transformer": Spelling("native", "transformer."),  # HunyuanVideo, "attempted diffusers"
    "native_peft": Spelling("native", "base_model.model."),  # fal's FLUX Kontext trainer
    "model_native": Spelling("native", "model.diffusion_model."),
    "kohya": Spelling("kohya", "lora_unet_", "_", alpha=True, te="kohya", **DOWN_UP),
    "kohya_no_alpha": Spelling("kohya", "lora_unet_", "_", te="kohya", **DOWN_UP),
    "kohya_diffusers": Spelling("diffusers", "lora_unet_", "_", alpha=True, te="kohya", **DOWN_UP),  # OneTrainer SDXL
    "kohya_native": Spelling("native", "lora_unet_", "_", alpha=True, te="kohya", **DOWN_UP),
    "kohya_ab": Spelling("kohya", "lora_unet_", "_", alpha=True, te="kohya"),
    "onetrainer": Spelling("diffusers", "lora_transformer_", "_", alpha=True, te="onetrainer", **DOWN_UP),
    "bare_down_up": Spelling("diffusers", "", alpha=True, **DOWN_UP),  # lightx2v's Qwen-Image-Lightning
    "diffsynth": Spelling("diffusers", "pipe.dit.", **DEFAULT),
    "diffsynth_native": Spelling("native", "pipe.dit.", **DEFAULT),
    "compiled": Spelling("diffusers", "{part}._orig_mod."),
    "lycoris": Spelling("diffusers", "lycoris_", "_", alpha=True, te="kohya", **DOWN_UP),  # SimpleTuner
}
COMFY_TE = {"clip_l": "clip_l", "clip_l_proj": "clip_l", "clip_g": "clip_g", "clip_h": "clip_h", "t5": "t5xxl"}


FORMAT_WORDS = {
    "kohya": ("kohya", "sd-scripts", "musubi"),
    "onetrainer": ("onetrainer", "kohya"),
    "lycoris": ("lycoris", "simpletuner", "kohya"),
    "peft": ("peft",),
    "diffusers": ("diffusers", "peft"),
    "bare": ("diffusers", "peft", "diffsynth", "bare", "prefix"),
    "comfy": ("comfy", "ai-toolkit", "native", "bfl", "original", "diffusion_model"),
    "native": ("native", "bfl", "original", "comfy"),
}
ADAPTER_WORDS = {
    "loha": ("loha",),
    "lokr": ("lokr",),
    "dora": ("dora",),
    "oft": ("oft",),
    "diff": ("diff", "full"),
    "tucker": (),
}


def format_words(spelling: str, adapter: str) -> tuple[str, ...]:
    """Words of which an honest name of the format should have one; more than one vocabulary is right."""
    own = FORMAT_WORDS.get(spelling.partition("_")[0], ())
    return own if adapter == "lora" else (*own, *ADAPTER_WORDS.get(adapter.partition("_")[0], ()), "lycoris")


def layout_of(name: str, spelling: Spelling) -> str:
    """The layout whose names the spelling writes for this model."""
    return MODELS[name].kohya if spelling.layout == "kohya" else spelling.layout


def te_prefixes(name: str, spelling: Spelling | None) -> Mapping[str, str]:
    """Component -> prefix, where the spelling numbers the text encoders; else nothing."""
    if spelling and spelling.te == "onetrainer" and len(MODELS[name].encoders) == 1:
        return dict.fromkeys(MODELS[name].encoders, "lora_te_")
    if spelling and spelling.te == "onetrainer":
        return {part: f"lora_te{num}_" for num, part in enumerate(MODELS[name].encoders, 1)}
    return MODELS[name].te if spelling and spelling.te == "kohya" else {}


def base_key(name: str, spelling: Spelling, slot: Slot) -> str:
    """The name of a layer in a file, before the adapter's own suffix."""
    module = slot.module.replace(".", spelling.joiner)
    if slot.part == "denoiser":
        return spelling.prefix.format(part=MODELS[name].part) + module
    if spelling.te in ("kohya", "onetrainer"):
        return te_prefixes(name, spelling).get(slot.part, "lora_te_") + slot.module.replace(".", "_")
    if spelling.te == "comfy":
        key = MODELS[name].encoders[slot.part]
        return f"text_encoders.{COMFY_TE.get(key, key)}.transformer.{slot.module}"
    return f"{slot.part}.{module}"


def main_spelling(model: str) -> str:
    """What most files of the model are spelled in."""
    return "kohya" if MODELS[model].kohya == "native" or MODELS[model].part == "unet" else "diffusers"
