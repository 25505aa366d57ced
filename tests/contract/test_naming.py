"""Prefixes of trainers and tools: which part of the pipeline a module names, and what its layer is called."""

from __future__ import annotations

import pytest

from runner.contract.adapters import Module
from runner.contract.naming import DENOISER, TEXT, UNSAID, format_of, locate, plain_name

LORA = Module("lora", 3, 5, (), 2, {})
Q = ("transformer_blocks_#_attn_to_q", (3,))
LDM = ("input_blocks_#_1_proj_in", (4,))
CLIP = ("encoder_layers_#_self_attn_q_proj", (0,))


@pytest.mark.parametrize(
    ("owner", "part", "number", "name"),
    [
        ("transformer.transformer_blocks.3.attn.to_q", DENOISER, "", Q),
        ("transformer_2.transformer_blocks.3.attn.to_q", DENOISER, "transformer_2", Q),
        ("unet.transformer_blocks.3.attn.to_q", DENOISER, "", Q),
        ("diffusion_model.transformer_blocks.3.attn.to_q", DENOISER, "", Q),
        ("model.diffusion_model.input_blocks.4.1.proj_in", DENOISER, "", LDM),
        ("lora_unet_transformer_blocks_3_attn_to_q", DENOISER, "", Q),
        ("lora_unet__transformer_blocks_3_attn_to_q", DENOISER, "", Q),
        ("lora_unet_input_blocks_4_1_proj_in", DENOISER, "", LDM),
        ("lora_transformer_transformer_blocks_3_attn_to_q", DENOISER, "", Q),
        ("lycoris_unet_transformer_blocks_3_attn_to_q", DENOISER, "", Q),
        ("lora_dit_transformer_blocks_3_attn_to_q", DENOISER, "", Q),
        ("Hunyuan_video_I2V_lora_double_blocks_0_img_attn_qkv", DENOISER, "", ("double_blocks_#_img_attn_qkv", (0,))),
        ("pipe.dit.blocks.1.self_attn.q", DENOISER, "", ("blocks_#_self_attn_q", (1,))),
        ("model.double_blocks.0.img_attn.qkv", DENOISER, "", ("double_blocks_#_img_attn_qkv", (0,))),
        ("lycoris_transformer_blocks_3_attn_to_q", UNSAID, "", Q),
        ("base_model.model.transformer_blocks.3.attn.to_q", UNSAID, "", Q),
        ("base_model.model.base_model.model.transformer_blocks.3.attn.to_q", UNSAID, "", Q),
        ("_orig_mod.transformer_blocks.3.attn.to_q", UNSAID, "", Q),
        ("transformer._orig_mod.transformer_blocks.3.attn.to_q", DENOISER, "", Q),
        ("transformer_blocks.3.attn.to_q", UNSAID, "", Q),
        ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", TEXT, "", CLIP),
        ("text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj", TEXT, "_2", CLIP),
        ("text_encoder.encoder.layers.0.self_attn.q_proj", TEXT, "", CLIP),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", TEXT, "", CLIP),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", TEXT, "1", CLIP),
        ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", TEXT, "2", CLIP),
        ("te2.text_model.encoder.layers.0.self_attn.q_proj", TEXT, "2", CLIP),
        ("text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj", TEXT, "clip_l", CLIP),
        ("text_encoders.t5xxl.transformer.encoder.block.2.layer.0.SelfAttention.q", TEXT, "t5xxl",
         ("encoder_block_#_layer_0_SelfAttention_q", (2,))),
        ("lora_clip_l_text_model_encoder_layers_0_self_attn_q_proj", TEXT, "clip_l", CLIP),
        ("text_encoder.model.language_model.layers.7.mlp.up_proj", TEXT, "", ("layers_#_mlp_up_proj", (7,))),
        ("base_model.model.model.layers.7.mlp.up_proj", UNSAID, "", ("layers_#_mlp_up_proj", (7,))),
        ("x", UNSAID, "", ("x", ())),
        ("", UNSAID, "", ("", ())),
    ],
)  # fmt: skip
def test_a_module_is_located_by_its_name(owner: str, part: str, number: str, name: tuple[str, tuple[int, ...]]) -> None:
    found = locate(owner, LORA)
    assert (found.part, found.number, found.name) == (part, number, name)
    assert (found.owner, found.module) == (owner, LORA)


@pytest.mark.parametrize(
    ("owners", "style", "word"),
    [
        (["unet.a", "text_encoder.b"], "peft", "diffusers"),
        (["transformer.a", "transformer_2.a"], "peft", "diffusers"),
        (["base_model.model.a"], "peft", "peft"),
        (["lora_unet_down_blocks_0", "lora_te1_text_model_a"], "kohya", "kohya"),
        (["lora_unet_input_blocks_1_0_in_layers_2", "lora_te1_text_model_a"], "kohya", "kohya-ldm"),
        (["lora_unet_double_blocks_0_img_attn_qkv"], "kohya", "kohya"),
        (["lora_transformer_a"], "kohya", "onetrainer"),
        (["lycoris_a"], "lycoris", "lycoris"),
        (["diffusion_model.a", "model.diffusion_model.b"], "peft", "native"),
        (["a.b"], "peft", "bare"),
        (["unet.a"], "lora.down", "diffusers-old"),
        (["unet.a"], "lora_linear_layer", "diffusers-old"),
        (["unet.a"], "processor", "attn-processor"),
        (["double_blocks.0.processor.qkv_lora1"], "xlabs", "xlabs"),
        (["unet.a", "lora_unet_b"], "peft", "mixed"),
        ([], "peft", "unknown"),
    ],
)
def test_a_naming_has_one_word(owners: list[str], style: str, word: str) -> None:
    assert format_of((owner, LORA._replace(style=style)) for owner in owners) == word


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "text_encoder.encoder.layers.0.mlp.fc1"),
        ("text_encoder.encoder.layers.0.mlp.fc1", "text_encoder.encoder.layers.0.mlp.fc1"),
        ("text_encoder_2.model.layers.0.mlp.up_proj", "text_encoder_2.layers.0.mlp.up_proj"),
        ("text_encoder.model.language_model.layers.0.mlp", "text_encoder.layers.0.mlp"),
        ("text_encoder.model.norm", "text_encoder.model.norm"),
        ("unet.text_model.x", "unet.text_model.x"),
        ("conv_in", "conv_in"),
    ],
)
def test_the_wrappers_inside_text_encoders_are_taken_off_a_plain_name(name: str, plain: str) -> None:
    assert plain_name(name) == plain
