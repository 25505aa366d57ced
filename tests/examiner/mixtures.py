"""LoRAs that mix: ranks of their own per layer, further tensors, an embedding beside, two spellings in one file.

It does not know names that one tool alone writes (`tool_names`).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.examiner.adapters import lora
from tests.examiner.dressed import dressed
from tests.examiner.expect import Entry
from tests.examiner.lora import lora_tensors
from tests.examiner.models import ALL, Names
from tests.examiner.picks import denoiser_slots
from tests.examiner.spellings import SPELLINGS, base_key, layout_of, main_spelling
from tests.examiner.tables import parameters
from tests.examiner.tensors import Maker, Tensors, merged

RESIZED = ("sd15", "sdxl", "flux1_dev", "wan21_14b", "qwen_image", "z_image")
EXTRACTED = ("flux1_dev", "chroma", "wan21_14b", "wan21_i2v", "sd15", "sdxl", "sd35_large")
RANKS = (2, 4, 8, 16)


def mixed_entries(among: Names = ALL) -> Iterator[Entry]:
    """Everything below."""
    if "sdxl" in among:
        yield _pivotal(among)
    if "flux1_dev" in among:
        yield _both_spellings(among)
    yield from (_mixed_ranks(model, main_spelling(model), among) for model in RESIZED if model in among)
    yield from (_locon_ranks(model, among) for model in ("sd15", "sd21", "sdxl") if model in among)
    for model in EXTRACTED:
        if model in among:
            yield _with_norms(model, "norm_diff", "diff", among)
            yield _with_norms(model, "norm_set", "set_weight", among)


def _mixed_ranks(model: str, spelling_name: str, among: Names) -> Entry:
    """A resized LoRA: every layer has its own rank."""
    spelling = SPELLINGS[spelling_name]
    slots = denoiser_slots(model, layout_of(model, spelling), "attn_mlp")

    def tensors() -> Tensors:
        made: Tensors = {}
        for num, slot in enumerate(slots):
            made |= lora(base_key(model, spelling, slot), slot.shape, RANKS[num % 4], spelling)
        return made

    name, ranks = f"{model}/mixed_ranks/{spelling_name}", frozenset[int | None]((*RANKS, None))
    return dressed(name, model, slots, tensors, among, spelling=spelling, rank=ranks)


def _locon_ranks(model: str, among: Names) -> Entry:
    """LoCon as trained: linear rank 8, convolution rank 4, alphas of their own."""
    spelling = SPELLINGS["kohya"]
    slots = denoiser_slots(model, layout_of(model, spelling), "conv")

    def tensors() -> Tensors:
        made: Tensors = {}
        for slot in slots:
            base = base_key(model, spelling, slot)
            made |= lora(base, slot.shape, 4 if slot.shape[2:] == (3, 3) else 8, spelling)
            made[base + ".alpha"] = ("F32", ())
        return made

    name, ranks, alpha = f"{model}/locon_ranks", frozenset({4, 8, None}), frozenset[float | None]({4.0})
    return dressed(name, model, slots, tensors, among, rank=ranks, alpha=alpha, values={".alpha": 4.0})


def _with_norms(model: str, label: str, suffix: str, among: Names) -> Entry:
    """A LoRA as ComfyUI extracts it: whole bias differences, and the norms as differences or set weights."""
    spelling = SPELLINGS["comfy_down_up"]
    slots = denoiser_slots(model, "native", "all")
    tensors = merged(lambda: lora_tensors(model, spelling, slots, "lora_diff_b", 4), _norms(model, suffix))
    return dressed(f"{model}/{label}", model, slots, tensors, among, spelling=spelling)


def _norms(model: str, suffix: str) -> Maker:
    def made() -> Tensors:
        table = parameters(model, "native")
        norms = {name: shape for name, shape in table.items() if len(shape) == 1 and not name.endswith(".bias")}
        return {f"diffusion_model.{name.removesuffix('.weight')}.{suffix}": ("F16", norms[name]) for name in norms}

    return made


def _pivotal(among: Names) -> Entry:
    """A LoRA and the embeddings trained with it, in one file (kohya, OneTrainer)."""
    slots = denoiser_slots("sdxl", "native", "attn_mlp")

    def tensors() -> Tensors:
        made = lora_tensors("sdxl", SPELLINGS["kohya"], slots, "lora", 4)
        return made | {"bundle_emb.tok.clip_l": ("F16", (4, 768)), "bundle_emb.tok.clip_g": ("F16", (4, 1280))}

    return dressed("sdxl/bundled_embedding", "sdxl", slots, tensors, among)


def _both_spellings(among: Names) -> Entry:
    """diffusers' own note: a file from civitai that holds PEFT and kohya keys at once."""
    slots = denoiser_slots("flux1_dev", "diffusers", "blocks")

    def tensors() -> Tensors:
        made = lora_tensors("flux1_dev", SPELLINGS["diffusers_down_up"], slots, "lora", 4)
        native = denoiser_slots("flux1_dev", "native", "blocks")
        return made | lora_tensors("flux1_dev", SPELLINGS["kohya"], native, "lora", 4, "F32")

    return dressed("flux1_dev/two_spellings", "flux1_dev", slots, tensors, among, values={".alpha": 4.0})
