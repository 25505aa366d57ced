"""What the runner makes of an answer: every rule is named, and the model's own word decides nothing."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config.critic import CriticProfile, Gate
from runner.critic.answer import Answer, Finding, Score
from runner.critic.decide import Advice, advise, aggregate
from tests import fakes

NAMES = ("shape", "colour", "background", "concept")
shares = st.none() | st.floats(0, 1)


@functools.cache
def shapes() -> CriticProfile:
    profile = fakes.request().critic
    assert profile is not None
    return profile


def profile(**decision: Any) -> CriticProfile:
    """The shapes profile: a weighted mean, rejected below 0.4, accepted at 0.7, unless told otherwise."""
    known = {"aggregate": "weighted_mean", "accept_at": 0.7, "reject_below": 0.4, "critical_rejects": True, **decision}
    return shapes().model_copy(update={"decision": shapes().decision.model_copy(update=known)})


def with_criteria(asked: CriticProfile, name: str, **changes: Any) -> CriticProfile:
    criteria = tuple(c.model_copy(update=changes) if c.id == name else c for c in asked.criteria)
    return asked.model_copy(update={"criteria": criteria})


def with_critical(asked: CriticProfile, name: str) -> CriticProfile:
    tags = tuple(tag.model_copy(update={"severity": "critical"}) if tag.id == name else tag for tag in asked.tags)
    return asked.model_copy(update={"tags": tags})


def answer(*scores: float | None, tags: tuple[str, ...] = (), severity: str = "note") -> Answer:
    found = tuple(
        Finding(f"e{n}", tag, "prompt.shape", "prompt", "seen", None, severity, None) for n, tag in enumerate(tags, 1)
    )
    given = {name: Score(score, None, "so", (), ("r",)) for name, score in zip(NAMES, scores, strict=True)}
    return Answer(found, given, "high", None, False)


def test_scores_over_the_upper_threshold_are_recommended() -> None:
    assert advise(profile(), answer(1.0, 0.8, 0.6, 0.8)) == Advice("accept", "aggregate 0.8 >= 0.7", 0.8)


def test_scores_under_the_lower_threshold_are_advised_against() -> None:
    assert advise(profile(), answer(0.5, 0.25, 0.25, 0.0)) == Advice("reject", "aggregate 0.25 < 0.4", 0.25)


def test_between_the_thresholds_nothing_is_said_either_way() -> None:
    assert advise(profile(), answer(0.5, 0.5, 0.5, 0.5)) == Advice("unsure", "0.4 <= aggregate 0.5 < 0.7", 0.5)


def test_the_mean_of_scores_at_the_threshold_is_at_the_threshold() -> None:
    assert advise(profile(), answer(0.7, 0.7, 0.7, None)) == Advice("accept", "aggregate 0.7 >= 0.7", 0.7)


def test_a_gate_rejects_whatever_the_aggregate_says() -> None:
    asked = profile(gates=(Gate(criterion="colour", min=0.5),))
    assert advise(asked, answer(1.0, 0.25, 1.0, 1.0)) == Advice("reject", "gate:colour", 0.8125)


def test_a_gate_on_what_could_not_be_judged_stays_open() -> None:
    asked = profile(gates=(Gate(criterion="colour", min=0.5),))
    assert advise(asked, answer(1.0, None, 1.0, 1.0)) == Advice("accept", "aggregate 1 >= 0.7", 1.0)


def test_a_critical_tag_rejects_whatever_the_aggregate_says() -> None:
    said = advise(with_critical(profile(), "wrong_shape"), answer(1.0, 1.0, 1.0, 1.0, tags=("wrong_shape",)))
    assert said == Advice("reject", "critical:wrong_shape", 1.0)


def test_a_critical_tag_is_let_through_where_the_profile_says_so() -> None:
    asked = with_critical(profile(critical_rejects=False), "wrong_shape")
    said = advise(asked, answer(1.0, 1.0, 1.0, 1.0, tags=("wrong_shape",)))
    assert said == Advice("accept", "aggregate 1 >= 0.7", 1.0)


def test_the_severity_that_a_model_gives_decides_nothing() -> None:
    said = advise(profile(), answer(1.0, 1.0, 1.0, 1.0, tags=("wrong_shape",), severity="critical"))
    assert said == Advice("accept", "aggregate 1 >= 0.7", 1.0)


def test_what_must_be_judged_and_was_not_is_recommended_to_nobody() -> None:
    asked = with_criteria(profile(), "concept", needed=True)
    assert advise(asked, answer(1.0, 1.0, 1.0, None)) == Advice("unsure", "needed:concept", 1.0)


def test_a_gate_that_closes_is_named_before_what_was_not_judged() -> None:
    asked = with_criteria(profile(gates=(Gate(criterion="colour", min=0.5),)), "concept", needed=True)
    assert advise(asked, answer(1.0, 0.0, 1.0, None)) == Advice("reject", "gate:colour", 0.666667)


def test_nothing_judged_is_no_zero() -> None:
    assert advise(profile(), answer(None, None, None, None)) == Advice("unsure", "nothing judged", None)


def test_a_comparison_gets_no_advice() -> None:
    asked = profile().model_copy(update={"mode": "pairwise"})
    assert advise(asked, answer(None, None, None, None)) is None


@pytest.mark.parametrize(("kind", "total"), [("weighted_mean", 0.75), ("min", 0.5), ("geometric_mean", 0.707107)])
def test_each_aggregate_is_over_what_was_judged(kind: str, total: float) -> None:
    assert aggregate(profile(aggregate=kind), answer(0.5, None, 1.0, None)) == total


def test_weights_count_in_the_mean() -> None:
    asked = with_criteria(profile(), "shape", weight=3.0)
    assert aggregate(asked, answer(1.0, 0.0, None, None)) == 0.75


def test_a_zero_makes_the_geometric_mean_zero() -> None:
    assert aggregate(profile(aggregate="geometric_mean"), answer(0.0, 1.0, 1.0, 1.0)) == 0.0


def test_another_scale_is_brought_to_zero_and_one() -> None:
    asked = profile()
    asked = asked.model_copy(update={"scale": asked.scale.model_copy(update={"min": 1.0, "max": 5.0})})
    assert aggregate(asked, answer(1.0, 5.0, 3.0, None)) == 0.5


@given(
    scores=st.tuples(shares, shares, shares, shares), kind=st.sampled_from(["weighted_mean", "min", "geometric_mean"])
)
def test_an_aggregate_lies_between_the_worst_and_the_best_score(scores: tuple[float | None, ...], kind: str) -> None:
    given_scores = [score for score in scores if score is not None]
    total = aggregate(profile(aggregate=kind), answer(*scores))
    assert (total is None) == (not given_scores)
    assert total is None or min(given_scores) - 1e-6 <= total <= max(given_scores) + 1e-6
