"""Decoding under a schema: which tokens may come next, which one comes, and when there is an end to it.

The grammar is llguidance's; its mask is laid over the logits here, because the library's own kernel for torch is
compiled on first use and its kernel for numpy takes milliseconds a token on a vocabulary of 248,320. Sampling has a
generator of its own, so that nobody else's chance is disturbed. What it does not know: images, prompts, profiles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from runner.critic.question import Attempt, Reply, Unanswered

THOUGHT_ENDS = "</think>"  # closes the reasoning in the markup of every family that has a switch for it
NO_NUMBERS = "its logits are no numbers: damaged weights, or a critic_runtime.dtype of too small a range"
COMPACT = {"whitespace_flexible": False}  # no model can fill its reply with blanks


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as the grammar sees it: the bytes of every token, and the ones that end a text."""

    tokens: Any  # llguidance.LLTokenizer
    ends: frozenset[int]
    thought_ends: int | None  # the token that closes the reasoning; None for a model without one

    def text(self, ids: Sequence[int]) -> str:
        """What tokens spell; a character that is cut in two is shown as unknown."""
        data: bytes = self.tokens.decode_bytes(list(ids))
        return data.decode("utf-8", "replace")


def read_vocabulary(tokenizer: Any, ends: Sequence[int]) -> Vocabulary:
    """A fast tokenizer of transformers (seconds for a large one). Raises ValueError for any other kind."""
    import llguidance.hf

    thought_ends = tokenizer.get_vocab().get(THOUGHT_ENDS)
    return Vocabulary(llguidance.hf.from_tokenizer(tokenizer, eos_token=list(ends)), frozenset(ends), thought_ends)


def why_not(schema: Mapping[str, Any], vocabulary: Vocabulary) -> str | None:
    """Why no reply can be decoded under a schema; None when it can be."""
    from llguidance import LLMatcher

    wrong, said = LLMatcher.validate_grammar_with_warnings(_grammar(schema), vocabulary.tokens)
    return _line(said[0]) if wrong else None


@dataclass(slots=True, eq=False)
class Decoder:
    """One reply while it grows: the logits processor (called with the ids so far) and the stopping criterion (`stop`)
    of `generate`."""

    vocabulary: Vocabulary
    attempt: Attempt
    cancelled: threading.Event
    began_s: float
    thinking: bool  # it has not begun to answer
    matcher: Any = field(repr=False)  # llguidance.LLMatcher
    bits: Any = field(repr=False)  # what it allows next, shape (1, tokens / 32)
    chance: Any = field(repr=False)  # torch.Generator
    warpers: tuple[Any, ...] = field(repr=False)  # temperature and top_p; none to take the likeliest token
    first_token_s: float | None = None
    end: Unanswered | None = None  # what ended it before it was complete

    def __call__(self, ids: Any, scores: Any) -> Any:
        """Logits of shape (1, width of the model's output), minus infinity for what may not come or was not drawn."""
        if not self.thinking:
            self._mask(scores)
        if not isfinite(float(scores.max())):  # the likeliest of no numbers would be any token
            raise Unanswered("server_error", NO_NUMBERS)
        for warper in self.warpers:
            scores = warper(ids, scores)
        return self._drawn(scores) if self.warpers else scores

    def _mask(self, scores: Any) -> None:
        import llguidance.numpy
        import numpy as np
        import torch

        llguidance.numpy.fill_next_token_bitmask(self.matcher, self.bits)
        allowed = np.unpackbits(self.bits.view(np.uint8), axis=1, count=scores.shape[1], bitorder="little")
        scores.masked_fill_(torch.from_numpy(allowed ^ 1).view(torch.bool).to(scores.device), float("-inf"))

    def _drawn(self, scores: Any) -> Any:
        """Only the token that was drawn is left: the same draw on every device, and no global seed is touched.

        Through the cumulated shares: 0.5 ms on a CPU and 248,320 tokens, where `torch.multinomial` takes 15.
        """
        import torch

        upto = torch.softmax(scores.float().cpu(), dim=-1).double().cumsum(dim=-1)
        point = torch.rand(1, 1, generator=self.chance, dtype=torch.float64) * upto[:, -1:]
        token = torch.searchsorted(upto, point, right=True).to(scores.device)
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)

    def stop(self, ids: Any, _scores: Any, **_more: Any) -> Any:
        """Called after every token, with all ids so far, shape (1, length)."""
        import torch

        now_s = time.monotonic() - self.began_s
        self.first_token_s = self.first_token_s or round(now_s, 6)
        done = self._take(int(ids[0, -1])) or self._interrupted(now_s)
        return torch.full((ids.shape[0],), done, dtype=torch.bool, device=ids.device)

    def _take(self, token: int) -> bool:
        if self.thinking:
            self.thinking = token != self.vocabulary.thought_ends
            if token in self.vocabulary.ends:
                self.end = Unanswered("no_answer", "ended after its reasoning")
        elif not self.matcher.consume_token(token):
            self.end = Unanswered("server_error", f"left the grammar: {_line(self.matcher.get_error())}")
        return self.end is not None or (not self.thinking and bool(self.matcher.is_stopped()))

    def _interrupted(self, now_s: float) -> bool:
        if self.cancelled.is_set():
            self.end = Unanswered("cancelled", "stopped while it was answering")
        elif now_s > self.attempt.timeout_s:
            self.end = Unanswered("timeout", f"no reply in {self.attempt.timeout_s:g} s")
        return self.end is not None

    def reply(self, ids: Sequence[int], num_prompt: int) -> Reply:
        """What was said after a prompt of so many tokens. Raises Unanswered when something ended it."""
        if self.end is not None:
            raise self.end
        reasoning, answer = self._parted(list(ids)) if self.attempt.thinking else ([], list(ids))
        return Reply(
            text=self.vocabulary.text([token for token in answer if token not in self.vocabulary.ends]),
            finish="stop" if self.matcher.is_accepting() else "length",
            usage={"prompt_tokens": num_prompt, "completion_tokens": len(ids)},
            raw={"reasoning": self.vocabulary.text(reasoning)} if self.attempt.thinking else {},
            first_token_s=self.first_token_s,
        )

    def _parted(self, ids: list[int]) -> tuple[list[int], list[int]]:
        """Reasoning and answer; all of it is reasoning when that did not end."""
        end = self.vocabulary.thought_ends
        cut = len(ids) if end not in ids else ids.index(end)
        return ids[:cut], ids[cut + 1 :]


def begin(
    schema: Mapping[str, Any], attempt: Attempt, vocabulary: Vocabulary, cancelled: threading.Event, began_s: float
) -> Decoder:
    """The decoder of one attempt. Raises Unanswered(bad_request) for what this vocabulary cannot do."""
    import torch
    from llguidance import LLMatcher
    from llguidance.numpy import allocate_token_bitmask

    if attempt.thinking and vocabulary.thought_ends is None:
        raise Unanswered("bad_request", f"reasoning is asked for, and the tokenizer has no {THOUGHT_ENDS}")
    matcher = LLMatcher(vocabulary.tokens, _grammar(schema), log_level=0)
    if matcher.is_error():
        raise Unanswered("bad_request", f"the schema cannot be enforced: {_line(matcher.get_error())}")
    bits = allocate_token_bitmask(1, vocabulary.tokens.vocab_size)
    chance = torch.Generator("cpu").manual_seed(attempt.seed)
    warpers = _warpers(attempt) if attempt.temperature > 0 else ()
    return Decoder(vocabulary, attempt, cancelled, began_s, attempt.thinking, matcher, bits, chance, warpers)


def _warpers(attempt: Attempt) -> tuple[Any, ...]:
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    temperature = TemperatureLogitsWarper(attempt.temperature)
    return (temperature, TopPLogitsWarper(attempt.top_p)) if attempt.top_p < 1 else (temperature,)


def _line(text: str) -> str:
    return (text.splitlines() or [""])[0][:160]


def _grammar(schema: Mapping[str, Any]) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.grammar_from_json_schema(dict(schema), overrides=COMPACT))
