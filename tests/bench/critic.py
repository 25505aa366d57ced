"""Verdicts of one real llama-server: asked at once against one after another, and what our side of it costs.

The model is tiny and knows nothing, so a reply takes a fraction of a second: what the client and the checks cost weighs
more here than it ever will. The bare peer sends the same bytes over one connection and reads none of the answer.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from runner.critic import answer, ask, exam_pictures, request, schema
from runner.critic.question import Backend, Question, Unanswered
from tests import fakes
from tests.bench.timed import Row, in_pairs
from tests.critic import backends
from tests.servers import llama, serving
from tests.servers.serving import Served

NUM_AT_ONCE = 4
NUM_CALLS = 200


def measure(pairs: int) -> list[Row]:
    program = llama.find()
    if isinstance(program, str):
        print(f"critic: {program}")
        return []
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "server.log"
        with serving.llama_server(program, llama.tiny_model(), log, parallel=NUM_AT_ONCE) as server:
            return _rows(server, pairs)


def _rows(server: Served, pairs: int) -> list[Row]:
    with backends.openai(server.url, server.model, concurrency=NUM_AT_ONCE) as backend:
        questions = _questions()
        bodies = [_body(server.model, question) for question in questions]
        return [
            in_pairs(
                f"verdicts of one server, {NUM_AT_ONCE} at once / one after another (a minute)",
                lambda: _per_minute(questions, lambda: _at_once(backend, questions)),
                lambda: _per_minute(questions, lambda: _in_turn(backend, questions)),
                pairs=pairs,
                goal=">= 1.3",
            ),
            in_pairs(
                f"{len(questions)} verdicts one after another / bare requests (s)",
                lambda: _spent_s(lambda: _in_turn(backend, questions)),
                lambda: _spent_s(lambda: _bare(server, bodies)),
                pairs=pairs,
                goal="<= 1.10",
            ),
            in_pairs(
                "reading and checking one answer / its whole verdict (ms)",
                lambda: _checked_ms(backend, questions[0]),
                lambda: 1e3 * _spent_s(lambda: _in_turn(backend, questions)) / len(questions),
                pairs=pairs,
                goal="<= 0.01",
            ),
        ]


# ---- what is asked


def _questions() -> list[Question]:
    """Each picture of the exam under two of its prompts, for the shipped profile."""
    profile = fakes.request().critic
    assert profile is not None
    wanted, pictures = schema.answer_schema(profile), exam_pictures.pictures()
    numbers = exam_pictures.NUMBERS
    return [Question(profile, exam_pictures.prompt(n), (pictures[m],), wanted) for n in numbers[:2] for m in numbers]


def _body(model: str, question: Question) -> bytes:
    attempt = ask.first_attempt(question)
    said: dict[str, Any] = {
        "model": model, "messages": request.messages(question), "seed": attempt.seed, "top_p": attempt.top_p,
        "temperature": attempt.temperature, "max_tokens": attempt.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": question.schema}},
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    return json.dumps(said).encode()


# ---- the sides


def _verdict(backend: Backend, question: Question) -> None:
    """One attempt, read and checked; whatever it comes to is a verdict."""
    with suppress(Unanswered):
        reply = backend.ask(question, ask.first_attempt(question))
        answer.read(reply.text, question.profile, question.schema)


def _in_turn(backend: Backend, questions: Sequence[Question]) -> None:
    for question in questions:
        _verdict(backend, question)


def _at_once(backend: Backend, questions: Sequence[Question]) -> None:
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        list(pool.map(lambda question: _verdict(backend, question), questions))


def _bare(server: Served, bodies: Sequence[bytes]) -> None:
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with httpx2.Client(headers=headers, timeout=60, trust_env=False) as client:
        for body in bodies:
            client.post(f"{server.url}/v1/chat/completions", content=body).raise_for_status()


def _checked_ms(backend: Backend, question: Question) -> float:
    """The median of reading one real reply again and again."""
    reply = backend.ask(question, ask.first_attempt(question))

    def read() -> None:
        with suppress(Unanswered):
            answer.read(reply.text, question.profile, question.schema)

    return 1e3 * statistics.median(_spent_s(read) for _ in range(NUM_CALLS))


def _per_minute(questions: Sequence[Question], work: Callable[[], None]) -> float:
    return 60 * len(questions) / _spent_s(work)


def _spent_s(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
