"""A verdict is scored inside the scale with evidence, or unscored with the reason; never a guess."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config.tree import Criterion, CriticProfile
from runner.critic.clip import asked_label
from runner.critic.verdict import CriterionScore, Verdict, validated
from runner.plan import PromptPlan
from tests import fakes

COMMON = {"image": "a" * 64, "prompt": "a red circle", "profile": {"id": "shapes_v1"}, "model": {"backend": "clip"}}


def profile() -> CriticProfile:
    return fakes.request().critic


def criterion(name: str) -> Criterion:
    return next(c for c in profile().criteria if c.id == name)


def prompt(text: str, **sections: str) -> PromptPlan:
    return PromptPlan("p", "p", text, sections, False)


def score(value: float = 0.9, **changes: Any) -> CriterionScore:
    given: dict[str, Any] = {"rule": "prompt.shape", "group": "prompt", "score": value, "asked": "circle"}
    return CriterionScore(**{**given, "found": "circle", "similarities": {"circle": 0.3}, "tags": (), **changes})


def judged(criteria: dict[str, CriterionScore], *tags: str) -> Verdict:
    return validated(COMMON, criteria, tags, {}, profile())


# ---- what the prompt asks for


@pytest.mark.parametrize(
    ("name", "text", "sections", "asked"),
    [
        ("shape", "a circle on a blue background", {}, "circle"),
        ("shape", "a red circle on a blue background", {}, None),
        ("shape", "", {"subject": "a large Yellow STAR"}, "star"),
        ("shape", "", {"subject": "starfish"}, None),
        ("shape", "", {"subject": "a star and a ring"}, None),
        ("shape", "a star", {"subject": "a <emblem>"}, None),
        ("colour", "a red shape on a blue background", {}, "red"),
        ("colour", "a circle on a blue background", {}, None),
        ("colour", "", {"subject": "a cyan triangle", "background": "on a black background"}, "cyan"),
        ("background", "a red circle on a blue background", {}, "blue"),
        ("background", "", {"subject": "a red circle", "background": "on a blue background"}, "blue"),
    ],
)
def test_the_asked_label_is_the_one_the_prompt_names(
    name: str, text: str, sections: dict[str, str], asked: str | None
) -> None:
    assert asked_label(criterion(name), prompt(text, **sections)) == asked


# ---- what is checked of an answer


def test_a_sound_answer_is_scored() -> None:
    verdict = judged({"shape": score()})
    assert (verdict.status, verdict.reason, verdict.criteria["shape"].score) == ("scored", None, 0.9)


@pytest.mark.parametrize(
    ("criteria", "tags", "reason"),
    [
        ({}, (), "schema: no criterion of the profile applies to this prompt"),
        ({"beauty": score()}, (), "schema: 'beauty' is no criterion of the profile"),
        ({"shape": score(1.01)}, (), "schema: shape is 1.01, outside the scale"),
        ({"shape": score(-0.01)}, (), "schema: shape is -0.01, outside the scale"),
        ({"shape": score(similarities={})}, (), "schema: shape has no evidence"),
        ({"shape": score()}, ("ugly",), "schema: tag 'ugly' is not in the vocabulary"),
    ],
)
def test_an_unsound_answer_is_unscored_with_the_reason_and_no_scores(
    criteria: dict[str, CriterionScore], tags: tuple[str, ...], reason: str
) -> None:
    verdict = judged(criteria, *tags)
    assert (verdict.status, verdict.reason, verdict.criteria, verdict.tags) == ("unscored", reason, {}, ())


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_the_ends_of_the_scale_are_inside(bound: float) -> None:
    assert judged({"shape": score(bound)}).status == "scored"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_cannot_be_written_down(value: float) -> None:
    with pytest.raises(ValueError, match="finite number"):
        score(value)


def test_a_verdict_takes_no_words_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        Verdict.model_validate({**judged({"shape": score()}).model_dump(), "approved": True})
