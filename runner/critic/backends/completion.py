"""What a server said -> a reply, or in which way it is none: chat completions and HTTP errors in the critic's words.

An answer is read from `content` alone: reasoning is kept beside it and is never taken for one. Details are short, and
the same whenever the same happens, for they stand in records: no addresses, ports, ids or keys. Half characters are
written out and long errors cut, whoever sends them; what is told beside an answer in a form of its own is as if untold.
It refuses what is no chat completion. What it does not know: sockets; they are the client's.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.critic.question import Reply, Unanswered

FINISHES = {"stop": "stop", "length": "length", "repetition": "repetition", "content_filter": "refused"}
DETAIL_CHARS = 160
SAID_CHARS = 8192  # of an error are read: the patterns below take the square of it in time
LINE_CHARS = 1024
MOST = 2**53  # no count is higher: every reader of JSON knows such a number
NO_COMPLETION = "what came is no chat completion"

_OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|failed to allocate|insufficient memory", re.IGNORECASE)
_PICTURE_REFUSED = re.compile(
    r"identify image|invalid image|unsupported image|image (?:file|data|format)|base64|incorrect padding"
    r"|(?:load|decod|open|pars|process|read)\w* (?:the |this |an? )?(?:image|picture)",
    re.IGNORECASE,
)
_PASSING_WORDS = re.compile(
    r"<[^<>]* at 0x[0-9a-f]+>|0x[0-9a-f]{6,}|\b(?:chatcmpl|req)-[\w-]+|\b[\w.-]+:\d{2,5}\b|[0-9a-f-]{32,}"
)


UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)  # a reader's errors


def readable(text: str, most_chars: int | None = None) -> str:
    """A text of a server as it can be stored: a half of a character is written out (`\\ud800`), its end may be cut."""
    return text[:most_chars].encode("utf-8", "backslashreplace").decode("utf-8")[:most_chars]


def count(value: object) -> int | None:
    """A number of things, where it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST else None


# ---- a reply, whole or in pieces


@dataclass(slots=True)
class Completion:
    """One reply as it grows: chunks of a stream, or the one body of a server that does not stream."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    finish: str | None = None
    stop_reason: str | int | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    hide: Callable[[str], str] = str  # takes a key out of what an error says

    @property
    def has_begun(self) -> bool:
        return bool(self.text or self.reasoning or self.refusal)

    def add(self, chunk: Any) -> None:
        """One chunk. Raises Unanswered for an error that a server tells in its stream, and for what is no chunk."""
        try:
            self._add(chunk)
        except UNREADABLE as error:
            raise Unanswered("server_error", NO_COMPLETION) from error

    def _add(self, chunk: Any) -> None:
        if problem := chunk.get("error"):
            status = count(problem.get("code")) if isinstance(problem, Mapping) else None
            raise refused(status if status is not None and 400 <= status < 600 else 500, self.hide(message_of(chunk)))
        usage = chunk.get("usage")
        self.usage = usage if usage and isinstance(usage, Mapping) else self.usage
        for choice in chunk.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or {}
            _append(self.text, said.get("content"))
            _append(self.reasoning, said.get("reasoning") or said.get("reasoning_content"))
            _append(self.refusal, said.get("refusal"))
            self.finish = _word(choice.get("finish_reason")) or self.finish
            stop = choice.get("stop_reason")
            self.stop_reason = stop if stop and isinstance(stop, str | int) else self.stop_reason

    def reply(self, first_token_s: float | None = None) -> Reply:
        """What it came to. Raises Unanswered(no_answer | disconnected | server_error)."""
        text = readable("".join(self.text))
        if self.finish is None:
            raise Unanswered("disconnected", "the reply ended before its end")
        if self.finish not in FINISHES:
            raise Unanswered("server_error", f"the reply ended with {_short(readable(self.finish))!r}")
        finish = "refused" if self.refusal else FINISHES[self.finish]
        reply = Reply(text, finish, counts_of(self.usage), self._beside(), first_token_s)
        if finish == "stop" and not text.strip():
            why = "nothing but reasoning" if self.reasoning else "an empty reply"
            raise Unanswered("no_answer", why, reply=reply)
        return reply

    def _beside(self) -> dict[str, Any]:
        beside = {"reasoning": "".join(self.reasoning), "refusal": "".join(self.refusal)}
        beside["stop_reason"] = str(self.stop_reason or "")
        return {name: readable(text) for name, text in beside.items() if text}


def _word(value: object) -> str | None:
    """Why a reply ends. Raises TypeError for what is no word."""
    if value is not None and not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def _append(texts: list[str], text: object) -> None:
    if isinstance(text, str) and text:
        texts.append(text)


def counts_of(usage: Mapping[str, Any]) -> dict[str, int]:
    """The token counts that a server told; what it did not tell is absent."""
    details = usage.get("prompt_tokens_details")
    told = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    told["cached_tokens"] = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return {name: number for name, value in told.items() if (number := count(value)) is not None}


# ---- an error in place of a reply


def refused(status: int, said: str, retry_after: str | None = None) -> Unanswered:
    """The failure that an HTTP status and what was said with it mean."""
    said = readable(said, SAID_CHARS)
    text = f"{status}: {_short(said)}".removesuffix(": ")
    if status in (429, 503):
        return Unanswered("overloaded", text, retry_after_s=seconds_of(retry_after))
    if status >= 500 and "image input is not supported" in said:  # llama-server without its projector
        return Unanswered("image_not_seen", text)
    if status >= 500:
        full = _OUT_OF_MEMORY.search(said) is not None
        return Unanswered("oom", f"{status}: out of memory") if full else Unanswered("server_error", text)
    if status == 400 and _PICTURE_REFUSED.search(said):
        return Unanswered("image_not_seen", text)
    if status in (401, 403):
        text = f"{status}: the key is refused, or one is wanted"
    if 300 <= status < 400:
        text = f"{status}: the server sends elsewhere, and no redirect is followed"
    return Unanswered("bad_request", text)


def message_of(body: Any) -> str:
    """What an error body says, in the forms that servers use."""
    problem = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(problem, Mapping):
        problem = problem.get("message") or problem.get("detail") or problem.get("type") or ""
    return problem if isinstance(problem, str) else ""


def seconds_of(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header: a number or a date; None where it says neither."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        seconds = _seconds_until(retry_after)
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    """NaN where the date is none."""
    try:
        parsed = email.utils.parsedate_tz(date)
        return email.utils.mktime_tz(parsed) - time.time() if parsed else math.nan
    except UNREADABLE:  # the parser lets the calendar raise: the year 99999, the hour 10**30
        return math.nan


def _short(text: str) -> str:
    """The first line without what differs from time to time."""
    line = next(iter(text.strip().splitlines()), "")
    return _PASSING_WORDS.sub("...", line[:LINE_CHARS])[:DETAIL_CHARS]
