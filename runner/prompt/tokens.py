"""Composed prompts -> token counts of every encoder, as the pipeline will give them to it.

A prompt is written into its template, tokenised once and found again in the tokens by its characters: so the count of
the whole is what the encoder sees, and sections, trigger and loss are told of the prompt alone. It refuses a prompt
that the pipeline would change before encoding it. What it does not know: what the words mean to the model.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner import store
from runner.errors import Fault, Refused
from runner.prompt import chat
from runner.prompt.compose import ComposedPrompt, plain_prompt
from runner.prompt.entries import few
from runner.prompt.vocabulary import load_tokenizer, readable
from runner.prompt.windows import NO_WINDOW, Chat, Template, Window

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 1000  # prompts tokenised together: all cores, and memory for no more
COMMON_SHARE = 0.9
SPACELESS = "\u2e80"  # from here on: Chinese, Japanese, Korean


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of one prompt in one encoder; spans are half-open ranges of the prompt's own tokens.

    A trigger is `single` when one token holds it and nothing else, and `pieces` otherwise. It is `common` when it is
    single and among the first nine tenths of the vocabulary, whose ids follow the order in which it was learned:
    then it is an ordinary word, which the base already knows to mean something. Everything else is `rare`.
    """

    prompt: str
    encoder: str
    raw: int  # of the prompt alone
    overhead: int  # of the template and the special tokens
    templated: int
    limit: int
    encoded: int  # what the encoder itself is given at most; more than the limit where a pipeline cuts behind it
    kept: tuple[int, int]  # the prompt's tokens that lie inside the limit
    lost: str  # words that do not fit, a word that is cut in two whole; empty when all of them do
    sections: Mapping[str, int]
    trigger_spans: tuple[tuple[int, int], ...]
    trigger_pieces: tuple[str, ...]
    trigger_kind: Literal["single", "pieces"] | None = None  # None without a trigger
    trigger_rarity: Literal["common", "rare"] | None = None
    controls: tuple[str, ...] = ()  # words of the prompt that the tokenizer reads as control tokens
    line: str = ""  # file and line of the prompt

    @property
    def where(self) -> str:
        return self.line or f"prompt.items ({self.prompt})"

    @property
    def headroom(self) -> int:
        return self.limit - self.templated

    @property
    def seen(self) -> int:
        """Tokens that the encoder must be given: all of them, or as many as the pipeline lets through."""
        return min(self.templated, self.encoded)

    def trigger_survives(self) -> bool:
        """Whether the first place of the trigger lies whole inside the window."""
        begin, end = self.trigger_spans[0] if self.trigger_spans else self.kept
        return self.kept[0] <= begin and end <= self.kept[1]

    def as_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt, "encoder": self.encoder, "raw": self.raw, "overhead": self.overhead,
            "templated": self.templated, "limit": self.limit, "headroom": self.headroom, "lost": self.lost,
            "sections": dict(self.sections), "trigger_spans": [list(span) for span in self.trigger_spans],
            "trigger_pieces": list(self.trigger_pieces), "trigger_kind": self.trigger_kind,
            "trigger_rarity": self.trigger_rarity,
            "trigger_survives": self.trigger_survives() if self.trigger_kind else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """A text encoder's tokenizer, and how the pipeline uses it."""

    name: str
    tokenizer: Tokenizer
    limit: int
    digest: str
    window: Window = NO_WINDOW
    chat_template: chat.Template | None = None
    cut_left: bool = False  # truncation takes the front
    place: str = ""  # its folder

    @property
    def overhead(self) -> int:
        """Tokens of the template around a prompt of one word."""
        return self.count([plain_prompt("x", "x")])[0].overhead

    def count(self, prompts: Sequence[ComposedPrompt], *, negative: bool = False) -> list[TokenCount]:
        """The tokens of every prompt, or of negative ones. Raises Refused for those that the pipeline would change."""
        template = self.window.negative if negative and self.window.negative else self.window.template
        texts = [prompt.text for prompt in prompts]
        places = self._in_template(template, texts)
        altered = [p for p, at in zip(prompts, places, strict=True) if at is None or self._cleaned(p.text) != p.text]
        if altered:
            raise Refused(few(map(self._altered, altered)))
        written = [place for place in places if place]
        encodings = self._tokenised([place.text for place in written])
        reading = _Reading(self, written[0].text if written else "")
        return [
            reading.count(prompt, _Tokens(prompt.text, place.begin, encoding))
            for prompt, place, encoding in zip(prompts, written, encodings, strict=True)
        ]

    def _in_template(self, template: Template, texts: Sequence[str]) -> list[chat.Placed | None]:
        if isinstance(template, Chat):
            assert self.chat_template is not None
            return chat.render(self.chat_template, template, texts) if texts else []
        return [chat.Placed(template.before + text + template.after, len(template.before)) for text in texts]

    def _tokenised(self, texts: Sequence[str]) -> Iterator[Any]:
        for start in range(0, len(texts), BATCH):
            with readable(self.place or self.name):
                found = self.tokenizer.encode_batch([*texts[start : start + BATCH]], add_special_tokens=False)
            yield from found

    def _cleaned(self, text: str) -> str:
        return self.window.clean(text) if self.window.clean else text

    def _altered(self, prompt: ComposedPrompt) -> Fault:
        clean = self._cleaned(prompt.text)
        if clean == prompt.text:
            what, fix = f"is changed by the chat template of {self.name}", "Write it as the template leaves it"
        else:
            what, fix = "is changed by the pipeline before it is encoded", f"Write it as {clean!r}"
        return Fault("prompt_altered", prompt.where, what, fix)


class _Tokens:
    """The tokens of a prompt inside its template, found by its characters; numbered from its first one."""

    def __init__(self, text: str, begin: int, encoding: Any) -> None:
        self.text, self._begin, self._encoding = text, begin, encoding
        offsets = encoding.offsets
        self._begins, self._ends = [first for first, _ in offsets], [last for _, last in offsets]
        self.num_written = len(offsets)
        self.first, last = self._between(begin, begin + len(text))
        self.raw = last - self.first

    def span(self, begin: int, end: int) -> tuple[int, int]:
        """The tokens that hold any of these characters of the prompt."""
        first, last = self._between(self._begin + begin, self._begin + end)
        return (first - self.first, last - self.first) if first < last else (0, 0)

    def num_ending_in(self, begin: int, end: int) -> int:
        """Tokens of a section: those that end in it, because many begin with the space before their word."""
        place = self._begin
        return bisect_right(self._ends, place + end) - bisect_right(self._ends, place + begin)

    def ids(self) -> list[int]:
        numbers: list[int] = self._encoding.ids[self.first : self.first + self.raw]
        return numbers

    def token_text(self, number: int) -> str:
        """What a token holds of the prompt, without the space before it."""
        first, last = self._begins[self.first + number], self._ends[self.first + number]
        return self.text[max(first - self._begin, 0) : last - self._begin].strip()

    def lost(self, kept: tuple[int, int]) -> str:
        """The words before and behind the kept tokens; a word that is cut in two is lost whole."""
        parts = []
        if kept[0] > 0:
            parts.append(self.text[: _word_end(self.text, self._ends[self.first + kept[0] - 1] - self._begin)])
        if kept[1] < self.raw:
            parts.append(self.text[_word_begin(self.text, self._begins[self.first + kept[1]] - self._begin) :])
        return " ".join(part.strip() for part in parts)

    def _between(self, begin: int, end: int) -> tuple[int, int]:
        return bisect_right(self._ends, begin), bisect_left(self._begins, end)


class _Reading:
    """What is the same for every prompt of a batch: the window's room, control tokens, what counts as common."""

    def __init__(self, encoder: Encoder, text: str) -> None:
        self._encoder, tokenizer = encoder, encoder.tokenizer
        bos = encoder.chat_template.tokens.get("bos_token") if encoder.chat_template else None
        begun = bool(bos) and text.startswith(str(bos))  # a template that wrote the first one gets no special tokens
        self._num_added = 0 if begun else tokenizer.num_special_tokens_to_add(is_pair=False)
        self._room = encoder.limit - self._num_added
        added = tokenizer.get_added_tokens_decoder()
        self._added = added.keys()
        self._controls = {  # SDXL's second tokenizer pads with `!`, which is no control token in a prompt
            number: token.content for number, token in added.items() if token.special and len(token.content) > 1
        }
        self._num_common = tokenizer.get_vocab_size(with_added_tokens=False) * COMMON_SHARE

    def count(self, prompt: ComposedPrompt, tokens: _Tokens) -> TokenCount:
        encoder, templated = self._encoder, tokens.num_written + self._num_added
        start = max(tokens.num_written - self._room, 0) if encoder.cut_left else 0
        kept = tuple(min(max(at - tokens.first, 0), tokens.raw) for at in (start, start + self._room))
        spans = tuple(tokens.span(begin, end) for begin, end in prompt.slots)
        ids = tokens.ids()
        single = bool(spans) and self._single(prompt, tokens, spans[0])
        common = single and self._common(ids[spans[0][0]])
        return TokenCount(
            prompt=prompt.key,
            encoder=encoder.name,
            raw=tokens.raw,
            overhead=templated - tokens.raw,
            templated=templated,
            limit=encoder.limit,
            encoded=encoder.window.encoded or encoder.limit,
            kept=(kept[0], kept[1]),
            lost=tokens.lost((kept[0], kept[1])),
            sections={s.name: tokens.num_ending_in(s.begin, s.end) for s in prompt.sections},
            trigger_spans=spans,
            trigger_pieces=self._pieces(ids, spans[0]) if spans else (),
            trigger_kind=("single" if single else "pieces") if spans else None,
            trigger_rarity=("common" if common else "rare") if spans else None,
            controls=tuple(dict.fromkeys(self._controls[n] for n in ids if n in self._controls)),
            line=prompt.line,
        )

    def _pieces(self, ids: Sequence[int], span: tuple[int, int]) -> tuple[str, ...]:
        return tuple(str(self._encoder.tokenizer.id_to_token(number)) for number in ids[span[0] : span[1]])

    def _single(self, prompt: ComposedPrompt, tokens: _Tokens, span: tuple[int, int]) -> bool:
        begin, end = prompt.slots[0]
        return span[1] - span[0] == 1 and tokens.token_text(span[0]) == prompt.text[begin:end]

    def _common(self, number: int) -> bool:
        return number < self._num_common and number not in self._added


def _word_begin(text: str, place: int) -> int:
    while 0 < place < len(text) and _within_word(text, place):
        place -= 1
    return max(place, 0)


def _word_end(text: str, place: int) -> int:
    while 0 < place < len(text) and _within_word(text, place):
        place += 1
    return place


def _within_word(text: str, place: int) -> bool:
    """Whether a cut here goes through a word; scripts that set no spaces have no such words."""
    before, behind = text[place - 1], text[place]
    return before.isalnum() and behind.isalnum() and max(before, behind) < SPACELESS


def load_encoder(name: str, folder: Path, window: Window = NO_WINDOW) -> Encoder:
    """Load a tokenizer folder for a pipeline that uses it in this way. Raises Refused."""
    tokenizer, config = load_tokenizer(folder)
    with readable(str(folder)):
        digest = store.digest(tokenizer.to_str().encode())
    chats = isinstance(window.template, Chat)
    return Encoder(
        name=name,
        tokenizer=tokenizer,
        limit=window.limit or _own_limit(folder, config),
        digest=digest,
        window=window,
        chat_template=chat.load_template(folder, config) if chats else None,
        cut_left=config.get("truncation_side") == "left",
        place=str(folder),
    )


def _own_limit(folder: Path, config: Mapping[str, Any]) -> int:
    limit = config.get("model_max_length")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 1 <= limit < math.inf:
        what = f"has the model_max_length {limit!r}"
        raise Refused(Fault("tokenizer_unreadable", f"{folder}/tokenizer_config.json", what, "Get the file again"))
    return int(limit)
