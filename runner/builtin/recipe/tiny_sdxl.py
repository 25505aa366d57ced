"""`tiny_sdxl`: random weights in Stable Diffusion XL's form, for tests of everything but the picture.

Two text encoders, size conditioning, an AutoencoderKL: all that sets the family apart. The text is as
wide as SDXL's own (768 and 1280), because that width is how a LoRA's family is told. Its pictures are noise.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from runner.builtin import package_dir
from runner.builtin.recipe import tokenizer

TEXT_WIDTHS = (768, 1280)


def make(folder: Path, seed: int = 0) -> Path:
    """Write the pipeline folder (fp16) unless it is there; returns it."""
    if (folder / "model_index.json").is_file():
        return folder
    torch.manual_seed(seed)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    build().to(torch.float16).save_pretrained(unfinished)
    source = package_dir() / "shapes" / "tokenizer"
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(source, unfinished / name, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def build() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    words = tokenizer.load(package_dir() / "shapes" / "tokenizer")
    return StableDiffusionXLPipeline(
        vae=build_vae(),
        text_encoder=CLIPTextModel(text_config(words, TEXT_WIDTHS[0])),
        text_encoder_2=CLIPTextModelWithProjection(text_config(words, TEXT_WIDTHS[1])),
        tokenizer=words,
        tokenizer_2=tokenizer.load(package_dir() / "shapes" / "tokenizer"),
        unet=build_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        add_watermarker=False,
    )


def text_config(words: Any, width: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        projection_dim=width,
        max_position_embeddings=tokenizer.MAX_LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        hidden_act="gelu",
    )


def build_unet() -> Any:
    from diffusers import UNet2DConditionModel

    time_width = 8
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_width,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * time_width + TEXT_WIDTHS[1],
        cross_attention_dim=sum(TEXT_WIDTHS),
        norm_num_groups=8,
    )


def build_vae() -> Any:
    from diffusers import AutoencoderKL

    num_levels = 4
    return AutoencoderKL(
        block_out_channels=(16,) * num_levels,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        force_upcast=False,
    )
