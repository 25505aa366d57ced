"""Prompts: named sections and the trigger become one text, and every encoder's tokens are counted.

The trigger is put in at one place, here, where `{trigger}` stands. Counting uses the model's own tokenizer
through `tokenizers`, without truncation and without importing transformers. It refuses a tokenizer folder it
cannot read. What it does not know: whether the trigger is the LoRA's; that is the contract's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner import store
from runner.config import tree
from runner.errors import Fault, Refused, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SLOT = "{trigger}"
CLIP_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
PLAIN_SECTION = "text"  # the one section of a prompt that is given as a plain text


@dataclass(frozen=True, slots=True)
class Section:
    """A named part of a composed text, and where it stands in it."""

    name: str
    text: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class ComposedPrompt:
    """One text as the encoders get it; `variant` is `with` or `without` in a probe, else empty."""

    id: str
    variant: str
    text: str
    sections: tuple[Section, ...]
    slots: tuple[tuple[int, int], ...]  # where the trigger stands in the text

    @property
    def key(self) -> str:
        return f"{self.id}.{self.variant}" if self.variant else self.id

    @property
    def triggered(self) -> bool:
        return bool(self.slots)


def compose_prompts(prompt: tree.Prompt, trigger: tree.Trigger) -> tuple[ComposedPrompt, ...]:
    """Every prompt of a set as text. Raises Refused for unknown sections, doubled names and empty texts."""
    faults: list[Fault] = []
    composed: list[ComposedPrompt] = []
    for number, item in enumerate(prompt.items):
        sections = _ordered_sections(prompt, item, number, faults)
        name = _item_id(item, sections)
        composed += [_compose(name, arm, sections, prompt.separator, trigger.token) for arm in _arms(trigger)]
    faults += _doubled(composed)
    faults += [_empty(p) for p in composed if not p.text]
    if faults:
        raise Refused(faults)
    return tuple(composed)


def _ordered_sections(
    prompt: tree.Prompt, item: str | tree.PromptItem, number: int, faults: list[Fault]
) -> dict[str, str]:
    if isinstance(item, str):
        return {PLAIN_SECTION: item}
    for name in item.sections.keys() - set(prompt.sections):
        where, what = f"prompt.items[{number}]", f"has a section {name!r} that prompt.sections does not list"
        faults.append(Fault("unknown_key", where, what, f"Known: {', '.join(prompt.sections)}"))
    return {name: item.sections[name] for name in prompt.sections if name in item.sections}


def _item_id(item: str | tree.PromptItem, sections: Mapping[str, str]) -> str:
    """The given name, or one made of the first words and the content, so that it stays when others are added."""
    if isinstance(item, tree.PromptItem) and item.id:
        return item.id
    words = re.findall(r"[a-z0-9]+", " ".join(sections.values()).replace(SLOT, "").lower())
    return "-".join([*words[:4], store.digest_of(sections)[:6]])


class _Arm(NamedTuple):
    """A variant of every prompt, and the word that it puts into the slot."""

    variant: str
    word: str


def _arms(trigger: tree.Trigger) -> tuple[_Arm, ...]:
    token = trigger.token or ""
    return (_Arm("with", token), _Arm("without", trigger.without)) if trigger.mode == "probe" else (_Arm("", token),)


def _compose(name: str, arm: _Arm, sections: Mapping[str, str], separator: str, token: str | None) -> ComposedPrompt:
    text, placed, slots = "", [], []
    for section, template in sections.items():
        # a token written out in full is the same request as the slot
        part, found = _fill(_slotted(template, token) if token else template, arm.word)
        if not part:
            continue
        text += separator if text else ""
        slots += [(len(text) + begin, len(text) + end) for begin, end in found if arm.word and arm.word == token]
        placed.append(Section(section, part, len(text), len(text) + len(part)))
        text += part
    return ComposedPrompt(name, arm.variant, text, tuple(placed), tuple(slots))


def plain_prompt(name: str, text: str) -> ComposedPrompt:
    """A text that is counted like a prompt but composed of nothing: the negative prompt."""
    return ComposedPrompt(name, "", text, (), ())


def _slotted(template: str, token: str) -> str:
    """Put the slot where the token stands as a word of its own: the `sks` of "asks" is none."""
    return re.sub(rf"(?<!\w){re.escape(token)}(?!\w)", lambda _: SLOT, template)


def _fill(template: str, word: str) -> tuple[str, list[tuple[int, int]]]:
    """Put `word` in every slot, with single spaces all over; returns the text and where the word stands."""
    text, found = "", []
    for number, piece in enumerate(" ".join(template.split()).split(SLOT)):
        if number and word:
            found.append((len(text), len(text) + len(word)))
            text += word
        text += piece.lstrip() if text.endswith(" ") or not text else piece
    return text.strip(), found


def _doubled(composed: Sequence[ComposedPrompt]) -> list[Fault]:
    seen: set[str] = set()
    faults = []
    for prompt in composed:
        if prompt.key in seen:
            fix = "Give each prompt an id of its own"
            faults.append(Fault("prompt_doubled", "prompt.items", f"has two prompts named {prompt.key!r}", fix))
        seen.add(prompt.key)
    return faults


def _empty(prompt: ComposedPrompt) -> Fault:
    return Fault("prompt_empty", f"prompt.items ({prompt.key})", "is an empty text", "Write what the image shows")


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of one prompt in one encoder; spans are half-open token ranges without the template."""

    prompt: str
    encoder: str
    raw: int
    overhead: int
    templated: int
    limit: int
    lost: str  # text that does not fit, empty when all of it does
    sections: Mapping[str, int]
    trigger_spans: tuple[tuple[int, int], ...]
    trigger_pieces: tuple[str, ...]

    @property
    def headroom(self) -> int:
        return self.limit - self.templated

    def trigger_survives(self) -> bool:
        """Whether the first place of the trigger lies whole inside the window."""
        return not self.trigger_spans or self.trigger_spans[0][1] <= self.limit - self.overhead

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt, "encoder": self.encoder, "raw": self.raw, "overhead": self.overhead,
            "templated": self.templated, "limit": self.limit, "headroom": self.headroom, "lost": self.lost,
            "sections": dict(self.sections), "trigger_spans": [list(span) for span in self.trigger_spans],
            "trigger_pieces": list(self.trigger_pieces),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """A text encoder's tokenizer and its window."""

    name: str
    tokenizer: Tokenizer
    limit: int
    overhead: int
    digest: str

    def count(self, prompts: Sequence[ComposedPrompt]) -> list[TokenCount]:
        encodings = self.tokenizer.encode_batch([p.text for p in prompts], add_special_tokens=False)
        return [self._count(p, e) for p, e in zip(prompts, encodings, strict=True)]

    def _count(self, prompt: ComposedPrompt, encoding: Any) -> TokenCount:
        offsets, window = encoding.offsets, self.limit - self.overhead
        spans = tuple(_token_span(offsets, begin, end) for begin, end in prompt.slots)
        return TokenCount(
            prompt=prompt.key,
            encoder=self.name,
            raw=len(offsets),
            overhead=self.overhead,
            templated=len(offsets) + self.overhead,
            limit=self.limit,
            lost=prompt.text[offsets[window][0] :] if len(offsets) > window else "",
            sections={s.name: _num_tokens_between(offsets, s.begin, s.end) for s in prompt.sections},
            trigger_spans=spans,
            trigger_pieces=tuple(encoding.tokens[spans[0][0] : spans[0][1]]) if spans else (),
        )


def _token_span(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    inside = [n for n, (first, last) in enumerate(offsets) if first < end and last > begin]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _num_tokens_between(offsets: Sequence[tuple[int, int]], begin: int, end: int) -> int:
    return sum(1 for first, _ in offsets if begin <= first < end)


def load_encoder(name: str, folder: Path) -> Encoder:
    """Load a tokenizer folder: `tokenizer.json`, or CLIP's `vocab.json` and `merges.txt`. Raises Refused."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        tokenizer = _tokenizer(folder, config)
        limit = int(config["model_max_length"])
    except Exception as error:  # tokenizers raises bare Exception for a damaged file
        fix = "Save the tokenizer again with `save_pretrained` of a fast tokenizer"
        what = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        raise Refused(Fault("tokenizer_unreadable", str(folder), what, fix)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    overhead = len(tokenizer.encode("", add_special_tokens=True).ids)
    return Encoder(name, tokenizer, limit, overhead, store.digest(tokenizer.to_str().encode()))


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer

    if (folder / "tokenizer.json").exists():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    if config.get("tokenizer_class") != "CLIPTokenizer":
        raise ValueError(f"no tokenizer.json, and {config.get('tokenizer_class')} cannot be built from its vocabulary")
    return _clip_tokenizer(folder)


def _clip_tokenizer(folder: Path) -> Tokenizer:
    """CLIP's tokenizer from its two files, as transformers builds it (CLIPTokenizer in transformers 5.23)."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = Regex(CLIP_WORDS)
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    specials = [(begin, vocabulary[begin]), (end, vocabulary[end])]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in (begin, end)])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A {end}", special_tokens=specials)
    return tokenizer
