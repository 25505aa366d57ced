"""Sections and the trigger become one text, and every part is found again in it."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import builtin, contract
from runner.config.tree import Prompt, Trigger
from runner.errors import Refused
from runner.prompt import ComposedPrompt, Encoder, compose_prompts, load_encoder
from tests import fakes

WORDS = st.lists(st.sampled_from(["a", "red", "star,", "{trigger}", "on", " ", "<emblem>"]), max_size=6).map(" ".join)


def prompt_set(*items: Any, separator: str = ", ", sections: tuple[str, ...] = ("subject", "background")) -> Prompt:
    values = fakes.composed()["prompt"]
    return Prompt.model_validate({**values, "items": items, "separator": separator, "sections": sections})


def trigger(token: str | None = "<emblem>", mode: str = "required", without: str = "") -> Trigger:
    return Trigger.model_validate({"token": token, "mode": mode, "without": without})


def composed(*items: Any, **more: Any) -> tuple[ComposedPrompt, ...]:
    return compose_prompts(prompt_set(*items), trigger(**more))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return contract.check(fakes.request()).encoders[0]


@pytest.mark.parametrize(
    ("text", "token", "result"),
    [
        ("a {trigger} on red", "<x>", "a <x> on red"),
        ("{trigger}", "<x>", "<x>"),
        ("({trigger}:1.2)", "<x>", "(<x>:1.2)"),
        ("  a   {trigger}\n  b ", "<x>", "a <x> b"),
        ("{trigger}{trigger}", "<x>", "<x><x>"),
        ("a <x> on red", "<x>", "a <x> on red"),
        ("a sks, on red", "sks", "a sks, on red"),
        ("asks (sks:1.2)", "sks", "asks (sks:1.2)"),
        ("my dog", "my dog", "my dog"),
        ("a {trigger} on red", None, "a on red"),
        ("{trigger} on red", None, "on red"),
        ("on red {trigger}", None, "on red"),
    ],
)
def test_the_trigger_stands_where_its_slot_stands(text: str, token: str | None, result: str) -> None:
    (prompt,) = composed(text, token=token)
    assert prompt.text == result
    assert prompt.triggered == (token is not None)
    assert all(prompt.text[begin:end] == token for begin, end in prompt.slots)


@pytest.mark.parametrize("text", ["she asks", "sksy", "skså", "the sks_2", "Sks"])
def test_a_token_inside_another_word_is_no_trigger(text: str) -> None:
    (prompt,) = composed(text, token="sks")
    assert (prompt.text, prompt.triggered) == (text, False)


def test_sections_are_joined_in_the_order_of_the_set() -> None:
    (prompt,) = composed({"id": "p", "sections": {"background": "on red", "subject": "a {trigger}"}})
    assert prompt.text == "a <emblem>, on red"
    assert [(s.name, prompt.text[s.begin : s.end]) for s in prompt.sections] == [
        ("subject", "a <emblem>"), ("background", "on red"),
    ]  # fmt: skip


def test_an_empty_section_leaves_no_separator() -> None:
    (prompt,) = composed({"id": "p", "sections": {"subject": "  ", "background": "on {trigger}"}})
    assert (prompt.text, [section.name for section in prompt.sections]) == ("on <emblem>", ["background"])


def test_a_probe_makes_each_prompt_with_and_without_the_trigger() -> None:
    prompts = composed({"id": "p", "sections": {"subject": "a {trigger}"}}, mode="probe", without="shape")
    assert [(p.key, p.text, p.triggered) for p in prompts] == [
        ("p.with", "a <emblem>", True), ("p.without", "a shape", False),
    ]  # fmt: skip


def test_a_probe_may_leave_the_slot_empty() -> None:
    assert [p.text for p in composed("a {trigger} on red", mode="probe")] == ["a <emblem> on red", "a on red"]


def test_a_plain_text_is_named_by_its_words_and_content() -> None:
    first, second = composed("a {trigger} on red", "a {trigger} on red!")
    assert re.fullmatch(r"a-on-red-[0-9a-f]{6}", first.key)
    assert first.key != second.key


def test_the_name_of_a_plain_text_stays_when_others_are_added() -> None:
    assert composed("a {trigger} x")[0].key == composed("new {trigger}", "a {trigger} x")[1].key


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["{trigger} a", ""], r"is an empty text\. Write what the image shows\.$"),
        ([{"id": "p", "sections": {}}], r"^- prompt\.items \(p\): is an empty text\."),
        (
            [{"id": "p", "sections": {"subject": "a", "sky": "b"}}],
            r"^- prompt\.items\[0\]: has a section 'sky' that prompt\.sections does not list\. "
            r"Known: subject, background\.$",
        ),
        (["a", "a"], r"^- prompt\.items: has two prompts named 'a-[0-9a-f]{6}'\. Give each prompt an id of its own\.$"),
    ],
)
def test_what_is_no_prompt_is_refused(items: list[Any], message: str) -> None:
    with pytest.raises(Refused, match=message):
        composed(*items)


def test_a_doubled_id_in_a_probe_is_refused_once_per_arm() -> None:
    with pytest.raises(Refused, match=r"two prompts named 'p\.with'") as refusal:
        composed(*[{"id": "p", "sections": {"subject": "a {trigger}"}}] * 2, mode="probe")
    assert len(refusal.value.faults) == 2


def test_ids_that_meet_the_arms_of_a_probe_are_refused() -> None:
    items = [{"id": name, "sections": {"subject": "a {trigger}"}} for name in ("p", "p.with")]
    keys = [prompt.key for prompt in composed(*items, mode="probe")]
    assert keys == ["p.with", "p.without", "p.with.with", "p.with.without"]


@given(st.dictionaries(st.sampled_from(["subject", "background", "texture"]), WORDS), st.sampled_from([" ", ", "]))
def test_every_section_and_every_slot_is_found_again_in_the_text(sections: dict[str, str], separator: str) -> None:
    names = ("subject", "texture", "background")
    asked = prompt_set({"id": "p", "sections": {**sections, "subject": "x"}}, separator=separator, sections=names)
    (prompt,) = compose_prompts(asked, trigger())
    assert prompt.text == separator.join(section.text for section in prompt.sections)
    assert all(prompt.text[s.begin : s.end] == s.text for s in prompt.sections)
    assert [prompt.text[begin:end] for begin, end in prompt.slots] == ["<emblem>"] * prompt.text.count("<emblem>")
    assert "  " not in prompt.text and "{trigger}" not in prompt.text


# ---- tokens


def test_tokens_are_counted_by_section_and_the_trigger_is_found(encoder: Encoder) -> None:
    (prompt,) = composed({"id": "p", "sections": {"subject": "a {trigger}", "background": "on red"}})
    (count,) = encoder.count([prompt])
    begin, end = count.trigger_spans[0]
    assert "".join(piece.removesuffix("</w>") for piece in count.trigger_pieces) == "<emblem>"
    assert (begin, end - begin) == (1, len(count.trigger_pieces))
    assert count.sections == {"subject": end, "background": 2}


def test_the_template_and_the_headroom_add_up_to_the_limit(encoder: Encoder) -> None:
    (count,) = encoder.count(composed("a red star", token=None))
    assert (count.raw, count.templated) == (3, 3 + count.overhead)
    assert count.templated + count.headroom == count.limit == encoder.limit


def test_what_does_not_fit_is_named(encoder: Encoder) -> None:
    room = encoder.limit - encoder.overhead
    fits, over = encoder.count(composed(" ".join(["red"] * room), " ".join(["red"] * room + ["blue star"]), token=None))
    assert (fits.lost, over.lost) == ("", "blue star")


def test_a_trigger_behind_the_window_does_not_survive(encoder: Encoder) -> None:
    room = encoder.limit - encoder.overhead
    front, back = encoder.count(composed("{trigger}" + " red" * room, "red " * room + "{trigger}"))
    assert (front.trigger_survives(), back.trigger_survives()) == (True, False)


def test_an_empty_batch_has_no_counts(encoder: Encoder) -> None:
    assert encoder.count([]) == []


# ---- a tokenizer without tokenizer.json

SHIPPED = builtin.package_dir() / "shapes" / "tokenizer"
PIECES = (
    "a", "red", "STAR", "isn't", "we'll", "they've", "caf\u00e9", "cafe\u0301", "\u4e2d\u6587\u5b57", "\U0001f642",
    "\u00bd", "\u2167", "\u0130stanbul", "<emblem>", "(x:1.2)", "\u00a0", "\u3000", "na\u00efve", "\ufb01n", "\t",
    "\n\n", "1234", "\u01c5", "\u00df", "\u200d", "\ufeff", "--", "a_b", "<|", "\u0e01\u0e33",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The shipped tokenizer from its vocabulary and merges alone."""
    folder = tmp_path_factory.mktemp("built") / "tokenizer"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    return load_encoder("tokenizer", folder)


def ids(encoder: Encoder, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    return [(found.ids, found.offsets) for found in encoder.tokenizer.encode_batch(texts)]


def test_a_tokenizer_built_from_its_vocabulary_counts_like_the_shipped_one(encoder: Encoder, built: Encoder) -> None:
    chosen = random.Random(0)
    texts = [mark.join(chosen.choices(PIECES, k=3 + number % 9)) for mark in (" ", "") for number in range(100)]
    assert len(set(texts)) == 200
    assert ids(built, texts) == ids(encoder, texts)
    assert (built.limit, built.overhead) == (encoder.limit, encoder.overhead) == (77, 2)


@pytest.mark.parametrize("text", ["a <|endoftext|> star", "<|startoftext|>red", "a<|ENDOFTEXT|>b"])
def test_a_special_token_written_in_a_prompt_counts_like_in_the_shipped_one(
    encoder: Encoder, built: Encoder, text: str
) -> None:
    assert ids(built, [text]) == ids(encoder, [text])


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_tokenizer_with_half_of_its_vocabulary_is_refused(tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("tokenizer.json", missing))
    with pytest.raises(Refused, match=r"tokenizer: cannot be read \(.*Save the tokenizer again with `save_pretrained`"):
        load_encoder("tokenizer", folder)


def test_another_kind_of_tokenizer_is_not_built_from_its_vocabulary(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "model_max_length": 77}', "utf-8")
    with pytest.raises(Refused, match=r"no tokenizer\.json, and T5Tokenizer cannot be built from its vocabulary"):
        load_encoder("tokenizer", folder)
