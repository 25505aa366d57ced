"""Verdicts of a real server: several at once against one after another, and what our side of a verdict costs.

The models are tiny and know nothing, so a reply takes a fraction of a second: what the client and the checks cost
weighs more here than it ever will. The bare peer sends the same requests and reads nothing of the answers. On one
thread llama-server computes, and checks its grammar, token by token: being asked at once gains it nothing. vLLM gains.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from runner.critic import answer, ask, exam_pictures, request, schema
from runner.critic.question import Backend, Question, Unanswered
from tests import fakes
from tests.bench.timed import Row, in_pairs
from tests.critic import backends, tiny_vlm
from tests.servers import llama, serving, vllm
from tests.servers.serving import Served

NUM_AT_ONCE = 4
NUM_CALLS = 200


def measure(pairs: int) -> list[Row]:
    """Rows of the servers that are on this machine; for the others, why not."""
    rows: list[Row] = []
    if (program := _there(llama.find())) is not None:
        with _asked(lambda log: serving.llama_server(program, llama.tiny_model(), log, parallel=NUM_AT_ONCE)) as asked:
            rows += [_at_once_row("llama-server", asked, pairs), *_cost_rows(asked, pairs)]
    if (python := _there(vllm.find())) is not None:
        with _asked(lambda log: serving.vllm_server(python, tiny_vlm.folder("qwen3_vl"), log)) as asked:
            rows.append(_at_once_row("vllm", asked, pairs))
    return rows


@dataclass(frozen=True, slots=True)
class Asked:
    """A server, its client, and what is asked of it again and again."""

    server: Served
    backend: Backend
    questions: Sequence[Question]

    def in_turn(self) -> None:
        for question in self.questions:
            _verdict(self.backend, question)

    def at_once(self) -> None:
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            list(pool.map(partial(_verdict, self.backend), self.questions))

    def bare(self, bodies: Sequence[bytes]) -> None:
        headers = {"Authorization": f"Bearer {self.server.key}", "Content-Type": "application/json"}
        with httpx2.Client(headers=headers, timeout=60, trust_env=False) as client:
            for body in bodies:
                client.post(f"{self.server.url}/v1/chat/completions", content=body).raise_for_status()


def _there(found: Path | str) -> Path | None:
    if isinstance(found, Path):
        return found
    print(f"critic: {found}")
    return None


@contextmanager
def _asked(serve: Callable[[Path], AbstractContextManager[Served]]) -> Iterator[Asked]:
    with (
        tempfile.TemporaryDirectory() as place,
        serve(Path(place) / "server.log") as server,
        backends.openai(server.url, server.model, concurrency=NUM_AT_ONCE) as backend,
    ):
        yield Asked(server, backend, _questions())


def _at_once_row(name: str, asked: Asked, pairs: int) -> Row:
    return in_pairs(
        f"{name}: verdicts a minute, {NUM_AT_ONCE} at once / one after another",
        lambda: 60 * len(asked.questions) / _spent_s(asked.at_once),
        lambda: 60 * len(asked.questions) / _spent_s(asked.in_turn),
        pairs=pairs,
        goal=">= 1",
    )


def _cost_rows(asked: Asked, pairs: int) -> list[Row]:
    bodies = [_body(asked.server.model, question) for question in asked.questions]
    return [
        in_pairs(
            f"{len(bodies)} verdicts / bare requests (s)",
            lambda: _spent_s(asked.in_turn),
            lambda: _spent_s(partial(asked.bare, bodies)),
            pairs=pairs,
            goal="<= 1.10",
        ),
        in_pairs(
            "reading and checking an answer / its whole verdict (ms)",
            lambda: _checked_ms(asked.backend, asked.questions[0]),
            lambda: 1e3 * _spent_s(asked.in_turn) / len(bodies),
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


# ---- a verdict


def _verdict(backend: Backend, question: Question) -> None:
    """One attempt, read and checked; whatever it comes to is a verdict."""
    with suppress(Unanswered):
        reply = backend.ask(question, ask.first_attempt(question))
        answer.read(reply.text, question.profile, question.schema)


def _checked_ms(backend: Backend, question: Question) -> float:
    """The median of reading one real reply again and again."""
    reply = backend.ask(question, ask.first_attempt(question))

    def read() -> None:
        with suppress(Unanswered):
            answer.read(reply.text, question.profile, question.schema)

    return 1e3 * statistics.median(_spent_s(read) for _ in range(NUM_CALLS))


def _spent_s(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
