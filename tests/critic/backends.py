"""Every backend there is, loaded and ready to be asked: what the conformance suite runs over.

A new backend gets its line in SUBJECTS and has to pass. What needs a server that is not on this machine is skipped with
the reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.config.critic import CriticProfile, CriticRuntime, OpenAIRuntime, TransformersRuntime
from runner.critic import exam_pictures, schema
from runner.critic.question import Attempt, Backend, Picture, Question
from runner.plan import PromptPlan
from runner.store import Store
from runner.timing import Clock
from runner.worker import Bench
from tests import fakes
from tests.critic import asking, speaking, tiny_vlm
from tests.servers import llama, serving

KEY = serving.KEY


@dataclass(frozen=True, slots=True)
class Subject:
    """A backend under the suite, and what can be asked of it."""

    open: Callable[[Path], AbstractContextManager[Backend]]
    decodes: bool = True  # token by token, so that a reply can be cut
    judges: bool = True  # what it says is true, so that it passes the exam


# ---- what is asked


@functools.cache
def profile() -> CriticProfile:
    """The shipped profile with two criteria, short texts and one attempt: replies of a hundred tokens."""
    shipped = fakes.request().critic
    assert shipped is not None
    cut = {
        "criteria": tuple(c for c in shipped.criteria if c.id in ("colour", "background")),
        "evidence": shipped.evidence.model_copy(update={"max_items": 2, "max_chars": 8}),
        "sampling": shipped.sampling.model_copy(update={"max_tokens": 300}),
        "retry": shipped.retry.model_copy(update={"max_attempts": 1}),
        "budget": shipped.budget.model_copy(update={"timeout_s": 60.0}),
    }
    return shipped.model_copy(update=cut)


def question(backend: Backend, picture: int = 0, *, text: str | None = None, data: bytes | None = None) -> Question:
    """One of the exam's pictures under the prompt of its first; or another text, or other bytes for a picture."""
    prompt, shown = exam_pictures.prompt(0), exam_pictures.pictures()[picture]
    if text is not None:
        prompt = PromptPlan(prompt.key, prompt.id, text, {"subject": text, "background": text}, triggered=False)
    if data is not None:
        shown = Picture("0" * 64, data)
    wanted = schema.answer_schema(profile(), continuous=backend.continuous)
    return Question(profile(), prompt, (shown,), wanted)


def attempt(**changes: Any) -> Attempt:
    """How the profile asks the first time, changed."""
    sampling = profile().sampling
    plain = {
        "max_tokens": sampling.max_tokens, "seed": sampling.seed, "temperature": 0.0, "top_p": 1.0, "thinking": False,
        "timeout_s": 60.0,
    }  # fmt: skip
    return Attempt(**{**plain, **changes})


# ---- who is asked


@contextmanager
def clip(place: Path) -> Iterator[Backend]:
    """The shipped embedding model."""
    from runner.critic.backends.clip import load_clip

    runtime = fakes.request().critic_runtime
    with _closed(load_clip(_bench(runtime, place))) as backend:
        yield backend


@contextmanager
def transformers(place: Path) -> Iterator[Backend]:
    """A tiny random model in this process."""
    from runner.critic.backends.in_process import load_transformers

    folder = tiny_vlm.folder()
    runtime = TransformersRuntime(
        id="tiny", backend="transformers", path=str(folder), sha256=None, dtype="float32", context=tiny_vlm.CONTEXT
    )
    with _closed(load_transformers(_bench(runtime, place))) as backend:
        yield backend


@contextmanager
def openai_speaking(place: Path) -> Iterator[Backend]:
    """A server of the tests that looks at the picture."""
    with speaking.serve(key=KEY) as url, openai(url, "critic") as backend:
        yield backend


@contextmanager
def openai_llama(place: Path) -> Iterator[Backend]:
    """A real llama-server with a tiny random model."""
    log = place / "server.log"
    with (
        serving.llama_server(llama_program(), llama.tiny_model(), log) as server,
        openai(server.url, server.model) as backend,
    ):
        yield backend


@contextmanager
def openai(url: str, model: str, *, key: str = KEY, **changes: Any) -> Iterator[Backend]:
    """A client of any server."""
    from runner.critic.backends.openai import identity_of, load_openai

    runtime, identity = openai_runtime(url, model, **changes), identity_of(url, key, model)
    with _closed(load_openai(runtime, url=url, key=key, identity=identity)) as backend:
        yield backend


def openai_runtime(url: str, model: str, **changes: Any) -> OpenAIRuntime:
    """A server that others run, as a request names it."""
    ours = {"url": url, "model": model, "concurrency": 4, "context": serving.CONTEXT, "thinking_switch": True}
    return asking.runtime(**{**ours, **changes})


def llama_program() -> Path:
    """The real llama-server; the test is skipped where there is none."""
    found = llama.find()
    return pytest.skip(found) if isinstance(found, str) else found


@contextmanager
def _closed(backend: Backend) -> Iterator[Backend]:
    try:
        yield backend
    finally:
        backend.close()


def _bench(runtime: CriticRuntime | None, place: Path) -> Bench:
    """A bench with nothing on it but the request."""
    request = fakes.request().model_copy(update={"critic": profile(), "critic_runtime": runtime})
    return Bench(
        request=request, facts=None, store=Store(place / "objects"), clock=Clock(), device="cpu", images={},
        note=lambda *words, **facts: None, status=lambda *words: None,
    )  # fmt: skip


SUBJECTS: dict[str, Subject] = {
    "clip": Subject(clip, decodes=False),
    "transformers": Subject(transformers, judges=False),
    "openai: speaking": Subject(openai_speaking),
    "openai: llama-server": Subject(openai_llama, judges=False),
}
