"""The speaking server is a critic like any other: honest it passes the exam whatever the profile, else it does not."""

from __future__ import annotations

from contextlib import closing

import pytest

from runner.config.critic import CriticProfile
from runner.critic import exam
from runner.critic.ask import judge
from tests import fakes
from tests.critic import speaking
from tests.critic.asking import critic

PROFILES = ("shapes", "lora_portrait", "pair")  # plain; more criteria than findings; of two which


def shipped(name: str) -> CriticProfile:
    profile = fakes.request({}, "demo", f"critic={name}").critic
    assert profile is not None
    return profile


def examined(mode: str, name: str) -> exam.Exam:
    with speaking.serve(mode) as url, closing(critic(url, concurrency=4)) as client:
        return exam.take(client, shipped(name), judge)


@pytest.mark.parametrize("name", PROFILES)
def test_an_honest_server_passes_under_every_kind_of_profile(name: str) -> None:
    taken = examined("honest", name)
    assert [check for check in taken.checks if not check.passed] == []
    assert taken.enforced is True


@pytest.mark.parametrize("mode", ["blind", "swapped"])
def test_a_bad_critic_behind_a_good_server_fails(mode: str) -> None:
    assert examined(mode, "shapes").passed is False


def test_a_server_that_ignores_the_schema_is_found_out() -> None:
    assert examined("fenced", "shapes").enforced is False
