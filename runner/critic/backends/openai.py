"""The backend over HTTP: any server that speaks OpenAI's chat completions with images and a JSON schema.

Requests run on one event loop in a thread of its own, at most `concurrency` at once; `ask` blocks the thread that asks,
`cancel` hangs up on all of them, so that the server stops working. Replies are streamed: the time to the first token is
known, and what comes is bounded as it comes; a server that does not stream is understood too. Whatever a server sends
ends as a Reply or as Unanswered. It refuses redirects, compressed and endless replies, and fetches nothing that a reply
names. No connection is used twice: over loopback a new one costs nothing, and one that the server is just closing costs
a failure. What it does not know: whether a reply matches the schema, and whether to ask again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from runner.config.critic import OpenAIRuntime
from runner.critic import request
from runner.critic.backends import completion, wire
from runner.critic.backends.completion import Completion
from runner.critic.backends.wire import identity_of
from runner.critic.question import Attempt, Question, Reply, Unanswered

if TYPE_CHECKING:
    import asyncio

    import httpx2

__all__ = ["OpenAICritic", "identity_of", "load_openai"]

JSON = {"Content-Type": "application/json"}
MAX_REPLY_BYTES = 16 * 2**20  # a stream takes some 300 bytes for a token
REPETITION = {"min_pattern_size": 1, "max_pattern_size": 20, "min_count": 8}  # tokens; no list of boxes looks like that
CANCELLED = "the request was cancelled"
TOO_LONG = "the reply is longer than 16 MiB"


def load_openai(runtime: OpenAIRuntime, *, url: str, key: str | None, identity: Mapping[str, Any]) -> OpenAICritic:
    """A client of the server at `url` (without `/v1`); nothing is sent yet. Raises Refused(critic_key_broken)."""
    return OpenAICritic(runtime, url, wire.reach(url, key), identity)


class OpenAICritic:
    """A `Backend` over HTTP; `structured` is False until an exam shows that replies are decoded under the schema."""

    continuous = False

    def __init__(self, runtime: OpenAIRuntime, url: str, reach: wire.Reach, identity: Mapping[str, Any]) -> None:
        import asyncio

        import httpx2

        self.identity: Mapping[str, Any] = {"backend": "openai", **identity}
        self.structured = False
        self.concurrency = runtime.concurrency
        self._runtime = runtime
        self._key = reach["headers"].get("Authorization", "").removeprefix("Bearer ")
        self._address = f"{url.rstrip('/')}/v1/chat/completions"
        self._client = httpx2.AsyncClient(
            **reach,
            timeout=httpx2.Timeout(None, connect=wire.CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self._slots = asyncio.Semaphore(runtime.concurrency)
        self._asked: set[asyncio.Task[Any] | None] = set()
        self._closed, self._num_stops = False, 0
        self._door = threading.Lock()  # nothing is given to the loop once it is closed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="critic", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"OpenAICritic({self._runtime.id!r})"

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        """One attempt. Raises Unanswered."""
        num_stops = self._num_stops
        body = json.dumps(self._body(question, attempt)).encode()
        return self._run(self._ask(body, attempt.timeout_s), num_stops)

    def cancel(self) -> None:
        """End every `ask` in flight: they raise Unanswered(cancelled), and the server sees its connections close."""
        self._stop(self._cancel, last=False)

    def close(self) -> None:
        """Cancel what is in flight and let go of loop and thread; a second time does nothing."""
        if self._stop(self._end, last=True):
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    # ---- in the thread that asks

    def _body(self, question: Question, attempt: Attempt) -> dict[str, Any]:
        schema = {"name": "answer", "schema": dict(question.schema), "strict": True}
        body = {
            "model": self._runtime.model,
            "messages": request.messages(question),
            "response_format": {"type": "json_schema", "json_schema": schema},
            "temperature": attempt.temperature,
            "top_p": attempt.top_p,
            "seed": attempt.seed,
            "max_tokens": attempt.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._runtime.thinking_switch:
            body["chat_template_kwargs"] = {"enable_thinking": attempt.thinking}
        if self._runtime.stop_repeating:
            body["repetition_detection"] = REPETITION
        return body

    def _run(self, work: Coroutine[Any, Any, Reply], num_stops: int) -> Reply:
        """Give work to the loop and wait for it. Raises Unanswered(cancelled) if all was stopped since it began."""
        import asyncio
        from concurrent.futures import CancelledError

        with self._door:
            if self._closed or num_stops != self._num_stops:
                work.close()
                raise Unanswered("cancelled", "the critic is closed" if self._closed else CANCELLED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Unanswered("cancelled", CANCELLED) from None
        except BaseException:  # Ctrl-C while waiting: the request ends with its asker
            future.cancel()
            raise

    def _stop(self, ending: Callable[[], Coroutine[Any, Any, None]], *, last: bool) -> bool:
        """Stop what is in flight, and what is about to be; False where all is closed already."""
        import asyncio

        with self._door:
            if self._closed:
                return False
            self._closed, self._num_stops = last, self._num_stops + 1
            stopped = asyncio.run_coroutine_threadsafe(ending(), self._loop)
        stopped.result()
        return True

    # ---- in the loop

    async def _ask(self, body: bytes, timeout_s: float) -> Reply:
        import asyncio

        task = asyncio.current_task()
        self._asked.add(task)
        try:
            async with self._slots, asyncio.timeout(timeout_s):  # waiting for a slot is not the server's time
                return await self._talk(body)
        except TimeoutError as error:
            raise Unanswered("timeout", f"no whole reply in {timeout_s:g} s") from error
        finally:
            self._asked.discard(task)

    async def _talk(self, body: bytes) -> Reply:
        import httpx2

        began = time.perf_counter()
        try:
            async with self._client.stream("POST", self._address, content=body, headers=JSON) as response:
                if response.status_code != 200:
                    said = self._hide(_said(await _read(response, wire.MAX_PAGE_BYTES)))
                    raise completion.refused(response.status_code, said, response.headers.get("Retry-After"))
                return await _hear(response, Completion(hide=self._hide), began)
        except (httpx2.HTTPError, OSError) as error:
            raise _failure_of(error) from error
        except (*completion.UNREADABLE, httpx2.InvalidURL, httpx2.StreamError) as error:  # the last net
            raise Unanswered("server_error", f"sent what cannot be read ({type(error).__name__})") from error

    def _hide(self, text: str) -> str:
        """An error without the key that some servers repeat in it."""
        return text.replace(self._key, "[key]") if self._key else text

    async def _cancel(self) -> None:
        import asyncio

        asked = [task for task in self._asked if task is not None]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    async def _end(self) -> None:
        await self._cancel()
        await self._client.aclose()
        await self._loop.shutdown_asyncgens()


# ---- one exchange


async def _hear(response: httpx2.Response, said: Completion, began: float) -> Reply:
    """A reply in events, or in one piece from a server that does not stream."""
    import httpx2

    first_token_s = None
    media = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Unanswered("server_error", "a compressed reply, which was not asked for")
    if media == "application/json":
        said.add(_json(await _read(response, MAX_REPLY_BYTES)))
    elif media != "text/event-stream":
        raise Unanswered("server_error", completion.NO_COMPLETION)
    else:
        response.encoding = "utf-8"  # events have no other, whatever the header says
        async for event in httpx2.EventSource(response, max_event_size=wire.MAX_PAGE_BYTES):
            if response.num_bytes_downloaded > MAX_REPLY_BYTES:
                raise Unanswered("server_error", TOO_LONG)
            if event.data != "[DONE]":
                said.add(_json(event.data))
            if first_token_s is None and said.has_begun:
                first_token_s = time.perf_counter() - began
    return said.reply(first_token_s)


async def _read(response: httpx2.Response, most_bytes: int) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > most_bytes:
            raise Unanswered("server_error", TOO_LONG)
    return bytes(data)


def _json(data: str | bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unanswered("server_error", completion.NO_COMPLETION) from error


def _said(page: bytes) -> str:
    """What an error page says; a page for people says nothing that is worth keeping."""
    with suppress(ValueError, RecursionError):
        return completion.message_of(json.loads(page))
    text = page.decode(errors="replace").strip()
    return "" if text.startswith("<") else text


def _failure_of(error: Exception) -> Unanswered:
    """The failure that an error of the transport means."""
    import httpx2

    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        return Unanswered("runtime_down", "nobody answers" if "SSL" not in str(error) else "its certificate is refused")
    if isinstance(error, httpx2.TimeoutException):
        return Unanswered("timeout", type(error).__name__)
    if isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError | OSError):
        return Unanswered("disconnected", "the connection broke")
    if isinstance(error, httpx2.SSEError):
        return Unanswered("server_error", TOO_LONG)
    return Unanswered("server_error", f"{completion.NO_COMPLETION} ({type(error).__name__})")
