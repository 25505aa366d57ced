"""What a LoRA file is: its family from its tensors, its naming, and what it claims of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import builtin
from runner.contract.families import Module, inspect_lora, pipeline_family
from runner.contract.headers import Broken
from tests import fakes

BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0"
PEFT = "base_model.model." + BLOCK
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("width", "family", "evidence"),
    [
        (96, "shapes", "cross-attention reads 96 wide text, as shapes"),
        (768, "sd1", "cross-attention reads 768 wide text, as sd1"),
        (1024, "sd2", "cross-attention reads 1024 wide text, as sd2"),
        (2048, "sdxl", "cross-attention reads 2048 wide text, as sdxl"),
        (123, None, "cross-attention reads 123 wide text, as no family we know"),
    ],
)
def test_a_unet_family_is_told_by_the_width_of_its_text(
    tmp_path: Path, width: int, family: str | None, evidence: str
) -> None:
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", {f"{BLOCK}.attn2.to_k": (width, 64)}))
    assert (lora.family, lora.evidence) == (family, (evidence, "metadata makes no family claim"))


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["transformer.single_transformer_blocks.0.attn.to_q", "transformer.transformer_blocks.0.attn.to_q"], "flux1"),
        (["diffusion_model.single_blocks.0.linear1"], "flux1"),
        (["transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj"], "flux2"),
        (["transformer.double_stream_modulation_img.linear", "transformer.single_transformer_blocks.0.a"], "flux2"),
        ([f"{BLOCK}.attn1.to_q"], None),
        (["text_encoder.encoder.layers.0.self_attn.q_proj"], None),
    ],
)
def test_other_families_are_told_by_their_block_names(tmp_path: Path, names: list[str], family: str | None) -> None:
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", dict.fromkeys(names, (64, 64))))
    assert lora.family == family


@pytest.mark.parametrize(
    ("owner", "down", "up", "form"),
    [
        (f"{BLOCK}.attn2.to_k", "lora_A.weight", "lora_B.weight", "diffusers"),
        (f"{BLOCK}.attn2.to_k", "lora.down.weight", "lora.up.weight", "diffusers"),
        (f"{BLOCK}.attn2.to_k", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight", "diffusers"),
        (f"{PEFT}.attn2.to_k", "lora_A.default.weight", "lora_B.default.weight", "peft"),
        (KOHYA, "lora_down.weight", "lora_up.weight", "kohya"),
        ("diffusion_model.single_blocks.0.linear1", "lora_A.weight", "lora_B.weight", "native"),
        ("down_blocks.0.attn2.to_k", "lora_A.weight", "lora_B.weight", "bare"),
    ],
)
def test_the_naming_of_a_file_is_recognised(tmp_path: Path, owner: str, down: str, up: str, form: str) -> None:
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", {owner: (768, 64)}, rank=4, down=down, up=up))
    assert (lora.kind, lora.format, lora.rank, lora.num_tensors) == ("lora", form, 4, 2)
    assert dict(lora.modules) == {owner: Module(num_in=768, num_out=64, rank=4)}


@pytest.mark.parametrize(
    ("key", "claim", "family"),
    [
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("modelspec.architecture", "stable-diffusion-v1/lora", "sd1"),
        ("modelspec.architecture", "flux-1-dev/lora", "flux1"),
        ("modelspec.architecture", "flux-2-dev/lora", "flux2"),
        ("modelspec.architecture", "shapes/lora", "shapes"),
        ("ss_base_model_version", "sdxl_base_v1-0", "sdxl"),
        ("ss_base_model_version", "sd_v1", "sd1"),
        ("ss_base_model_version", "sd_1.5", "sd1"),
        ("ss_base_model_version", "sd_v2.1", "sd2"),
        ("ss_base_model_version", "flux1", "flux1"),
        ("ss_base_model_version", "my own model", None),
        ("note", "sdxl", None),
    ],
)
def test_a_claim_in_the_metadata_is_read(tmp_path: Path, key: str, claim: str, family: str | None) -> None:
    layers = {f"{BLOCK}.attn1.to_q": (64, 64)}
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", layers, metadata={key: claim}))
    assert (lora.claimed_family, lora.family) == (family, None)


def test_a_file_says_its_trigger_and_its_base(tmp_path: Path) -> None:
    told = {"modelspec.trigger_phrase": "<emblem>", "runner.base_sha256": "a" * 64}
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", {f"{BLOCK}.attn2.to_k": (96, 64)}, metadata=told))
    assert (lora.trigger, lora.claimed_base_sha256) == ("<emblem>", "a" * 64)


def test_alpha_is_read_from_its_tensor(tmp_path: Path) -> None:
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", {f"{BLOCK}.attn2.to_k": (96, 64)}, alpha=4))
    assert lora.alpha == 4.0


@pytest.mark.parametrize(
    ("adapter", "alpha"),
    [
        ('{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 8}', 8.0),
        ('{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 4}', None),
        ('{"unet.lora_alpha": null}', None),
        ('{"unet.lora_alpha": [8]}', None),
        ('{"unet.lora_alpha": "eight"}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_alpha_is_read_from_the_adapter_metadata(tmp_path: Path, adapter: str, alpha: float | None) -> None:
    told = {"lora_adapter_metadata": adapter}
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", {f"{BLOCK}.attn2.to_k": (96, 64)}, metadata=told))
    assert lora.alpha == alpha


def test_text_encoders_are_named(tmp_path: Path) -> None:
    names = [f"text_encoder{n}.encoder.layers.0.self_attn.q_proj" for n in ("", "_2")]
    lora = inspect_lora(fakes.write_lora(tmp_path / "a.safetensors", dict.fromkeys(names, (8, 8))))
    assert lora.text_encoders == ("text_encoder", "text_encoder_2")


def test_a_file_without_a_lora_layer_is_unknown(tmp_path: Path) -> None:
    file = fakes.write_safetensors(
        tmp_path / "a.safetensors", {"vae.x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"
    )
    lora = inspect_lora(file)
    assert (lora.kind, lora.family, lora.rank, lora.modules) == ("unknown", None, None, {})


@pytest.mark.parametrize("shape", [[4], []])
def test_a_lora_layer_that_is_no_matrix_is_broken(tmp_path: Path, shape: list[int]) -> None:
    size = 4 * (shape[0] if shape else 1)
    table = {
        "unet.x.lora_A.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]},
        "unet.x.lora_B.weight": {"dtype": "F32", "shape": shape, "data_offsets": [size, 2 * size]},
    }
    file = fakes.write_safetensors(tmp_path / "a.safetensors", table, b"\0" * 2 * size)
    with pytest.raises(Broken, match=r"^has LoRA halves that are no matrices$"):
        inspect_lora(file)


@pytest.mark.parametrize(
    ("pipeline", "config", "family"),
    [
        ("StableDiffusionXLPipeline", {}, "sdxl"),
        ("FluxPipeline", {}, "flux1"),
        ("Flux2Pipeline", {}, "flux2"),
        ("StableDiffusionPipeline", {"cross_attention_dim": 96}, "shapes"),
        ("StableDiffusionPipeline", {"cross_attention_dim": 768}, "sd1"),
        ("StableDiffusionPipeline", {"cross_attention_dim": 1024}, "sd2"),
        ("StableDiffusionPipeline", {"cross_attention_dim": [768]}, None),
        ("NewPipeline", {}, None),
    ],
)
def test_a_model_folder_is_told_by_its_pipeline_and_its_denoiser(
    pipeline: str, config: dict[str, object], family: str | None
) -> None:
    assert pipeline_family(pipeline, config) == family


def test_the_shipped_lora_is_what_its_card_says() -> None:
    lora = inspect_lora(builtin.package_dir() / "emblem" / "emblem.safetensors")
    card = fakes.request().lora
    assert (lora.kind, lora.family, lora.rank, lora.alpha) == ("lora", card.family, card.rank, card.alpha)
    assert json.dumps(dict(lora.metadata))
