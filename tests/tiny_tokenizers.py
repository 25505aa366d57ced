"""Tokenizer folders of each kind, learned here from one small corpus, in the form in which the hub keeps them.

CLIP and Qwen-Image come as `vocab.json` and `merges.txt` without `tokenizer.json`, T5, Qwen3 and Mistral with it.
The chat templates write what the real ones write for a system and a user message; tools and the rest are left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

SENTENCES = (
    "a photo of a red dog on a blue background", "a small dog and a large cat beside a white house",
    "a brushed steel kettle with a matte black handle, front view", "soft studio light on a plain grey background",
    "a wooden chair made of oak, three quarter view, centred", "a glass bottle of green oil on a marble table",
    "a yellow star above a purple heart", "a leather bag with brass buckles, macro photo of the stitching",
    "a paper lamp hanging in a dark room, warm light", "two running shoes, one white and one black, side view",
    "a ceramic cup of coffee on a wooden table in the morning sun", "a knitted jumper with a round collar",
    "describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships",
    "of the objects and background: system user assistant", "You are an AI that reasons about image descriptions.",
    "You give structured responses focusing on object relationships, object attribution and actions",
    "without speculation.", "an emblem in the style of an old poster, no text, no watermark",
)  # fmt: skip
NUM_MERGES, MIN_FREQUENCY = 1000, 15
RARE_SENTENCE = "a photo of ohwx"  # seen often enough to become one token, after all the others
QWEN_SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
THINKING = ("<think>", "</think>")
MISTRAL_SPECIALS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
)  # fmt: skip
QWEN2_TEMPLATE = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}\
<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
QWEN3_TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == "user" and message.content is string %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
MISTRAL_TEMPLATE = """\
{%- set today = strftime_now("%Y-%m-%d") %}
{%- set default_system_message = "You are a helpful model. The current date is " + today + "." %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set system_message = messages[0]['content'] %}
    {%- else %}
        {%- set system_message = messages[0]['content'][0]['text'] %}
    {%- endif %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = default_system_message %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}
{%- for message in loop_messages %}
    {%- if message['role'] != 'user' %}
        {{- raise_exception('Only user and system roles are supported!') }}
    {%- elif message['content'] is string %}
        {{- '[INST]' + message['content'] + '[/INST]' }}
    {%- else %}
        {{- '[INST]' }}
        {%- for block in message['content'] %}
            {{- block['text'] if block['type'] == 'text' else '[IMG]' }}
        {%- endfor %}
        {{- '[/INST]' }}
    {%- endif %}
{%- endfor %}"""


def corpus() -> list[str]:
    return [*SENTENCES] * 40 + [RARE_SENTENCE] * 20


def clip(pad: str = "<|endoftext|>") -> Any:
    """CLIP's lower-cased BPE with a word end, 77 tokens."""
    from transformers import CLIPTokenizer

    merges = _merges(CLIPTokenizer().backend_tokenizer, end_of_word="</w>")
    letters = _alphabet()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    return CLIPTokenizer(
        vocab=_numbered([*pieces, "<|startoftext|>", "<|endoftext|>"]),
        merges=merges, pad_token=pad, model_max_length=77,
    )  # fmt: skip


def t5() -> Any:
    """T5's unigram pieces: every word of the corpus and every letter, weighted by how often they stand there."""
    from transformers import T5Tokenizer

    words = Counter("\u2581" + word for text in corpus() for word in text.split())
    common = [(word, -4.0 - rank / 100) for rank, (word, _) in enumerate(words.most_common()) if word != "\u2581ohwx"]
    letters = [(chr(code), -12.0) for code in range(33, 127)]
    base = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -3.0)]
    known = dict.fromkeys(name for name, _ in (*base, *common))
    pieces = [*base, *common, *((name, score) for name, score in letters if name not in known)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def qwen(specials: Sequence[str] = QWEN_SPECIALS, template: str = QWEN2_TEMPLATE) -> Any:
    """Qwen's byte-level BPE; its special tokens come after the vocabulary."""
    from transformers import AddedToken, Qwen2Tokenizer

    merges = _merges(Qwen2Tokenizer().backend_tokenizer)
    tokenizer: Any = Qwen2Tokenizer(
        vocab=_numbered([*_alphabet(), *map("".join, merges)]), merges=merges, model_max_length=131072
    )
    tokenizer.add_tokens([AddedToken(name, special=name not in THINKING, normalized=False) for name in specials])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = template
    return tokenizer


def mistral() -> Any:
    """Mistral's Tekken-like byte-level BPE; its special tokens come before the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    blank = Tokenizer(models.BPE())
    blank.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges = _merges(blank)
    words = _numbered([*MISTRAL_SPECIALS, *_alphabet(), *map("".join, merges)])
    backend = Tokenizer(models.BPE(words, merges))
    backend.pre_tokenizer, backend.decoder = blank.pre_tokenizer, decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in MISTRAL_SPECIALS])
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        model_max_length=131072, padding_side="left",
    )  # fmt: skip
    tokenizer.chat_template = MISTRAL_TEMPLATE
    return tokenizer


def pixtral(tokenizer: Any) -> Any:
    """A tokenizer inside the processor that FLUX.2 [dev] ships; transformers has it only beside torchvision."""
    from transformers import PixtralImageProcessor, PixtralProcessor

    return PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer, patch_size=14, spatial_merge_size=2,
        chat_template=MISTRAL_TEMPLATE,
    )  # fmt: skip


def as_on_the_hub(folder: Path, *, tokenizer_json: bool) -> None:
    """Write `vocab.json` and `merges.txt` beside what was saved; take `tokenizer.json` away when the hub has none."""
    saved = folder / "tokenizer.json"
    table = json.loads(saved.read_text("utf-8"))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in table["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(table["model"]["vocab"], ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", "utf-8")
    if tokenizer_json:
        return
    saved.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    if config["tokenizer_class"] == "CLIPTokenizer":
        plain = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        config |= {name: {**plain, "content": config[name]} for name in ("bos_token", "eos_token", "unk_token")}
    else:
        added = {str(token.pop("id")): token for token in table["added_tokens"]}
        config["added_tokens_decoder"] = added
        names = {token["content"]: int(number) for number, token in added.items()}
        (folder / "added_tokens.json").write_text(json.dumps(names, indent=2), "utf-8")
    _write_config(folder, config)


def template_into_config(folder: Path) -> None:
    """Keep the chat template as repositories before 2025 do: inside `tokenizer_config.json`."""
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    template = folder / "chat_template.jinja"
    config["chat_template"] = template.read_text("utf-8")
    template.unlink()
    _write_config(folder, config)


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")


def _merges(backend: Any, end_of_word: str = "") -> list[tuple[str, str]]:
    """The merges of a BPE learned from the corpus, cut into words as the given tokenizer cuts them.

    Learned by hand because the trainer of `tokenizers` breaks ties by chance, and these bytes must not change.
    """
    words = Counter(word for text in corpus() for word in _cut(backend, text))
    pieces = {word: (*word[:-1], word[-1] + end_of_word) for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < NUM_MERGES:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        best = max(pairs, key=lambda pair: (pairs[pair], pair), default=None)
        if best is None or pairs[best] < MIN_FREQUENCY:
            break
        merges.append(best)
        pieces = {word: _joined(parts, best) for word, parts in pieces.items()}
    return merges


def _cut(backend: Any, text: str) -> list[str]:
    plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain)]


def _joined(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
