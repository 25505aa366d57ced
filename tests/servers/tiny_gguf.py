"""A tiny vision-language model in llama.cpp's own format, made here and offline: seeded chance, a megabyte.

It knows nothing, and is built so that three things hold all the same: it looks at the picture (one head attends to
nothing else), its replies are short (closing a string or a list is likely), and each reply hangs on what it was asked.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

SEED = 8
WIDTH, NUM_HEADS, NUM_LAYERS, FEED_FORWARD = 64, 4, 2, 128
HEAD = WIDTH // NUM_HEADS
CONTEXT = 32_768
IMAGE_SIZE_PX, PATCH_PX, NUM_VISION_LAYERS = 64, 16, 2
ALWAYS, PICTURE = 0, 1  # two places of the hidden state with a meaning: always on, and on in image tokens alone
LEVEL = 4.0  # what stands there
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
NUM_WORDS = 640
LIKELY = {'"': 8.0, "]": 6.0, "}": 2.0, "n": -5.0, "Ġ": -8.0, "ĉ": -8.0, "Ċ": -8.0}  # by first letter; blanks are not
SHARP = 4.0  # how far the other heads tell one text from another
SAMPLE = """
You judge one generated image against the prompt it was made from. Report what you see, not what you expect. Answer with
one JSON object and nothing else. Rules, criteria, findings and tags: what is wrong or remarkable, and where it is seen.
A low score without a finding does not count; null means that this image cannot be judged on it. The picture shows the
shape that the prompt names, the colour, the background, the emblem; another than the prompt names. Left, top, right,
bottom, in thousandths of the image, from its top left corner. A red circle on a white background, a blue square on
yellow. Which findings it rests on, the reason in a few words, and the score. Is it there? Where the prompt asks for it.
{"evidence":[{"id":"e1","tag":"wrong_colour","what":"a","box":[0,0,1000,1000],"severity":"minor"}],"criteria":{"colour":
{"evidence":["e1"],"reason":"b","score":0.25},"background":{"evidence":[],"reason":"c","score":1}},"confidence":"high"}
{"evidence": [], "criteria": {"shape": {"evidence": [], "reason": "d", "score": null}}, "confidence": "medium"} major
note critical low tie winner image A B concept_missing wrong_shape wrong_background physical prompt optional required
"""
TEMPLATE = """
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}""".lstrip()

Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class TinyGguf:
    """The two files of a model that sees."""

    model: Path
    projector: Path


def name() -> str:
    """A folder's name that changes with this recipe."""
    return f"tiny-gguf-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}"


def make(folder: Path) -> TinyGguf:
    """The model's files in that folder; made when they are not there."""
    made = TinyGguf(folder / "tiny.gguf", folder / "tiny-mmproj.gguf")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        for path, write in ((made.model, _write_model), (made.projector, _write_projector)):
            if not path.exists():
                part = path.with_suffix(".part")
                write(part)
                part.rename(path)
    return made


def _write_model(path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(1e8)
    _add_tokenizer(writer)
    for name, tensor in _model_tensors(np.random.default_rng(SEED)).items():
        writer.add_tensor(name, tensor)
    _finish(writer)


def _write_projector(path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(IMAGE_SIZE_PX)
    writer.add_vision_patch_size(PATCH_PX)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(FEED_FORWARD)
    writer.add_vision_block_count(NUM_VISION_LAYERS)
    writer.add_vision_head_count(NUM_HEADS)
    writer.add_vision_projection_dim(WIDTH)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    for name, tensor in _projector_tensors(np.random.default_rng(SEED + 1)).items():
        writer.add_tensor(name, tensor)
    _finish(writer)


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- the words


@functools.cache
def _words() -> tuple[list[str], list[str]]:
    """The tokens, every byte among them, and the merges that lead to the longer ones; learned from SAMPLE."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        [SAMPLE], trainers.BpeTrainer(vocab_size=NUM_WORDS, initial_alphabet=letters, show_progress=False)
    )
    learned = json.loads(learner.to_str())["model"]
    words = sorted(learned["vocab"], key=lambda word: learned["vocab"][word])
    return [*words, *SPECIAL], [" ".join(pair) for pair in learned["merges"]]


def _add_tokenizer(writer: Any) -> None:
    from gguf import TokenType

    words, merges = _words()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types([TokenType.CONTROL if word in SPECIAL else TokenType.NORMAL for word in words])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(words.index("<|im_end|>"))
    writer.add_pad_token_id(words.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


# ---- the weights


def _model_tensors(chance: np.random.Generator) -> dict[str, Array]:
    words, _ = _words()
    embedded = _normal(chance, len(words), WIDTH)
    embedded[:, ALWAYS], embedded[:, PICTURE] = LEVEL, 0.0
    output = _weights(chance, len(words), WIDTH, gain=2.0)
    output[:, ALWAYS] = [LIKELY.get(word[0], 0.0) for word in words]
    output[:, PICTURE] = 0.0
    tensors = {"token_embd.weight": embedded, "output_norm.weight": _ones(WIDTH), "output.weight": output}
    for layer in range(NUM_LAYERS):
        tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in _layer(chance).items()}
    return tensors


def _layer(chance: np.random.Generator) -> dict[str, Array]:
    asks, keys = (_weights(chance, WIDTH, WIDTH, gain=SHARP) for _ in range(2))
    asks[:HEAD], keys[:HEAD] = 0.0, 0.0
    asks[HEAD - 1, ALWAYS], keys[HEAD - 1, PICTURE] = 8.0, 8.0  # the first head sees image tokens alone
    return {
        "attn_norm.weight": _ones(WIDTH), "ffn_norm.weight": _ones(WIDTH),
        "attn_q.weight": asks, "attn_k.weight": keys,
        "attn_v.weight": _weights(chance, WIDTH, WIDTH, gain=2.4),
        "attn_output.weight": _spared(_weights(chance, WIDTH, WIDTH, gain=2.4)),
        "ffn_gate.weight": _weights(chance, FEED_FORWARD, WIDTH),
        "ffn_up.weight": _weights(chance, FEED_FORWARD, WIDTH),
        "ffn_down.weight": _spared(_weights(chance, WIDTH, FEED_FORWARD)),
    }  # fmt: skip


def _projector_tensors(chance: np.random.Generator) -> dict[str, Array]:
    num_patches = (IMAGE_SIZE_PX // PATCH_PX) ** 2
    marks = _zeros(WIDTH)
    marks[ALWAYS] = marks[PICTURE] = LEVEL
    tensors = {
        "v.patch_embd.weight": _normal(chance, WIDTH, 3, PATCH_PX, PATCH_PX) * np.float32(0.1),
        "v.position_embd.weight": _normal(chance, num_patches, WIDTH) * np.float32(0.1),
        "mm.0.weight": _weights(chance, WIDTH, WIDTH, gain=2.4), "mm.0.bias": _zeros(WIDTH),
        "mm.2.weight": _spared(_weights(chance, WIDTH, WIDTH, gain=2.4)), "mm.2.bias": marks,
    }  # fmt: skip
    for layer in range(NUM_VISION_LAYERS):
        tensors |= {f"v.blk.{layer}.{name}": tensor for name, tensor in _vision_layer(chance).items()}
    return tensors


def _vision_layer(chance: np.random.Generator) -> dict[str, Array]:
    tensors = {f"attn_{part}.weight": _weights(chance, WIDTH, WIDTH) for part in ("q", "k", "v", "out")}
    tensors |= {
        "ffn_up.weight": _weights(chance, FEED_FORWARD, WIDTH),
        "ffn_down.weight": _weights(chance, WIDTH, FEED_FORWARD),
    }
    tensors |= {"ln1.weight": _ones(WIDTH), "ln2.weight": _ones(WIDTH), "ffn_up.bias": _zeros(FEED_FORWARD)}
    unbiased = ("attn_q", "attn_k", "attn_v", "attn_out", "ln1", "ln2", "ffn_down")
    return tensors | {f"{part}.bias": _zeros(WIDTH) for part in unbiased}


def _normal(chance: np.random.Generator, *shape: int) -> Array:
    return chance.standard_normal(shape).astype(np.float32)


def _weights(chance: np.random.Generator, num_out: int, num_in: int, *, gain: float = 0.8) -> Array:
    """A matrix that hands on what it is given about `gain` times as large."""
    return _normal(chance, num_out, num_in) * np.float32(gain * num_in**-0.5)


def _ones(num: int) -> Array:
    return np.ones(num, np.float32)


def _zeros(num: int) -> Array:
    return np.zeros(num, np.float32)


def _spared(weight: Array) -> Array:
    """The same, but writing nothing into the two places that have a meaning."""
    weight[[ALWAYS, PICTURE]] = 0.0
    return weight
