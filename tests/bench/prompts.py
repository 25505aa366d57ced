"""Counting 10,000 prompts for every encoder of a pipeline against asking transformers' tokenizers one by one.

Ours is the whole count, with template, sections, trigger and what is lost; theirs is the ids alone. The vocabularies
are the tiny ones of the tests, the same for both sides.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.config.tree import Prompt, Trigger
from runner.contract import wording
from runner.contract.folders import read_model_folder
from runner.prompt import ComposedPrompt, Encoder, compose_prompts, load_encoder, read_entries, window
from tests import fakes, tiny
from tests.bench.timed import Row, in_pairs

NUM_PROMPTS = 10_000
WORDS = (
    "a", "photo", "of", "small", "red", "dog", "beside", "wooden", "chair", "glass", "bottle", "green", "oil", "marble",
    "table", "light", "soft", "studio", "brushed", "steel", "kettle", "matte", "black", "handle", "paper", "lamp",
    "leather", "bag", "brass", "buckles", "running", "shoes", "ceramic", "cup", "coffee", "knitted", "jumper",
)  # fmt: skip
SECTIONS = ("subject", "materials", "background")
ENCODERS = (
    ("CLIP x 2 (sdxl)", "sdxl", ("tokenizer", "tokenizer_2")),
    ("T5 (flux1)", "flux1", ("tokenizer_2",)),
    ("Qwen3 chat (z-image)", "z-image", ("tokenizer",)),
    ("Mistral chat (flux2)", "flux2", ("tokenizer",)),
)


def measure(pairs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        file = _write(Path(place) / "prompts.csv")
        for family in dict.fromkeys(family for _, family, _ in ENCODERS):
            tiny.build(family, Path(place) / family)
        return [*(_counted(Path(place), file, pairs, *each) for each in ENCODERS), _checked(Path(place), file, pairs)]


def _counted(place: Path, file: Path, pairs: int, name: str, family: str, tokenizers: tuple[str, ...]) -> Row:
    prompts, encoders = _composed(file), _encoders(place / family, tokenizers)
    return in_pairs(
        f"10,000 prompts, {name} / transformers one by one (s)",
        lambda: _spent(lambda: [encoder.count(prompts) for encoder in encoders]),
        _theirs(place / family, tokenizers, [prompt.text for prompt in prompts]),
        pairs=pairs,
        goal="<= 1",
    )


def _checked(place: Path, file: Path, pairs: int) -> Row:
    """Reading, composing, counting and every rule for words, against transformers' ids alone."""
    tokenizers = ("tokenizer", "tokenizer_2")
    request = fakes.request({"trigger.token": "ohwx", "lora.trigger": "ohwx"})
    encoders = _encoders(place / "sdxl", tokenizers)

    def check() -> None:
        prompts = _composed(file)
        counts = [count for encoder in encoders for count in encoder.count(prompts)]
        faults = [*wording.check_prompts(request, prompts), *wording.check_sections(request, prompts)]
        assert [*faults, *wording.check_tokens(request, counts)] == []

    return in_pairs(
        "10,000 prompts from a CSV, all checks (sdxl) / transformers one by one (s)",
        lambda: _spent(check),
        _theirs(place / "sdxl", tokenizers, [prompt.text for prompt in _composed(file)]),
        pairs=pairs,
        goal="<= 1",
    )


def _encoders(folder: Path, tokenizers: tuple[str, ...]) -> list[Encoder]:
    base = read_model_folder(folder)
    return [load_encoder(name, base.tokenizers[name], window(base.pipeline, name)) for name in tokenizers]


def _theirs(folder: Path, tokenizers: tuple[str, ...], texts: list[str]) -> Callable[[], float]:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    chat = _encoders(folder, tokenizers)[0].chat_template is not None
    asked = [getattr(pipe, name) for name in tokenizers]
    return lambda: _spent(lambda: [[_ids(tokenizer, text, chat=chat) for text in texts] for tokenizer in asked])


def _ids(tokenizer: Any, text: str, *, chat: bool) -> Any:
    if chat:
        return tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    return tokenizer(text)["input_ids"]


def _spent(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _write(path: Path) -> Path:
    chosen = random.Random(0)

    def words(num: int) -> str:
        return " ".join(chosen.choices(WORDS, k=num))

    rows = (f'p{n},"a {{trigger}}, {words(10)}",{words(8)},{words(6)}' for n in range(NUM_PROMPTS))
    path.write_text("\n".join([f"id,{','.join(SECTIONS)}", *rows]) + "\n", "utf-8")
    return path


def _composed(file: Path) -> tuple[ComposedPrompt, ...]:
    asked = {**fakes.composed()["prompt"], "sections": SECTIONS, "items": None, "file": str(file)}
    trigger = Trigger.model_validate({"token": "ohwx", "mode": "required", "without": ""})
    return compose_prompts(Prompt.model_validate(asked), trigger, read_entries(file, SECTIONS))
