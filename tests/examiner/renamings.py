"""Original names of transformer denoisers: the renamings of diffusers' single_file_utils and convert_*, read backwards.

A rule turns one diffusers name into the name of the model's first repository (BFL, Stability, Wan ...); several
names that fall on one were fused there. It does not know which names a model has.
"""

from __future__ import annotations

import re
from functools import cache

Rules = tuple[tuple[str, str], ...]

_FLUX_BLOCKS: Rules = (
    (r"^single_transformer_blocks\.(\d+)\.(attn\.to_[qkv]|proj_mlp)\.", r"single_blocks.\1.linear1."),
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_[qkv]\.", r"double_blocks.\1.img_attn.qkv."),
    (r"^transformer_blocks\.(\d+)\.attn\.add_[qkv]_proj\.", r"double_blocks.\1.txt_attn.qkv."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_out\.0\.", r"double_blocks.\1.img_attn.proj."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out\.", r"double_blocks.\1.txt_attn.proj."),
)
_FLUX_NORMS: Rules = (
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"double_blocks.\1.img_attn.norm.query_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"double_blocks.\1.img_attn.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_q\.weight", r"double_blocks.\1.txt_attn.norm.query_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_k\.weight", r"double_blocks.\1.txt_attn.norm.key_norm.scale"),
)
_FLUX1_FF: Rules = (
    (r"^transformer_blocks\.(\d+)\.ff\.net\.0\.proj\.", r"double_blocks.\1.img_mlp.0."),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.2\.", r"double_blocks.\1.img_mlp.2."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj\.", r"double_blocks.\1.txt_mlp.0."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.2\.", r"double_blocks.\1.txt_mlp.2."),
)
_FLUX_ENDS: Rules = (
    (r"^x_embedder\.", "img_in."),
    (r"^context_embedder\.", "txt_in."),
    (r"^time\w*_embed\.timestep_embedder\.linear_1\.", "time_in.in_layer."),
    (r"^time\w*_embed\.timestep_embedder\.linear_2\.", "time_in.out_layer."),
    (r"^time\w*_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
    (r"^time\w*_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
    (r"^time\w*_embed\.guidance_embedder\.linear_1\.", "guidance_in.in_layer."),
    (r"^time\w*_embed\.guidance_embedder\.linear_2\.", "guidance_in.out_layer."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
)
_SD3_BLOCK = r"^transformer_blocks\.(\d+)\."
_HUNYUAN_TXT = r"^context_embedder\.token_refiner\.refiner_blocks\.(\d+)\."
_HUNYUAN_TXT_TO = r"txt_in.individual_token_refiner.blocks.\1."
RULES: dict[str, Rules] = {
    "flux": (
        *_FLUX_BLOCKS,
        *_FLUX_NORMS,
        *_FLUX1_FF,
        (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.lin."),
        (r"^transformer_blocks\.(\d+)\.norm1\.linear\.", r"double_blocks.\1.img_mod.lin."),
        (r"^transformer_blocks\.(\d+)\.norm1_context\.linear\.", r"double_blocks.\1.txt_mod.lin."),
        *_FLUX_ENDS,
    ),
    "chroma": (
        *_FLUX_BLOCKS,
        *_FLUX_NORMS,
        *_FLUX1_FF,
        (r"^(distilled_guidance_layer\.layers\.\d+)\.linear_1\.", r"\1.in_layer."),
        (r"^(distilled_guidance_layer\.layers\.\d+)\.linear_2\.", r"\1.out_layer."),
        (r"^(distilled_guidance_layer\.norms\.\d+)\.weight", r"\1.scale"),
        *_FLUX_ENDS,
    ),
    "flux2": (
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.", r"single_blocks.\1.linear1."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.", r"single_blocks.\1.linear2."),
        (r"^transformer_blocks\.(\d+)\.ff\.linear_in\.", r"double_blocks.\1.img_mlp.0."),
        (r"^transformer_blocks\.(\d+)\.ff\.linear_out\.", r"double_blocks.\1.img_mlp.2."),
        (r"^transformer_blocks\.(\d+)\.ff_context\.linear_in\.", r"double_blocks.\1.txt_mlp.0."),
        (r"^transformer_blocks\.(\d+)\.ff_context\.linear_out\.", r"double_blocks.\1.txt_mlp.2."),
        (r"^((?:single|double)_stream_modulation\w*)\.linear\.", r"\1.lin."),
        *_FLUX_BLOCKS,
        *_FLUX_NORMS,
        *_FLUX_ENDS,
    ),
    "sd3": (
        (_SD3_BLOCK + r"attn\.to_[qkv]\.", r"joint_blocks.\1.x_block.attn.qkv."),
        (_SD3_BLOCK + r"attn2\.to_[qkv]\.", r"joint_blocks.\1.x_block.attn2.qkv."),
        (_SD3_BLOCK + r"attn\.add_[qkv]_proj\.", r"joint_blocks.\1.context_block.attn.qkv."),
        (_SD3_BLOCK + r"attn\.to_out\.0\.", r"joint_blocks.\1.x_block.attn.proj."),
        (_SD3_BLOCK + r"attn2\.to_out\.0\.", r"joint_blocks.\1.x_block.attn2.proj."),
        (_SD3_BLOCK + r"attn\.to_add_out\.", r"joint_blocks.\1.context_block.attn.proj."),
        (_SD3_BLOCK + r"attn\.norm_added_([qk])\.", r"joint_blocks.\1.context_block.attn.ln_\2."),
        (_SD3_BLOCK + r"(attn2?)\.norm_([qk])\.", r"joint_blocks.\1.x_block.\2.ln_\3."),
        (_SD3_BLOCK + r"ff\.net\.0\.proj\.", r"joint_blocks.\1.x_block.mlp.fc1."),
        (_SD3_BLOCK + r"ff\.net\.2\.", r"joint_blocks.\1.x_block.mlp.fc2."),
        (_SD3_BLOCK + r"ff_context\.net\.0\.proj\.", r"joint_blocks.\1.context_block.mlp.fc1."),
        (_SD3_BLOCK + r"ff_context\.net\.2\.", r"joint_blocks.\1.context_block.mlp.fc2."),
        (_SD3_BLOCK + r"norm1\.linear\.", r"joint_blocks.\1.x_block.adaLN_modulation.1."),
        (_SD3_BLOCK + r"norm1_context\.linear\.", r"joint_blocks.\1.context_block.adaLN_modulation.1."),
        (r"^pos_embed\.proj\.", "x_embedder.proj."),
        (r"^pos_embed\.pos_embed", "pos_embed"),
        (r"^time_text_embed\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
        (r"^time_text_embed\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
        (r"^time_text_embed\.text_embedder\.linear_1\.", "y_embedder.mlp.0."),
        (r"^time_text_embed\.text_embedder\.linear_2\.", "y_embedder.mlp.2."),
        (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
        (r"^proj_out\.", "final_layer.linear."),
    ),
    "zimage": (  # ComfyUI's single file, comfy/utils.py z_image_to_diffusers
        (r"\.attention\.to_[qkv]\.", ".attention.qkv."),
        (r"\.attention\.to_out\.0\.", ".attention.out."),
        (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
        (r"^all_x_embedder\.2-1\.", "x_embedder."),
        (r"^all_final_layer\.2-1\.", "final_layer."),
    ),
    "lumina2": (
        (r"\.attn\.to_[qkv]\.", ".attention.qkv."),
        (r"\.attn\.to_out\.0\.", ".attention.out."),
        (r"\.attn\.norm_([qk])\.", r".attention.\1_norm."),
        (r"\.feed_forward\.linear_(\d)\.", r".feed_forward.w\1."),
        (r"\.norm1\.linear\.", ".adaLN_modulation.1."),
        (r"\.norm1\.(norm\.)?weight", ".attention_norm1.weight"),
        (r"\.norm2\.weight", ".attention_norm2.weight"),
        (r"^time_caption_embed\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
        (r"^time_caption_embed\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
        (r"^time_caption_embed\.caption_embedder\.", "cap_embedder."),
        (r"^norm_out\.linear_1\.", "final_layer.adaLN_modulation.1."),
        (r"^norm_out\.linear_2\.", "final_layer.linear."),
    ),
    "wan": (
        (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
        (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
        (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
        (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
        (r"^condition_embedder\.time_proj\.", "time_projection.1."),
        (r"^condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
        (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
        (r"^condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
        (r"^condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
        (r"^proj_out\.", "head.head."),
        (r"^scale_shift_table", "head.modulation"),
        (r"\.scale_shift_table", ".modulation"),
        (r"\.ffn\.net\.0\.proj\.", ".ffn.0."),
        (r"\.ffn\.net\.2\.", ".ffn.2."),
        (r"\.norm2\.", ".norm3."),
        (r"\.attn1\.to_out\.0\.", ".self_attn.o."),
        (r"\.attn2\.to_out\.0\.", ".cross_attn.o."),
        (r"\.attn1\.to_([qkv])\.", r".self_attn.\1."),
        (r"\.attn2\.to_([qkv])\.", r".cross_attn.\1."),
        (r"\.attn2\.add_([kv])_proj\.", r".cross_attn.\1_img."),
        (r"\.attn2\.norm_added_k\.", ".cross_attn.norm_k_img."),
        (r"\.attn1\.", ".self_attn."),
        (r"\.attn2\.", ".cross_attn."),
    ),
    "cosmos": (  # diffusers _convert_non_diffusers_anima_lora_to_diffusers, read backwards
        (r"^transformer_blocks\.", "blocks."),
        (r"\.norm1\.linear_([12])\.", r".adaln_modulation_self_attn.\1."),
        (r"\.norm2\.linear_([12])\.", r".adaln_modulation_cross_attn.\1."),
        (r"\.norm3\.linear_([12])\.", r".adaln_modulation_mlp.\1."),
        (r"\.attn1\.to_out\.0\.", ".self_attn.output_proj."),
        (r"\.attn2\.to_out\.0\.", ".cross_attn.output_proj."),
        (r"\.attn1\.to_([qkv])\.", r".self_attn.\1_proj."),
        (r"\.attn2\.to_([qkv])\.", r".cross_attn.\1_proj."),
        (r"\.attn1\.norm_([qk])\.", r".self_attn.\1_norm."),
        (r"\.attn2\.norm_([qk])\.", r".cross_attn.\1_norm."),
        (r"\.ff\.net\.0\.proj\.", ".mlp.layer1."),
        (r"\.ff\.net\.2\.", ".mlp.layer2."),
        (r"^norm_out\.linear_([12])\.", r"final_layer.adaln_modulation.\1."),
        (r"^proj_out\.", "final_layer.linear."),
        (r"^time_embed\.t_embedder\.", "t_embedder.1."),
        (r"^time_embed\.norm\.", "t_embedding_norm."),
        (r"^patch_embed\.proj\.", "x_embedder.proj.1."),
    ),
    "hunyuan": (
        (_HUNYUAN_TXT + r"attn\.to_[qkv]\.", _HUNYUAN_TXT_TO + "self_attn_qkv."),
        (_HUNYUAN_TXT + r"attn\.to_out\.0\.", _HUNYUAN_TXT_TO + "self_attn_proj."),
        (_HUNYUAN_TXT + r"ff\.net\.0\.proj\.", _HUNYUAN_TXT_TO + "mlp.fc1."),
        (_HUNYUAN_TXT + r"ff\.net\.2\.", _HUNYUAN_TXT_TO + "mlp.fc2."),
        (_HUNYUAN_TXT + r"norm_out\.linear\.", _HUNYUAN_TXT_TO + "adaLN_modulation.1."),
        (_HUNYUAN_TXT, _HUNYUAN_TXT_TO),
        (r"^context_embedder\.proj_in\.", "txt_in.input_embedder."),
        (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_1\.", "txt_in.t_embedder.mlp.0."),
        (r"^context_embedder\.time_text_embed\.timestep_embedder\.linear_2\.", "txt_in.t_embedder.mlp.2."),
        (r"^context_embedder\.time_text_embed\.text_embedder\.", "txt_in.c_embedder."),
        (r"^x_embedder\.", "img_in."),
        (r"^time_text_embed\.timestep_embedder\.linear_1\.", "time_in.mlp.0."),
        (r"^time_text_embed\.timestep_embedder\.linear_2\.", "time_in.mlp.2."),
        (r"^time_text_embed\.guidance_embedder\.linear_1\.", "guidance_in.mlp.0."),
        (r"^time_text_embed\.guidance_embedder\.linear_2\.", "guidance_in.mlp.2."),
        (r"^time_text_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
        (r"^time_text_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
        (r"^single_transformer_blocks\.(\d+)\.(attn\.to_[qkv]|proj_mlp)\.", r"single_blocks.\1.linear1."),
        (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
        (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.linear."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.norm_([qk])\.", r"single_blocks.\1.\2_norm."),
        (_SD3_BLOCK + r"attn\.to_[qkv]\.", r"double_blocks.\1.img_attn_qkv."),
        (_SD3_BLOCK + r"attn\.add_[qkv]_proj\.", r"double_blocks.\1.txt_attn_qkv."),
        (_SD3_BLOCK + r"attn\.to_out\.0\.", r"double_blocks.\1.img_attn_proj."),
        (_SD3_BLOCK + r"attn\.to_add_out\.", r"double_blocks.\1.txt_attn_proj."),
        (_SD3_BLOCK + r"attn\.norm_added_([qk])\.", r"double_blocks.\1.txt_attn_\2_norm."),
        (_SD3_BLOCK + r"attn\.norm_([qk])\.", r"double_blocks.\1.img_attn_\2_norm."),
        (_SD3_BLOCK + r"ff\.net\.0\.proj\.", r"double_blocks.\1.img_mlp.fc1."),
        (_SD3_BLOCK + r"ff\.net\.2\.", r"double_blocks.\1.img_mlp.fc2."),
        (_SD3_BLOCK + r"ff_context\.net\.0\.proj\.", r"double_blocks.\1.txt_mlp.fc1."),
        (_SD3_BLOCK + r"ff_context\.net\.2\.", r"double_blocks.\1.txt_mlp.fc2."),
        (_SD3_BLOCK + r"norm1\.linear\.", r"double_blocks.\1.img_mod.linear."),
        (_SD3_BLOCK + r"norm1_context\.linear\.", r"double_blocks.\1.txt_mod.linear."),
        (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
        (r"^proj_out\.", "final_layer.linear."),
    ),
    "auraflow": (  # diffusers scripts/convert_aura_flow_to_diffusers.py
        (r"^joint_transformer_blocks\.(\d+)\.attn\.to_([qkv])\.", r"double_layers.\1.attn.w2\2."),
        (r"^joint_transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj\.", r"double_layers.\1.attn.w1\2."),
        (r"^joint_transformer_blocks\.(\d+)\.attn\.to_out\.0\.", r"double_layers.\1.attn.w2o."),
        (r"^joint_transformer_blocks\.(\d+)\.attn\.to_add_out\.", r"double_layers.\1.attn.w1o."),
        (r"^joint_transformer_blocks\.(\d+)\.norm1\.linear\.", r"double_layers.\1.modX.1."),
        (r"^joint_transformer_blocks\.(\d+)\.norm1_context\.linear\.", r"double_layers.\1.modC.1."),
        (r"^joint_transformer_blocks\.(\d+)\.ff\.linear_([12])\.", r"double_layers.\1.mlpX.c_fc\2."),
        (r"^joint_transformer_blocks\.(\d+)\.ff\.out_projection\.", r"double_layers.\1.mlpX.c_proj."),
        (r"^joint_transformer_blocks\.(\d+)\.ff_context\.linear_([12])\.", r"double_layers.\1.mlpC.c_fc\2."),
        (r"^joint_transformer_blocks\.(\d+)\.ff_context\.out_projection\.", r"double_layers.\1.mlpC.c_proj."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_([qkv])\.", r"single_layers.\1.attn.w1\2."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.0\.", r"single_layers.\1.attn.w1o."),
        (r"^single_transformer_blocks\.(\d+)\.norm1\.linear\.", r"single_layers.\1.modCX.1."),
        (r"^single_transformer_blocks\.(\d+)\.ff\.linear_([12])\.", r"single_layers.\1.mlp.c_fc\2."),
        (r"^single_transformer_blocks\.(\d+)\.ff\.out_projection\.", r"single_layers.\1.mlp.c_proj."),
        (r"^time_step_proj\.linear_1\.", "t_embedder.mlp.0."),
        (r"^time_step_proj\.linear_2\.", "t_embedder.mlp.2."),
        (r"^context_embedder\.", "cond_seq_linear."),
        (r"^pos_embed\.proj\.", "init_x_linear."),
        (r"^pos_embed\.pos_embed", "positional_encoding"),
        (r"^norm_out\.linear\.", "modF.1."),
        (r"^proj_out\.", "final_linear."),
    ),
}  # fmt: skip


@cache
def _compiled(rules: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), to) for pattern, to in RULES[rules])


def original_name(rules: str, name: str) -> str:
    """A parameter's name in the original repository; the first rule that matches decides, wan and cosmos take all."""
    chained = rules in ("wan", "cosmos", "lumina2", "zimage")
    for pattern, to in _compiled(rules):
        name, num = pattern.subn(to, name)
        if num and not chained:
            break
    return name
