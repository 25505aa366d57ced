"""Each distinct prompt through the text encoders once, and a check that they saw the tokens we counted.

Stands in for a pipeline's `encode_prompt`: the pipeline's own code calls it. A batch is put together from
prompts encoded alone, so an image does not depend on which prompts shared its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from runner.errors import Failed, Fault
from runner.timing import Clock

Expected = Mapping[tuple[str, str], int]  # (tokenizer, text) -> tokens, template included


class EncodeOnce:
    """A pipeline's `encode_prompt` with a memory: (prompt, negative prompt) -> what the encoders gave."""

    def __init__(self, pipe: Any, clock: Clock, expected: Expected) -> None:
        self._original, self._clock, self._expected = pipe.encode_prompt, clock, expected
        self._signature = inspect.signature(self._original)
        self._known: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._seen: dict[str, list[int]] = {}
        _watch_encoders(pipe, self._seen)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        call = self._signature.bind(*args, **kwargs).arguments
        prompts = _as_list(call.get("prompt"))
        if not prompts:
            return tuple(self._original(*args, **kwargs))
        negatives = _as_list(call.get("negative_prompt")) or [None] * len(prompts)
        with self._clock.phase("encode_prompt"):
            parts = [self._one(call, text, no) for text, no in zip(prompts, negatives, strict=True)]
        self._known = {key: self._known[key] for key in self._known if key[0] in prompts}  # steps go by prompt
        return tuple(map(_join, zip(*parts, strict=True)))

    def _one(self, call: Mapping[str, Any], text: str, negative: str | None) -> tuple[Any, ...]:
        key = (text, negative, call.get("do_classifier_free_guidance"))
        if key not in self._known:
            self._seen.clear()
            alone = {**call, "prompt": text}
            if "negative_prompt" in call:
                alone["negative_prompt"] = negative
            self._known[key] = tuple(self._original(**alone))
            self._compare(text)
        return self._known[key]

    def _compare(self, text: str) -> None:
        for tokenizer, counts in self._seen.items():
            expected = self._expected.get((tokenizer, text), counts[0])
            if counts[0] != expected:
                what = f"{tokenizer} gave its encoder {counts[0]} tokens; {expected} were counted for {text!r}"
                fix = "The tokenizer folder is not the one that the pipeline uses; get the model's files again"
                raise Failed("sampling", Fault("tokens_differ", "prompt", what, fix))


def _watch_encoders(pipe: Any, seen: dict[str, list[int]]) -> None:
    """Note how many tokens reach each text encoder; its tokenizer has the same number in its name."""
    for number in ("", "_2", "_3"):
        encoder, tokenizer = getattr(pipe, f"text_encoder{number}", None), getattr(pipe, f"tokenizer{number}", None)
        if encoder is not None and tokenizer is not None:
            encoder.register_forward_pre_hook(_counter(f"tokenizer{number}", tokenizer, seen), with_kwargs=True)


def _counter(name: str, tokenizer: Any, seen: dict[str, list[int]]) -> Any:
    def count(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask")
        if ids is not None:
            seen.setdefault(name, []).append(_num_tokens(ids[0].tolist(), mask, tokenizer.eos_token_id))

    return count


def _num_tokens(ids: Sequence[int], mask: Any, end_id: int | None) -> int:
    """Tokens before the padding: by attention mask where there is one, else up to the first end token."""
    if mask is not None:
        return int(mask[0].sum())
    return ids.index(end_id) + 1 if end_id in ids else len(ids)


def _join(parts: tuple[Any, ...]) -> Any:
    """The same output of several prompts as one batch: tensors of one prompt are stacked, shared ones kept."""
    import torch

    first = parts[0]
    if isinstance(first, list):
        return [entry for part in parts for entry in part]
    if not isinstance(first, torch.Tensor) or first.shape[0] != 1:
        return first
    return torch.cat(list(parts))


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
