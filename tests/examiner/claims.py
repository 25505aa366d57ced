"""What trainers write into the metadata about the base model: true, nothing, or of another model.

A claim of a family that the tensors fit as well is no lie, and no such file is made. It does not know what a
reader makes of a claim.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from tests.examiner.expect import Entry
from tests.examiner.lora import lora_entry
from tests.examiner.models import ALL, MODELS, Names
from tests.examiner.spellings import main_spelling

CLAIMS: dict[str, tuple[dict[str, str], ...]] = {  # what trainers write: sd-scripts and musubi sai_model_spec.py ...
    "sd15": (
        {"ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora", "ss_network_dim": "4"},
        {"modelspec.architecture": "stable-diffusion-v1/lora"},
        {"ss_base_model_version": "sd_1.5", "software": '{"name": "ai-toolkit", "version": "0.1.0"}'},
    ),
    "sd21": (
        {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
        {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"},
    ),
    "sdxl": (
        {"ss_base_model_version": "sdxl_base_v1-0", "ss_network_module": "networks.lora"},
        {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
        {"ss_base_model_version": "sdxl_1.0"},
    ),
    "sd3_medium": (
        {"ss_base_model_version": "sd3m", "modelspec.architecture": "stable-diffusion-3-m/lora"},
        {"modelspec.architecture": "stable-diffusion-3-medium/lora"},
        {"ss_base_model_version": "sd3"},
    ),
    "sd35_large": (
        {"modelspec.architecture": "stable-diffusion-3-5-large/lora"},
        {"ss_base_model_version": "sd3.5-large"},
    ),
    "flux1_dev": (
        {"ss_base_model_version": "flux1", "modelspec.architecture": "flux-1-dev/lora"},
        {"modelspec.architecture": "flux-1-dev/lora"},
        {"ss_base_model_version": "flux1", "software": '{"name": "ai-toolkit"}'},
        {"modelspec.architecture": "Flux.1-dev/lora"},
    ),
    "flux1_schnell": ({"modelspec.architecture": "flux-1-schnell/lora"},),
    "flux2_dev": ({"ss_base_model_version": "flux2"}, {"modelspec.architecture": "Flux.2-dev/lora"}),
    "flux2_klein_9b": ({"ss_base_model_version": "flux2_klein_9b"},),
    "qwen_image": ({"ss_base_model_version": "qwen_image"}, {"modelspec.architecture": "Qwen-Image/lora"}),
    "z_image": ({"ss_base_model_version": "zimage"}, {"modelspec.architecture": "Z-Image/lora"}),
    "wan21_14b": (
        {"ss_base_model_version": "wan2.1"},
        {"modelspec.architecture": "wan2.1/lora"},
        {"ss_base_model_version": "wan21_14b"},
    ),
    "wan22_5b": ({"ss_base_model_version": "wan22_5b"},),
    "chroma": ({"ss_base_model_version": "chroma"}, {"modelspec.architecture": "chroma/lora"}),
    "anima": ({"modelspec.architecture": "anima/lora"}, {"ss_base_model_version": "anima"}),
    "lumina2": ({"modelspec.architecture": "lumina-2/lora"}, {"ss_base_model_version": "lumina2"}),
    "hunyuanvideo": (
        {"modelspec.architecture": "hunyuan-video/lora"},
        {"ss_base_model_version": "hunyuan_video"},
    ),
    "auraflow": ({"ss_base_model_version": "auraflow"},),
}

OTHER_CLAIMS: tuple[dict[str, str], ...] = (
    {"modelspec.architecture": "hidream-i1/lora"},
    {"ss_base_model_version": "hidream_i1"},
    {"modelspec.architecture": "ltx-video/lora"},
    {"modelspec.architecture": "stable-cascade-v1-prior/lora"},
    {"ss_base_model_version": "cogvideox"},
)
SILENT: tuple[dict[str, str], ...] = (  # metadata that claims nothing about the model
    {"format": "pt"},
    {"ss_network_dim": "4", "ss_network_alpha": "2", "ss_output_name": "flux_sdxl_sd15_test"},
    {"ss_sd_model_name": "model.safetensors", "ss_tag_frequency": '{"10_zqx": {"flux": 3, "sdxl": 9}}'},
    {"modelspec.title": "SD 1.5 look for everything", "modelspec.architecture": ""},
    {
        "software": '{"name": "ai-toolkit", "repo": "https://github.com/ostris/ai-toolkit"}',
        "training_info": '{"step": 1}',
    },
)


def claim_loras(among: Names = ALL) -> Iterator[Entry | None]:
    """Right claims, silent metadata, and claims of another model."""
    for model in CLAIMS:
        if model in among:
            yield from _true(model, among)
            yield from _silent(model, among)
            yield from _of_the_unnamed(model, among)
    for model, liar in itertools.product(CLAIMS, CLAIMS):
        if {model, liar} <= set(among) and MODELS[model].family != MODELS[liar].family:
            entries = [entry for entry in _lies(model, liar, among) if entry]
            yield from (entry for entry in entries if MODELS[liar].family not in entry.expect.families)


def _true(model: str, among: Names) -> Iterator[Entry | None]:
    make = partial(lora_entry, model, main_spelling(model), claimed=True, disagrees=False, among=among)
    for num, claim in enumerate(CLAIMS[model]):
        for pick in ("attn_mlp", "all", "self"):
            yield make(pick, metadata=claim, label=f"claims_right_{num}")


def _silent(model: str, among: Names) -> Iterator[Entry | None]:
    for num, silent in enumerate(SILENT):
        entry = lora_entry(model, "diffusers", "attn_mlp", metadata=silent, label=f"silent_{num}", among=among)
        told = frozenset({2.0}) if "ss_network_alpha" in silent else frozenset()
        yield entry and replace(entry, expect=replace(entry.expect, alpha=told | {None, 4.0}))


def _of_the_unnamed(model: str, among: Names) -> Iterator[Entry | None]:
    make = partial(lora_entry, model, main_spelling(model), "all", disagrees=True, among=among)
    for num, claim in enumerate(OTHER_CLAIMS):
        yield make(metadata=claim, label=f"claims_other_{num}")


def _lies(model: str, liar: str, among: Names) -> Iterator[Entry | None]:
    make = partial(lora_entry, model, main_spelling(model), disagrees=True, among=among)
    for num, claim in enumerate(CLAIMS[liar][:2]):
        yield make("all", metadata=claim, label=f"claims_{liar}_{num}")
    yield make("attn", metadata=CLAIMS[liar][0], label=f"claims_{liar}")
