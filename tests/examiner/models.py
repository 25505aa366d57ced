"""The base models the examiner knows, by its own short names: published ones, obscure ones, tiny ones.

It does not know their tensors (`tables`), nor which of two models with one table a file was made from.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.examiner.configs import (
    CLIP_T5,
    COSMOS_2B,
    KLEIN_4B,
    KLEIN_9B,
    SD3,
    SD3_TE,
    SD35_L,
    SD35_M,
    TE_FLUX,
    TE_SD,
    TE_SD3,
    TE_XL,
    UNET_KOLORS,
    UNET_REFINER,
    UNET_SD1,
    UNET_SD2,
    UNET_SSD,
    UNET_XL,
    WAN_1B,
    WAN_5B,
    WAN_I2V,
    Model,
)
from tests.examiner.tiny import TINY

MODELS: dict[str, Model] = {
    "sd15": Model(
        "sd1", "StableDiffusionPipeline", "unet", "UNet2DConditionModel", {**UNET_SD1, "sample_size": 64},
        {"text_encoder": "clip_l"}, "ldm", "diffusers", TE_SD,
    ),
    "sd21": Model(
        "sd2", "StableDiffusionPipeline", "unet", "UNet2DConditionModel", {**UNET_SD2, "sample_size": 96},
        {"text_encoder": "clip_h"}, "ldm", "diffusers", TE_SD,
    ),
    "sdxl": Model(
        "sdxl", "StableDiffusionXLPipeline", "unet", "UNet2DConditionModel", UNET_XL,
        {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}, "ldm", "native", TE_XL,
    ),
    "sdxl_refiner": Model(
        "sdxl", "StableDiffusionXLImg2ImgPipeline", "unet", "UNet2DConditionModel", UNET_REFINER,
        {"text_encoder_2": "clip_g"}, "ldm", "native", {"text_encoder_2": "lora_te2_"},
    ),
    "sd3_medium": Model(
        "sd3", "StableDiffusion3Pipeline", "transformer", "SD3Transformer2DModel", SD3, SD3_TE, "sd3", "native", TE_SD3
    ),
    "sd35_medium": Model(
        "sd3", "StableDiffusion3Pipeline", "transformer", "SD3Transformer2DModel", SD35_M,
        SD3_TE, "sd3", "native", TE_SD3,
    ),
    "sd35_large": Model(
        "sd3", "StableDiffusion3Pipeline", "transformer", "SD3Transformer2DModel", SD35_L,
        SD3_TE, "sd3", "native", TE_SD3,
    ),
    "flux1_dev": Model(
        "flux1", "FluxPipeline", "transformer", "FluxTransformer2DModel", {"guidance_embeds": True},
        CLIP_T5, "flux", "native", TE_FLUX,
    ),
    "flux1_schnell": Model(
        "flux1", "FluxPipeline", "transformer", "FluxTransformer2DModel", {}, CLIP_T5, "flux", "native", TE_FLUX
    ),
    "flux1_fill": Model(
        "flux1", "FluxFillPipeline", "transformer", "FluxTransformer2DModel",
        {"guidance_embeds": True, "in_channels": 384, "out_channels": 64}, CLIP_T5, "flux", "native", TE_FLUX,
    ),
    "flux1_lite": Model(  # Freepik/flux.1-lite-8B, ostris/Flex.1-alpha: eight double blocks
        "flux1", "FluxPipeline", "transformer", "FluxTransformer2DModel", {"guidance_embeds": True, "num_layers": 8},
        CLIP_T5, "flux", "native", TE_FLUX,
    ),
    "flux2_dev": Model(
        "flux2", "Flux2Pipeline", "transformer", "Flux2Transformer2DModel", {}, {"text_encoder": "mistral_24b"}, "flux2"
    ),
    "flux2_klein_4b": Model(
        "flux2", "Flux2KleinPipeline", "transformer", "Flux2Transformer2DModel", KLEIN_4B,
        {"text_encoder": "qwen3_4b"}, "flux2",
    ),
    "flux2_klein_9b": Model(
        "flux2", "Flux2KleinPipeline", "transformer", "Flux2Transformer2DModel", KLEIN_9B,
        {"text_encoder": "qwen3_8b"}, "flux2",
    ),
    "qwen_image": Model(
        "qwen-image", "QwenImagePipeline", "transformer", "QwenImageTransformer2DModel", {},
        {"text_encoder": "qwen25_vl_7b"}, "", "diffusers",
    ),
    "z_image": Model(
        "z-image", "ZImagePipeline", "transformer", "ZImageTransformer2DModel", {},
        {"text_encoder": "qwen3_4b"}, "zimage", "diffusers",
    ),
    "wan21_1b": Model(
        "wan", "WanPipeline", "transformer", "WanTransformer3DModel", WAN_1B, {"text_encoder": "umt5"}, "wan"
    ),
    "wan21_14b": Model(
        "wan", "WanPipeline", "transformer", "WanTransformer3DModel", {}, {"text_encoder": "umt5"}, "wan"
    ),
    "wan21_i2v": Model(
        "wan", "WanImageToVideoPipeline", "transformer", "WanTransformer3DModel", WAN_I2V,
        {"text_encoder": "umt5"}, "wan",
    ),
    "wan22_i2v": Model(
        "wan", "WanImageToVideoPipeline", "transformer", "WanTransformer3DModel", {"in_channels": 36},
        {"text_encoder": "umt5"}, "wan",
    ),
    "wan_vace": Model(
        "wan", "WanVACEPipeline", "transformer", "WanVACETransformer3DModel",
        {**WAN_1B, "vace_layers": list(range(0, 30, 2)), "vace_in_channels": 96}, {"text_encoder": "umt5"}, "wan",
    ),
    "wan22_5b": Model(
        "wan", "WanPipeline", "transformer", "WanTransformer3DModel", WAN_5B, {"text_encoder": "umt5"}, "wan"
    ),
    "chroma": Model(
        "chroma", "ChromaPipeline", "transformer", "ChromaTransformer2DModel", {},
        {"text_encoder": "t5"}, "chroma", "native", {"text_encoder": "lora_te_"},
    ),
    "anima": Model(
        "anima", "AnimaAutoBlocks", "transformer", "CosmosTransformer3DModel", COSMOS_2B,
        {"text_encoder": "qwen3_06b"}, "cosmos", "native", TE_SD,
    ),
    "lumina2": Model(
        "lumina2", "Lumina2Pipeline", "transformer", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304},
        {"text_encoder": "gemma2_2b"}, "lumina2", "native", TE_SD,
    ),
    "hunyuanvideo": Model(
        "hunyuanvideo", "HunyuanVideoPipeline", "transformer", "HunyuanVideoTransformer3DModel", {},
        {"text_encoder": "llama3_8b", "text_encoder_2": "clip_l"}, "hunyuan",
    ),
    "auraflow": Model(
        "auraflow", "AuraFlowPipeline", "transformer", "AuraFlowTransformer2DModel", {"pos_embed_max_size": 9216},
        {"text_encoder": "pile_t5"}, "auraflow", "diffusers",
    ),
    "ltx": Model("other", "LTXPipeline", "transformer", "LTXVideoTransformer3DModel", {}, {"text_encoder": "t5"}),
    "cogvideox_2b": Model(
        "other", "CogVideoXPipeline", "transformer", "CogVideoXTransformer3DModel", {}, {"text_encoder": "t5"}
    ),
    "sana": Model("other", "SanaPipeline", "transformer", "SanaTransformer2DModel", {}, {"text_encoder": "gemma2_2b"}),
    "pixart": Model(
        "other", "PixArtSigmaPipeline", "transformer", "PixArtTransformer2DModel",
        {"caption_channels": 4096}, {"text_encoder": "t5"},
    ),
    "hidream": Model(
        "other", "HiDreamImagePipeline", "transformer", "HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 16, "caption_channels": [4096, 4096], "llama_layers": list(range(48))},
    ),
    "mochi": Model("other", "MochiPipeline", "transformer", "MochiTransformer3DModel", {}, {"text_encoder": "t5"}),
    "cogview4": Model(
        "other", "CogView4Pipeline", "transformer", "CogView4Transformer2DModel",
        {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32},
    ),
    "kolors": Model("other", "KolorsPipeline", "unet", "UNet2DConditionModel", UNET_KOLORS, {}, "ldm", obscure=True),
    "ltx2": Model("other", "LTX2Pipeline", "transformer", "LTX2VideoTransformer3DModel", {}),
    "hunyuanvideo15": Model("other", "HunyuanVideo15Pipeline", "transformer", "HunyuanVideo15Transformer3DModel", {}),
    "hunyuanimage": Model("other", "HunyuanImagePipeline", "transformer", "HunyuanImageTransformer2DModel", {}),
    "kandinsky5": Model("other", "Kandinsky5T2VPipeline", "transformer", "Kandinsky5Transformer3DModel", {}),
    "hunyuandit": Model(
        "other", "HunyuanDiTPipeline", "transformer", "HunyuanDiT2DModel",
        {"num_layers": 40, "hidden_size": 1408, "attention_head_dim": 88, "in_channels": 4, "patch_size": 2,
         "sample_size": 128,
         "mlp_ratio": 4.3637, "activation_fn": "gelu-approximate"},
    ),
    "cogvideox_5b": Model(
        "other", "CogVideoXPipeline", "transformer", "CogVideoXTransformer3DModel",
        {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True}, {"text_encoder": "t5"},
    ),
    "omnigen": Model(
        "other", "OmniGenPipeline", "transformer", "OmniGenTransformer2DModel",
        {"rope_scaling": {"short_factor": [1.0] * 48, "long_factor": [1.0] * 48, "type": "su"}},
    ),
    "ovis": Model("other", "OvisImagePipeline", "transformer", "OvisImageTransformer2DModel", {}),
    "ernie": Model("other", "ErnieImagePipeline", "transformer", "ErnieImageTransformer2DModel", {}),
    "flux3": Model("other", "Flux3Pipeline", "transformer", "Flux3Transformer2DModel", {}),
    "krea2": Model("other", "Krea2Pipeline", "transformer", "Krea2Transformer2DModel", {}),
    "qwen_image_21": Model("other", "QwenImage21Pipeline", "transformer", "QwenImage21Transformer2DModel", {}),
    "ssd1b": Model(
        "other", "StableDiffusionXLPipeline", "unet", "UNet2DConditionModel", UNET_SSD,
        {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}, "", "diffusers", TE_XL, obscure=True,
    ),
    "skyreels": Model(
        "other", "SkyReelsV2Pipeline", "transformer", "SkyReelsV2Transformer3DModel",
        {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, {"text_encoder": "umt5"}, "wan", obscure=True,
    ),
    "framepack": Model(
        "hunyuanvideo", "HunyuanVideoFramepackPipeline", "transformer", "HunyuanVideoFramepackTransformer3DModel",
        {"has_image_proj": True, "has_clean_x_embedder": True},
        {"text_encoder": "llama3_8b", "text_encoder_2": "clip_l"},
        obscure=True,
    ),
    **TINY,
    "longcat_image": Model(
        "other", "LongCatImagePipeline", "transformer", "LongCatImageTransformer2DModel", {}, obscure=True
    ),
    "bria": Model("other", "BriaPipeline", "transformer", "BriaTransformer2DModel", {}, obscure=True),
}  # fmt: skip
NAMED = tuple(name for name, model in MODELS.items() if model.family != "other" and not model.obscure)
Names = tuple[str, ...]
ALL: Names = tuple(MODELS)


def named(among: Iterable[str]) -> list[str]:
    """Those of some models whose family has a name here and that people have heard of."""
    return [name for name in NAMED if name in set(among)]
