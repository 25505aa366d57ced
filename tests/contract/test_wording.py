"""Do the words fit: the trigger exactly as it was trained, and the tokens inside every window."""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner import contract
from runner.contract import wording
from runner.prompt import plain_prompt
from tests import fakes

FIXED = {"prompt.sections": ["subject"], "prompt.required": ["subject"]}


def said(text: str, changes: Mapping[str, Any] | None = None, experiment: str = "demo") -> list[str]:
    """Faults of one prompt named `p`."""
    items = [{"id": "p", "sections": {"subject": text}}]
    return fakes.said(fakes.request({**FIXED, "prompt.items": items, **(changes or {})}, experiment))


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("a <emblm>", "has '<emblm>', which is not the trigger '<emblem>'",
         "Did you mean '<emblem>'? Write {trigger}."),
        ("a <Emblem>", "has '<Emblem>', which is not the trigger '<emblem>'",
         "Did you mean '<emblem>'? Write {trigger}."),
        ("an emblem", "has 'emblem', which is not the trigger '<emblem>'",
         "Did you mean '<emblem>'? Write {trigger}."),
        ("a <ohwx>", "has '<ohwx>', which is not the trigger '<emblem>'",
         "The trigger here is '<emblem>'; write {trigger}."),
        ("a {trigger} <ohwx>", "has '<ohwx>', which is not the trigger '<emblem>'",
         "The trigger here is '<emblem>'; write {trigger}."),
        ("a star", "has no trigger, and trigger.mode is required",
         "Write {trigger} where the token belongs."),
        ("a {trigger} <lora:emblem:1>", "has '<lora:emblem:1>', which loads nothing here",
         "Choose the LoRA in config (lora=NAME lora.scale=1.0) and take this out of the prompt."),
        ("a {trigger} <lyco:x:1>", "has '<lyco:x:1>', which loads nothing here",
         "Choose the LoRA in config (lora=NAME lora.scale=1.0) and take this out of the prompt."),
    ],
)  # fmt: skip
def test_what_only_looks_like_the_trigger_is_refused(text: str, what: str, fix: str) -> None:
    assert said(text) == [f"prompt.items (p): {what}. {fix}"]


@pytest.mark.parametrize("text", ["a {trigger}", "a <emblem>", "{trigger} {trigger}", "({trigger}:1.2)", "(<emblem>)"])
def test_the_trigger_itself_is_accepted(text: str) -> None:
    assert said(text) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a <emblem>",
            "has '<emblem>', and there is no LoRA. Take it out, or choose mode=lora with the LoRA it belongs to.",
        ),
        (
            "a <lora:emblem:1>",
            "has '<lora:emblem:1>', which loads nothing here. "
            "Choose the LoRA in config (lora=NAME lora.scale=1.0) and take this out of the prompt.",
        ),
    ],
)
def test_a_trigger_without_a_lora_is_refused(text: str, message: str) -> None:
    assert said(text, experiment="demo_base") == [f"prompt.items (p): {message}"]


def test_a_slot_without_a_trigger_is_refused() -> None:
    assert said("a {trigger}", experiment="demo_base") == [
        "prompt.items: of set shapes have {trigger}, and trigger is none. "
        "Choose a trigger (trigger=emblem), or a prompt set without the slot (prompt=shapes)."
    ]


@pytest.mark.parametrize("token", ["<emblm>", "<Emblem>", "emblem", "<emblem", "<other>"])
def test_a_mistyped_token_is_answered_with_the_one_of_the_lora(token: str) -> None:
    (message,) = said("a {trigger}", {"trigger.token": token, "prompt.budget.max": 200})
    assert message.startswith(f"trigger.token: is {token!r}; emblem answers to <emblem> (card")
    assert message.endswith(". Set trigger.token='<emblem>'.")


def test_a_card_and_a_file_that_name_different_triggers_are_refused(tmp_path: Path) -> None:
    told = {"modelspec.trigger_phrase": "<other>"}
    file = fakes.write_lora(tmp_path / "a.safetensors", fakes.layers_of_shapes("attn2.to_k"), metadata=told)
    assert said("a {trigger}", {"lora.path": str(file)}) == [
        "lora.trigger: is '<emblem>' on the card; the file says it was trained with '<other>'. "
        "Set lora.trigger='<other>' or use the other file."
    ]


def test_the_trigger_of_the_file_counts_where_the_card_is_silent(tmp_path: Path) -> None:
    told = {"modelspec.trigger_phrase": "<emblem>"}
    file = fakes.write_lora(tmp_path / "a.safetensors", fakes.layers_of_shapes("attn2.to_k"), metadata=told)
    silent = {"lora.path": str(file), "lora.trigger": None}
    assert said("a {trigger}", silent) == []
    assert said("a star", {**silent, "trigger.token": None}) == [
        "trigger: is none; emblem answers to '<emblem>'. "
        "Set trigger.token='<emblem>'; trigger.mode=forbidden tests the LoRA without its trigger."
    ]


def test_a_word_of_another_lora_is_not_to_be_replaced_by_a_forbidden_trigger() -> None:
    (message,) = said("a <other>", {"trigger.mode": "forbidden"})
    assert "write {trigger}" not in message


@pytest.mark.parametrize(("mode", "asked"), [("required", "lora"), ("probe", "lora"), ("probe", "base")])
def test_a_trigger_mode_without_a_token_is_refused(tmp_path: Path, mode: str, asked: str) -> None:
    file = fakes.write_lora(tmp_path / "a.safetensors", fakes.layers_of_shapes("attn2.to_k"))
    silent = {"lora.path": str(file), "lora.trigger": None} if asked == "lora" else {}
    experiment = "demo" if asked == "lora" else "demo_base"
    assert said("a star", {**silent, "trigger.mode": mode, "trigger.token": None}, experiment) == [
        f"trigger.token: has mode {mode} and no token. Name the token, or choose trigger=none."
    ]


def test_a_negative_prompt_is_counted_like_a_prompt() -> None:
    words = " ".join(["red"] * window())
    changes = {"prompt.budget.max": 500, "generate.negative_prompt": words, "generate.guidance_scale": 4}
    assert said("a star", changes, "demo_base") == []
    (message,) = said("a star", {**changes, "generate.negative_prompt": f"{words} blue"}, "demo_base")
    assert message.startswith("prompt.items (negative_prompt): has ")
    assert "; lost would be: 'blue'. " in message


def test_a_negative_prompt_has_its_row_and_no_minimum() -> None:
    product = {"prompt.budget.mode": "product", "prompt.budget.min": 2}
    asked = {**product, "generate.negative_prompt": "blurry", "generate.guidance_scale": 4}
    assert said("a red star", asked, "demo_base") == []
    agreed = contract.check(fakes.request({"generate.negative_prompt": "bad", "generate.guidance_scale": 4}))
    assert agreed.tokens[-1].prompt == "negative_prompt"
    assert "negative_prompt" not in {prompt.key for prompt in agreed.prompts}


# ---- tokens


def window() -> int:
    """The tokens that a prompt of the shipped base may have, without the template."""
    encoder = contract.check(fakes.request()).encoders[0]
    return encoder.limit - encoder.overhead


def test_a_prompt_over_the_limit_is_refused_with_what_would_be_lost() -> None:
    encoder = contract.check(fakes.request()).encoders[0]
    words = ["red"] * window()
    tail = "on a blue background"
    (message,) = said(" ".join([*words, tail]), {"prompt.budget.max": 500}, "demo_base")
    assert message == (
        f"prompt.items (p): has {encoder.limit + 4} tokens for tokenizer, the limit is {encoder.limit}; "
        f"lost would be: {tail!r}. Shorten it, or set prompt.overflow=truncate."
    )


def test_a_prompt_that_fills_the_window_is_accepted() -> None:
    assert said(" ".join(["red"] * window()), {"prompt.budget.max": 500}, "demo_base") == []


def test_a_prompt_may_be_cut_when_the_request_says_so() -> None:
    changes = {"prompt.budget.max": 500, "prompt.overflow": "truncate"}
    assert said(" ".join(["red"] * (window() + 9)), changes, "demo_base") == []


def test_a_cut_may_not_take_the_trigger() -> None:
    changes = {"prompt.budget.max": 500, "prompt.overflow": "truncate"}
    limit = contract.check(fakes.request()).encoders[0].limit
    assert said(" ".join(["red"] * window()) + " {trigger}", changes) == [
        f"prompt.items (p): loses its trigger in tokenizer: it stands behind token {limit}. "
        "Move {trigger} to the front."
    ]


def test_a_control_token_in_a_prompt_is_refused() -> None:
    assert said("a red <|endoftext|> star", {"prompt.budget.max": 500}, "demo_base")[-1] == (
        "prompt.items (p): has '<|endoftext|>', which tokenizer reads as a control token. Take it out."
    )


def test_a_template_that_would_be_cut_at_its_end_is_refused_though_no_word_is_lost() -> None:
    asked = fakes.request({}, "demo_base")
    count = replace(contract.check(asked).tokens[0], templated=90, kept=(0, 8), lost="")
    (fault,) = wording.check_tokens(asked, [count])
    assert (fault.code, fault.what) == (
        "prompt_overflow",
        "has 90 tokens for tokenizer, the limit is 77; lost would be the end of its chat template",
    )


def test_the_word_that_is_nearest_to_the_trigger_is_the_one_that_difflib_finds() -> None:
    chosen = random.Random(0)
    asked = fakes.request({"trigger.mode": "forbidden"})
    num_found = 0
    for _ in range(100):
        words = ["".join(letter for letter in "<embleMs>" if chosen.random() < 0.7) + "," for _ in range(20)]
        words = [word for word in words if not word.startswith("<")]
        near = difflib.get_close_matches("<emblem>", [word.lower().strip(",") for word in words], n=1, cutoff=0.8)
        faults = wording.check_prompts(asked, [plain_prompt("p", " ".join(words))])
        assert [fault.what.split("'")[1].lower() for fault in faults] == near
        num_found += len(near)
    assert 20 < num_found < 100


def test_a_prompt_over_its_budget_is_refused() -> None:
    assert said("a red star", {"prompt.budget.max": 2}, "demo_base") == [
        "prompt.items (p): has 3 tokens for tokenizer, the budget ends at 2. Shorten it, or raise prompt.budget.max."
    ]


def test_a_product_prompt_needs_its_minimum_and_its_sections() -> None:
    budget = {"prompt.budget.mode": "product", "prompt.budget.min": 5, "prompt.required": ["subject", "texture"]}
    assert said("a red star", {"prompt.sections": ["subject", "texture"], **budget}, "demo_base") == [
        "prompt.items (p): has no section 'texture'. Write it, or take it out of prompt.required (subject, texture).",
        "prompt.items (p): has 3 tokens for tokenizer, a product prompt needs 5. "
        "Say more, or set prompt.budget.mode=explore.",
    ]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["a {trigger}", ""], "prompt.items ({id}): is an empty text. Write what the image shows."),
        (
            [{"id": "p", "sections": {"subject": "a {trigger}", "backround": "x"}}],
            "prompt.items[0]: has a section 'backround' that prompt.sections does not list. "
            "Known: subject, background.",
        ),
        (
            [{"id": "p", "sections": {"subject": "a {trigger}"}}] * 2,
            "prompt.items: has two prompts named 'p'. Give each prompt an id of its own.",
        ),
    ],
)
def test_a_prompt_set_that_is_not_one_is_refused(items: list[Any], message: str) -> None:
    asked = fakes.request({"prompt.items": [i if isinstance(i, str) else {**i} for i in items]})
    found = fakes.said(asked)
    assert [line.replace(line[14:20], "{id}") if "({id})" in message else line for line in found] == [message]
