"""The backend over HTTP, against a real server on real sockets: what it sends, hears, bounds and cancels."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from runner.critic import request
from runner.critic.question import Reply, Unanswered
from tests.critic import speaking
from tests.critic.asking import asking, attempt, closed_port, critic, picture, profile, question


def asked_once(mode: str, **changes: Any) -> Reply:
    with asking(mode) as (client, _):
        return client.ask(question(), attempt(**changes))


def failure(mode: str, **changes: Any) -> Unanswered:
    with pytest.raises(Unanswered, match=r"^\w+: ") as caught:
        asked_once(mode, **changes)
    return caught.value


# ---- what is asked and answered


def test_a_critic_that_looks_answers_in_the_schema_of_the_profile() -> None:
    with asking() as (client, _):
        right = json.loads(client.ask(question("a red star on a blue background"), attempt()).text)
        wrong = json.loads(client.ask(question("a green star on a blue background"), attempt()).text)
    scores = [{name: judged["score"] for name, judged in each["criteria"].items()} for each in (right, wrong)]
    assert scores[0] == {"shape": 1, "colour": 1, "background": 1, "concept": None}
    assert scores[1] == {"shape": 1, "colour": 0, "background": 1, "concept": None}


def test_a_request_says_how_to_decode_and_under_which_schema() -> None:
    with asking() as (client, server):
        client.ask(question(), attempt(seed=5, temperature=0.25, top_p=0.5, max_tokens=700))
    body = server.asked[0]
    assert {name: body[name] for name in ("model", "seed", "temperature", "top_p", "max_tokens")} == {
        "model": "critic", "seed": 5, "temperature": 0.25, "top_p": 0.5, "max_tokens": 700,
    }  # fmt: skip
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": question().schema, "strict": True}


def test_fields_of_some_servers_are_sent_only_where_the_runtime_says_so() -> None:
    with asking(engine="strict") as (client, _):
        assert client.ask(question(), attempt()).finish == "stop"


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_is_always_said_where_there_is_a_switch(thinking: bool) -> None:
    with asking(runtime_thinking_switch=True) as (client, server):
        client.ask(question(), attempt(thinking=thinking))
    assert server.asked[0]["chat_template_kwargs"] == {"enable_thinking": thinking}


def test_a_server_that_knows_no_such_field_refuses_it_by_name() -> None:
    with (
        asking(engine="strict", runtime_thinking_switch=True) as (client, _),
        pytest.raises(
            Unanswered, match=r"^bad_request: 400: Unrecognized request argument supplied: chat_template_kwargs$"
        ),
    ):
        client.ask(question(), attempt())


def test_a_streamed_reply_tells_when_its_first_token_came() -> None:
    first_token_s = asked_once("honest").first_token_s
    assert first_token_s is not None
    assert first_token_s > 0


def test_a_server_that_does_not_stream_is_understood_too() -> None:
    reply = asked_once("plain")
    assert (reply.text, reply.first_token_s) == (asked_once("honest").text, None)


def test_the_common_beginning_of_two_requests_is_found_in_the_prefix_cache() -> None:
    with asking() as (client, _):
        client.ask(question("a red star"), attempt())
        second = client.ask(question("a blue ring", picture(Image.new("RGB", (64, 64)))), attempt())
    system = len(request.system_text(profile()))
    assert second.usage["cached_tokens"] > system // 4


def test_a_reply_is_cut_at_max_tokens() -> None:
    reply = asked_once("honest", max_tokens=5)
    assert (reply.finish, len(reply.text), reply.usage["completion_tokens"]) == ("length", 20, 5)


@pytest.mark.parametrize(("stop_repeating", "finish"), [(True, "repetition"), (False, "length")])
def test_a_server_is_told_to_stop_going_in_circles_where_it_can(stop_repeating: bool, finish: str) -> None:
    with asking("loop", runtime_stop_repeating=stop_repeating) as (client, _):
        assert client.ask(question(), attempt()).finish == finish


@pytest.mark.parametrize("mode", ["refusal", "filtered"])
def test_a_refusal_is_told_as_one(mode: str) -> None:
    assert asked_once(mode).finish == "refused"


# ---- every failure by its class


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("thinking", "no_answer: nothing but reasoning"),
        ("silent", "no_answer: an empty reply"),
        ("image_400", "image_not_seen: 400: cannot identify image file ..."),
        ("context_400", "bad_request: 400: This model's maximum context length is 4096 tokens."),
        ("not_found", "bad_request: 404: The model `critic` does not exist."),
        ("error_500", "server_error: 500: EngineCore encountered an issue."),
        ("oom_500", "oom: 500: out of memory"),
        ("overloaded_503", "overloaded: 503: engine is sleeping"),
        ("limited_429", "overloaded: 429: Too many requests"),
        ("error_in_stream", "server_error: 500: EngineCore encountered an issue."),
        ("html", "server_error: what came is no chat completion"),
        ("not_json", "server_error: what came is no chat completion"),
        ("gzip", "server_error: a compressed reply, which was not asked for"),
        ("redirect", "bad_request: 307: the server sends elsewhere, and no redirect is followed"),
        ("disconnect", "disconnected: the connection broke"),
        ("unfinished", "disconnected: the reply ended before its end"),
        ("endless", "server_error: the reply is longer than 16 MiB"),
        ("huge", "server_error: the reply is longer than 16 MiB"),
    ],
)
def test_a_failure_has_one_class_and_a_stable_detail(mode: str, expected: str) -> None:
    assert str(failure(mode)).startswith(expected)


def test_a_busy_server_says_when_to_come_back() -> None:
    assert (failure("overloaded_503").retry_after_s, failure("limited_429").retry_after_s) == (7.0, None)


@pytest.mark.parametrize("mode", ["hang", "stall"])
def test_a_reply_that_does_not_come_in_time_is_given_up_and_the_server_sees_it(mode: str) -> None:
    with asking(mode) as (client, server):
        with pytest.raises(Unanswered, match=r"^timeout: no whole reply in 0\.2 s$"):
            client.ask(question(), attempt(timeout_s=0.2))
        assert server.hung_up.acquire(timeout=10)


def test_a_picture_that_does_not_decode_is_not_sent() -> None:
    with asking() as (client, server), pytest.raises(Unanswered, match=r"^image_not_seen: does not decode"):
        client.ask(question("a star", picture(b"no picture")), attempt())
    assert server.asked == []


def test_after_a_failure_the_next_request_is_judged() -> None:
    with asking("disconnect,error_500,honest") as (client, _):
        for _ in range(2):
            with pytest.raises(Unanswered, match=r"disconnected|server_error"):
                client.ask(question(), attempt())
        assert client.ask(question(), attempt()).finish == "stop"


def test_where_nobody_listens_the_runtime_is_down() -> None:
    with (
        closing(critic(f"http://127.0.0.1:{closed_port()}")) as client,
        pytest.raises(Unanswered, match=r"^runtime_down: nobody answers$"),
    ):
        client.ask(question(), attempt())


def test_a_server_that_is_stopped_in_its_tracks_times_out_and_answers_later() -> None:
    with speaking.process("--mode", "prose") as (server, url), closing(critic(url)) as client:
        server.send_signal(signal.SIGSTOP)
        with pytest.raises(Unanswered, match=r"^timeout: "):
            client.ask(question(), attempt(timeout_s=0.2))
        server.send_signal(signal.SIGCONT)
        assert client.ask(question(), attempt()).finish == "stop"


def test_a_server_killed_in_mid_request_is_disconnected_then_down() -> None:
    with (
        speaking.process("--mode", "stall") as (server, url),
        closing(critic(url)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(client.ask, question(), attempt())
        assert server.stderr is not None
        assert "asked" in server.stderr.readline()
        server.kill()
        with pytest.raises(Unanswered, match=r"^disconnected: the connection broke$"):
            asked.result()
        with pytest.raises(Unanswered, match=r"^runtime_down: nobody answers$"):
            client.ask(question(), attempt())


# ---- many at once, and none any more


def test_no_more_requests_are_in_flight_than_the_runtime_allows() -> None:
    with asking("hang", runtime_concurrency=2) as (client, server), ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(client.ask, question(), attempt()) for _ in range(5)]
        assert server.arrived.acquire(timeout=10)
        assert server.arrived.acquire(timeout=10)
        client.close()
        assert all(str(each.exception()).startswith("cancelled: ") for each in asked)
    assert len(server.asked) == 2


def test_cancel_ends_ten_hanging_requests_at_once_and_the_server_sees_every_one_leave() -> None:
    with asking("hang") as (client, server), ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(client.ask, question(), attempt()) for _ in range(10)]
        assert all(server.arrived.acquire(timeout=10) for _ in asked)
        client.cancel()
        assert {str(each.exception()) for each in asked} == {"cancelled: the request was cancelled"}
        assert all(server.hung_up.acquire(timeout=10) for _ in asked)


@dataclass
class Noticed(Mapping[str, Any]):
    """A schema that tells when it is written into a request."""

    then: Callable[[], None]

    def __iter__(self) -> Iterator[str]:
        self.then()
        return iter(())

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)

    def __len__(self) -> int:
        return 0


def test_cancel_ends_a_request_that_is_still_being_written() -> None:
    with asking("hang") as (client, server):
        with pytest.raises(Unanswered, match=r"^cancelled: the request was cancelled$"):
            client.ask(question(schema=Noticed(client.cancel)), attempt())
        assert server.asked == []


def test_after_cancel_one_can_ask_again() -> None:
    with asking("hang,honest") as (client, server), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.ask, question(), attempt())
        assert server.arrived.acquire(timeout=10)
        client.cancel()
        assert asked.exception() is not None
        assert client.ask(question(), attempt()).finish == "stop"


def interrupt_once(arrived: threading.Semaphore) -> None:
    """Ctrl-C for the main thread as soon as a request has come."""
    arrived.acquire(timeout=10)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_one_who_stops_waiting_takes_the_request_along() -> None:
    with asking("hang") as (client, server):
        threading.Thread(target=interrupt_once, args=[server.arrived]).start()
        with pytest.raises(KeyboardInterrupt):
            client.ask(question(), attempt())
        assert server.hung_up.acquire(timeout=10)


def test_close_ends_what_is_in_flight_and_leaves_no_thread() -> None:
    with asking("hang") as (client, server), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.ask, question(), attempt())
        assert server.arrived.acquire(timeout=10)
        client.close()
        assert str(asked.exception()) == "cancelled: the request was cancelled"
    assert [thread.name for thread in threading.enumerate() if thread.name == "critic"] == []


def test_a_closed_critic_answers_nobody() -> None:
    client = critic("http://127.0.0.1:1")
    client.close()
    client.close()
    client.cancel()
    with pytest.raises(Unanswered, match=r"^cancelled: the critic is closed$"):
        client.ask(question(), attempt())


def test_ten_at_once_get_the_answers_that_they_get_one_by_one() -> None:
    texts = [f"a {colour} star on a blue background" for colour in ("red", "green", "pink", "white", "cyan")] * 2
    with asking() as (client, _), ThreadPoolExecutor(10) as pool:
        together = [reply.text for reply in pool.map(lambda text: client.ask(question(text), attempt()), texts)]
        assert together == [client.ask(question(text), attempt()).text for text in texts]
