"""Names of layers in the original repositories, as rules: dotted pattern -> diffusers pattern, or several.

Several follow one another in the rows of the original layer; `~` marks two halves (scale and shift) that diffusers
keeps the other way round. `tests/contract/test_layers.py` holds the rules against diffusers' own converters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
EMBEDDER = "time_text_embed.timestep_embedder"


def _qkv(prefix: str, names: tuple[str, ...] = QKV) -> list[str]:
    return [f"{prefix}.{name}" for name in names]


def _mlp(original: str, diffusers: str, one: str = "0", two: str = "2") -> dict[str, Any]:
    return {f"{original}.{one}": f"{diffusers}.net.0.proj", f"{original}.{two}": f"{diffusers}.net.2"}


def _flux_blocks(attention: str = ".", mlp: tuple[str, str] = ("0", "2")) -> dict[str, Any]:
    """Blocks of FLUX.1, Chroma and HunyuanVideo; `attention` joins `img_attn` and `qkv` there."""
    block, single = "transformer_blocks.#", "single_transformer_blocks.#"
    return {
        f"double_blocks.#.img_attn{attention}qkv": _qkv(f"{block}.attn"),
        f"double_blocks.#.img_attn{attention}proj": f"{block}.attn.to_out.0",
        f"double_blocks.#.txt_attn{attention}qkv": _qkv(f"{block}.attn", ADDED),
        f"double_blocks.#.txt_attn{attention}proj": f"{block}.attn.to_add_out",
        **_mlp("double_blocks.#.img_mlp", f"{block}.ff", *mlp),
        **_mlp("double_blocks.#.txt_mlp", f"{block}.ff_context", *mlp),
        "single_blocks.#.linear1": [*_qkv(f"{single}.attn"), f"{single}.proj_mlp"],
        "single_blocks.#.linear2": f"{single}.proj_out",
    }


XLABS = {  # https://github.com/XLabs-AI/x-flux: LoRA processors
    "double_blocks.#.processor.qkv_lora1": _qkv("transformer_blocks.#.attn"),
    "double_blocks.#.processor.proj_lora1": "transformer_blocks.#.attn.to_out.0",
    "double_blocks.#.processor.qkv_lora2": _qkv("transformer_blocks.#.attn", ADDED),
    "double_blocks.#.processor.proj_lora2": "transformer_blocks.#.attn.to_add_out",
    "single_blocks.#.processor.qkv_lora": _qkv("single_transformer_blocks.#.attn"),
    "single_blocks.#.processor.proj_lora": "single_transformer_blocks.#.proj_out",
}
FINAL = {"final_layer.linear": "proj_out", "final_layer.adaLN_modulation.1": "~norm_out.linear"}
FLUX1 = {
    "img_in": "x_embedder", "txt_in": "context_embedder",
    "time_in.in_layer": f"{EMBEDDER}.linear_1", "time_in.out_layer": f"{EMBEDDER}.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    **_flux_blocks(), **XLABS, **FINAL,
    "double_blocks.#.img_mod.lin": "transformer_blocks.#.norm1.linear",
    "double_blocks.#.txt_mod.lin": "transformer_blocks.#.norm1_context.linear",
    "single_blocks.#.modulation.lin": "single_transformer_blocks.#.norm.linear",
}  # fmt: skip
CHROMA = {
    "img_in": "x_embedder", "txt_in": "context_embedder", **_flux_blocks(), "final_layer.linear": "proj_out",
    "distilled_guidance_layer.in_proj": "distilled_guidance_layer.in_proj",
    "distilled_guidance_layer.out_proj": "distilled_guidance_layer.out_proj",
    "distilled_guidance_layer.layers.#.in_layer": "distilled_guidance_layer.layers.#.linear_1",
    "distilled_guidance_layer.layers.#.out_layer": "distilled_guidance_layer.layers.#.linear_2",
}  # fmt: skip
FLUX2 = {
    "img_in": "x_embedder", "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "double_blocks.#.img_attn.qkv": _qkv("transformer_blocks.#.attn"),
    "double_blocks.#.img_attn.proj": "transformer_blocks.#.attn.to_out.0",
    "double_blocks.#.txt_attn.qkv": _qkv("transformer_blocks.#.attn", ADDED),
    "double_blocks.#.txt_attn.proj": "transformer_blocks.#.attn.to_add_out",
    "double_blocks.#.img_mlp.0": "transformer_blocks.#.ff.linear_in",
    "double_blocks.#.img_mlp.2": "transformer_blocks.#.ff.linear_out",
    "double_blocks.#.txt_mlp.0": "transformer_blocks.#.ff_context.linear_in",
    "double_blocks.#.txt_mlp.2": "transformer_blocks.#.ff_context.linear_out",
    "single_blocks.#.linear1": "single_transformer_blocks.#.attn.to_qkv_mlp_proj",
    "single_blocks.#.linear2": "single_transformer_blocks.#.attn.to_out",
    **FINAL,
}  # fmt: skip
SD3 = {
    "x_embedder.proj": "pos_embed.proj", "context_embedder": "context_embedder",
    "t_embedder.mlp.0": f"{EMBEDDER}.linear_1", "t_embedder.mlp.2": f"{EMBEDDER}.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "joint_blocks.#.x_block.attn.qkv": _qkv("transformer_blocks.#.attn"),
    "joint_blocks.#.x_block.attn.proj": "transformer_blocks.#.attn.to_out.0",
    "joint_blocks.#.context_block.attn.qkv": _qkv("transformer_blocks.#.attn", ADDED),
    "joint_blocks.#.context_block.attn.proj": "transformer_blocks.#.attn.to_add_out",
    "joint_blocks.#.x_block.attn2.qkv": _qkv("transformer_blocks.#.attn2"),
    "joint_blocks.#.x_block.attn2.proj": "transformer_blocks.#.attn2.to_out.0",
    **_mlp("joint_blocks.#.x_block.mlp", "transformer_blocks.#.ff", "fc1", "fc2"),
    **_mlp("joint_blocks.#.context_block.mlp", "transformer_blocks.#.ff_context", "fc1", "fc2"),
    "joint_blocks.#.x_block.adaLN_modulation.1": "transformer_blocks.#.norm1.linear",
    "joint_blocks.#.context_block.adaLN_modulation.1": "~transformer_blocks.#.norm1_context.linear",  # the last
    **FINAL,
}  # fmt: skip
ATTENTIONS = (("self_attn", "attn1"), ("cross_attn", "attn2"))
WAN_BLOCKS = ("blocks.#", "vace_blocks.#")
WAN_ATTENTION = (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"), ("k_img", "add_k_proj"),
                 ("v_img", "add_v_proj"))  # fmt: skip
WAN = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj", "head.head": "proj_out",
    **{f"{b}.{a}.{n}": f"{b}.{d}.{t}" for b in WAN_BLOCKS for a, d in ATTENTIONS for n, t in WAN_ATTENTION},
    **{f"{b}.ffn.{n}": f"{b}.ffn.{t}" for b in WAN_BLOCKS for n, t in (("0", "net.0.proj"), ("2", "net.2"))},
    "vace_blocks.#.before_proj": "vace_blocks.#.proj_in", "vace_blocks.#.after_proj": "vace_blocks.#.proj_out",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
}  # fmt: skip
REFINER = "context_embedder.token_refiner.refiner_blocks.#"
HUNYUANVIDEO = {
    "img_in.proj": "x_embedder.proj", **_flux_blocks("_", ("fc1", "fc2")), **FINAL,
    "time_in.mlp.0": f"{EMBEDDER}.linear_1", "time_in.mlp.2": f"{EMBEDDER}.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "double_blocks.#.img_mod.linear": "transformer_blocks.#.norm1.linear",
    "double_blocks.#.txt_mod.linear": "transformer_blocks.#.norm1_context.linear",
    "single_blocks.#.modulation.linear": "single_transformer_blocks.#.norm.linear",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": "context_embedder.time_text_embed.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": "context_embedder.time_text_embed.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
    "txt_in.individual_token_refiner.blocks.#.self_attn_qkv": _qkv(f"{REFINER}.attn"),
    "txt_in.individual_token_refiner.blocks.#.self_attn_proj": f"{REFINER}.attn.to_out.0",
    **_mlp("txt_in.individual_token_refiner.blocks.#.mlp", f"{REFINER}.ff", "fc1", "fc2"),
    "txt_in.individual_token_refiner.blocks.#.adaLN_modulation.1": f"{REFINER}.norm_out.linear",
}  # fmt: skip
LUMINA_BLOCKS = ("layers", "noise_refiner", "context_refiner")
GATES = (("w1", "linear_1"), ("w2", "linear_2"), ("w3", "linear_3"))
LUMINA2 = {
    "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear_1", "final_layer.linear": "norm_out.linear_2",
    **{f"{b}.#.attention.qkv": _qkv(f"{b}.#.attn") for b in LUMINA_BLOCKS},
    **{f"{b}.#.attention.out": f"{b}.#.attn.to_out.0" for b in LUMINA_BLOCKS},
    **{f"{b}.#.feed_forward.{n}": f"{b}.#.feed_forward.{t}" for b in LUMINA_BLOCKS for n, t in GATES},
    **{f"{b}.#.adaLN_modulation.1": f"{b}.#.norm1.linear" for b in ("layers", "noise_refiner")},
}  # fmt: skip
Z_IMAGE = {
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "x_embedder": "all_x_embedder.2-1",
    **{f"{b}.#.attention.qkv": _qkv(f"{b}.#.attention") for b in LUMINA_BLOCKS},
    **{f"{b}.#.attention.out": f"{b}.#.attention.to_out.0" for b in LUMINA_BLOCKS},
}  # fmt: skip
AURA_MLP = (("c_fc1", "linear_1"), ("c_fc2", "linear_2"), ("c_proj", "out_projection"))
AURAFLOW = {
    "t_embedder.mlp.0": "time_step_proj.linear_1", "t_embedder.mlp.2": "time_step_proj.linear_2",
    "cond_seq_linear": "context_embedder", "final_linear": "proj_out", "modF.1": "~norm_out.linear",
    "init_x_linear": "pos_embed.proj",
    **{f"double_layers.#.mlpX.{n}": f"joint_transformer_blocks.#.ff.{t}" for n, t in AURA_MLP},
    **{f"double_layers.#.mlpC.{n}": f"joint_transformer_blocks.#.ff_context.{t}" for n, t in AURA_MLP},
    "double_layers.#.modX.1": "joint_transformer_blocks.#.norm1.linear",
    "double_layers.#.modC.1": "joint_transformer_blocks.#.norm1_context.linear",
    **{f"double_layers.#.attn.{n}": f"joint_transformer_blocks.#.attn.{t}" for n, t in (
        ("w2q", "to_q"), ("w2k", "to_k"), ("w2v", "to_v"), ("w2o", "to_out.0"),
        ("w1q", "add_q_proj"), ("w1k", "add_k_proj"), ("w1v", "add_v_proj"), ("w1o", "to_add_out"))},
    **{f"single_layers.#.mlp.{n}": f"single_transformer_blocks.#.ff.{t}" for n, t in AURA_MLP},
    "single_layers.#.modCX.1": "single_transformer_blocks.#.norm1.linear",
    **{f"single_layers.#.attn.{n}": f"single_transformer_blocks.#.attn.{t}" for n, t in (
        ("w1q", "to_q"), ("w1k", "to_k"), ("w1v", "to_v"), ("w1o", "to_out.0"))},
}  # fmt: skip
ANIMA = {
    "x_embedder.proj.1": "patch_embed.proj", "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
    "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2", "final_layer.linear": "proj_out",
    "final_layer.adaln_modulation.1": "norm_out.linear_1", "final_layer.adaln_modulation.2": "norm_out.linear_2",
    **{f"blocks.#.{a}.{n}": f"transformer_blocks.#.{d}.{t}" for a, d in ATTENTIONS for n, t in (
        ("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("output_proj", "to_out.0"))},
    "blocks.#.mlp.layer1": "transformer_blocks.#.ff.net.0.proj", "blocks.#.mlp.layer2": "transformer_blocks.#.ff.net.2",
    **{f"blocks.#.adaln_modulation_{a}.{n}": f"transformer_blocks.#.{d}.linear_{n}" for a, d in (
        ("self_attn", "norm1"), ("cross_attn", "norm2"), ("mlp", "norm3")) for n in ("1", "2")},
}  # fmt: skip
LDM_TRANSFORMER = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
                   "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")  # fmt: skip
LDM_RESNET = (
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)


def _ldm() -> dict[str, list[Any]]:
    """UNets of the original Stable Diffusion code: https://github.com/CompVis/latent-diffusion (openaimodel.py)"""
    rules: dict[str, list[Any]] = {}

    def add(original: str, target: str, count: str = "same") -> None:
        rules.setdefault(original, []).append([[target], count, False])

    for side, blocks, count in (("input", "down", "ldm_in"), ("output", "up", "ldm_out")):
        for original, target in LDM_RESNET:
            add(f"{side}_blocks.#.0.{original}", f"{blocks}_blocks.#.resnets.#.{target}", count)
        for name in ("proj_in", "proj_out"):
            add(f"{side}_blocks.#.1.{name}", f"{blocks}_blocks.#.attentions.#.{name}", count)
        for name in LDM_TRANSFORMER:
            inner = f"transformer_blocks.#.{name}"
            add(f"{side}_blocks.#.1.{inner}", f"{blocks}_blocks.#.attentions.#.{inner}", count)
    for original, target in LDM_RESNET:
        for number, place in (("0", "0"), ("2", "1")):
            add(f"middle_block.{number}.{original}", f"mid_block.resnets.#.{target}", f"at_{place}")
    for name in ("proj_in", "proj_out", *(f"transformer_blocks.#.{inner}" for inner in LDM_TRANSFORMER)):
        add(f"middle_block.1.{name}", f"mid_block.attentions.#.{name}", "at_0")
    add("input_blocks.#.0.op", "down_blocks.#.downsamplers.0.conv", "ldm_down")
    add("input_blocks.#.0", "conv_in", "ldm_first")
    add("output_blocks.#.1.conv", "up_blocks.#.upsamplers.0.conv", "ldm_up")
    add("output_blocks.#.2.conv", "up_blocks.#.upsamplers.0.conv", "ldm_up")
    for original, target in (("time_embed.0", "time_embedding.linear_1"), ("time_embed.2", "time_embedding.linear_2"),
                             ("label_emb.0.0", "add_embedding.linear_1"), ("label_emb.0.2", "add_embedding.linear_2"),
                             ("out.2", "conv_out")):  # fmt: skip
        add(original, target)
    return rules


ORIGINALS: dict[str, Mapping[str, Any]] = {
    "flux1": FLUX1, "chroma": CHROMA, "flux2": FLUX2, "sd3": SD3, "wan": WAN, "hunyuanvideo": HUNYUANVIDEO,
    "lumina2": LUMINA2,
    "z-image": Z_IMAGE, "auraflow": AURAFLOW, "anima": ANIMA,
}  # fmt: skip


def natives() -> dict[str, dict[str, list[Any]]]:
    """Table -> key -> [[targets, how blocks count, swapped], ...]."""
    tables = {
        name: {_key(original): [_entry(target)] for original, target in rules.items()}
        for name, rules in ORIGINALS.items()
    }
    return {"none": {}, **tables, "ldm": {_key(name): entries for name, entries in _ldm().items()}}


def _key(pattern: str) -> str:
    return pattern.replace(".", "_")


def _entry(target: str | list[str]) -> list[Any]:
    targets = [target] if isinstance(target, str) else target
    return [[name.removeprefix("~") for name in targets], "same", targets[0].startswith("~")]
