"""How a server is reached and what it says of itself: keys that are told nowhere, no proxy, nothing invented."""

from __future__ import annotations

from contextlib import closing

import pytest

from runner.critic.backends import openai, wire
from runner.critic.question import Unanswered
from runner.errors import Refused, Unavailable
from tests.critic import speaking
from tests.critic.asking import asking, attempt, closed_port, critic, question, runtime

KEY = "k-3Jv0-not-to-be-seen"


# ---- what stays secret, and what leaves this machine


def test_a_key_is_sent_in_its_header_and_told_nowhere() -> None:
    with asking(key=KEY) as (client, server):
        client.ask(question(), attempt())
        identity = openai.identity_of(server.url, KEY, "critic")
        told = repr([client, vars(client)["identity"], client.identity, identity])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in told


def test_a_wrong_key_is_refused_without_being_repeated() -> None:
    with speaking.serve(key="another") as url, closing(critic(url, key=KEY)) as client:
        with pytest.raises(Unanswered, match=r"^bad_request: 401: the key is refused, or one is wanted$") as caught:
            client.ask(question(), attempt())
        assert KEY not in repr(caught.value)


@pytest.mark.parametrize("mode", ["not_found", "error_in_stream"])
def test_a_key_that_an_error_repeats_is_taken_out(mode: str) -> None:
    key = {"not_found": "critic", "error_in_stream": "EngineCore"}[mode]  # words of what these servers say
    with asking(mode, key=key) as (client, _), pytest.raises(Unanswered, match=r"\[key\]"):
        client.ask(question(), attempt())


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(Refused, match="the key is empty, or has characters that no HTTP header may have") as caught:
        critic("http://127.0.0.1:1", key=key)
    assert not key or key not in str(caught.value)


def test_loopback_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with asking() as (client, server):
        assert client.ask(question(), attempt()).finish == "stop"
        assert openai.identity_of(server.url, None, "critic")["owned_by"] == "vllm"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost", True),
        ("http://10.0.0.1", False),
        ("https://example.org/a", False),
    ],
)
def test_loopback_is_told_from_the_address(url: str, loopback: bool) -> None:
    assert wire.is_loopback(url) is loopback


# ---- who is there


def test_vllm_says_its_version_and_context() -> None:
    with speaking.serve() as url:
        assert openai.identity_of(url, None, "critic") == {"owned_by": "vllm", "context": 4096, "version": "0.33.0"}


def test_llama_server_says_its_build_file_and_template_and_no_path() -> None:
    with speaking.serve(engine="llama_server") as url:
        told = openai.identity_of(url, None, "critic")
    template = "8cd855ed7671b05b427f1507db98c8775037d1b0e46a791b883c4778e672c228"
    assert told == {
        "owned_by": "llama_server", "context": 4096, "build": "b11669-0c1e570", "file": "toy.gguf",
        "chat_template": template,
    }  # fmt: skip


def test_of_a_model_that_is_not_listed_nothing_is_invented() -> None:
    with speaking.serve(engine="strict") as url:
        assert openai.identity_of(url, None, "another") == {}


def test_a_server_that_is_not_there_is_said_so_before_a_run() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(Unavailable, match=f"critic_runtime.url: no critic answers at {url}"):
        openai.identity_of(url, None, "critic")


def test_a_server_that_wants_a_key_is_said_so_before_a_run() -> None:
    with speaking.serve(key=KEY) as url, pytest.raises(Unavailable, match="the server wants a key"):
        openai.identity_of(url, None, "critic")


def test_what_a_client_is_known_by_is_what_it_was_given() -> None:
    with closing(critic("http://127.0.0.1:1")) as client:
        assert client.identity == {"backend": "openai", "model": "critic"}
        assert (client.structured, client.continuous, client.concurrency) == (False, False, runtime().concurrency)
