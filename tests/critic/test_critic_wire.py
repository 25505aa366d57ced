"""How a server is reached and what it says of itself: keys that are told nowhere, no proxy, nothing invented."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest

from runner import store
from runner.critic.backends import openai, wire
from runner.critic.question import Unanswered
from runner.errors import Refused, Unavailable
from tests.critic import speaking
from tests.critic.asking import asking, attempt, closed_port, critic, question, runtime

KEY = "k-3Jv0-not-to-be-seen"
SAID = b'data: {"choices": [{"finish_reason": "stop", "delta": {"content": "{}"}}]}\n\ndata: [DONE]\n\n'


def http(status: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


class Raw(BaseHTTPRequestHandler):
    """Answers everything with the bytes of its server, status line and all; a dripping one then never ends."""

    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(ConnectionError):
            self.wfile.write(self.server.data)
            while self.server.drip and not self.server.over.wait(0.02):
                self.wfile.write(self.server.drip)

    do_POST = do_GET


@contextmanager
def sending(data: bytes, drip: bytes = b"") -> Iterator[str]:
    """A server that sends these bytes, whatever it is asked."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Raw)
    server.data, server.drip, server.over = data, drip, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


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


# ---- what no server should send


@pytest.mark.parametrize("charset", ["utf-16", "utf-7", "hex", "bogus"])
def test_events_are_utf_8_whatever_the_header_says(charset: str) -> None:
    answer = http("200 OK", f"Content-Type: text/event-stream; charset={charset}", body=SAID)
    with sending(answer) as url, closing(critic(url)) as client:
        assert client.ask(question(), attempt()).text == "{}"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (http("302 Found", "Location: http://[x"), "bad_request: 302: the server sends elsewhere"),
        (http("503 Busy", "Retry-After: Mon, 01 Jan 99999 00:00:00 GMT"), "overloaded: 503"),
        (http("500 Oh", body=b'{"error": {"message": "half \\ud800"}}'), "server_error: 500: half \\ud800"),
        (http("500 Oh", body=b'{"error": {"message": "ok", "code": {}}}'), "server_error: 500: ok"),
        (http("500 Oh", "Content-Encoding: gzip", body=b"no gzip"), "server_error: what came is no chat completion"),
        (http("200 OK", "Content-Length: many", body=SAID), "disconnected: the connection broke"),
        (http("101 Switching"), "disconnected: the connection broke"),
    ],
)
def test_whatever_a_server_sends_is_one_class_of_failure(answer: bytes, expected: str) -> None:
    with (
        sending(answer) as url,
        closing(critic(url)) as client,
        pytest.raises(Unanswered, match=f"^{re.escape(expected)}") as caught,
    ):
        client.ask(question(), attempt())
    assert store.canonical(caught.value.detail)


@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError, OverflowError, RecursionError, httpx2.InvalidURL])
def test_an_error_that_nobody_foresaw_ends_one_attempt(kind: type[Exception]) -> None:
    def transport(request: httpx2.Request) -> httpx2.Response:
        raise kind("unforeseen")

    with closing(critic("http://127.0.0.1:1")) as client:
        vars(client)["_client"] = httpx2.AsyncClient(transport=httpx2.MockTransport(transport))
        with pytest.raises(Unanswered, match=rf"^server_error: sent what cannot be read \({kind.__name__}\)$"):
            client.ask(question(), attempt())


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


@pytest.mark.parametrize(
    ("answer", "drip"), [(http("200 OK", "Content-Length: 900000"), b" "), (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")]
)
def test_a_server_that_drips_has_a_limit_for_all_that_it_says(answer: bytes, drip: bytes) -> None:
    with sending(answer, drip) as url, pytest.raises(Unavailable, match=r"did not say within 0\.3 s who it is"):
        openai.identity_of(url, None, "critic", timeout_s=0.3)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"data": [{"id": "critic", "owned_by": "\ud800", "root": "a/\udfff"}]}, ["\\ud800", "\\udfff"]),
        ({"data": [{"id": "critic", "owned_by": "x" * 999}], "version": "\ud800" * 99}, ["x" * 200, "\\ud800" * 33]),
        ({"data": [{"id": "critic", "max_model_len": 10**30, "meta": {"n_params": True, "size": -1}}]}, []),
        ({"data": {"id": "critic"}, "version": ["1"], "model_path": 7, "modalities": [1]}, []),
        ({"chat_template": "\ud800"}, ["fb3d435851b285a9"]),
    ],
)
def test_an_identity_can_be_stored_and_is_short(said: Any, told: list[str]) -> None:
    page = json.dumps(said).encode()
    with sending(http("200 OK", body=page)) as url:
        identity = openai.identity_of(url, None, "critic")
    assert store.canonical(identity)
    assert [value[: len(text)] for value, text in zip(identity.values(), told, strict=True)] == told
    assert all(len(value) <= 200 for value in identity.values())


def test_a_server_that_wants_a_key_is_said_so_before_a_run() -> None:
    with speaking.serve(key=KEY) as url, pytest.raises(Unavailable, match="the server wants a key"):
        openai.identity_of(url, None, "critic")


def test_what_a_client_is_known_by_is_what_it_was_given() -> None:
    with closing(critic("http://127.0.0.1:1")) as client:
        assert client.identity == {"backend": "openai", "model": "critic"}
        assert (client.structured, client.continuous, client.concurrency) == (False, False, runtime().concurrency)
