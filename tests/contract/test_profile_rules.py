"""A profile by itself: each rule with its code and its exact words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest

from runner.contract import profile_rules, templates
from runner.critic import exam_pictures
from runner.errors import Refused
from tests import fakes
from tests.contract.critics import profile, said


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"tags.1.id": "wrong_shape", "criteria.1.clip.tag": "wrong_shape"}, [
            "duplicate_id: critic.tags (wrong_shape): stands twice. Give each an id of its own."]),
        ({"criteria.0.id": "colour"}, [
            "duplicate_id: critic.criteria (colour): stands twice. Give each an id of its own."]),
        ({"decision.gates": [{"criterion": "shape", "min": 0.5}] * 2}, [
            "duplicate_id: critic.decision.gates (shape): stands twice. Give each an id of its own."]),
        ({"criteria.0.rules": ["prompt.shape", "prompt.form"]}, [
            "unknown_key: critic.criteria (shape).rules: names 'prompt.form', which the profile does not have. "
            "Did you mean 'prompt.colour'? Known: concept.emblem, prompt.background, prompt.colour, prompt.shape."]),
        ({"tags.0.rule": "shape", "criteria.0.evidence_below": 0.0}, [
            "unknown_key: critic.tags (wrong_shape).rule: names 'shape', which the profile does not have. "
            "Known: concept.emblem, prompt.background, prompt.colour, prompt.shape."]),
        ({"criteria.0.clip.tag": "other"}, [
            "unknown_key: critic.criteria (shape).clip.tag: names 'other', which the profile does not have. "
            "Known: concept_missing, wrong_background, wrong_colour, wrong_shape."]),
        ({"decision.gates": [{"criterion": "form", "min": 0.5}]}, [
            "unknown_key: critic.decision.gates: names 'form', which the profile does not have. "
            "Known: background, colour, concept, shape."]),
        ({"exam.criterion": "hue"}, [
            "unknown_key: critic.exam.criterion: names 'hue', which the profile does not have. "
            "Known: background, colour, concept, shape."]),
        ({"scale.min": 1.0}, [
            "out_of_bounds: critic.scale: runs from 1 to 1. Set min below max.",
            "out_of_bounds: critic.exam.good_at_least: is 0.7; from it down by apart_at_least 0.4 must be in the "
            "scale. Choose both so that they fit from 1 to 1."]),
        ({"scale.levels": [0.0, 1.0, 0.5]}, [
            "out_of_bounds: critic.scale.levels: are 0, 1, 0.5. Write each once, the lowest first."]),
        ({"scale.levels": [0.0, 1.0, 1.0]}, [
            "out_of_bounds: critic.scale.levels: are 0, 1, 1. Write each once, the lowest first."]),
        ({"scale.levels": [0.0, 2.0]}, [
            "out_of_bounds: critic.scale.levels: has 2, outside the scale. "
            "Choose from 0 to 1, or widen critic.scale."]),
        ({"criteria.0.anchors.0.score": -1.0}, [
            "out_of_bounds: critic.criteria (shape).anchors: has -1, outside the scale. "
            "Choose from 0 to 1, or widen critic.scale."]),
        ({"criteria.0.evidence_below": 1.5}, [
            "out_of_bounds: critic.criteria (shape).evidence_below: has 1.5, outside the scale. "
            "Choose from 0 to 1, or widen critic.scale."]),
        ({"decision.gates": [{"criterion": "shape", "min": 3.0}]}, [
            "out_of_bounds: critic.decision.gates (shape).min: has 3, outside the scale. "
            "Choose from 0 to 1, or widen critic.scale."]),
        ({"tags.0.rule": "prompt.colour"}, [
            "missing_value: critic.criteria (shape): asks for evidence below 0.5, and no tag is of prompt.shape. "
            "Add a tag of one of its rules, or set evidence_below: 0."]),
        ({"decision.accept_at": 0.3}, [
            "out_of_bounds: critic.decision.accept_at: is 0.3, under critic.decision.reject_below 0.4. "
            "Raise it, or lower the other."]),
        ({"retrieval.num_examples": 2}, [
            "setting_ignored: critic.retrieval.num_examples: 2 would be ignored: critic.retrieval.source is none. "
            "Set it to 0, or critic.retrieval.source=decisions."]),
        ({"retrieval.source": "decisions"}, [
            "setting_ignored: critic.retrieval.source: decisions would be ignored: critic.retrieval.num_examples is 0. "
            "Set it to none, or say how many examples are shown."]),
        ({"criteria.0.clip.labels": []}, [
            "missing_value: critic.criteria (shape).clip: is a choice with 0 labels and the template 'a {label}'. "
            "List its labels, and write {label} once in its template."]),
        ({"criteria.0.clip.template": "a {shape}"}, [
            "missing_value: critic.criteria (shape).clip: is a choice with 8 labels and the template 'a {shape}'. "
            "List its labels, and write {label} once in its template."]),
        ({"criteria.0.clip.template": "a {label"}, [
            "missing_value: critic.criteria (shape).clip: is a choice with 8 labels and the template 'a {label'. "
            "List its labels, and write {label} once in its template."]),
        ({"criteria.3.clip.references": None}, [
            "missing_value: critic.criteria (concept).clip: is a reference without pictures. "
            "Name a folder of PNG files."]),
        ({"sampling.max_tokens": 700}, [
            "out_of_bounds: critic.sampling.max_tokens: is 700; the longest reply has 2280 characters, "
            "which may take 760 tokens. Set 760 or more, or lower critic.evidence.max_items or max_chars."]),
        ({"sampling.max_tokens": 1900}, [
            "out_of_bounds: critic.requires.min_context: is 4096; a reply alone may take 4275 tokens after truncated "
            "ones. Raise it, by what prompt and images take too, or lower critic.sampling.max_tokens."]),
        ({"exam.criterion": "concept"}, [
            "out_of_bounds: critic.exam.criterion: is concept, which concerns no rule of group prompt: "
            "a swapped picture would not show in it. Known: background, colour, shape."]),
        ({"exam.good_at_least": 1.1}, [
            "out_of_bounds: critic.exam.good_at_least: is 1.1; from it down by apart_at_least 0.4 must be in the "
            "scale. Choose both so that they fit from 0 to 1."]),
        ({"exam.repeat_within": 0.4}, [
            "out_of_bounds: critic.exam.repeat_within: is 0.4, not under apart_at_least 0.4. "
            "Lower it: chance must not look like a judgement."]),
        ({"text.system": "{{ rules }} {{ seed }}"}, [
            "bad_template: critic.text.system: names 'seed', which a critic is not told. "
            "Known: criteria, evidence, rules, scale, tags."]),
        ({"text.user": "{{ promt }}"}, [
            "bad_template: critic.text.user: names 'promt', which a critic is not told. "
            "Did you mean 'prompt'? Known: prompt, sections."]),
        ({"text.example": "a\n{% if %}"}, [
            "bad_template: critic.text.example: cannot be filled in (line 2): Expected an expression, got "
            "'end of statement block'. Mend it in conf/critic/text."]),
        ({"text.system": "{% for rule in rules %}{{ rule.txt }}{% endfor %}"}, [
            "bad_template: critic.text.system: cannot be filled in: 'dict object' has no attribute 'txt'. "
            "Mend it in conf/critic/text."]),
        ({"text.user": "{{ prompt.__class__ }}"}, [
            "bad_template: critic.text.user: cannot be filled in: access to attribute '__class__' of 'str' object is "
            "unsafe. Mend it in conf/critic/text."]),
        ({"text.example": " "}, [
            "bad_template: critic.text.example: says nothing. Write something, of at most 100000 characters."]),
        ({"text.example": "{{ 'a' * 100001 }}"}, [
            "bad_template: critic.text.example: comes to 100001 characters. "
            "Write something, of at most 100000 characters."]),
        ({"text.user": "Judge it. {{ sections.subject }}"}, [
            "bad_template: critic.text.user: does not show the prompt, by which the image is judged. "
            "Write {{ prompt }} in it."]),
    ],
)  # fmt: skip
def test_a_profile_that_makes_no_sense_is_refused(changes: Mapping[str, Any], messages: list[str]) -> None:
    assert said(profile_rules.check_profile(profile(changes))) == messages


@pytest.mark.parametrize("bound", ["evidence.max_items", "evidence.max_chars", "sampling.max_tokens"])
def test_a_reply_without_a_bound_is_refused(bound: str) -> None:
    assert said(profile_rules.check_profile(profile({bound: None}))) == [
        f"profile_schema_unbounded: critic.{bound}: is null in profile shapes: a reply could go on without end. "
        "Set a number."
    ]


def test_a_comparison_may_be_examined_on_anything() -> None:
    assert said(profile_rules.check_profile(profile({"exam.criterion": "defects"}, "pair"))) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ 10.0 ** 400 }}", "OverflowError: "),
        ("{% for i in range(10 ** 7) %}{% endfor %}", "OverflowError: Range too big"),
        ("{{ '{0}'.format() }}", "IndexError: "),
        ("{{ '{x}'.format() }}", "KeyError: 'x'"),
        ("{{ 3 | xmlattr }}", "AttributeError: "),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError: "),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError: "),
    ],
)
def test_a_template_that_fails_as_a_program_is_refused(text: str, reason: str) -> None:
    [message] = said(profile_rules.check_profile(profile({"text.user": f"{{{{ prompt }}}}{text}"})))
    assert message.startswith(f"bad_template: critic.text.user: cannot be filled in: {reason}")


@pytest.mark.parametrize(
    ("key", "value"), [("evidence.max_chars", 10**11), ("evidence.max_items", 10**8), ("sampling.max_tokens", 10**9)]
)
def test_a_bound_that_bounds_nothing_is_refused(key: str, value: int) -> None:
    with pytest.raises(Refused) as refusal:
        fakes.request({f"critic.{key}": value})
    [fault] = refusal.value.faults
    assert (fault.code, fault.where) == ("out_of_bounds", f"critic.{key}")


# ---- the question for each prompt

WHOLE = ("a red circle", {"subject": "a red circle"})
BARE: tuple[str, dict[str, str]] = ("a dog\x1b", {})


def test_a_question_that_cannot_be_put_for_a_prompt_is_refused_once() -> None:
    asked = profile({"text.user": "{{ prompt }} {{ sections.subject }}"})
    assert said(profile_rules.check_profile(asked)) == []
    assert said(templates.check_texts(asked, [WHOLE, *[BARE] * 10_000])) == [
        "bad_template: critic.text.user: cannot be filled in: 'dict object' has no attribute 'subject' "
        "(prompt a dog\\x1b, with sections: none). "
        "Ask for a section with `if sections.NAME is defined`, or choose prompts that all have it."
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{{ prompt }}{% if sections.subject is defined %} {{ sections.subject }}{% endif %}",
        "{{ prompt }} {{ sections.get('subject', '') }}",
    ],
)
def test_a_question_that_asks_whether_a_section_is_there_is_accepted(text: str) -> None:
    assert said(templates.check_texts(profile({"text.user": text}), [WHOLE, BARE])) == []


@pytest.mark.parametrize("name", ["shapes", "pair"])
def test_a_shipped_question_fits_any_prompt_and_is_not_even_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)  # an import of it would fail
    asked = profile({"text.user": profile({}, name).text.user + " not read before"})
    assert said(templates.check_texts(asked, [WHOLE, BARE])) == []


def test_the_exam_has_the_sections_that_a_question_may_count_on() -> None:
    assert exam_pictures.prompt(0).sections == templates.EXAM_SECTIONS
