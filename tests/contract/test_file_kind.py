"""Which kind of file: a LoRA, or one of the others that lie in the same folders; and the family its weights tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.contract.layers import Shape
from tests.contract import drawn
from tests.contract.drawn import Tensors

SDXL, FLUX = "SDXL 1.0", "FLUX.1-dev"


def weights(named: Mapping[str, Shape], prefix: str = "", ending: str = ".weight") -> Tensors:
    return {f"{prefix}{name}{ending}": ("F16", shape) for name, shape in named.items()}


def table(shapes: Mapping[str, Shape]) -> Tensors:
    return {name: ("F16", shape) for name, shape in shapes.items()}


def vae(first: Shape, prefix: str = "") -> Tensors:
    """The ends and the middle of an autoencoder."""
    names = ("encoder.conv_in", "encoder.mid_block.resnets.0.conv1", "decoder.mid_block.resnets.0.conv1")
    whole = {**dict.fromkeys(names, (8, 8, 3, 3)), "decoder.conv_in": first, "quant_conv": (8, 8, 1, 1)}
    return weights(whole, prefix)


def ip_adapter(width: int) -> Tensors:
    return table({"image_proj.proj.weight": (8, 8), "ip_adapter.1.to_k_ip.weight": (8, width)})


CLIP_L = weights(drawn.layers("CLIP ViT-L"), "text_model.") | {"text_model.final_layer_norm.weight": ("F16", (768,))}


@pytest.mark.parametrize(
    ("tensors", "kind", "family"),
    [
        (drawn.NAMINGS["kohya"](SDXL, "attn2"), "lora", "sdxl"),
        (weights(drawn.layers(SDXL)), "checkpoint", "sdxl"),
        (weights(drawn.originals(SDXL), "model.diffusion_model.") | CLIP_L, "checkpoint", "sdxl"),
        (weights(drawn.originals(FLUX)), "checkpoint", "flux1"),
        (weights(drawn.originals("Chroma1-HD"), "model.diffusion_model."), "checkpoint", "chroma"),
        (weights(drawn.originals("Z-Image")), "checkpoint", "z-image"),
        (weights(drawn.layers("Qwen-Image")), "checkpoint", "qwen-image"),
        (weights(drawn.originals("Wan2.1-T2V-14B")), "checkpoint", "wan"),
        (weights(drawn.originals("Lumina-Image-2.0")), "checkpoint", "lumina2"),
        (CLIP_L, "text_encoder", None),
        (weights(drawn.layers("Gemma 2 2B"), "model."), "text_encoder", "lumina2"),
        (weights(drawn.layers("T5 v1.1 XXL")), "text_encoder", None),
        (vae((512, 4, 3, 3)), "vae", None),
        (vae((512, 16, 3, 3)), "vae", None),
        (vae((512, 32, 3, 3)), "vae", "flux2"),
        (vae((512, 48, 3, 3, 3), "vae."), "vae", "wan"),
        (vae((512, 7, 3, 3)), "vae", None),
        (weights({**drawn.layers(SDXL, "down_blocks"), "controlnet_down_blocks.0": (320, 320, 1, 1)}),
         "controlnet", "sdxl"),
        (table({"emb_params": (4, 768)}), "embedding", "sd1"),
        (table({"emb_params": (4, 1024)}), "embedding", "sd2"),
        (table({"clip_l": (4, 768), "clip_g": (4, 1280)}), "embedding", None),
        (table({"clip_l": (4, 768), "clip_g": (4, 1280), "t5xxl": (4, 4096)}), "embedding", "sd3"),
        (table({"<my-cat>": (768,)}), "embedding", "sd1"),
        (table({"emb_params": (49408, 768)}), "unknown", None),
        (ip_adapter(768), "ip_adapter", "sd1"),
        (ip_adapter(2048), "ip_adapter", "sdxl"),
        (ip_adapter(99), "ip_adapter", None),
        (weights({"down_blocks.0.motion_modules.0.temporal_transformer.proj_in": (320, 320)}), "unknown", None),
        (table({"a": (3,)}), "unknown", None),
        (table({"a.alpha": ()}), "unknown", None),
        ({}, "unknown", None),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)  # fmt: skip
def test_a_kind_is_told_by_names_and_a_family_by_widths(
    tmp_path: Path, tensors: Tensors, kind: str, family: str | None
) -> None:
    file = drawn.inspected(tmp_path, tensors)
    assert (file.kind, file.family) == (kind, family)
    assert (file.modules == {}) == (kind != "lora")


@pytest.mark.parametrize(
    ("first", "families"),
    [
        ((512, 4, 3, 3), ("auraflow", "sd1", "sd2", "sdxl")),
        ((512, 16, 3, 3), ("chroma", "flux1", "lumina2", "sd3", "z-image")),
        ((512, 16, 3, 3, 3), ("anima", "hunyuanvideo", "qwen-image", "wan")),
    ],
)
def test_a_vae_fits_every_family_with_its_latents(tmp_path: Path, first: Shape, families: tuple[str, ...]) -> None:
    file = drawn.inspected(tmp_path, vae(first), {"modelspec.architecture": "flux-1-dev"})
    assert file.families == families
    assert file.family == ("flux1" if "flux1" in families else None)


def test_a_few_lora_layers_in_a_checkpoint_leave_it_one(tmp_path: Path) -> None:
    tensors = weights(drawn.layers(SDXL)) | drawn.lora(drawn.prefixed("unet.", drawn.layers(SDXL, "attn2.to_k")))
    assert drawn.inspected(tmp_path, tensors).kind == "checkpoint"


def test_a_quantised_checkpoint_is_one(tmp_path: Path) -> None:
    scales = {f"{name}.scale_weight": ("F32", ()) for name in drawn.originals(FLUX)}
    tensors: Tensors = {n: ("F8_E4M3", s) for n, (_, s) in weights(drawn.originals(FLUX)).items()}
    file = drawn.inspected(tmp_path, {**tensors, **scales, "scaled_fp8": ("F8_E4M3", (2,))})
    assert (file.kind, file.family) == ("checkpoint", "flux1")
