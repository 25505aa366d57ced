"""Asking again: the same schema, every attempt counted, and nothing asked twice that cannot get better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from runner.critic import ask
from runner.critic.question import FAILURES, Attempt, Question, Reply, Unanswered
from tests.critic import asking, bad_critics


@dataclass(slots=True)
class Scripted:
    """Says one thing after the other, then the truth."""

    script: list[Reply | Unanswered]
    attempts: list[Attempt] = field(default_factory=list)
    schemas: list[Mapping[str, Any]] = field(default_factory=list)
    identity: Mapping[str, Any] = field(default_factory=lambda: {"backend": "scripted"})
    continuous: bool = False
    structured: bool = True
    concurrency: int = 1

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        self.attempts.append(attempt)
        self.schemas.append(question.schema)
        if not self.script:
            return bad_critics.Speaker(bad_critics.honest).ask(question, attempt)
        said = self.script.pop(0)
        if isinstance(said, Unanswered):
            raise said
        return said

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def failing(name: str, **more: Any) -> Unanswered:
    return Unanswered(name, "as told", **more)


def judged(*script: Reply | Unanswered, **changes: Any) -> tuple[ask.Judged, Scripted, list[float]]:
    waits: list[float] = []
    backend = Scripted([*script])
    asker = ask.Asker(backend, now=lambda: 0.0, wait=waits.append)
    return asker(asking.question(**changes)), backend, waits


def test_a_first_answer_is_one_attempt() -> None:
    got, backend, _ = judged()
    assert got.answer is not None and got.failure is None
    assert (len(got.tries), len(backend.attempts)) == (1, 1)


def test_a_truncated_reply_is_given_more_room_and_both_replies_are_kept() -> None:
    got, backend, _ = judged(Reply('{"evidence": [', "length"))
    assert [attempt.max_tokens for attempt in backend.attempts] == [900, 1350]
    assert [tried.record()["failure"] for tried in got.tries] == ["truncated", None]
    assert got.tries[0].record()["reply"] == '{"evidence": ['


def test_a_reply_of_blanks_is_repetition_and_gets_no_more_room() -> None:
    got, backend, _ = judged(Reply("{" + " " * 800, "length"))
    assert (got.tries[0].failure, got.tries[0].detail) == ("repetition", "went in circles until 900 tokens")
    assert [(attempt.max_tokens, attempt.seed) for attempt in backend.attempts] == [(900, 1), (900, 2)]


@pytest.mark.parametrize("name", ["server_error", "no_answer", "parse", "schema", "semantic"])
def test_what_was_no_answer_is_asked_again_with_the_next_seed(name: str) -> None:
    _, backend, _ = judged(failing(name))
    assert [attempt.seed for attempt in backend.attempts] == [1, 2]


def test_every_attempt_has_the_same_schema() -> None:
    _, backend, _ = judged(failing("schema"), failing("timeout"))
    assert len(backend.schemas) == 3 and all(schema == backend.schemas[0] for schema in backend.schemas)


def test_attempts_end_at_the_limit_of_the_profile_with_the_last_failure() -> None:
    got, backend, _ = judged(failing("parse"), failing("schema"), failing("semantic"), failing("parse"))
    assert (got.answer, got.failure, got.detail) == (None, "semantic", "as told")
    assert len(backend.attempts) == 3


@pytest.mark.parametrize("name", sorted(ask.FINAL))
def test_what_cannot_get_better_is_asked_once(name: str) -> None:
    got, backend, _ = judged(failing(name))
    assert (got.failure, len(backend.attempts)) == (name, 1)


def test_a_busy_server_is_waited_for_as_it_asks_and_that_is_no_attempt() -> None:
    busy = [failing("overloaded", retry_after_s=2.0), failing("overloaded"), failing("overloaded", retry_after_s=99.0)]
    got, _, waits = judged(*busy)
    assert got.answer is not None
    assert waits == [2.0, 2.0, ask.MAX_WAIT_S]


def test_a_server_that_stays_busy_is_a_failure_in_the_end() -> None:
    got, backend, _ = judged(*[failing("overloaded")] * 20)
    assert (got.failure, len(backend.attempts)) == ("overloaded", ask.MAX_WAITS + 1)


def test_nothing_is_asked_again_when_the_run_is_being_stopped() -> None:
    backend = Scripted([failing("parse")])
    got = ask.Asker(backend, give_up=lambda: True)(asking.question())
    assert (got.failure, len(backend.attempts)) == ("cancelled", 1)


def test_every_class_of_failure_is_final_or_asked_again() -> None:
    again = set(FAILURES) - set(ask.FINAL)
    assert set(ask.SAME_AGAIN) <= again
    assert set(ask.FINAL) <= set(FAILURES)


def test_tokens_of_all_attempts_are_added_up() -> None:
    got, _, _ = judged(Reply("{", "length", usage={"prompt_tokens": 7, "completion_tokens": 2}))
    assert got.tokens() == {"prompt_tokens": 7, "completion_tokens": 2}
