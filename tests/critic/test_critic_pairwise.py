"""Two pictures in both orders: only what is preferred wherever it stands counts."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.critic.answer import Answer, Finding, Score
from runner.critic.pairwise import OTHER, combine, swapped
from runner.critic.question import Picture, Question
from runner.plan import PromptPlan
from tests import fakes

winners = st.sampled_from(["A", "B", "tie"])
by_criterion = st.fixed_dictionaries({"shape": winners, "colour": winners})


def answer(winner: str, criteria: Mapping[str, str] | None = None, faulty: str | None = None) -> Answer:
    """An answer that prefers `winner`; `faulty` is the image on which something was found."""
    found = (Finding("e1", "wrong_shape", "prompt.shape", "prompt", "a ring", None, "major", faulty),) if faulty else ()
    cited = tuple(finding.id for finding in found)
    said = {name: Score(None, side, f"{side} it is", cited, ("r",)) for name, side in (criteria or {}).items()}
    return Answer(found, said, "high", winner, False)


@functools.cache
def question() -> Question:
    profile = fakes.request().critic
    assert profile is not None
    pictures = (Picture("a" * 64, b"a"), Picture("b" * 64, b"b"))
    return Question(profile, PromptPlan("p", "p", "a ring", {}, False), pictures, {})


@pytest.mark.parametrize(("first", "second", "winner", "consistent"), [
    ("A", "B", "A", True), ("B", "A", "B", True), ("tie", "tie", "tie", True),
    ("A", "A", "tie", False), ("B", "B", "tie", False), ("A", "tie", "tie", False), ("tie", "B", "tie", False),
])  # fmt: skip
def test_only_what_both_orders_prefer_wins(first: str, second: str, winner: str, consistent: bool) -> None:
    pair = combine(answer(first), answer(second))
    assert (pair.winner, pair.consistent) == (winner, consistent)


def test_each_criterion_is_combined_by_itself() -> None:
    pair = combine(answer("A", {"shape": "A", "colour": "A"}), answer("B", {"shape": "B", "colour": "A"}))
    assert {name: (said.winner, said.consistent) for name, said in pair.criteria.items()} == {
        "shape": ("A", True),
        "colour": ("tie", False),
    }


def test_a_finding_of_the_second_order_is_put_on_the_picture_it_was_made_on() -> None:
    pair = combine(answer("A", {"shape": "A"}, faulty="B"), answer("B", {"shape": "B"}, faulty="A"))
    assert [(found.id, found.image) for found in pair.evidence] == [("ab.e1", "B"), ("ba.e1", "B")]
    assert pair.criteria["shape"].evidence == ("ab.e1", "ba.e1")


def test_reasons_of_both_orders_are_kept_as_they_were_given() -> None:
    pair = combine(answer("A", {"shape": "A"}), answer("B", {"shape": "B"}))
    assert pair.criteria["shape"].reasons == ("A it is", "B it is")


@given(always=winners.filter(lambda side: side != "tie"))
def test_a_critic_that_prefers_a_place_is_never_believed(always: str) -> None:
    pair = combine(answer(always, {"shape": always}), answer(always, {"shape": always}))
    assert (pair.winner, pair.consistent, pair.criteria["shape"].winner) == ("tie", False, "tie")


@given(first=winners, second=winners, said=by_criterion, back=by_criterion)
def test_exchanging_the_orders_exchanges_the_winner(
    first: str, second: str, said: dict[str, str], back: dict[str, str]
) -> None:
    there, here = answer(first, said, "A"), answer(second, back, "B")
    one, other = combine(there, here), combine(here, there)
    assert (one.winner, one.consistent) == (OTHER[other.winner], other.consistent)
    for name, preference in one.criteria.items():
        assert preference.winner == OTHER[other.criteria[name].winner]
    assert {found.image for found in one.evidence} == {"A"}
    assert {found.image for found in other.evidence} == {"B"}


def test_a_swapped_question_differs_in_the_order_of_its_pictures_alone() -> None:
    asked = swapped(question())
    assert [picture.digest[0] for picture in asked.images] == ["b", "a"]
    assert swapped(asked) == question()
