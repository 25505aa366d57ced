"""What a server said, in the critic's words: replies from chunks, failures from errors."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import pytest

from runner import store
from runner.critic.backends import completion
from runner.critic.backends.completion import Completion
from runner.critic.question import Reply, Unanswered


def chunk(finish: str | None = None, **said: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def heard(*chunks: Any) -> Reply:
    said = Completion()
    for each in chunks:
        said.add(each)
    return said.reply()


def test_a_reply_is_its_pieces_in_their_order() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 7}}
    reply = heard(
        chunk(role="assistant", content=""), chunk(content="{"), chunk(content="}"), chunk("stop"), {"usage": usage}
    )
    assert reply == Reply("{}", "stop", {"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 7})


def test_tokens_that_are_not_told_are_absent() -> None:
    assert heard(chunk("stop", content="{}")).usage == {}


@pytest.mark.parametrize(
    "usage", [[1], "x", 7, {"prompt_tokens": True, "completion_tokens": -1}, {"prompt_tokens": 10**400},
              {"prompt_tokens": [1], "prompt_tokens_details": [1]}],
)  # fmt: skip
def test_counts_that_are_none_are_as_if_untold(usage: Any) -> None:
    assert heard({**chunk("stop", content="{}"), "usage": usage}) == Reply("{}")


def test_half_a_character_is_written_out_wherever_it_stands() -> None:
    reply = heard(chunk(reasoning="a \ud800", refusal="\udfff"), chunk("stop", content="{}\udc00"))
    assert store.canonical([reply.text, reply.raw]).isascii()
    assert (reply.text, reply.raw) == ("{}\\udc00", {"reasoning": "a \\ud800", "refusal": "\\udfff"})


@pytest.mark.parametrize(("told", "kept"), [("</s>\ud800", "</s>\\ud800"), (151645, "151645"), ({"x": [1]}, None)])
def test_what_stopped_a_reply_is_kept_where_it_is_a_token(told: Any, kept: str | None) -> None:
    piece = chunk("stop", content="{}")
    piece["choices"][0]["stop_reason"] = told
    assert heard(piece).raw.get("stop_reason") == kept


def test_reasoning_stands_beside_the_answer_and_is_none() -> None:
    reply = heard(chunk(reasoning='{"a": 1}'), chunk("stop", content="{}"))
    assert (reply.text, reply.raw) == ("{}", {"reasoning": '{"a": 1}'})


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_nothing_but_reasoning_is_no_answer(field: str) -> None:
    with pytest.raises(Unanswered, match=r"^no_answer: nothing but reasoning$"):
        heard(chunk(**{field: '{"a": 1}'}), chunk("stop"))


def test_reasoning_that_took_all_tokens_was_cut() -> None:
    assert heard(chunk(reasoning="Let me think"), chunk("length")) == Reply(
        "", "length", {}, {"reasoning": "Let me think"}
    )


@pytest.mark.parametrize("chunks", [(chunk("stop", refusal="I cannot"),), (chunk("content_filter"),)])
def test_a_refusal_is_one_whatever_else_is_said(chunks: tuple[Any, ...]) -> None:
    assert heard(*chunks).finish == "refused"


def test_a_reply_that_does_not_say_why_it_ends_was_broken_off() -> None:
    with pytest.raises(Unanswered, match=r"^disconnected: the reply ended before its end$"):
        heard(chunk(content="{}"))


@pytest.mark.parametrize("finish", ["abort", "error", "tool_calls"])
def test_an_end_that_is_no_end_of_an_answer_is_the_servers_fault(finish: str) -> None:
    with pytest.raises(Unanswered, match=f"^server_error: the reply ended with '{finish}'$"):
        heard(chunk(finish, content="{}"))


@pytest.mark.parametrize(
    "body", [[], "text", 7, None, {"choices": 3}, {"choices": [1]}, {"choices": [{"delta": "x"}]},
             {"choices": {"a": 1}}, chunk({"a": 1}), chunk(["a"]), chunk(7)],  # type: ignore[arg-type]  # no finish is one of these
)  # fmt: skip
def test_what_is_no_completion_is_said_so(body: Any) -> None:
    with pytest.raises(Unanswered, match=r"^server_error: what came is no chat completion$"):
        heard(body)


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (400, "cannot identify image file <_io.BytesIO object at 0x7f0c>", "image_not_seen: 400: cannot identify"),
        (400, "Invalid base64-encoded string", "image_not_seen: 400: Invalid base64-encoded string"),
        (400, "Failed to load image or audio file", "image_not_seen: 400: Failed to load image or audio file"),
        (400, "At most 1 image(s) may be provided in one prompt.", "bad_request: 400: At most 1 image"),
        (400, "request (4476 tokens) exceeds the available context size (4096 tokens)", "bad_request: 400: request"),
        (400, "Grammar error: Unimplemented keys: uniqueItems", "bad_request: 400: Grammar error"),
        (401, "Incorrect API key provided: sk-secret", "bad_request: 401: the key is refused, or one is wanted"),
        (403, "sk-secret", "bad_request: 403: the key is refused, or one is wanted"),
        (404, "The model `x` does not exist.", "bad_request: 404: The model `x` does not exist."),
        (308, "", "bad_request: 308: the server sends elsewhere, and no redirect is followed"),
        (422, "", "bad_request: 422"),
        (429, "slow down", "overloaded: 429: slow down"),
        (503, "Loading model", "overloaded: 503: Loading model"),
        (500, "torch.OutOfMemoryError: Tried to allocate 784.00 MiB", "oom: 500: out of memory"),
        (500, "EngineCore encountered an issue.", "server_error: 500: EngineCore encountered an issue."),
        (500, "does not match the expected peg-native format", "server_error: 500: does not match"),
        (502, "", "server_error: 502"),
    ],
)  # fmt: skip
def test_a_status_and_its_text_are_one_class_of_failure(status: int, said: str, expected: str) -> None:
    assert str(completion.refused(status, said)).startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        "<PIL.Image at 0x7f3a2b> is bad",
        "chatcmpl-9f8a7b6c is bad",
        "127.0.0.1:45123 is bad",
        "localhost:8077 is bad",
        "0123456789abcdef0123456789abcdef is bad",
        "12345678-1234-1234-1234-123456789abc is bad",
    ],
)
def test_details_say_nothing_that_differs_from_time_to_time(text: str) -> None:
    assert completion.refused(500, text).detail == "500: ... is bad"


def test_details_are_one_short_line() -> None:
    detail = completion.refused(500, "x" * 1000 + "\nsecond line").detail
    assert len(detail) < 200
    assert "second" not in detail


@pytest.mark.parametrize("text", ["a." * 500_000, "load" * 250_000, "<PIL at " * 100_000])
def test_a_long_error_is_read_at_its_beginning_only(text: str) -> None:
    assert completion.refused(400, text).detail.startswith("400: ")


@pytest.mark.parametrize("code", [True, 10**30, -1, 200, "x", [1]])
def test_a_status_that_is_none_is_the_servers_fault(code: Any) -> None:
    with pytest.raises(Unanswered, match=r"^server_error: 500: bad \\ud800$"):
        heard({"error": {"message": "bad \ud800", "code": code}})


def test_an_error_in_a_stream_has_its_own_status() -> None:
    with pytest.raises(Unanswered, match=r"^bad_request: 400: too long$"):
        heard(chunk(content="{"), {"error": {"message": "too long", "code": 400}})


def test_an_error_without_a_status_is_the_servers_fault() -> None:
    with pytest.raises(Unanswered, match=r"^server_error: 500: it broke$"):
        heard({"error": "it broke"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "bad"}}, "bad"),
        ({"error": "bad"}, "bad"),
        ({"detail": "bad"}, "bad"),
        ({"object": "error", "message": "bad"}, "bad"),
        ({"detail": [{"msg": "bad"}]}, ""),
        (["bad"], ""),
    ],
)
def test_every_form_of_an_error_body_is_read(body: Any, message: str) -> None:
    assert completion.message_of(body) == message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("soon", None), ("", None),
     ("Mon, 01 Jan 99999 00:00:00 GMT", None), ("Mon, 99 Foo 2000 99:99:99 GMT", None),
     (f"Mon, 01 Jan 2000 {'9' * 400}:00:00 GMT", None)],
)  # fmt: skip
def test_when_to_come_back_is_a_number_of_seconds(header: str, seconds: float | None) -> None:
    assert completion.seconds_of(header) == seconds


def test_when_to_come_back_may_be_a_date() -> None:
    seconds = completion.seconds_of(email.utils.formatdate(time.time() + 3600, usegmt=True))
    assert seconds is not None
    assert 3000 < seconds < 3700
