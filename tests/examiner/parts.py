"""What stands beside a denoiser: text encoders, VAEs, ControlNets and other parts, as class and public config.

It does not know which model uses which part, except where a denoiser's config is the part's own.
"""

from __future__ import annotations

from typing import Any

from tests.examiner.configs import SD3, UNET_SD1, UNET_SD2, UNET_XL

VAE_KL = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
T5 = {"d_model": 4096, "d_kv": 64, "num_heads": 64, "d_ff": 10240, "num_layers": 24, "feed_forward_proj": "gated-gelu"}


def _llm(hidden: int, inter: int, layers: int, heads: int, kv: int, vocab: int, head_dim: int = 128) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inter, "num_hidden_layers": layers, "head_dim": head_dim,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
    }  # fmt: skip


ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip_l": ("CLIPTextModelWithProjection", {**CLIP_L, "vocab_size": 49408}),
    "clip_tiny": (
        "CLIPTextModelWithProjection",
        {
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "vocab_size": 1000,
        },
    ),
    "clip_l_proj": ("CLIPTextModelWithProjection", {**CLIP_L, "vocab_size": 49408, "projection_dim": 768}),
    "clip_g": ("CLIPTextModelWithProjection", {**CLIP_G, "vocab_size": 49408, "projection_dim": 1280}),
    "clip_h": ("CLIPTextModelWithProjection", {**CLIP_H, "vocab_size": 49408}),
    "t5": ("T5EncoderModel", {**T5, "vocab_size": 32128}),
    "umt5": ("UMT5EncoderModel", {**T5, "vocab_size": 256384}),
    "pile_t5": ("UMT5EncoderModel", {**T5, "d_model": 2048, "num_heads": 32, "d_ff": 5120, "vocab_size": 32128}),
    "gemma2_2b": ("Gemma2Model", _llm(2304, 9216, 26, 8, 4, 256000, 256)),
    "llama3_8b": ("LlamaModel", _llm(4096, 14336, 32, 32, 8, 128320)),
    "qwen25_vl_7b": ("Qwen2Model", _llm(3584, 18944, 28, 28, 4, 152064)),
    "qwen3_4b": ("Qwen3ForCausalLM", _llm(2560, 9728, 36, 32, 8, 151936)),
    "qwen3_8b": ("Qwen3ForCausalLM", _llm(4096, 12288, 36, 32, 8, 151936)),
    "qwen3_06b": ("Qwen3Model", _llm(1024, 3072, 28, 16, 8, 151936)),
    "mistral_24b": ("MistralForCausalLM", _llm(5120, 32768, 40, 32, 8, 131072)),
}
PARTS: dict[str, tuple[str, dict[str, Any]]] = {  # components that are no denoiser: diffusers class and config
    "vae_sd": ("AutoencoderKL", {**VAE_KL, "latent_channels": 4}),
    "vae_flux": (
        "AutoencoderKL", {**VAE_KL, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    ),
    "vae_flux2": ("AutoencoderKLFlux2", {}),
    "vae_wan": ("AutoencoderKLWan", {}),
    "vae_qwen": ("AutoencoderKLQwenImage", {}),
    "vae_hunyuan": ("AutoencoderKLHunyuanVideo", {}),
    "vae_tiny": ("AutoencoderTiny", {}),
    "vae_dc": ("AutoencoderDC", {}),
    "cn_sd15": ("ControlNetModel", {"cross_attention_dim": 768}),
    "cn_sd21": ("ControlNetModel", {k: v for k, v in UNET_SD2.items() if k != "up_block_types"}),
    "cn_sdxl": ("ControlNetModel", {k: v for k, v in UNET_XL.items() if k not in ("up_block_types", "sample_size")}),
    "cn_flux": ("FluxControlNetModel", {"num_layers": 5, "num_single_layers": 10, "guidance_embeds": True}),
    "cn_flux_union": (
        "FluxControlNetModel", {"num_layers": 5, "num_single_layers": 10, "guidance_embeds": True, "num_mode": 10},
    ),
    "cn_sd3": ("SD3ControlNetModel", {**SD3, "num_layers": 12}),
    "cn_qwen": ("QwenImageControlNetModel", {"num_layers": 5}),
    "t2i_adapter": ("T2IAdapter", {"adapter_type": "full_adapter"}),
    "t2i_adapter_xl": ("T2IAdapter", {"adapter_type": "full_adapter_xl", "downscale_factor": 16}),
    "motion": ("MotionAdapter", {}),
    "vae_wan22": (
        "AutoencoderKLWan",
        {"base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "is_residual": True,
         "in_channels": 12, "out_channels": 12},
    ),
    "vae_ltx": ("AutoencoderKLLTXVideo", {}),
    "vae_cosmos": ("AutoencoderKLCosmos", {}),
    "vae_cogvideox": ("AutoencoderKLCogVideoX", {}),
    "vae_mochi": ("AutoencoderKLMochi", {}),
    "cn_sdxl_union": (
        "ControlNetUnionModel", {k: v for k, v in UNET_XL.items() if k not in ("up_block_types", "sample_size")},
    ),
    "cn_sdxl_small": (
        "ControlNetModel",
        {**{k: v for k, v in UNET_XL.items() if k not in ("up_block_types", "sample_size")},
         "down_block_types": ("DownBlock2D",) * 3, "transformer_layers_per_block": (1, 1, 1)},
    ),
    "cn_flux_pro": ("FluxControlNetModel", {"num_layers": 6, "num_single_layers": 0, "guidance_embeds": True}),
    "cn_zimage": ("ZImageControlNetModel", {"control_layers_places": [0, 5, 10, 15, 20, 25], "control_in_dim": 16}),
    "cn_sparse": ("SparseControlNetModel", {}),
    "svd": ("UNetSpatioTemporalConditionModel", {"num_attention_heads": (5, 10, 20, 20)}),
    "cascade": ("StableCascadeUNet", {}),
    "sd15_inpaint": ("UNet2DConditionModel", {**UNET_SD1, "sample_size": 64, "in_channels": 9}),
    "sdxl_inpaint": ("UNet2DConditionModel", {**UNET_XL, "in_channels": 9}),
    "pix2pix": ("UNet2DConditionModel", {**UNET_SD1, "sample_size": 64, "in_channels": 8}),
    "anima:adapter": ("AnimaTextConditioner", {}),
}  # fmt: skip
WRAPPED = {  # the language model inside a vision one, as the folders' files name it
    "qwen25_vl_7b": ("model.", "Qwen2_5_VLForConditionalGeneration"),
    "mistral_24b": ("language_model.", "Mistral3ForConditionalGeneration"),
}
NO_PROJECTION = (
    "clip_l",
    "clip_h",
    "clip_tiny",
)  # the files of a plain CLIPTextModel: the same names without the last layer
