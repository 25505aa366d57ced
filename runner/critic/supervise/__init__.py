"""Starts, watches and ends a server that speaks for a critic (vLLM, llama-server), from a runtime profile.

`start` gives it back when it answers; whether it may be used is for the exam to say, after every start and every wake.
Nothing of it outlives us: Linux ends it with us, and what is left all the same is found by its record and ended by the
next start. It listens on this machine alone and has a key of its own that is written nowhere. It refuses to start where
its memory does not fit. What it does not know: chat, pictures, and servers that others run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner import gpu
from runner.config.critic import OpenAIRuntime
from runner.critic.supervise import log
from runner.critic.supervise.launch import command, identity
from runner.critic.supervise.memory import Ask, check_memory, needed_mib
from runner.critic.supervise.place import RECORD, Place
from runner.critic.supervise.server import EVENT, Supervised
from runner.critic.supervise.sleep import check_sleep
from runner.worker import Progress

__all__ = [
    "EVENT", "RECORD", "Supervised", "check_memory", "check_sleep", "command", "identity", "needed_mib", "start",
]  # fmt: skip


def start(
    runtime: OpenAIRuntime, place: Path, *, device: str, note: Callable[..., None],
    progress: Callable[[Progress], None] = lambda moment: None, ask_memory: Ask = gpu.memory_of,
) -> Supervised:  # fmt: skip
    """Start a server and wait until it answers. `place` keeps its record and its log, for one server at a time.

    Events: `critic_server` (phase, took_s) for each part of its life, `handed_over` (from, to, free memory before and
    after). Raises Failed(load | oom), Unavailable(critic_server_held, port_taken) and Refused; nothing of it runs then.
    """
    kept = log.Log(place / log.NAME, log.Phases({}))
    server = Supervised(runtime, device, Place(place), kept, note, progress, ask_memory)
    server.begin()
    return server
