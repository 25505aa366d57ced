"""What a real llama-server does to a critic that asks it: every fault is produced, none is played."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner.critic import ask, exam_pictures
from runner.critic.backends import completion, openai
from runner.critic.question import Backend, Reply, Unanswered
from tests.critic import backends
from tests.servers import llama, serving
from tests.servers.serving import Served

LONG = {"type": "array", "items": {"enum": ["a"]}, "minItems": 2000, "maxItems": 2000}  # seconds of tokens


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that stays whole; a test that harms one starts its own."""
    with _serving(tmp_path_factory.mktemp("server")) as served:
        yield served


@contextmanager
def _serving(place: Path, *words: str, sees: bool = True, parallel: int = 2) -> Iterator[Served]:
    program = backends.llama_program()
    with serving.llama_server(
        program, llama.tiny_model(), place / "server.log", *words, sees=sees, parallel=parallel
    ) as s:
        yield s


def _client(server: Served, **changes: Any) -> Any:
    return backends.openai(server.url, server.model, **changes)


@contextmanager
def _asking(backend: Backend, server: Served, **changes: Any) -> Iterator[Future[Reply]]:
    """A question with a long answer, asked in a thread, once the server is at work on it."""
    question = replace(backends.question(backend), schema=LONG)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(backend.ask, question, backends.attempt(max_tokens=10_000, **changes))
        _until(lambda: _busy(server))
        yield future


def _busy(server: Served) -> int:
    """How many of its slots are at work."""
    asked = urllib.request.Request(f"{server.url}/slots", headers={"Authorization": f"Bearer {server.key}"})
    with urllib.request.urlopen(asked, timeout=30) as page:
        return sum(slot["is_processing"] for slot in json.load(page))


def _post(server: Served, body: dict[str, Any]) -> tuple[int, Any]:
    """A chat request, past the critic; its status and what was said."""
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"{server.url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=30) as page:
            return page.status, json.load(page)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def _until(true: Callable[[], object]) -> None:
    ends = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends, "nothing happened for 30 seconds"
        time.sleep(0.005)


def test_it_is_asked_who_it_is(server: Served) -> None:
    told = openai.identity_of(server.url, server.key, server.model)
    assert told["owned_by"] == "llamacpp"
    assert told["context"] == serving.CONTEXT
    assert len(told["chat_template"]) == 64


def test_the_beginning_that_all_questions_share_is_read_once(tmp_path: Path) -> None:
    with _serving(tmp_path, parallel=1) as server, _client(server) as backend:
        first = backend.ask(backends.question(backend, 0), backends.attempt())
        then = backend.ask(backends.question(backend, 1), backends.attempt())
    assert first.usage["cached_tokens"] == 0
    assert then.usage["cached_tokens"] > 0.9 * then.usage["prompt_tokens"]


def test_a_cut_reply_is_asked_for_again_with_more_room(server: Served) -> None:
    tight = backends.profile().sampling.model_copy(update={"max_tokens": 20})
    retry = backends.profile().retry.model_copy(update={"max_attempts": 2})
    with _client(server) as backend:
        question = backends.question(backend)
        question = replace(question, profile=question.profile.model_copy(update={"sampling": tight, "retry": retry}))
        judged = ask.judge(backend, question)
    assert judged.failure == "truncated"
    assert [tried.attempt.max_tokens for tried in judged.tries] == [20, 30]


def test_a_frozen_server_is_a_timeout(tmp_path: Path) -> None:
    with _serving(tmp_path) as server, _client(server) as backend:
        server.freeze()
        with pytest.raises(Unanswered, match=r"timeout: no whole reply in 0\.3 s"):
            backend.ask(backends.question(backend), backends.attempt(timeout_s=0.3))
        server.go_on()
        assert backend.ask(backends.question(backend), backends.attempt()).finish == "stop"


def test_a_server_that_dies_in_mid_reply_breaks_the_connection_and_is_then_down(tmp_path: Path) -> None:
    with _serving(tmp_path) as server, _client(server) as backend:
        with _asking(backend, server) as reply:
            server.kill()
            with pytest.raises(Unanswered, match="disconnected: the connection broke"):
                reply.result()
        with pytest.raises(Unanswered, match="runtime_down: nobody answers"):
            backend.ask(backends.question(backend), backends.attempt())


def test_cancelling_stops_the_server_too(server: Served) -> None:
    with _client(server) as backend, _asking(backend, server) as reply:
        backend.cancel()
        with pytest.raises(Unanswered, match="cancelled: the request was cancelled"):
            reply.result()
        _until(lambda: _busy(server) == 0)


def test_closing_ends_what_is_asked_from_every_thread(server: Served) -> None:
    with _client(server) as backend, _asking(backend, server) as one, _asking(backend, server) as other:
        closing = threading.Thread(target=backend.close)
        closing.start()
        failures = {getattr(reply.exception(), "failure", None) for reply in (one, other)}
        closing.join()
    assert failures == {"cancelled"}


def test_a_server_without_eyes_has_not_seen_the_image(tmp_path: Path) -> None:
    refused = pytest.raises(Unanswered, match=r"image_not_seen: .*image input is not supported")
    with _serving(tmp_path, sees=False) as server, _client(server) as backend, refused:
        backend.ask(backends.question(backend), backends.attempt())


@pytest.mark.parametrize("url", ["data:image/png;base64,####", "data:image/png;base64,bm8gcGljdHVyZQ==", "no picture"])
def test_what_it_says_of_a_torn_picture_is_understood(server: Served, url: str) -> None:
    """Ours decode before they are sent, so this one is sent past the critic."""
    content = [{"type": "image_url", "image_url": {"url": url}}]
    status, said = _post(server, {"messages": [{"role": "user", "content": content}]})
    assert completion.refused(status, completion.message_of(said)).failure == "image_not_seen"


def test_more_than_its_context_is_a_bad_request_with_the_numbers(tmp_path: Path) -> None:
    refused = pytest.raises(Unanswered, match=r"bad_request: .*exceeds the available context size \(512 tokens\)")
    with _serving(tmp_path, "--ctx-size", "512", parallel=1) as server, _client(server) as backend, refused:
        backend.ask(backends.question(backend), backends.attempt())


def test_another_key_is_refused_and_not_repeated(server: Served) -> None:
    runtime = backends.openai_runtime(server.url, server.model)
    backend = openai.load_openai(runtime, url=server.url, key="not-the-key", identity={})
    with pytest.raises(Unanswered, match="bad_request") as refusal:
        backend.ask(backends.question(backend), backends.attempt())
    backend.close()
    assert "not-the-key" not in f"{refusal.value} {refusal.value.__cause__} {backend!r}"


def test_as_many_questions_as_one_likes_share_its_slots(server: Served) -> None:
    with _client(server, concurrency=8) as backend:
        questions = [backends.question(backend, n % 4) for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda question: backend.ask(question, backends.attempt()), questions))
    said = [{replies[n].text for n in range(picture, 8, 4)} for picture in exam_pictures.NUMBERS]
    assert [len(texts) for texts in said] == [1, 1, 1, 1]
