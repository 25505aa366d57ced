"""Which kind of safetensors file: a LoRA, a checkpoint, or one of the others that lie in the same folders.

Told by the names that only one kind has, strongest first. A file that has none of them is `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from runner.contract.adapters import Module
from runner.contract.headers import Header
from runner.contract.layers import split_name, table
from runner.contract.naming import locate

LORA, CHECKPOINT, VAE, TEXT_ENCODER = "lora", "checkpoint", "vae", "text_encoder"
CONTROLNET, EMBEDDING, IP_ADAPTER, UNKNOWN = "controlnet", "embedding", "ip_adapter", "unknown"

MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (IP_ADAPTER, re.compile(
        r"(?m)^(?:image_proj(?:_model)?|ip_adapter(?:_proj_model)?)\.|[._]to_[kv]_ip\b|\.ip_adapter_(?:double|single)_|^ip_adapter_proj")),
    (CONTROLNET, re.compile(
        r"(?m)(?:^|\.)(?:controlnet_(?:cond_embedding|down_blocks|mid_block|blocks|single_blocks|x_embedder|mode_embedder)\b"
        r"|control_model\.|input_hint_block\.|lora_controlnet$|zero_convs\.|control_layers\.|control_noise_refiner\."
        r"|control_all_x_embedder|control_add_embedding\.)")),
)  # fmt: skip
WORDS = {IP_ADAPTER: ("image_proj", "ip_adapter", "_ip"), CONTROLNET: ("control", "input_hint_block", "zero_convs")}
_VAE = r"^(?:first_stage_model\.|vae\.)?"
VAE_NAMES = re.compile(
    _VAE
    + r"(?:encoder|decoder)\.(?:conv_in|conv_out|conv1|conv2|mid|mid_block|up|down|up_blocks|down_blocks|middle|head"
    r"|upsamples|downsamples|norm_out|conv_norm_out|layers|\d+)\b"
)
VAE_ONLY = re.compile(
    _VAE
    + r"(?:encoder|decoder|quant_conv|post_quant_conv|conv1|conv2|bn|quantize|latents_mean|latents_std|taesd_\w+)\b"
)
TEXT_NAMES = re.compile(
    r"(?:^|\.)(?:text_model\.(?:encoder|embeddings|final_layer_norm)\.|transformer\.resblocks\.|encoder\.block\.\d+\.layer\."
    r"|encoder\.layers\.\d+\.self_attn\.|layers\.\d+\.(?:self_attn|mlp)\.(?:[qkvo]|gate|up|down)_proj\.|(?:token_embedding|embed_tokens|shared)\.weight$)"
)
DENOISER_NAMES = re.compile(
    r"^(?:model\.diffusion_model\.|diffusion_model\.|net\.|unet\.|transformer\.)?(?:input_blocks|output_blocks|middle_block"
    r"|down_blocks|up_blocks|mid_block|(?:single_|joint_)?transformer_blocks|double_blocks|single_blocks|joint_blocks|double_layers"
    r"|single_layers|noise_refiner|context_refiner|blocks|double_stream_blocks|single_stream_blocks|visual_transformer_blocks)\.\d*"
    r"|^(?:model\.diffusion_model\.)?layers\.\d+\.(?:attention|adaLN_modulation|feed_forward|attn)\b"
)
MOTION = re.compile(r"motion_modules\.|temporal_transformer\.")
EMBEDDING_NAMES = {"emb_params", "clip_l", "clip_g", "clip_h", "t5xxl", "string_to_param", "qwen", "llama", "gemma"}
MAX_EMBEDDING_ROWS = 1024

LATENTS = {  # dimensions of the decoder's first convolution, latent channels -> families
    (4, 4): ("auraflow", "sd1", "sd2", "sdxl"),
    (4, 16): ("chroma", "flux1", "lumina2", "sd3", "z-image"),
    (4, 32): ("flux2",),
    (5, 16): ("anima", "hunyuanvideo", "qwen-image", "wan"),
    (5, 48): ("wan",),
}
IP_WIDTHS = {768: ("sd1",), 1024: ("sd2",), 2048: ("sdxl",), 4096: ("flux1",)}
EMBEDDING_WIDTHS = {("emb_params", 768): ("sd1",), ("emb_params", 1024): ("sd2",), ("clip_h", 1024): ("sd2",)}


def kind_of(header: Header, modules: Mapping[str, Module], rest: Sequence[str]) -> str:
    """One word for the file; `modules` and `rest` are its tensors as `adapters.pair` sorts them."""
    names = "\n".join(header.tensors)
    for kind, mark in MARKS:
        if any(word in names for word in WORDS[kind]) and mark.search(names):
            return kind
    adapted = any(module.algorithm != "incomplete" for module in modules.values())
    return LORA if adapted and len(header.tensors) - len(rest) >= len(rest) else _weights(header)


def _weights(header: Header) -> str:
    names = list(header.tensors)
    if not names:
        return UNKNOWN
    if len(names) <= 16 and all(_embedding(name, tensor.shape) for name, tensor in header.tensors.items()):
        return EMBEDDING
    if all(map(VAE_ONLY.match, names)) and any(map(VAE_NAMES.match, names)) and not any(map(TEXT_NAMES.search, names)):
        return VAE
    if any(map(_denoiser, names)) or _in_the_table(names):
        return UNKNOWN if all(map(MOTION.search, names)) else CHECKPOINT
    text = [name for name in names if TEXT_NAMES.search(name)]
    return TEXT_ENCODER if any("vision" not in name for name in text) else UNKNOWN


def _denoiser(name: str) -> bool:
    return DENOISER_NAMES.match(name) is not None and TEXT_NAMES.search(name) is None


def _in_the_table(names: Sequence[str]) -> bool:
    """Whether most weights have names of denoisers in the table that no text encoder there has."""
    owners = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    models = [table().knowing.get(split_name(owner).key, ()) for owner in owners]
    own = [found for found in models if found and all(layout.part != "text" for layout in found)]
    text = [found for found in models if found and all(layout.part == "text" for layout in found)]
    return len(own) > max(4, len(text))


def _embedding(name: str, shape: Sequence[int]) -> bool:
    rows = shape[0] if len(shape) == 2 else 1
    named = (
        name in EMBEDDING_NAMES or (name.startswith("<") and name.endswith(">")) or name.startswith("string_to_param")
    )
    return named and len(shape) in (1, 2) and rows <= MAX_EMBEDDING_ROWS


def _key_of(owner: str) -> str:
    return locate(owner, Module("weight", None, None, (), None, {})).name.key


def known_share(header: Header) -> float:
    """The share of a denoiser's weights whose names stand in the table."""
    owners = [name.removesuffix(".weight") for name in header.tensors if name.endswith(".weight") and _denoiser(name)]
    owners = [owner for owner in owners if len(header.tensors[f"{owner}.weight"].shape) >= 2]
    known = [owner for owner in owners if _key_of(owner) in table().knowing]
    return len(known) / len(owners) if owners else 0.0


def families_of_vae(header: Header) -> Iterable[str]:
    """The families whose latents a VAE makes: by their channels, and by the dimensions of its convolutions."""
    if not any(".mid" in name or ".middle" in name for name in header.tensors):
        return ()  # another architecture, such as Sana's
    firsts = (
        "decoder.conv_in.weight",
        "first_stage_model.decoder.conv_in.weight",
        "vae.decoder.conv_in.weight",
        "decoder.conv1.weight",
    )
    for tensor in (header.tensors[name] for name in firsts if name in header.tensors):
        return LATENTS.get((len(tensor.shape), tensor.shape[1] if len(tensor.shape) > 1 else 0), ())
    return ()


def families_of_embedding(header: Header) -> Iterable[str]:
    """The families whose text encoders have tokens of these widths."""
    widths = {(n if n in EMBEDDING_NAMES else "emb_params", t.shape[-1]) for n, t in header.tensors.items()}
    names = {name for name, _ in widths}
    if names >= {"clip_l", "clip_g"}:
        return ("sd3",) if "t5xxl" in names else ("sd3", "sdxl")
    return EMBEDDING_WIDTHS.get(widths.pop(), ()) if len(widths) == 1 else ()


def families_of_ip_adapter(header: Header) -> Iterable[str]:
    """By the widths of the layers beside which the image is attended to."""
    if any(".ip_adapter_double_stream" in name for name in header.tensors):
        return ("flux1",)
    shapes = (t.shape for n, t in header.tensors.items() if n.endswith("to_k_ip.weight"))
    widths = {shape[1] for shape in shapes if len(shape) == 2}
    return IP_WIDTHS.get(widths.pop(), ()) if len(widths) == 1 else ()
