"""A server that a test starts, disturbs and ends: its address, its key, its log, and its process.

It listens on a free port of loopback and is ready when it says that it listens. Whatever a test does to it, nothing of
it is left afterwards.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.tiny_gguf import TinyGguf

KEY = "a-key-of-the-tests"
CONTEXT = 16_384  # tokens of each of its slots
_LISTENS = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    url: str  # without /v1
    model: str
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path
    key: str = KEY

    def freeze(self) -> None:
        """From now on it takes connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, without a word to anybody."""
        self.process.kill()
        self.process.wait()


@contextmanager
def llama_server(
    program: Path, tiny: TinyGguf, log: Path, *words: str, parallel: int = 2, sees: bool = True
) -> Iterator[Served]:
    """A real llama-server on the tiny model, with more words for its command line."""
    command = [
        str(program), "--model", str(tiny.model), *(["--mmproj", str(tiny.projector)] * sees), "--alias", "tiny",
        "--host", "127.0.0.1", "--port", "0", "--threads", "1", "--threads-http", "8", "--poll", "0",
        "--parallel", str(parallel), "--ctx-size", str(CONTEXT * parallel), *words,
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "LLAMA_API_KEY": KEY})
    try:
        yield Served(_address(process, log), "tiny", process, log)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, as soon as it says so."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and process.poll() is None:
        if (said := _LISTENS.search(log.read_text(errors="replace"))) is not None:
            return said[1]
        time.sleep(0.01)
    raise AssertionError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
