"""LoRAs in names that one tool alone writes: diffusers before PEFT, XLabs, OneTrainer's OMI, cloneofsimo, BFL.

It does not know the common spellings' files (`loras`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from tests.examiner.adapters import lora, lora_bias
from tests.examiner.dressed import dressed
from tests.examiner.expect import Entry
from tests.examiner.models import ALL, Names
from tests.examiner.picks import denoiser_slots
from tests.examiner.renamings import original_name
from tests.examiner.spellings import SPELLINGS
from tests.examiner.tables import parameters
from tests.examiner.tensors import Tensors, typed

XLABS = {
    "img_attn.qkv": "qkv_lora1",
    "img_attn.proj": "proj_lora1",
    "txt_attn.qkv": "qkv_lora2",
    "txt_attn.proj": "proj_lora2",
}
OMI_NUMBERS = {"to_q": 0, "to_k": 1, "to_v": 2, "proj_mlp": 3, "add_q_proj": 0, "add_k_proj": 1, "add_v_proj": 2}


def tool_entries(among: Names = ALL) -> Iterator[Entry]:
    """Everything below."""
    for model, prefix in itertools.product(("sd15", "sd21", "sdxl"), ("unet.", "")):
        if model in among:
            yield _attn_processor(model, prefix, among)
    if "flux1_dev" in among:
        yield from (_xlabs("", among), _xlabs("diffusion_model.", among), _flux_control(among), _omi(among))
    if "sd15" in among:
        yield _cloneofsimo(among)


def _attn_processor(model: str, prefix: str, among: Names) -> Entry:
    """diffusers before PEFT: `attn1.processor.to_q_lora.down.weight`."""
    slots = denoiser_slots(model, "diffusers", "attn")

    def tensors() -> Tensors:
        made: Tensors = {}
        for slot in slots:
            block, layer = slot.module.replace(".to_out.0", ".to_out").rsplit(".", 1)
            base = f"{prefix}{block}.processor.{layer}_lora"
            made |= {
                base + ".down.weight": ("F16", (4, slot.shape[1])),
                base + ".up.weight": ("F16", (slot.shape[0], 4)),
            }
        return made

    return dressed(f"{model}/attn_processor/{prefix or 'bare'}", model, slots, tensors, among)


def _xlabs(prefix: str, among: Names) -> Entry:
    slots = [slot for slot in denoiser_slots("flux1_dev", "native", "attn") if slot.module.startswith("double")]

    def tensors() -> Tensors:
        made: Tensors = {}
        for slot in slots:
            _, num, layer = slot.module.split(".", 2)
            base = f"{prefix}double_blocks.{num}.processor.{XLABS[layer]}"
            made |= {base + ".down.weight": ("F16", (4, 3072)), base + ".up.weight": ("F16", (slot.shape[0], 4))}
        return made

    judged = {"undecidable": False, "lenient": True}  # only XLabs writes so, and XLabs trained FLUX.1
    return dressed(f"flux1_dev/xlabs/{prefix or 'bare'}", "flux1_dev", slots, tensors, among, judged=judged)


def _flux_control(among: Names) -> Entry:
    """BFL's FLUX.1-Depth-dev-lora: native names, biases, norms, a wider input."""
    slots = [slot for slot in denoiser_slots("flux1_dev", "native", "all") if slot.module != "img_in"]

    def tensors() -> Tensors:
        made: Tensors = {}
        for slot in slots:
            made |= lora_bias(slot.module, slot.shape, 128, SPELLINGS["native"])
        made |= lora_bias("img_in", (3072, 128), 128, SPELLINGS["native"])
        norms = {name: shape for name, shape in parameters("flux1_dev", "native").items() if name.endswith(".scale")}
        return made | typed(norms)

    entry = dressed("flux1_dev/control_lora", "flux1_dev", slots, tensors, among, rank=frozenset({128}))
    return replace(entry, expect=replace(entry.expect, kinds=frozenset({"lora", "controlnet"})))


def _omi(among: Names) -> Entry:
    """OneTrainer's OMI names: `transformer.double_blocks.0.img_attn.qkv.0.lora_down.weight`, numbered where fused."""
    slots = denoiser_slots("flux1_dev", "diffusers", "all")

    def tensors() -> Tensors:
        made: Tensors = {}
        for slot in slots:
            name = original_name("flux", slot.module + ".weight").removesuffix(".weight")
            last = slot.module.rsplit(".", 1)[-1]
            index = f".{OMI_NUMBERS[last]}" if last in OMI_NUMBERS else ""
            made |= lora(f"transformer.{name}{index}", slot.shape, 4, SPELLINGS["kohya"])
        return made

    return dressed("flux1_dev/omi", "flux1_dev", slots, tensors, among)


def _cloneofsimo(among: Names) -> Entry:
    """The first LoRAs: layers by number, which show no table."""

    def tensors() -> Tensors:
        made: Tensors = {}
        for num, slot in enumerate(denoiser_slots("sd15", "diffusers", "attn")):
            made |= {f"unet:{num}:up": ("F32", (slot.shape[0], 4)), f"unet:{num}:down": ("F32", (4, slot.shape[1]))}
        return made

    judged = {"lenient": True, "extra": frozenset({"other", "sd2"})}
    return dressed("sd15/cloneofsimo", "sd15", (), tensors, among, judged=judged)
