"""Tiny, random, real vision-language models, as folders in `from_pretrained` form; made offline in seconds.

`llava` needs nothing but transformers; the Qwen families need torchvision to be loaded, not to be made. What they say
is noise, but it depends on the picture, the prompt and the seed. The tokenizer is byte-level: it takes any text, and
has pieces of JSON that lie across what a grammar may ask for, as large ones have.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from runner import builtin

CONTEXT = 8192
PATCH_PX, IMAGE_PX = 8, 56
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<|vision_start|>", "<|vision_end|>")
QWEN_SPECIALS = ("<|image_pad|>", "<|video_pad|>")
THINKING = ("<think>", "</think>")
PIECES = (
    '{"', '":', '":"', '":[', '","', '"}', '"},"', '"],"', '":{"', "null", " the", " a", " of", " is", "ing",
    "evidence", "criteria", "reason", "score", "severity", "confidence", "winner", "image", "picture", "prompt",
    "shape", "colour", "circle", "red", "blue", "minor", "major", "medium", "high", "low", "wrong_", "background",
)  # fmt: skip
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{{ 'IMAGE' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}{% endif %}"""


def make(folder: Path, family: str = "llava", seed: int = 0) -> Path:
    """Write a model folder of a family; the same bytes for the same seed."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family](folder)
        _randomise(model)
    model.generation_config.update(do_sample=True, temperature=1.7, top_k=5)  # as hubs do; nothing of it may be used
    model.save_pretrained(folder)
    return folder


def folder(family: str = "llava", seed: int = 0) -> Path:
    """The model folder of a family, made once under this session's own cache."""
    return _made(builtin.cache_dir() / "tiny_vlm" / f"{family}-{seed}", family, seed)


@functools.cache
def _made(place: Path, family: str, seed: int) -> Path:
    return place if (place / "model.safetensors").is_file() else make(place, family, seed)


def tokenizer(image: str = "<image>", specials: tuple[str, ...] = SPECIALS) -> Any:
    """All bytes, the pieces above and the steps to them, special tokens, and a template that takes lists of parts."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    merges = _merges()
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    backend = Tokenizer(models.BPE({piece: number for number, piece in enumerate(dict.fromkeys(pieces))}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    backend.add_tokens([AddedToken(name, special=False, normalized=False) for name in THINKING])
    made: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=CONTEXT
    )
    made.chat_template = TEMPLATE.replace("IMAGE", image)
    return made


def _merges() -> list[tuple[str, str]]:
    """Each piece is grown from the left, letter by letter; a blank is written as byte-level vocabularies write it."""
    steps = [_growth(piece.replace(" ", "\u0120")) for piece in PIECES]
    return list(dict.fromkeys(step for growth in steps for step in growth))


def _growth(piece: str) -> list[tuple[str, str]]:
    grown = list(accumulate(piece))
    return [(before, after[-1]) for before, after in pairwise(grown)]


def _randomise(model: Any) -> None:
    """Larger weights than a fresh model has: a picture and a word must be able to change what is said."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=2.0 * weight[0].numel() ** -0.5)


# ---- families


def _llava(folder: Path) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    words = tokenizer()
    words.save_pretrained(folder)
    size = {"height": IMAGE_PX, "width": IMAGE_PX}
    pixels = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": IMAGE_PX}, "crop_size": size}
    own = {"patch_size": PATCH_PX, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    _write(folder / "preprocessor_config.json", pixels)
    _write(folder / "processor_config.json", {"processor_class": "LlavaProcessor", "image_token": "<image>", **own})
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=IMAGE_PX,
        patch_size=PATCH_PX, projection_dim=64,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=_rows(words), hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, **_ids(words),
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE_PX // PATCH_PX) ** 2,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def _qwen3_vl(folder: Path) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    words = _qwen_parts(folder, "Qwen3VLProcessor", "Qwen3VLVideoProcessor")
    text = {
        "vocab_size": _rows(words), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": CONTEXT,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [8, 4, 4], "mrope_interleaved": True,
        },
        **_ids(words),
    }  # fmt: skip
    vision = {**QWEN_VISION, "deepstack_visual_indexes": [0]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **_image_ids(words)))


def _qwen3_5(folder: Path) -> Any:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    words = _qwen_parts(folder, "Qwen3VLProcessor", "Qwen3VLVideoProcessor")
    text = {
        "vocab_size": _rows(words), "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": CONTEXT,
        "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "linear_key_head_dim": 32, "linear_value_head_dim": 32,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e7, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
            "partial_rotary_factor": 0.25,
        },
        **_ids(words),
    }  # fmt: skip
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text, vision_config=QWEN_VISION, **_image_ids(words))
    )


FAMILIES: dict[str, Callable[[Path], Any]] = {"llava": _llava, "qwen3_vl": _qwen3_vl, "qwen3_5": _qwen3_5}
QWEN_VISION = {
    "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": PATCH_PX,
    "out_hidden_size": 96, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
}  # fmt: skip


def _qwen_parts(folder: Path, processor: str, video: str) -> Any:
    words = tokenizer("<|vision_start|><|image_pad|><|vision_end|>", (*SPECIALS, *QWEN_SPECIALS))
    words.save_pretrained(folder)
    cut = {"patch_size": PATCH_PX, "temporal_patch_size": 2, "merge_size": 2}
    limits = {"size": {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}}
    pixels = {"image_processor_type": "Qwen2VLImageProcessor", **cut, **limits}
    _write(folder / "preprocessor_config.json", {**pixels, "processor_class": processor})
    _write(folder / "video_preprocessor_config.json", {"video_processor_type": video, **cut, **limits})
    return words


def _rows(words: Any) -> int:
    """Rows of the output, more than there are tokens: large models pad theirs too."""
    return (len(words) // 64 + 1) * 64


def _ids(words: Any) -> dict[str, Any]:
    return {"pad_token_id": words.pad_token_id, "bos_token_id": None, "eos_token_id": words.eos_token_id}


def _image_ids(words: Any) -> dict[str, int]:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{name}_token_id": words.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), "utf-8")
