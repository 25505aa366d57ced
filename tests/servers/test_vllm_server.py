"""The same promises asked of a real vLLM, and what only vLLM does; an optional lane, minutes long.

`python -m tests.servers vllm` gets it.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.critic.question import Backend, Unanswered
from tests.critic import backends, tiny_vlm
from tests.critic.backends import Subject
from tests.critic.test_critic_conformance import (  # noqa: F401  # collected here again, and asked of vLLM
    backend,
    heard,
    test_a_closed_one_says_so,
    test_a_picture_that_does_not_decode_is_not_seen,
    test_a_reply_matches_the_schema,
    test_asked_at_once_each_gets_its_own_answer,
    test_every_ending_is_an_answer_or_a_known_failure,
    test_its_identity_is_the_same_next_time_and_tells_no_secret,
    test_little_room_cuts_the_reply,
    test_markup_and_any_script_in_a_prompt_are_only_text,
    test_stopping_when_nothing_is_asked_changes_nothing,
    test_the_exam_passes_who_is_right_and_nobody_else,
    test_the_picture_is_looked_at,
    test_the_same_question_gets_the_same_answer,
)
from tests.servers import serving, vllm
from tests.servers.serving import Served

pytestmark = pytest.mark.slow
CIRCLES = {"type": "array", "items": {"enum": ["a"]}, "minItems": 500, "maxItems": 500}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for all: it takes half a minute to start."""
    python = vllm.find()
    if isinstance(python, str):
        pytest.skip(python)
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with serving.vllm_server(python, tiny_vlm.folder("qwen3_vl"), log) as served:
        yield served


@pytest.fixture(scope="module")
def subject(server: Served) -> Subject:
    @contextmanager
    def client(place: Path) -> Iterator[Backend]:
        with backends.openai(server.url, server.model, context=serving.VLLM_CONTEXT) as opened:
            yield opened

    return Subject(client, judges=False)


def _post(server: Served, path: str) -> Any:
    asked = urllib.request.Request(f"{server.url}{path}", headers={"Authorization": f"Bearer {server.key}"}, data=b"")
    with urllib.request.urlopen(asked, timeout=30) as page:
        return json.load(page)


def test_going_in_circles_is_stopped_by_the_server(server: Served) -> None:
    with backends.openai(server.url, server.model, stop_repeating=True) as client:
        question = replace(backends.question(client), schema=CIRCLES)
        reply = client.ask(question, backends.attempt(max_tokens=1000))
    assert reply.finish == "repetition"
    assert reply.usage["completion_tokens"] < 1000


def test_more_images_than_it_takes_is_a_bad_request(backend: Backend) -> None:  # noqa: F811  # a fixture
    question = backends.question(backend)
    with pytest.raises(Unanswered, match=r"bad_request: 400: At most 1 image\(s\) may be provided"):
        backend.ask(replace(question, images=question.images * 2), backends.attempt())


def test_more_than_its_context_is_a_bad_request_too(backend: Backend) -> None:  # noqa: F811  # a fixture
    with pytest.raises(Unanswered, match="bad_request: 400: max_tokens=100000 cannot be greater than max_model_len"):
        backend.ask(backends.question(backend), backends.attempt(max_tokens=100_000))


def test_asleep_it_is_healthy_and_says_nothing(server: Served, backend: Backend) -> None:  # noqa: F811  # a fixture
    asleep = _post(server, "/sleep?level=1")
    with urllib.request.urlopen(f"{server.url}/health", timeout=30) as page:
        assert (page.status, asleep["status"]) == (200, "sleeping")
    with pytest.raises(Unanswered, match="timeout: no whole reply in 2 s"):
        backend.ask(backends.question(backend), backends.attempt(timeout_s=2.0))
    assert _post(server, "/wake_up")["status"] == "awake"
    assert backend.ask(backends.question(backend), backends.attempt()).finish == "stop"
