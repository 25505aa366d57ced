"""Tiny, random, real pipelines of every family, as folders in `from_pretrained` form.

Each is the family's own pipeline class with a denoiser of every kind of block, its own text encoders and tokenizers,
and weights from one seed: the same bytes each time. Pictures are noise, but they depend on prompt, seed and LoRA.
`folder(family)` builds it once per test session. Widths are no family's own: where a width tells a family, as with
SD 1 and SDXL, `tiny_sdxl` of `runner.builtin` has it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner import builtin
from tests import tiny_tokenizers as words

WIDTH = 32
TEXT_WIDTH = 16
SEED = 0


def build(family: str, folder: Path) -> Path:
    """Write the pipeline folder of a family; returns it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pipe = {**FAMILIES, **NEEDS_TORCHVISION}[family]()
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                _randomise(component)
    pipe.save_pretrained(folder)
    for tokenizer in sorted(folder.glob("tokenizer*")):
        _as_on_the_hub(family, tokenizer)
    return folder


def folder(family: str) -> Path:
    """The pipeline folder of a family, built once under this session's own cache."""
    return _built(family, builtin.cache_dir() / "tiny" / family)


@functools.cache
def _built(family: str, place: Path) -> Path:
    return place if (place / "model_index.json").is_file() else build(family, place)


def load(family: str) -> Any:
    """The pipeline itself, silent and in float32."""
    import torch
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder(family), torch_dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def pipeline(family: str) -> Any:
    """The pipeline that all tests share; a test leaves it as it was."""
    return load(family)


def _as_on_the_hub(family: str, folder: Path) -> None:
    kind = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["tokenizer_class"]
    if kind in ("CLIPTokenizer", "Qwen2Tokenizer"):
        words.as_on_the_hub(folder, tokenizer_json=family in ("z-image", "flux2-klein"))
    if family == "z-image":
        words.template_into_config(folder)


def _randomise(model: Any) -> None:
    """Nothing is zero and nothing explodes: matrices by their width in, embeddings of size one, small offsets."""
    import torch

    with torch.no_grad():
        for place, module in model.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                if place.endswith(("norm_q", "norm_added_q")):
                    weight.fill_(4.0)  # attention that looks somewhere, not everywhere
                elif isinstance(module, torch.nn.Embedding):
                    weight.normal_()
                elif weight.dim() > 1:
                    weight.normal_(std=weight[0].numel() ** -0.5)
                elif name != "weight" or not bool(weight.any()):
                    weight.normal_(std=0.05)


# ---- parts that families share


def _vae(latent_channels: int, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    num_levels = 4
    return AutoencoderKL(
        block_out_channels=(8,) * num_levels,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        layers_per_block=1, latent_channels=latent_channels, norm_num_groups=4, sample_size=64, **more,
    )  # fmt: skip


def _clip_encoder(tokenizer: Any, width: int = TEXT_WIDTH, *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=width, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _t5_encoder(tokenizer: Any, width: int = TEXT_WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu", pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def _qwen3_config(tokenizer: Any, num_layers: int) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=32, num_hidden_layers=num_layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip


def _flow(**more: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**more)


def _unet(text_width: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2), cross_attention_dim=text_width, norm_num_groups=4, **more,
    )  # fmt: skip


# ---- families


def _sd1() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    tokenizer = words.clip()
    return StableDiffusionPipeline(
        vae=_vae(4), text_encoder=_clip_encoder(tokenizer), tokenizer=tokenizer, unet=_unet(TEXT_WIDTH),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    first, second = words.clip(), words.clip(pad="!")
    time_width = 8
    return StableDiffusionXLPipeline(
        vae=_vae(4, force_upcast=False), tokenizer=first, tokenizer_2=second,
        text_encoder=_clip_encoder(first), text_encoder_2=_clip_encoder(second, WIDTH, projected=True),
        unet=_unet(
            TEXT_WIDTH + WIDTH, use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=time_width, transformer_layers_per_block=(1, 2),
            projection_class_embeddings_input_dim=6 * time_width + WIDTH,
        ),
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1), add_watermarker=False,
    )  # fmt: skip


def _sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    first, second, third = words.clip(), words.clip(pad="!"), words.t5()
    return StableDiffusion3Pipeline(
        vae=_vae(16, shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip_encoder(first, projected=True), tokenizer=first,
        text_encoder_2=_clip_encoder(second, projected=True), tokenizer_2=second,
        text_encoder_3=_t5_encoder(third, 2 * TEXT_WIDTH), tokenizer_3=third,
        transformer=SD3Transformer2DModel(
            sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=2 * TEXT_WIDTH, caption_projection_dim=WIDTH, pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
        ),
        scheduler=_flow(shift=3.0),
    )  # fmt: skip


def _flux1() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    first, second = words.clip(), words.t5()
    return FluxPipeline(
        vae=_vae(16, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip_encoder(first), tokenizer=first, text_encoder_2=_t5_encoder(second), tokenizer_2=second,
        transformer=FluxTransformer2DModel(
            in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=TEXT_WIDTH, pooled_projection_dim=TEXT_WIDTH, guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=_flow(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def _flux2(*, processor: bool = False) -> Any:
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    ids = words.mistral()
    tokenizer = words.pixtral(ids) if processor else ids
    special = {"bos_token_id": ids.bos_token_id, "eos_token_id": ids.eos_token_id, "pad_token_id": ids.pad_token_id}
    num_layers = 30  # the pipeline reads layers 10, 20 and 30
    text = {
        "model_type": "mistral", "vocab_size": len(ids), "hidden_size": TEXT_WIDTH, "intermediate_size": 32,
        "num_hidden_layers": num_layers, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 2048, "sliding_window": None, **special,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "image_size": 28,
        "num_attention_heads": 1, "head_dim": 8, "patch_size": 14,
    }  # fmt: skip
    config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=10, **special)
    return Flux2Pipeline(
        vae=_flux2_vae(), text_encoder=Mistral3ForConditionalGeneration(config), tokenizer=tokenizer,
        transformer=_flux2_transformer(guidance_embeds=True), scheduler=_flow(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def _flux2_klein() -> Any:
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3ForCausalLM

    tokenizer = words.qwen((*words.QWEN_SPECIALS, *words.THINKING), words.QWEN3_TEMPLATE)
    num_layers = 27  # the pipeline reads layers 9, 18 and 27
    return Flux2KleinPipeline(
        vae=_flux2_vae(), text_encoder=Qwen3ForCausalLM(_qwen3_config(tokenizer, num_layers)), tokenizer=tokenizer,
        transformer=_flux2_transformer(guidance_embeds=False), scheduler=_flow(shift=3.0, use_dynamic_shifting=True),
        is_distilled=False,
    )  # fmt: skip


def _flux2_transformer(*, guidance_embeds: bool) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=3 * TEXT_WIDTH, timestep_guidance_channels=32, axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    num_levels = 4
    return AutoencoderKLFlux2(
        block_out_channels=(8,) * num_levels,
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
    )  # fmt: skip


def _qwen_image() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = words.qwen()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 2, "out_hidden_size": TEXT_WIDTH}
    names = ("vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"], vision_token_id=ids["vision_pad"], image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
    )  # fmt: skip
    channels = 4
    return QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=4, z_dim=channels, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
            temperal_downsample=[False, True, True], latents_mean=[0.0] * channels, latents_std=[1.0] * channels,
        ),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config), tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=4 * channels, out_channels=channels, num_layers=2, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=TEXT_WIDTH, axes_dims_rope=(2, 2, 4),
        ),
        scheduler=_flow(shift=1.0, use_dynamic_shifting=True),
    )  # fmt: skip


def _z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Model

    tokenizer = words.qwen((*words.QWEN_SPECIALS, *words.THINKING), words.QWEN3_TEMPLATE)
    return ZImagePipeline(
        vae=_vae(16, shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=Qwen3Model(_qwen3_config(tokenizer, num_layers=2)), tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=16, dim=WIDTH, n_layers=2, n_refiner_layers=1, n_heads=4, n_kv_heads=4,
            cap_feat_dim=TEXT_WIDTH, axes_dims=[2, 2, 4], axes_lens=[1024, 64, 64],
        ),
        scheduler=_flow(shift=3.0),
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], Any]] = {
    "sd1": _sd1, "sdxl": _sdxl, "sd3": _sd3, "flux1": _flux1, "flux2": _flux2, "flux2-klein": _flux2_klein,
    "qwen-image": _qwen_image, "z-image": _z_image,
}  # fmt: skip
NEEDS_TORCHVISION: dict[str, Callable[[], Any]] = {"flux2-processor": functools.partial(_flux2, processor=True)}
