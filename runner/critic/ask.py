"""Asking until there is an answer, or a reason why there is none: the same schema every time, every attempt counted.

What a retry changes follows from how the attempt failed and is kept with it: more room after a truncated reply, the
next seed after one that was no answer. A refusal, a bad request and a server that is gone are not asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from runner.critic import answer as answers
from runner.critic import pairwise
from runner.critic.answer import Answer
from runner.critic.question import Attempt, Backend, Question, Reply, Unanswered

FINAL = ("refused", "image_not_seen", "bad_request", "oom", "runtime_down", "cancelled")
SAME_AGAIN = ("timeout", "overloaded", "disconnected")
MAX_WAITS = 5  # for a server that says it is busy; they are not attempts of the model
MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt: how it decoded, what came, and why that was no answer."""

    attempt: Attempt
    failure: str | None
    detail: str | None
    reply: Reply | None
    took_s: float

    def record(self) -> dict[str, Any]:
        """What of it is the same whenever the same is said: the raw reply stands here whatever became of it."""
        reply = self.reply
        return {
            "failure": self.failure,
            "detail": self.detail,
            "seed": self.attempt.seed,
            "max_tokens": self.attempt.max_tokens,
            "finish": reply and reply.finish,
            "reply": reply and reply.text,
            "beside": dict(reply.raw) if reply and reply.raw else None,
        }


@dataclass(frozen=True, slots=True)
class Judged:
    """The answer to a question, or the class and detail of the last failure; and every attempt."""

    answer: Answer | None
    failure: str | None
    detail: str | None
    tries: tuple[Tried, ...] = ()

    @property
    def took_s(self) -> float:
        return sum(tried.took_s for tried in self.tries)

    def tokens(self) -> dict[str, int]:
        """Tokens of all attempts together, where the backend counts them."""
        usage = [tried.reply.usage for tried in self.tries if tried.reply]
        return {name: sum(counts.get(name, 0) for counts in usage) for name in {n for counts in usage for n in counts}}


@dataclass(slots=True)
class Asker:
    """Asks a backend; `wait` sleeps, `now` gives seconds."""

    backend: Backend
    now: Callable[[], float] = time.perf_counter
    wait: Callable[[float], object] = time.sleep
    give_up: Callable[[], bool] = field(default=lambda: False)  # true when the run is being stopped

    def __call__(self, question: Question) -> Judged:
        return judge(self.backend, question, self)


def first_attempt(question: Question) -> Attempt:
    """How a question is asked the first time."""
    sampling, budget = question.profile.sampling, question.profile.budget
    assert sampling.max_tokens is not None, "the contract refuses a profile without a bound"
    return Attempt(
        sampling.max_tokens, sampling.seed, sampling.temperature, sampling.top_p, sampling.thinking, budget.timeout_s
    )


def judge(backend: Backend, question: Question, asker: Asker | None = None) -> Judged:
    """Ask at most `retry.max_attempts` times; never raises for what a backend or a model does."""
    asker = asker or Asker(backend)
    attempt, tries, num_waits = first_attempt(question), list[Tried](), 0
    while True:
        answer, tried = _try(backend, question, attempt, asker.now)
        tries.append(tried)
        if answer is not None:
            return Judged(answer, None, None, tuple(tries))
        num_waits += tried.failure == "overloaded"
        num_asked = len(tries) - num_waits
        if tried.failure in FINAL or num_asked >= question.profile.retry.max_attempts or num_waits > MAX_WAITS:
            return Judged(None, tried.failure, tried.detail, tuple(tries))
        if asker.give_up():
            return Judged(None, "cancelled", "the run is being stopped", tuple(tries))
        if tried.failure == "overloaded":
            asker.wait(_pause_s(tried, num_waits))
        attempt = _next(attempt, tried, question)


def judge_both_orders(question: Question, asker: Asker) -> Judged:
    """A pair, asked as (A, B) and as (B, A); one answer when both gave one."""
    first = asker(question)
    if first.answer is None:
        return first
    second = asker(pairwise.swapped(question))
    tries = (*first.tries, *second.tries)
    if second.answer is None:
        return Judged(None, second.failure, second.detail, tries)
    return Judged(pairwise.as_answer(pairwise.combine(first.answer, second.answer)), None, None, tries)


def _try(
    backend: Backend, question: Question, attempt: Attempt, now: Callable[[], float]
) -> tuple[Answer | None, Tried]:
    reply: Reply | None = None
    began_s = now()
    try:
        reply = backend.ask(question, attempt)
        if reply.finish == "stop":
            answer = answers.read(reply.text, question.profile, question.schema)
            return answer, Tried(attempt, None, None, reply, now() - began_s)
        failure, detail = _ended_early(reply, attempt)
    except Unanswered as error:
        failure, detail, reply = error.failure, error.detail, error.reply or reply
        if failure == "parse" and reply is not None and answers.looping(reply.text):
            failure, detail = "repetition", "went in circles"
        if error.retry_after_s is not None:
            reply = reply or Reply("", "none", raw={"retry_after_s": error.retry_after_s})
    return None, Tried(attempt, failure, detail, reply, now() - began_s)


def _ended_early(reply: Reply, attempt: Attempt) -> tuple[str, str]:
    if reply.finish == "length":
        if answers.looping(reply.text):
            return "repetition", f"went in circles until {attempt.max_tokens} tokens"
        return "truncated", f"was cut at {attempt.max_tokens} tokens"
    return (reply.finish, "the model declined") if reply.finish == "refused" else ("repetition", "went in circles")


def _next(attempt: Attempt, tried: Tried, question: Question) -> Attempt:
    if tried.failure in SAME_AGAIN:
        return attempt
    if tried.failure == "truncated":
        return replace(attempt, max_tokens=int(attempt.max_tokens * question.profile.retry.more_tokens))
    return replace(attempt, seed=attempt.seed + 1)


def _pause_s(tried: Tried, num_waits: int) -> float:
    asked = tried.reply.raw.get("retry_after_s") if tried.reply else None
    return min(MAX_WAIT_S, float(asked) if asked is not None else 0.5 * 2**num_waits)
