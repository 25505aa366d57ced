"""The critic against people: agreement by hand, by scikit-learn and scipy, and when there are too few to say."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from runner.critic.worth import agreement
from runner.critic.worth.calibrate import calibrate
from runner.critic.worth.review_sets import ReviewSet
from runner.ledger.decided import Decision, split_of
from tests.critic.reviewed import Said, decision, review_set

TEXTBOOK = {("accept", "approve"): 20, ("accept", "reject"): 5, ("reject", "approve"): 10, ("reject", "reject"): 15}
TABLES = st.lists(st.integers(0, 30), min_size=9, max_size=9).map(lambda cells: np.array(cells).reshape(3, 3))


def world(counts: dict[tuple[str, str], int], **more: Any) -> tuple[ReviewSet, list[Decision]]:
    """A review set and one reviewer's decisions with so many images of each advice and word."""
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    verdicts = {
        f"image {n}": Said({"shape": 1.0 if advice == "accept" else 0.0}, (), advice)
        for n, (advice, _) in enumerate(pairs)
    }
    return review_set("run", verdicts, **more), [decision(f"image {n}", word) for n, (_, word) in enumerate(pairs)]


def value_of(counts: dict[tuple[str, str], int]) -> dict[str, Any]:
    reviews, decisions = world(counts)
    return calibrate(reviews, decisions, None)


# ---- the arithmetic


@given(TABLES, st.booleans())
def test_kappa_is_scikit_learns(table: np.ndarray[Any, Any], ordered: bool) -> None:
    rows, columns = np.nonzero(table)
    times = table[rows, columns]
    one, other = np.repeat(rows, times), np.repeat(columns, times)
    if len({*one}) < 2 or len({*other}) < 2:
        return  # chance alone agrees: scikit-learn warns, we have no number
    known = cohen_kappa_score(one, other, labels=[0, 1, 2], weights="quadratic" if ordered else None)
    assert agreement.kappa(table, agreement.quadratic(3) if ordered else None) == pytest.approx(known, abs=1e-9)


def test_kappa_is_no_number_where_chance_alone_agrees_fully() -> None:
    assert np.isnan(agreement.kappa(np.array([[7, 0], [0, 0]])))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=30))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = zip(*pairs, strict=True)
    found = agreement.spearman(one, other)
    if len({*one}) == 1 or len({*other}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-9)


def test_an_interval_draws_images_and_is_the_same_every_time() -> None:
    units = np.array([[1, 0]] * 30 + [[0, 1]] * 10)
    first, again = (agreement.resampled(units, lambda sums: agreement.share(sums[..., 0], sums.sum(-1))) for _ in "ab")
    assert first == again and (first.value, first.n) == (0.75, 40)
    assert first.low is not None and first.high is not None
    assert first.low == pytest.approx(0.6, abs=0.03) and first.high == pytest.approx(0.875, abs=0.03)  # binomial(40)


def test_two_words_on_each_image_make_no_interval_narrower() -> None:
    share = lambda sums: agreement.share(sums[..., 0], sums.sum(-1))  # noqa: E731  # a value, used twice
    one, two = (agreement.resampled(np.array([[n, 0]] * 30 + [[0, n]] * 10), share) for n in (1, 2))
    assert (one.low, one.high) == (two.low, two.high)
    assert (one.n, two.n) == (40, 80)


def test_an_interval_without_width_is_none() -> None:
    found = agreement.resampled(np.array([[1, 0]] * 25), lambda sums: agreement.share(sums[..., 0], sums.sum(-1)))
    assert (found.value, found.low, found.high) == (1.0, None, None)


# ---- the critic against people


def test_the_textbook_table_has_its_known_figures() -> None:
    value = value_of(TEXTBOOK)
    assert value["kappa"]["value"] == pytest.approx(0.4)  # 0.7 agree, 0.5 would by chance
    assert value["agreement"]["value"] == pytest.approx(0.7)
    assert (value["precision"]["value"], value["precision"]["n"]) == (0.8, 25)
    assert (value["recall"]["value"], value["recall"]["n"]) == (pytest.approx(2 / 3), 30)
    for name in ("kappa", "agreement", "precision", "recall"):
        assert value[name]["low"] < value[name]["value"] < value[name]["high"]


def test_unsure_and_maybe_are_no_choice_and_the_middle_of_three_steps() -> None:
    more = {("unsure", "approve"): 4, ("accept", "maybe"): 3, ("unsure", "maybe"): 2}
    value = value_of({**TEXTBOOK, **more})
    assert (value["agreement"]["n"], value["kappa"]["value"]) == (50, pytest.approx(0.4))
    assert (value["words"], value["kappa_3_steps"]["n"]) == ({"approve": 34, "reject": 20, "maybe": 5}, 59)
    table = np.array([[15, 0, 10], [0, 2, 4], [5, 3, 20]])
    assert value["kappa_3_steps"]["value"] == pytest.approx(float(agreement.kappa(table, agreement.quadratic(3))))
    assert value["recall"]["value"] == pytest.approx(20 / 34)  # an approved image of which it is unsure is not found


def test_a_critic_that_accepts_all_has_a_kappa_of_nothing() -> None:
    value = value_of({("accept", "approve"): 30, ("accept", "reject"): 30})
    assert (value["kappa"]["value"], value["agreement"]["value"]) == (0.0, 0.5)
    assert value["criteria"][0]["because"] == "the critic gives every image the same score"


@pytest.mark.parametrize(
    ("counts", "because"),
    [
        ({}, "too few to say: none approved and none rejected; 20 of each are needed"),
        ({("accept", "approve"): 40, ("reject", "reject"): 3}, "40 approved and 3 rejected; 20 of each are needed"),
    ],
)
def test_too_few_of_one_kind_is_said_in_words(counts: dict[tuple[str, str], int], because: str) -> None:
    value = value_of(counts)
    for name in ("agreement", "kappa", "kappa_3_steps", "precision", "recall"):
        assert value[name]["value"] is None and value[name]["low"] is None
    assert value["agreement"]["because"].endswith(because)


def test_precision_wants_enough_accepted_images_too() -> None:
    value = value_of({("accept", "approve"): 3, ("reject", "approve"): 27, ("reject", "reject"): 30})
    because = "too few to say: 30 approved, 30 rejected and 3 accepted by the critic; 20 of each are needed"
    assert (value["precision"]["because"], value["recall"]["value"]) == (because, 0.1)


def test_each_score_is_correlated_with_approval() -> None:
    value = value_of(TEXTBOOK)
    (row,) = value["criteria"]
    known = stats.spearmanr([1] * 25 + [0] * 25, [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15).statistic
    assert (row["criterion"], row["n"], row["correlation"]) == ("shape", 50, pytest.approx(known))


# ---- what is left out


def words(images: Iterable[str], word: str = "approve", reviewer: str = "ada") -> list[Decision]:
    return [decision(image, word, reviewer) for image in images]


def test_images_of_the_split_that_may_be_shown_are_left_out_and_counted() -> None:
    reviews, decisions = world(TEXTBOOK)
    in_train = sum(split_of(decision.image) == "train" for decision in decisions)
    value = calibrate(reviews, decisions, "train")
    assert 0 < in_train < 50
    assert (value["n"], value["left_out"]["split"], value["shown_split"]) == (50 - in_train, in_train, "train")


def test_what_has_no_advice_is_counted_by_its_reason_and_never_averaged() -> None:
    verdicts = {"i": Said(unscored="timeout"), "j": Said({"shape": 1.0}, advice=None), "k": Said(advice="accept")}
    reviews = review_set("run", verdicts, quarantined=frozenset({"l"}))
    value = calibrate(reviews, [*words("ijkl"), *words("k", "skip", "bob"), *words("m")], None)
    assert (value["n"], value["images"]) == (1, 1)
    assert value["left_out"] == {
        "unscored": {"timeout": 1}, "quarantined": 1, "without_advice": 1, "split": 0, "other_words": 1,
    }  # fmt: skip


def test_two_reviewers_of_an_image_both_count_and_it_stays_one_image() -> None:
    reviews, decisions = world(TEXTBOOK)
    value = calibrate(reviews, [*decisions, *(decision(d.image, d.word, "bob") for d in decisions)], None)
    one = calibrate(reviews, decisions, None)
    assert (value["n"], value["images"]) == (100, 50)
    assert (value["kappa"]["low"], value["kappa"]["high"]) == (one["kappa"]["low"], one["kappa"]["high"])


def test_two_reviewers_are_held_against_each_other() -> None:
    reviews, decisions = world(TEXTBOOK)
    bob = [decision(d.image, d.word if n % 5 else "maybe", "bob") for n, d in enumerate(decisions)]
    (row,) = calibrate(reviews, [*decisions, *bob], None)["reviewers"]
    assert (row["a"], row["b"], row["n"]) == ("ada", "bob", 40)
    assert row["kappa"]["because"] == (
        "too few to say: 24 approved by ada, 16 rejected by ada, 24 approved by bob and 16 rejected by bob; "
        "20 of each are needed"
    )
    more = [decision(d.image, "reject" if n < 5 else d.word, "bob") for n, d in enumerate(decisions)]
    (row,) = calibrate(reviews, [*decisions, *more], None)["reviewers"]
    assert row["agreement"]["value"] == 0.9
    assert row["kappa"]["value"] == pytest.approx((0.9 - 0.5) / (1 - 0.5))  # 30 and 25 of 50 approved


def test_one_reviewer_alone_is_held_against_nobody() -> None:
    assert value_of(TEXTBOOK)["reviewers"] == []


def test_the_value_is_plain_json() -> None:
    value = value_of(TEXTBOOK)
    assert json.loads(json.dumps(value, allow_nan=False)) == value
