"""What a published model is to the examiner, and the configs that several models share.

Only what differs from the class's defaults stands here, as the public config.json files and the models' own code
give it. It does not know which models there are, nor what tensors a config makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Model(NamedTuple):
    """One public base model: where its parts lie and what they are."""

    family: str
    pipeline: str
    part: str  # folder of the denoiser
    cls: str
    config: dict[str, Any]
    encoders: Mapping[str, str] = MappingProxyType({})  # component -> key of ENCODERS
    rules: str = ""  # key of RULES: diffusers names -> original names
    kohya: str = "native"  # the layout kohya's trainers name
    te: Mapping[str, str] = MappingProxyType({})  # component -> kohya prefix
    obscure: bool = False  # few have heard of it: that it might be this one excuses "cannot tell", no more


CLIP_T5 = {"text_encoder": "clip_l", "text_encoder_2": "t5"}
TE_SD = {"text_encoder": "lora_te_"}
TE_XL = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
TE_SD3 = {**TE_XL, "text_encoder_3": "lora_te3_"}
TE_FLUX = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te3_"}  # sd-scripts networks/lora_flux.py
UNET_SD1 = {"cross_attention_dim": 768}
UNET_SD2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
UNET_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
UNET_REFINER = {
    **UNET_XL,
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
UNET_SSD = {  # segmind/SSD-1B unet/config.json
    **UNET_XL,
    "mid_block_type": None,
    "transformer_layers_per_block": (0, 2, 4),
    "reverse_transformer_layers_per_block": ((4, 4, 10), (2, 1, 1), 0),
}
UNET_KOLORS = {
    **UNET_XL,
    "projection_class_embeddings_input_dim": 5632,
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
}
SD3 = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
SD35_M = {**SD3, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
SD35_L = {**SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
SD3_TE = {"text_encoder": "clip_l_proj", "text_encoder_2": "clip_g", "text_encoder_3": "t5"}
KLEIN_4B = {  # black-forest-labs/flux2 Klein4BParams
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
KLEIN_9B = {  # Klein9BParams
    "num_layers": 8,
    "num_single_layers": 24,
    "num_attention_heads": 32,
    "joint_attention_dim": 12288,
    "guidance_embeds": False,
}
WAN_1B = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
WAN_I2V = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
WAN_5B = {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48}
COSMOS_2B = {  # diffusers scripts/convert_cosmos_to_diffusers.py, Cosmos-2.0-Diffusion-2B-Text2Image
    "num_attention_heads": 16,
    "in_channels": 16,
    "rope_scale": (1.0, 4.0, 4.0),
    "extra_pos_embed_type": None,
}
