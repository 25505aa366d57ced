"""Original names of what is no transformer: the LDM UNet, VAEs, OpenCLIP; ComfyUI's and diffusers' tables backwards.

It does not know which names a model has, nor a shape.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.examiner.renamings import Rules


def ldm_names(config: Mapping[str, Any]) -> dict[str, str]:
    """UNet prefixes, diffusers -> LDM (CompVis, sgm): ComfyUI's unet_to_diffusers, read backwards."""
    levels = len(config["block_out_channels"])
    num = config.get("layers_per_block", 2)
    names = {
        "conv_in.": "input_blocks.0.0.",
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "add_embedding.linear_1.": "label_emb.0.0.",
        "add_embedding.linear_2.": "label_emb.0.2.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
        "encoder_hid_proj.": "encoder_hid_proj.",
    }
    for x, i in itertools.product(range(levels), range(num)):
        block = 1 + (num + 1) * x + i
        names[f"down_blocks.{x}.resnets.{i}."] = f"input_blocks.{block}.0."
        names[f"down_blocks.{x}.attentions.{i}."] = f"input_blocks.{block}.1."
        names[f"down_blocks.{x}.downsamplers.0.conv."] = f"input_blocks.{(num + 1) * (x + 1)}.0.op."
    for x, i in itertools.product(range(levels), range(num + 1)):
        names[f"up_blocks.{x}.resnets.{i}."] = f"output_blocks.{x * (num + 1) + i}.0."
        names[f"up_blocks.{x}.attentions.{i}."] = f"output_blocks.{x * (num + 1) + i}.1."
        after = 2 if "CrossAttn" in config["up_block_types"][x] else 1
        names[f"up_blocks.{x}.upsamplers.0."] = f"output_blocks.{x * (num + 1) + num}.{after}."
    return names


LDM_RESNET = (
    ("norm1.", "in_layers.0."), ("conv1.", "in_layers.2."), ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."), ("conv2.", "out_layers.3."), ("conv_shortcut.", "skip_connection."),
)  # fmt: skip


def ldm_name(prefixes: Mapping[str, str], name: str) -> str:
    """One UNet parameter's name in the LDM layout."""
    prefix = next(prefix for prefix in sorted(prefixes, key=len, reverse=True) if name.startswith(prefix))
    rest = name[len(prefix) :]
    if ".resnets." in prefix:
        for old, new in LDM_RESNET:
            rest = rest.replace(old, new)
    return prefixes[prefix] + rest


LDM_VAE: Rules = (
    (r"\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r".down.\1.block.\2."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".up.<\1>.upsample."),
    (r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r".up.<\1>.block.\2."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.group_norm\.", ".mid.attn_1.norm."),
    (r"\.mid_block\.attentions\.0\.to_out\.0\.", ".mid.attn_1.proj_out."),
    (r"\.mid_block\.attentions\.0\.to_([qkv])\.", r".mid.attn_1.\1."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)
WAN_VAE: Rules = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r".upsamples.<\1+\2>."),
    (r"\.up_blocks\.(\d+)\.upsamplers\.0\.", r".upsamples.<\1+3>."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.norm1\.", ".residual.0."),
    (r"(?<=[\d>])\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
OPEN_CLIP: Rules = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight", "text_projection"),
)


def chain(rules: Rules) -> Callable[[str], str]:
    """All rules, one after the other; `<2>` counts down from 3, `<2+1>` is the index in a flat list of four each."""
    compiled = [(re.compile(pattern), to) for pattern, to in rules]

    def rename(name: str) -> str:
        for pattern, to in compiled:
            name = pattern.sub(to, name)
        name = re.sub(r"<(\d+)\+(\d+)>", lambda found: str(4 * int(found[1]) + int(found[2])), name)
        return re.sub(r"<(\d+)>", lambda found: str(3 - int(found[1])), name)

    return rename


def ldm_controlnet_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Lllyasviel's names: the encoder half of the LDM UNet, a hint block, zero convolutions."""
    prefixes = ldm_names({**config, "up_block_types": ("UpBlock2D",) * 4})
    prefixes |= {f"controlnet_down_blocks.{num}.": f"zero_convs.{num}.0." for num in range(12)}
    prefixes |= {f"controlnet_cond_embedding.blocks.{num}.": f"input_hint_block.{2 * num + 2}." for num in range(6)}
    return prefixes | {
        "controlnet_mid_block.": "middle_block_out.0.",
        "controlnet_cond_embedding.conv_in.": "input_hint_block.0.",
        "controlnet_cond_embedding.conv_out.": "input_hint_block.14.",
    }
