"""Paired differences: the arithmetic against scipy and known values, and when nothing may be claimed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from runner import paired

VALUES = st.floats(-1e3, 1e3).map(lambda value: round(value, 6))
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30)
MIRRORED = {paired.A_HIGHER: paired.B_HIGHER, paired.B_HIGHER: paired.A_HIGHER}


def columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_a_known_sample_has_its_known_interval() -> None:
    found = paired.difference([1, 2, 3, 4], [2, 4, 3, 7])  # differences 1, 2, 0, 3: mean 1.5, t(3) = 3.1824
    assert (found.n, found.mean_a, found.mean_b, found.difference) == (4, 2.5, 4.0, 1.5)
    assert found.low == pytest.approx(1.5 - 3.182446 * math.sqrt(5 / 3) / 2, abs=1e-6)
    assert found.verdict == "no difference shown"


def test_a_clear_difference_is_shown_on_its_side() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0], [2.1, 3.0, 4.2, 5.1]
    assert paired.difference(a, b).verdict == "B higher"
    assert paired.difference(b, a).verdict == "A higher"


@given(PAIRS.filter(lambda pairs: len({round(b - a, 3) for a, b in pairs}) > 1))
def test_interval_and_verdict_are_those_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    a, b = columns(pairs)
    found, known = paired.difference(a, b), stats.ttest_rel(b, a)
    interval = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    if abs(known.pvalue - 0.05) > 1e-6:
        assert (found.verdict != paired.NOT_SHOWN) == (known.pvalue < 0.05)


@given(PAIRS)
def test_swapping_a_and_b_turns_every_sign_and_nothing_else(pairs: list[tuple[float, float]]) -> None:
    a, b = columns(pairs)
    one, other = paired.difference(a, b), paired.difference(b, a)
    assert one.difference is not None and other.difference == -one.difference
    turned = (None, None) if one.low is None or one.high is None else (-one.high, -one.low)
    assert (other.low, other.high) == turned
    verdict = MIRRORED.get(one.verdict, one.verdict)
    assert (other.n, other.mean_a, other.mean_b, other.verdict) == (one.n, one.mean_b, one.mean_a, verdict)


@given(PAIRS)
def test_the_order_of_the_pairs_does_not_matter(pairs: list[tuple[float, float]]) -> None:
    assert paired.difference(*columns(pairs)) == paired.difference(*columns(pairs[::-1]))


def test_no_pairs_are_not_measured_and_one_pair_has_no_interval() -> None:
    assert paired.difference([], []) == paired.Difference(0, None, None, None, None, None, "not measured")
    assert paired.difference([1.0], [3.0]) == paired.Difference(1, 1.0, 3.0, 2.0, None, None, "one measurement each")


def test_equal_values_show_no_difference() -> None:
    found = paired.difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert replace(found, mean_a=0, mean_b=0) == paired.Difference(3, 0, 0, 0.0, 0.0, 0.0, "no difference shown")


def test_rounding_noise_is_no_difference() -> None:
    found = paired.difference([0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2])
    assert (found.low, found.high, found.verdict) == (0.0, 0.0, "no difference shown")


@pytest.mark.parametrize(("num_pairs", "verdict"), [(2, paired.NOT_SHOWN), (5, paired.NOT_SHOWN), (6, "B higher")])
def test_a_few_differences_that_are_all_the_same_show_nothing(num_pairs: int, verdict: str) -> None:
    found = paired.difference([3.0] * num_pairs, [4.0] * num_pairs)
    assert (found.difference, found.verdict) == (1.0, verdict)
    assert (found.low is None) == (num_pairs < 6)


def test_columns_of_other_lengths_are_a_bug() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired.difference([1.0, 2.0], [1.0])
