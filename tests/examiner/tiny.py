"""The tiny models that diffusers' own tests build: real names, small widths.

People test with them, so the inspector meets them. It does not know any published model.
"""

from __future__ import annotations

from tests.examiner.configs import TE_FLUX, TE_SD, TE_SD3, TE_XL, Model

TINY_CLIP = {"text_encoder": "clip_tiny"}
TINY: dict[str, Model] = {  # what diffusers' own tests build: real names, small widths
    "tiny_sd": Model(
        "sd1", "StableDiffusionPipeline", "unet", "UNet2DConditionModel",
        {"block_out_channels": (32, 64), "sample_size": 32, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
         "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32},
        TINY_CLIP, "ldm", "diffusers", TE_SD, obscure=True,
    ),
    "tiny_sdxl": Model(
        "sdxl", "StableDiffusionXLPipeline", "unet", "UNet2DConditionModel",
        {"block_out_channels": (32, 64), "sample_size": 32, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
         "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4),
         "use_linear_projection": True,
         "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2),
         "projection_class_embeddings_input_dim": 80, "cross_attention_dim": 64},
        TINY_CLIP, "ldm", "native", TE_XL, obscure=True,
    ),
    "tiny_flux": Model(
        "flux1", "FluxPipeline", "transformer", "FluxTransformer2DModel",
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)},
        TINY_CLIP, "flux", "native", TE_FLUX, obscure=True,
    ),
    "tiny_flux2": Model(
        "flux2", "Flux2Pipeline", "transformer", "Flux2Transformer2DModel",
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 16, "axes_dims_rope": (4, 4, 4, 4)},
        {}, "flux2", obscure=True,
    ),
    "tiny_sd3": Model(
        "sd3", "StableDiffusion3Pipeline", "transformer", "SD3Transformer2DModel",
        {"sample_size": 32, "patch_size": 1, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8,
         "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32, "pooled_projection_dim": 64,
         "out_channels": 4},
        TINY_CLIP, "sd3", "native", TE_SD3, obscure=True,
    ),
    "tiny_wan": Model(
        "wan", "WanPipeline", "transformer", "WanTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "ffn_dim": 32, "num_layers": 2},
        {}, "wan", obscure=True,
    ),
    "tiny_qwen": Model(
        "qwen-image", "QwenImagePipeline", "transformer", "QwenImageTransformer2DModel",
        {"in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 3,
         "joint_attention_dim": 16, "axes_dims_rope": (8, 4, 4)},
        {}, "", "diffusers", obscure=True,
    ),
    "tiny_zimage": Model(
        "z-image", "ZImagePipeline", "transformer", "ZImageTransformer2DModel",
        {"dim": 32, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 16,
         "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32]},
        {}, "zimage", "diffusers", obscure=True,
    ),
    "tiny_chroma": Model(
        "chroma", "ChromaPipeline", "transformer", "ChromaTransformer2DModel",
        {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 32, "axes_dims_rope": (4, 4, 8), "approximator_hidden_dim": 32,
         "approximator_layers": 1, "approximator_num_channels": 16},
        {}, "chroma", "native", obscure=True,
    ),
}  # fmt: skip
