"""A server that a test starts, disturbs and ends: its address, its key, its log, and its process.

It listens on a free port of loopback and is ready when it says that it listens. Whatever a test does to it, nothing of
it is left afterwards.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers.tiny_gguf import TinyGguf

KEY = "a-key-of-the-tests"
MODEL = "tiny"
CONTEXT = 16_384  # tokens of each of llama-server's slots
VLLM_CONTEXT = 4096
_LISTENS = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
_START_S = 300.0


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
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """It is gone with all its processes, without a word to anybody."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def llama_server(
    program: Path, tiny: TinyGguf, log: Path, *words: str, parallel: int = 2, sees: bool = True
) -> Iterator[Served]:
    """A real llama-server on the tiny model, with more words for its command line."""
    command = [
        str(program), "--model", str(tiny.model), *(["--mmproj", str(tiny.projector)] * sees), "--alias", MODEL,
        "--host", "127.0.0.1", "--port", "0", "--threads", "1", "--threads-http", "8", "--poll", "0",
        "--parallel", str(parallel), "--ctx-size", str(CONTEXT * parallel), *words,
    ]  # fmt: skip
    with _started(command, {"LLAMA_API_KEY": KEY}, log, lambda: _said_where(log)) as served:
        yield served


@contextmanager
def vllm_server(python: Path, model: Path, log: Path) -> Iterator[Served]:
    """A real vLLM on a tiny model, one image a request, with its routes for developers."""
    port = _free_port()
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", MODEL,
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(VLLM_CONTEXT), "--max-num-seqs", "4",
        "--dtype", "float32", "--enforce-eager", "--generation-config", "vllm",
        "--limit-mm-per-prompt", '{"image":{"count":1,"width":256,"height":256},"video":0}',
        "--structured-outputs-config", '{"backend":"guidance","disable_any_whitespace":true}',
    ]  # fmt: skip
    environment = {
        "VLLM_API_KEY": KEY, "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(log.parent / "cache"), "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with _started(command, environment, log, lambda: url if _is_healthy(url) else None) as served:
        yield served


@contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], log: Path, where: Callable[[], str | None]
) -> Iterator[Served]:
    """A server in a process group of its own, from when it says where it is until the end of the test."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
        )
    served = Served("", MODEL, process, log)
    try:
        yield Served(_address(process, log, where), MODEL, process, log)
    finally:
        served.kill()


def _address(process: subprocess.Popen[bytes], log: Path, where: Callable[[], str | None]) -> str:
    """Where it listens, as soon as it does."""
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends and process.poll() is None:
        if (url := where()) is not None:
            return url
        time.sleep(0.01)
    raise AssertionError(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")


def _said_where(log: Path) -> str | None:
    said = _LISTENS.search(log.read_text(errors="replace"))
    return said[1] if said else None


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])
