"""Tokenizer folders -> tokenizers: `tokenizer.json`, or the vocabulary and merges of CLIP and Qwen.

It refuses other kinds without `tokenizer.json`; `tokenizers` cannot read a lone `spiece.model`, and transformers,
which can, would take seconds to import. What it does not know: how a pipeline uses the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import store
from runner.errors import Fault, Refused, first_line

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MAX_CONFIG_BYTES, MAX_VOCABULARY_BYTES = 4_000_000, 64_000_000  # Gemma's tokenizer.json takes 33 MB
CLIP_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
QWEN_WORDS = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"""
    r""" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)


def load_tokenizer(folder: Path) -> tuple[Tokenizer, Mapping[str, Any]]:
    """The tokenizer of a folder, without truncation and padding, and its tokenizer_config.json. Raises Refused."""
    with readable(str(folder)):
        config = _read_json(folder / "tokenizer_config.json")
        tokenizer = _tokenizer(folder, config)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    return tokenizer, config


@contextmanager
def readable(place: str) -> Iterator[None]:
    """What `tokenizers` raises in here as a refusal: bare Exception for a damaged file, or a panic of its Rust code."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, Refused):
        raise
    except BaseException as error:  # pyo3's PanicException is no Exception
        again = "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        fix = f"Save the tokenizer again with `save_pretrained` of a fast tokenizer, as transformers does: {again}"
        what = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        raise Refused(Fault("tokenizer_unreadable", place, what, fix)) from error


def _read_json(path: Path) -> Any:
    return json.loads(store.read_regular(path, MAX_CONFIG_BYTES))


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer

    kind = str(config.get("tokenizer_class")).removesuffix("Fast")
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_buffer(store.read_regular(folder / "tokenizer.json", MAX_VOCABULARY_BYTES))
    elif kind in BUILDERS:
        tokenizer = BUILDERS[kind](folder)
    else:
        raise ValueError(f"no tokenizer.json, and {config.get('tokenizer_class')} cannot be built from its vocabulary")
    _add_tokens(tokenizer, folder, config, {**OWN_TOKENS.get(kind, {}), **named_tokens(folder, config)})
    return tokenizer


def named_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What tokenizer_config.json or the older special_tokens_map.json call `bos_token` and so on."""
    place = folder / "special_tokens_map.json"
    older = _read_json(place) if "added_tokens_decoder" not in config and place.is_file() else {}
    return {name: {**config, **older}[name] for name in TOKENS if name in config or name in older}


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import models

    files = [folder / "vocab.json", folder / "merges.txt"]
    for file in files:
        store.read_regular(file, MAX_VOCABULARY_BYTES)  # tokenizers itself waits for a pipe, and reads any size
    vocabulary, merges = models.BPE.read_file(*map(str, files))
    return vocabulary, merges


def _clip(folder: Path) -> Tokenizer:
    """CLIP's tokenizer from its two files, as transformers builds it (CLIPTokenizer in transformers 5.23)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary, merges = _vocabulary(folder)
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    specials = [(begin, vocabulary[begin]), (end, vocabulary[end])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=specials)
    return tokenizer


def _qwen(folder: Path) -> Tokenizer:
    """Qwen's tokenizer from its two files, as transformers builds it (Qwen2Tokenizer in transformers 5.23)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, merges = _vocabulary(folder)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """Tokens beside the vocabulary that transformers adds: those that are listed, and every one with a name.

    SDXL's second tokenizer pads with `!`: so each `!` of a prompt is a token of its own there. Where two names mean the
    same token, the last says how it is matched.
    """
    names = {str(entry["content"]) if isinstance(entry, Mapping) else str(entry) for entry in named.values() if entry}
    listed = config.get("added_tokens_decoder")
    entries = [listed[number] for number in sorted(listed, key=int)] if listed else []
    if listed is None and (folder / "added_tokens.json").is_file():
        numbers = _read_json(folder / "added_tokens.json")
        entries = [{"content": name, "special": name in names} for name in sorted(numbers, key=numbers.__getitem__)]
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    known |= {str(entry["content"]) for entry in entries}
    more = [*named.values(), *(config.get("extra_special_tokens") or config.get("additional_special_tokens") or ())]
    special = [_special(entry) for entry in more if entry]
    tokenizer.add_tokens([_added(entry) for entry in entries])
    tokenizer.add_tokens([_added(entry) for entry in special if entry["content"] not in known])


def _special(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    return {**(entry if isinstance(entry, Mapping) else {"content": entry}), "special": True}


def _added(entry: Mapping[str, Any]) -> AddedToken:
    from tokenizers import AddedToken

    special = bool(entry.get("special", False))
    flags = {name: bool(entry.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    normalized = bool(entry.get("normalized", not special))
    return AddedToken(str(entry["content"]), special=special, normalized=normalized, **flags)


BUILDERS: Mapping[str, Callable[[Path], Tokenizer]] = {"CLIPTokenizer": _clip, "Qwen2Tokenizer": _qwen}
OWN_TOKENS: Mapping[str, Mapping[str, str]] = {  # what transformers' classes say where a folder says nothing
    "CLIPTokenizer": {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"},
    "Qwen2Tokenizer": {"eos_token": "<|endoftext|>"},
}
