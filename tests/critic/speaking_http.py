"""How `tests.critic.speaking` puts it: HTTP by hand, so that it can break in every place where HTTP breaks."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.critic import spoken

if TYPE_CHECKING:
    from tests.critic.speaking import Speaking

TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.role }}{% endfor %}"
ERRORS = {  # mode -> status, what the server says
    "image_400": (400, "cannot identify image file <_io.BytesIO object at 0x7f0c>"),
    "context_400": (400, "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."),
    "not_found": (404, "The model `critic` does not exist."),
    "error_500": (500, "EngineCore encountered an issue."),
    "oom_500": (500, "CUDA out of memory. Tried to allocate 784.00 MiB."),
    "overloaded_503": (503, "engine is sleeping"),
    "limited_429": (429, "Too many requests"),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    speaking: Speaking

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: what a process of its own prints is said in `main`."""

    @property
    def _own(self) -> Speaking:
        return self.server.speaking

    def _may(self) -> bool:
        given, key = self.headers.get("Authorization", ""), self._own.settings.key
        if key is None or given == f"Bearer {key}":
            return True
        self._error(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}.")
        return False

    def do_GET(self) -> None:
        own = self._own.settings
        model = {"id": own.model, "object": "model", "owned_by": own.engine, "max_model_len": 4096}
        pages: dict[str, Any] = {"/health": {"status": "ok"}, "/v1/models": {"object": "list", "data": [model]}}
        if own.engine == "vllm":
            pages["/version"] = {"version": "0.33.0"}
        if own.engine == "llama_server":
            settings = {"n_ctx": 4096}
            pages["/props"] = {"build_info": "b11669-0c1e570", "chat_template": TEMPLATE, "total_slots": 2}
            pages["/props"] |= {"default_generation_settings": settings, "model_path": "/models/toy.gguf"}
        if self.path == "/health" or self._may():
            known = self.path in pages
            self._json(200 if known else 404, pages[self.path] if known else {"error": {"message": "Not Found"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            return None
        if self.path != "/v1/chat/completions":
            return self._error(404, "Not Found")
        mode = self._own.take(body, dict(self.headers.items()))
        unknown = {"chat_template_kwargs", "repetition_detection"} & body.keys()
        if unknown and self._own.settings.engine == "strict":
            return self._error(400, f"Unrecognized request argument supplied: {min(unknown)}")
        if mode in ERRORS:
            return self._error(*ERRORS[mode], after_s="7" if mode == "overloaded_503" else None)
        misbehave = getattr(self, f"_{mode}", None)
        if misbehave is not None:
            return misbehave(body)  # type: ignore[no-any-return]  # every one of them returns None
        return self._answer(mode, body)

    def _answer(self, mode: str, body: Mapping[str, Any]) -> None:
        if mode == "slow":
            self._own.over.wait(self._own.settings.delay_s)
        try:
            said = spoken.said(self._own, mode, body)
        except (ValueError, OSError) as error:
            return self._error(400, str(error))
        if mode == "plain" or not body.get("stream"):
            message = {"role": "assistant", "content": None, said.field: "".join(said.pieces)}
            return self._json(200, {"choices": [_choice(said.finish, message=message)], "usage": said.usage})
        self._begin()
        self._event({"choices": [_choice(None, delta={"role": "assistant", "content": ""})]})
        for piece in said.pieces:
            self._event({"choices": [_choice(None, delta={said.field: piece})]})
        self._event({"choices": [_choice(said.finish, delta={})]})
        self._event({"choices": [], "usage": said.usage})
        return self._end()

    # ---- bad servers

    def _html(self, body: Any) -> None:
        self._bytes(200, b"<html><body>Welcome!</body></html>", "text/html")

    def _gzip(self, body: Any) -> None:
        self._bytes(200, gzip.compress(b"{}"), "application/json", Content_Encoding="gzip")

    def _not_json(self, body: Any) -> None:
        self._begin()
        self._chunk(b"data: {oh no\n\n")
        self._end()

    def _redirect(self, body: Any) -> None:
        self._bytes(307, b"", "text/plain", Location=f"{self._own.url}/elsewhere")

    def _hang(self, body: Any) -> None:
        self._wait_for_leaving()

    def _stall(self, body: Any) -> None:
        self._half()
        self._wait_for_leaving()

    def _disconnect(self, body: Any) -> None:
        self._half()
        self.close_connection = True

    def _unfinished(self, body: Any) -> None:
        self._half()
        self._chunk(b"")

    def _error_in_stream(self, body: Any) -> None:
        self._half()
        self._event({"error": {"message": "EngineCore encountered an issue.", "code": 500}})
        self._end()

    def _endless(self, body: Any) -> None:
        self._begin()
        self._chunk(b"data: ")
        self._forever(b"x" * 65536)

    def _huge(self, body: Any) -> None:
        self._begin()
        event = json.dumps({"choices": [_choice(None, delta={"content": "x" * 60_000})]}).encode()
        self._forever(b"data: " + event + b"\n\n")

    def _forever(self, data: bytes) -> None:
        try:
            while not self._own.over.is_set():
                self._chunk(data)
        except ConnectionError:
            self._own.hung_up.release()
        self.close_connection = True

    def _half(self) -> None:
        self._begin()
        self._event({"choices": [_choice(None, delta={"content": '{"evidence"'})]})

    def _wait_for_leaving(self) -> None:
        """Until the client hangs up or the server is over."""
        self.connection.settimeout(0.02)
        while not self._own.over.is_set():
            with suppress(TimeoutError):
                if not self.connection.recv(1):
                    break
        self._own.hung_up.release()
        self.close_connection = True

    # ---- bytes

    def _error(self, status: int, message: str, after_s: str | None = None) -> None:
        headers = {} if after_s is None else {"Retry-After": after_s}
        self._json(status, {"error": {"message": message, "code": status}}, **headers)

    def _json(self, status: int, value: Any, **headers: str) -> None:
        self._bytes(status, json.dumps(value).encode(), "application/json", **headers)

    def _bytes(self, status: int, data: bytes, media: str, **headers: str) -> None:
        self.send_response(status)
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        for name, text in ({"Content-Type": media, "Content-Length": str(len(data))} | named).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, value: Any) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _end(self) -> None:
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")


def _choice(finish: str | None, **said: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": finish, **said}
