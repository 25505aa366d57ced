"""What a critic is asked, what it answers, and what a backend is: the one interface of all of them.

A backend asks once and gives back what the model said, or says in which way it said nothing. Reading the reply,
checking it and asking again are not its business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from runner.config.critic import CriticProfile
from runner.plan import PromptPlan

FAILURES = (
    "timeout",  # no reply in budget.timeout_s
    "refused",  # the model declined, or a filter did
    "truncated",  # the reply ended at max_tokens
    "repetition",  # the reply went in circles
    "no_answer",  # nothing but reasoning, or nothing at all
    "parse",  # no JSON
    "schema",  # JSON that does not match the schema
    "semantic",  # matches the schema and contradicts itself or the evidence policy
    "image_not_seen",  # the picture does not decode, or was refused
    "bad_request",  # the server refuses the request as such
    "server_error",  # the server failed on this request
    "overloaded",  # 429 or 503: ask later
    "oom",  # out of memory on this request
    "disconnected",  # the connection broke in mid-request
    "runtime_down",  # nobody answers at that address
    "cancelled",  # we stopped it ourselves
)
OF_THE_RUNTIME = (
    "runtime_down",
    "cancelled",
)  # say nothing of the image: it has no verdict, and the next run asks again


@dataclass(frozen=True, slots=True)
class Picture:
    """An image as it is stored, by the digest of those bytes."""

    digest: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Example:
    """A past decision of a human that is shown before the image."""

    image: Picture
    prompt: str
    decision: str  # approve | reject | maybe
    note: str


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to judge: an image of a prompt, or two of the same prompt (A, then B)."""

    profile: CriticProfile
    prompt: PromptPlan
    images: tuple[Picture, ...]
    schema: Mapping[str, Any]  # what the reply must match; derived from the profile
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt decodes."""

    max_tokens: int
    seed: int
    temperature: float
    top_p: float
    thinking: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said: JSON text if all went well, why it stopped, and what it cost."""

    text: str
    finish: str = "stop"  # stop | length | repetition | refused
    usage: Mapping[str, int] = field(
        default_factory=dict
    )  # prompt_tokens, completion_tokens, cached_tokens where known
    raw: Mapping[str, Any] = field(default_factory=dict)  # what it gave beside the text: reasoning, similarities
    first_token_s: float | None = None  # where the reply was streamed


class Unanswered(Exception):
    """A backend got no answer: which of FAILURES, in words, and the reply where there was one all the same."""

    def __init__(
        self, failure: str, detail: str, *, retry_after_s: float | None = None, reply: Reply | None = None
    ) -> None:
        assert failure in FAILURES, failure
        self.failure, self.detail, self.retry_after_s, self.reply = failure, detail, retry_after_s, reply
        super().__init__(f"{failure}: {detail}")


class Backend(Protocol):
    """What answers. `ask` is called from up to `concurrency` threads at once."""

    identity: Mapping[
        str, Any
    ]  # all that decides its answers and can be known: weights, versions, template, number format
    continuous: bool  # scores are any number of the scale (an embedding model), not one of its levels
    structured: bool  # decodes under the schema; False: only validation afterwards
    concurrency: int

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        """One attempt. Raises Unanswered."""
        ...

    def cancel(self) -> None:
        """End every `ask` in flight: they raise Unanswered(cancelled)."""
        ...

    def close(self) -> None:
        """Give back what it holds; a server that we started ends."""
        ...
