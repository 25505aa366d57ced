"""A small real server that speaks OpenAI's chat completions and really looks at the picture; and all the ways to fail.

    with speaking.serve() as url: ...                 an honest critic, in threads of this process
    with speaking.serve("error_500,honest") as url:   the first request fails, all later ones are judged
    with speaking.listening("hang") as server: ...    the same, with what was asked and who hung up
    with speaking.process("--mode", "hang") as (server, url):   a process of its own, to be stopped and killed
    python -m tests.critic.speaking --port 8077       the same, to be supervised

It decodes the data URI, reads the pixels, finds what the prompt asks for in the text, and answers in the schema of
`response_format`, of whatever profile. MODES lists the faults. With `key` (or SPEAKING_KEY) it wants that key.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.critic.speaking_http import Handler, Server

if TYPE_CHECKING:
    from PIL.Image import Image

ROOT = Path(__file__).resolve().parents[2]

MODES = {
    "honest": "looks, and answers in the schema",
    # bad critics
    "blind": "never looks: everything is as the prompt says",
    "constant": "the same score for everything",
    "swapped": "looks at the picture of the request before",
    "prose": "answers in words, no JSON",
    "fenced": "ignores response_format: JSON between backticks, of a form of its own",
    "wrong_keys": "JSON of another form",
    "loop": "goes in circles until max_tokens",
    "truncate": "stops in the middle, as at max_tokens",
    "thinking": "reasons and never answers",
    "silent": "answers nothing at all",
    "refusal": "declines",
    "filtered": "a filter took the answer away",
    # bad servers
    "plain": "does not stream: one JSON body",
    "image_400": "refuses the picture",
    "context_400": "the request is longer than the context",
    "not_found": "knows no such model",
    "error_500": "fails",
    "oom_500": "runs out of memory",
    "overloaded_503": "asks to come back in 7 seconds",
    "limited_429": "asks to come back, does not say when",
    "error_in_stream": "fails after the reply has begun",
    "html": "a page, as from something else at that port",
    "gzip": "a compressed reply that nobody asked for",
    "not_json": "a stream that holds no JSON",
    "redirect": "sends elsewhere",
    "hang": "takes the request and never answers",
    "stall": "begins to answer and stops talking",
    "disconnect": "hangs up in the middle of the reply",
    "unfinished": "ends the stream without a word why",
    "endless": "one line that never ends",
    "huge": "a reply that never ends",
    "slow": "answers after `delay_s`",
}
ENGINES = ("vllm", "llama_server", "strict")  # strict: refuses the fields that only vLLM and llama-server know


@dataclass(slots=True)
class Settings:
    """What a server is told about itself."""

    modes: Sequence[str] = ("honest",)  # of the first request, of the second ...; the last one stays
    key: str | None = None
    model: str = "critic"
    engine: str = "vllm"
    delay_s: float = 0.0
    die_after: int | None = None  # requests that are answered before the process is gone
    loud: bool = False  # a log line for every request


@dataclass(slots=True)
class Speaking:
    """A listening server: where it is, and what happened to it."""

    settings: Settings
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)  # bodies of chat requests, in order of arrival
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))  # released for every request
    hung_up: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))  # for every client that left
    over: threading.Event = field(default_factory=threading.Event)
    last_images: list[Image] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, body: dict[str, Any], headers: dict[str, str]) -> str:
        """Remember a request; the mode it is answered in."""
        with self.lock:
            self.asked.append(body)
            self.headers.append(headers)
            number = len(self.asked)
        self.arrived.release()
        if self.settings.loud:
            print(f"INFO asked {number}", file=sys.stderr, flush=True)
        if self.settings.die_after is not None and number > self.settings.die_after:
            os._exit(9)
        return self.settings.modes[min(number, len(self.settings.modes)) - 1]

    def before(self, images: list[Image]) -> list[Image]:
        """The pictures of the request before this one."""
        with self.lock:
            earlier, self.last_images = self.last_images or images, images
        return earlier


@contextmanager
def listening(mode: str = "honest", *, port: int = 0, **settings: Any) -> Iterator[Speaking]:
    """A server in threads of this process; `settings` as in Settings, `mode` one or more of MODES with commas."""
    server = _bind(Speaking(Settings(modes=_modes(mode), **settings)), port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.speaking
    finally:
        server.speaking.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serve(mode: str = "honest", **settings: Any) -> Iterator[str]:
    """The same, and only its address."""
    with listening(mode, **settings) as server:
        yield server.url


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(text.split(","))
    assert set(modes) <= MODES.keys(), f"{text}: known are {', '.join(MODES)}"
    return modes


def _bind(speaking: Speaking, port: int) -> Server:
    server = Server(("127.0.0.1", port), Handler)
    server.speaking = speaking
    speaking.url = f"http://127.0.0.1:{server.server_port}"
    return server


# ---- a process of its own


@contextmanager
def process(*words: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m tests.critic.speaking WORDS` once it listens, and its address; killed at the end."""
    command = [sys.executable, "-m", "tests.critic.speaking", *words]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            line = next(line for line in server.stderr if "complete" in line)
            yield server, line.split()[-1]
        finally:
            server.kill()


def main() -> int:
    """Start slowly with log lines as an engine writes them, then serve until killed."""
    asked = _arguments()
    if asked.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    key = os.environ.get("SPEAKING_KEY") or None
    print(f"INFO starting, key {key if asked.tells_key else 'set' if key else 'none'}", file=sys.stderr, flush=True)
    for line in ("Loading weights", "Loading weights took 0.1 seconds", "GPU KV cache size: 4,096 tokens"):
        print(f"INFO {line}", file=sys.stderr, flush=True)
        time.sleep(asked.start_delay_s / 3)
    if asked.exit_at_start is not None:
        print("ERROR no kernel image is available for execution on the device", file=sys.stderr, flush=True)
        return int(asked.exit_at_start)
    settings = Settings(_modes(asked.mode), key, asked.model, asked.engine, asked.delay_s, asked.die_after, True)
    server = _bind(Speaking(settings), asked.port)
    print(f"INFO Application startup complete. {server.speaking.url}", file=sys.stderr, flush=True)
    server.serve_forever()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.critic.speaking")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mode", default="honest", help=f"with commas: one per request. {MODES}")
    parser.add_argument("--model", default="critic")
    parser.add_argument("--engine", choices=ENGINES, default="vllm")
    parser.add_argument("--delay-s", type=float, default=0.0, help="of a slow reply")
    parser.add_argument("--start-delay-s", type=float, default=0.0)
    parser.add_argument("--exit-at-start", type=int, help="end with this code before it listens")
    parser.add_argument("--die-after", type=int, help="answer so many chat requests, be gone at the next")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--tells-key", action="store_true", help="print the key, as no server should")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
