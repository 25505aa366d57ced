"""Phases on a clock that stands still until told: they never overlap, and they add up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.timing import PHASES, Clock, percentile
from tests.fakes import StandingClock

TREES: st.SearchStrategy[Any] = st.recursive(
    st.tuples(st.sampled_from(PHASES), st.integers(0, 9), st.just([])),
    lambda inner: st.tuples(st.sampled_from(PHASES), st.integers(0, 9), st.lists(inner, max_size=3)),
    max_leaves=4,
)


@pytest.fixture
def time() -> StandingClock:
    return StandingClock()


@pytest.fixture
def clock(time: StandingClock) -> Clock:
    clock = Clock(now=time)
    clock.start()
    return clock


def walk(clock: Clock, time: StandingClock, tree: Any) -> None:
    """Spend the seconds of a phase before and after each phase inside it."""
    name, seconds, inner = tree
    with clock.phase(name):
        time.passes(seconds)
        for part in inner:
            walk(clock, time, part)
            time.passes(seconds)


def test_a_phase_inside_another_is_not_counted_twice(clock: Clock, time: StandingClock) -> None:
    with clock.phase("sample"):
        time.passes(2)
        with clock.phase("decode"):
            time.passes(3)
        time.passes(4)
    assert (clock.total_s("sample"), clock.total_s("decode")) == (6, 3)


@given(st.lists(TREES, max_size=3), st.integers(0, 9))
def test_phases_and_the_rest_add_up_to_the_wall_time(trees: list[Any], rest: int) -> None:
    time = StandingClock()
    clock = Clock(now=time)
    clock.start()
    for tree in trees:
        walk(clock, time, tree)
    time.passes(rest)
    table = clock.summary()
    assert all(seconds >= 0 for spent in clock.durations_s.values() for seconds in spent)
    assert sum(row["total_s"] for row in table.values()) == pytest.approx(clock.wall_s())
    assert table["unaccounted"]["total_s"] == pytest.approx(rest)


def test_the_device_is_waited_for_before_a_phase_ends(time: StandingClock) -> None:
    clock = Clock(now=time, sync=lambda: time.passes(5))
    with clock.phase("sample"):
        time.passes(1)
    assert clock.total_s("sample") == 6


def test_a_phase_that_fails_is_timed_and_named(clock: Clock, time: StandingClock) -> None:
    with pytest.raises(ValueError, match=r"^torn$"), clock.phase("store"), clock.phase("write"):
        time.passes(1)
        raise ValueError("torn")
    assert (clock.broke_in, clock.total_s("write"), clock.total_s("store")) == ("write", 1, 0)


def test_a_phase_without_a_name_of_ours_is_a_mistake_of_the_programmer(clock: Clock) -> None:
    with pytest.raises(AssertionError, match="unknown phase 'nap'"), clock.phase("nap"):
        pass


def test_time_before_the_clock_counts(time: StandingClock) -> None:
    time.passes(7)
    clock = Clock(now=time)
    clock.start(at=3)
    clock.add("compose", 4)
    assert (clock.wall_s(), clock.summary()["unaccounted"]["total_s"]) == (4, 0)


def test_a_clock_that_was_not_started_has_no_wall_time() -> None:
    assert Clock().wall_s() == 0


def test_the_summary_has_counts_and_percentiles(clock: Clock, time: StandingClock) -> None:
    for seconds in (1, 2, 3, 4, 5):
        with clock.phase("decode"):
            time.passes(seconds)
    assert clock.summary()["decode"] == {"count": 5, "total_s": 15, "p50_s": 3, "p95_s": 4.8}


@pytest.mark.parametrize(
    ("values", "share", "answer"),
    [([], 0.5, 0), ([3], 0.95, 3), ([1, 2], 0.5, 1.5), ([4, 1, 3, 2], 0, 1), ([4, 1, 3, 2], 1, 4)],
)
def test_a_percentile_lies_between_the_sorted_values(values: list[float], share: float, answer: float) -> None:
    assert percentile(values, share) == answer
