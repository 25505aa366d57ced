"""Real runs, killed with SIGKILL at random moments: a few with fake workers by default, fifty of the shipped models."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kill import attempts, judge, painted, rounds
from tests.kill.scenes import Scene, look

SEED = 7
MAKE = '{"event":"made","key":"image/%s","n":%d,"object":"%s"}'


def assert_unharmed(found: list[rounds.Round]) -> None:
    assert [(each.moment, each.faults) for each in found if each.faults] == []


def test_a_painted_run_that_was_killed_goes_on_to_the_undisturbed_end(tmp_path: Path) -> None:
    assert painted.main(tmp_path / "calm") == 0
    calm = rounds.Calm(look(tmp_path / "calm"), took_s=0)
    busy = attempts.Moment(0.005, len(calm.scene.lines) // 2)
    round_ = rounds.killed_and_resumed(attempts.PAINTED, tmp_path / "run", calm, busy)
    assert_unharmed([round_])
    assert (round_.status, round_.num_kept + round_.num_made) == ("crashed", len(calm.scene.made))
    assert round_.num_kept > 0


def test_half_of_the_moments_are_anywhere_and_half_are_where_the_work_is() -> None:
    chosen = attempts.moments(SEED, 40, took_s=10, lines=30)
    assert [moment.line is None for moment in chosen] == [True, False] * 20
    assert all(0 <= moment.after_s <= 10 for moment in chosen if moment.line is None)
    assert chosen == attempts.moments(SEED, 40, took_s=10, lines=30)


def scene(*made: tuple[str, str], inode: int = 1, status: str = "complete") -> Scene:
    lines = [(MAKE % (key, number, name)).encode() for number, (key, name) in enumerate(made)]
    return Scene(status, tuple(lines), False, {name: (inode, 0) for _, name in made}, 0, (), ())


def test_the_judge_sees_what_was_made_twice_rewritten_changed_or_untrue() -> None:
    calm = scene(("a", "A"), ("b", "B"))
    assert judge.faults(scene(("a", "A"), status="crashed"), calm, calm, 0) == []
    assert judge.faults(calm, scene(("a", "A"), ("b", "B"), ("a", "A")), calm, 0) == ["made twice: image/a"]
    assert judge.faults(calm, scene(("a", "A"), ("b", "C")), calm, 0)[0] == "lines of the journal were changed"
    again = judge.faults(calm, scene(("a", "A"), ("b", "B"), inode=2), calm, 0)
    assert sorted(again) == [f"object {name} was written again though it was whole" for name in "AB"]
    assert judge.faults(scene(status="generating"), calm, calm, 3) == [
        "status says generating of a process that is gone", "the same command ended with 3",
    ]  # fmt: skip


@pytest.mark.slow
def test_fifty_kills_of_a_real_run_leave_what_nobody_disturbed(tmp_path: Path) -> None:
    command = attempts.real("demo")
    calm = rounds.undisturbed(command, tmp_path / "calm")
    assert_unharmed(list(rounds.many(command, tmp_path, calm, times=50, seed=SEED, num_jobs=2)))


@pytest.mark.slow
def test_a_real_run_that_is_killed_until_it_completes_is_the_undisturbed_one(tmp_path: Path) -> None:
    command = attempts.real("demo")
    calm = rounds.undisturbed(command, tmp_path / "calm")
    assert_unharmed(list(rounds.until_complete(command, tmp_path / "run", calm, seed=SEED)))


@pytest.mark.slow
def test_a_painted_run_that_is_killed_until_it_completes_is_the_undisturbed_one(tmp_path: Path) -> None:
    calm = rounds.undisturbed(attempts.PAINTED, tmp_path / "calm")
    assert_unharmed(list(rounds.until_complete(attempts.PAINTED, tmp_path / "run", calm, seed=SEED)))
