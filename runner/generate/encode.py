"""Each distinct prompt through the text encoders once, and a check that they saw the tokens we counted.

Stands in for a pipeline's `encode_prompt`: the pipeline's own code calls it. A batch is put together from
prompts encoded alone, so what a prompt means does not depend on which prompts shared its batch. Pipelines that pad to
the longest of a batch (Qwen-Image) get the padding and the mask that they would have made: an image then depends on
its batch by no more than the last bits, as with any batch. It refuses, with Failed, an encoder that was given another
number of tokens than were counted. What it does not know: why they differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from runner.errors import Failed, Fault
from runner.timing import Clock

Expected = Mapping[tuple[str, str], int]  # (tokenizer, text) -> tokens, template included
MAX_SHOWN_CHARS = 80  # of a prompt in a message
Key = tuple[str, str | None, Any]
Output = tuple[Any, ...]


def expected_tokens(contract: Any) -> dict[tuple[str, str], int]:
    """(tokenizer, text) -> tokens that its encoder must see, template included, after the cut at the limit."""
    texts = {prompt.key: prompt.text for prompt in contract.prompts}
    texts.setdefault("negative_prompt", contract.request.generate.negative_prompt)
    return {(count.encoder, texts[count.prompt]): count.seen for count in contract.tokens}


class EncodeOnce:
    """A pipeline's `encode_prompt` with a memory: (prompt, negative prompt) -> what the encoders gave."""

    def __init__(self, pipe: Any, clock: Clock, expected: Expected) -> None:
        self._original, self._clock, self._expected = pipe.encode_prompt, clock, expected
        self._signature = inspect.signature(self._original)
        self._known: dict[Key, Output] = {}
        self._recent: list[set[Key]] = []
        self._seen: dict[str, list[int]] = {}
        _watch_encoders(pipe, self._seen)

    def __call__(self, *args: Any, **kwargs: Any) -> Output:
        call = self._signature.bind(*args, **kwargs).arguments
        prompts = _as_list(call.get("prompt"))
        if not prompts:
            return tuple(self._original(*args, **kwargs))
        negatives = _as_list(call.get("negative_prompt")) or [None]
        negatives = negatives * len(prompts) if len(negatives) == 1 else negatives
        keys = [
            (text, no, call.get("do_classifier_free_guidance")) for text, no in zip(prompts, negatives, strict=True)
        ]
        with self._clock.phase("encode_prompt"):
            rows = [self._one(call, key) for key in keys]
        self._forget(set(keys))
        return joined(rows)

    def _one(self, call: Mapping[str, Any], key: Key) -> Output:
        text, negative, _ = key
        if key not in self._known:
            self._seen.clear()
            alone = {**call, "prompt": text}
            if "negative_prompt" in call:
                alone["negative_prompt"] = negative
            self._known[key] = tuple(self._original(**alone))
            self._compare((text, negative or ""))
        return self._known[key]

    def _forget(self, keys: set[Key]) -> None:
        """Keep what this call and the one before it asked for: steps go by prompt, and some ask twice per batch."""
        self._recent = [*self._recent[-1:], keys]
        wanted = set().union(*self._recent)
        self._known = {key: given for key, given in self._known.items() if key in wanted}

    def _compare(self, texts: Sequence[str]) -> None:
        """Each encoder saw the prompt first and then, where the pipeline guides with it, the negative prompt."""
        for tokenizer, counts in self._seen.items():
            for text, count in zip(texts, counts, strict=False):
                expected = self._expected.get((tokenizer, text), count)
                if count != expected:
                    what = f"{tokenizer} gave its encoder {count} tokens; {expected} were counted for {_short(text)!r}"
                    fix = "Get the model's files again; if they are right, this diffusers tokenizes in another way"
                    raise Failed("sampling", Fault("tokens_differ", "prompt", what, fix))


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _watch_encoders(pipe: Any, seen: dict[str, list[int]]) -> None:
    """Note how many tokens reach each text encoder; its tokenizer has the same number in its name."""
    for number in ("", "_2", "_3", "_4"):
        encoder, tokenizer = getattr(pipe, f"text_encoder{number}", None), getattr(pipe, f"tokenizer{number}", None)
        if encoder is not None and tokenizer is not None:
            own = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds its tokenizer
            encoder.register_forward_pre_hook(_counter(f"tokenizer{number}", own, seen), with_kwargs=True)


def _counter(name: str, tokenizer: Any, seen: dict[str, list[int]]) -> Any:
    def count(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if ids is not None:
            num = num_tokens(ids[0].tolist(), tokenizer.pad_token_id, tokenizer.eos_token_id)
            seen.setdefault(name, []).append(num if mask is None else int(mask[0].sum()))

    return count


def num_tokens(ids: Sequence[int], padding: int | None, end: int | None) -> int:
    """Tokens before the padding, where no mask says it; CLIP pads with its end token, the first of which counts."""
    num = len(ids)
    while num and ids[num - 1] == padding:
        num -= 1
    return num + 1 if padding == end and num < len(ids) else num


def joined(rows: Sequence[Output]) -> Output:
    """The outputs of prompts encoded alone as those of one batch.

    Tensors of one prompt are stacked, lists strung together, what prompts share is kept. Embeddings of different
    lengths are padded with zeros; the mask that goes with them stands behind them, and none was made for a prompt
    alone, which has no padding.
    """
    outputs: list[Any] = []
    lengths: list[int] = []
    for column in zip(*rows, strict=True):
        if lengths and column[0] is None:
            outputs.append(_mask(lengths, outputs[-1]))
            lengths = []
        else:
            lengths = _lengths(column)
            outputs.append(_padded(column, lengths) if lengths else _column(column))
    return tuple(outputs)


def _column(parts: Sequence[Any]) -> Any:
    import torch

    first = parts[0]
    if isinstance(first, list):
        return [entry for part in parts for entry in part]
    if not isinstance(first, torch.Tensor) or first.shape[0] != 1:
        return first
    return torch.cat(list(parts))


def _lengths(parts: Sequence[Any]) -> list[int]:
    """The lengths of embeddings that do not all have the same; else nothing."""
    import torch

    if not all(isinstance(part, torch.Tensor) and part.dim() == 3 for part in parts):
        return []
    lengths = [part.shape[1] for part in parts]
    return lengths if len(set(lengths)) > 1 else []


def _padded(parts: Sequence[Any], lengths: Sequence[int]) -> Any:
    import torch

    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, max(lengths) - part.shape[1])) for part in parts])


def _mask(lengths: Sequence[int], embeddings: Any) -> Any:
    """(prompts, longest) of ones where a prompt has a token."""
    import torch

    places = torch.arange(max(lengths), device=embeddings.device)
    return (places[None] < torch.tensor(lengths, device=embeddings.device)[:, None]).long()


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)
