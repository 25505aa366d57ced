"""A small program under supervision, in a place of its own, with all that was noted of it; and how a test asks it.

The program speaks as far as a start and a sleep go. Its processes are counted without the code under test.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from runner.config.critic import OpenAIRuntime
from runner.critic import supervise
from runner.critic.supervise import Supervised
from runner.gpu import Memory

# Speaks as far as a start goes. Modes: never (listens nowhere), dies, oom, stubborn (ignores SIGTERM), family (has a
# child in a session of its own), liar (frees nothing asleep), wake_fails. Its third word is a file with free memory.
PROGRAM = r"""
import json, os, signal, socket, sys, time
port, modes, free = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3]
key, asleep = os.environ["SERVER_KEY"], False
def leaves(mib):
    if "liar" not in modes:
        open(free, "w").write(str(mib))
def answer(method, path, allowed):
    global asleep
    if path == "/wake_up" and "wake_fails" in modes:
        return 500
    if path in ("/sleep?level=1&mode=wait", "/wake_up"):
        asleep = path != "/wake_up"
        leaves(29000 if asleep else 12000)
    elif path.startswith("/v1") and not allowed:
        return 401
    return 200
if "stubborn" in modes:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "family" in modes and not os.fork():
    os.setsid()
    time.sleep(600)
print("the key is", key, flush=True)
print("loading weights", flush=True)
if "dies" in modes:
    sys.exit("RuntimeError: no such layer: " + key)
if "oom" in modes:
    sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 784.00 MiB")
if "never" in modes:
    time.sleep(600)
print("compiling", flush=True)
listener = socket.create_server(("127.0.0.1", port))
leaves(12000)
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    asked = b""
    while b"\r\n\r\n" not in asked:
        asked += connection.recv(65536) or b"\r\n\r\n"
    head = asked.decode().splitlines()
    if " " in head[0]:
        method, path, _ = head[0].split()
        status = answer(method, path, any(line.endswith("Bearer " + key) for line in head))
        body = json.dumps({"data": [{"id": "critic"}], "is_sleeping": asleep})
        connection.sendall(f"HTTP/1.0 {status} .\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    connection.close()
"""
NO_MEMORY = {"weights_mib": 0, "cache_mib": 0, "activations_mib": 0, "overhead_mib": 0}
LARGE = {"weights_mib": 16000, "cache_mib": 1000, "activations_mib": 500, "overhead_mib": 500}


def runtime_of(place: Path, modes: str = "ok", **server: Any) -> OpenAIRuntime:
    """A runtime that starts the program above."""
    program = place / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-I", "-S", str(program), "{port}", modes, str(place / "free")]
    phases = [{"name": "weights", "pattern": "^loading"}, {"name": "compile", "pattern": "^compiling"}]
    given = {
        "engine": "llama_server", "command": command, "env": {}, "key_variable": "SERVER_KEY", "host": "127.0.0.1",
        "port": 0, "start_timeout_s": 20.0, "stop_timeout_s": 5.0, "max_restarts": 1, "between": "restart",
        "memory": NO_MEMORY, "phases": phases,
    }  # fmt: skip
    return OpenAIRuntime(
        id="test", backend="openai", url=None, model="critic", key_env=None, path=None, projector=None, sha256=None,
        family=None, quantization=None, concurrency=2, context=512, max_images=1, thinking_switch=False,
        stop_repeating=False, server=given | server,  # type: ignore[arg-type]  # pydantic makes a Server of it
    )  # fmt: skip


@dataclass
class World:
    """A place, what was noted there, and every server started in it, which ends with the test."""

    place: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    started: list[Supervised] = field(default_factory=list)

    def note(self, event: str, **facts: Any) -> None:
        self.events.append({"event": event, **facts})

    def start(self, modes: str = "ok", **server: Any) -> Supervised:
        runtime = runtime_of(self.place, modes, **server)
        begun = supervise.start(runtime, self.place, device="cpu", note=self.note, ask_memory=self.memory)
        self.started.append(begun)
        return begun

    def memory(self, device: str) -> Memory:
        """What the program says of a device's memory, once anybody has said something."""
        file = self.place / "free"
        return Memory(int(file.read_text()), 32000) if file.exists() else Memory(None, None)

    @property
    def record(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.place / supervise.RECORD).read_text())
        return value

    @property
    def phases(self) -> list[str]:
        return [event["phase"] for event in self.events if event["event"] == "critic_server"]

    def living(self) -> list[int]:
        """Every process of this place's program, found without the code under test."""
        found = []
        for each in psutil.process_iter(["cmdline", "status"]):
            words = each.info["cmdline"] or []
            if str(self.place / "program.py") in words and each.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(each.pid)
        return found


@contextmanager
def world_in(place: Path) -> Iterator[World]:
    """A world whose servers end with the block."""
    made = World(place)
    try:
        yield made
    finally:
        for server in made.started:
            server.stop()


def until(is_true: Callable[[], object], within_s: float = 20.0) -> None:
    ends_at = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < ends_at, "nothing came of it"
        time.sleep(0.02)


def models(server: Supervised, key: str | None = None) -> int:
    """Ask a server for its models; the status."""
    headers = {"Authorization": f"Bearer {server.key if key is None else key}"}
    with httpx2.Client(trust_env=False) as client:
        return client.get(f"{server.url}/v1/models", headers=headers).status_code
