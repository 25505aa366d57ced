"""Whether a server's memory fits what is free, and what a change of hands did to it. Pure but for the asking.

It refuses before anything is started, with every number; memory that cannot be asked admits, and the server's own error
decides. What it does not know: whether a server takes what its profile says; the events with measured memory tell.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

from runner.config.critic import OpenAIRuntime, ServerMemory
from runner.critic.supervise.launch import server_of
from runner.errors import Fault
from runner.gpu import Memory, devices

UTILIZATION = "--gpu-memory-utilization"
VLLM_DEFAULT = 0.92  # vLLM asks for so much of a card to be free unless it is told otherwise
COMES_FREE_S = 5.0  # a driver gives back a moment after a process ended
POLL_S = 0.25
WHERE = "critic_runtime.server.memory"

Ask = Callable[[str], Memory]


def needed_mib(memory: ServerMemory, *, waking: bool = False) -> int:
    """What a server takes of the device in all; one that wakes has kept all but weights and cache."""
    woken = memory.weights_mib + memory.cache_mib
    return woken if waking else woken + memory.activations_mib + memory.overhead_mib


def check_memory(
    runtime: OpenAIRuntime, free_mib: int | None, total_mib: int | None, known_others: Mapping[str, int], *,
    waking: bool = False,
) -> Fault | None:  # fmt: skip
    """The fault of a server that does not fit; `known_others` says who holds how many MiB of the device now."""
    memory = server_of(runtime).memory
    need = needed_mib(memory, waking=waking)
    asks = 0 if waking else _free_at_start_mib(runtime, total_mib)
    if free_mib is None or free_mib >= max(need, asks):
        return None
    what = f"{runtime.id} needs {need} MiB ({_parts(memory, waking)})"
    what += f" and wants {asks} MiB free when it starts ({UTILIZATION})" if asks > need else ""
    what += f"; {free_mib} MiB are free" + (f" of {total_mib} MiB" if total_mib is not None else "")
    held = ", ".join(f"{name} has {mib} MiB" for name, mib in known_others.items())
    evidence = {
        **memory.model_dump(), "need_mib": need, "free_at_start_mib": asks,
        "free_mib": free_mib, "total_mib": total_mib, "others_mib": dict(known_others),
    }  # fmt: skip
    return Fault("over_capacity", WHERE, what + (f"; {held}" if held else ""), _fix(need, asks, total_mib), evidence)


def _parts(memory: ServerMemory, waking: bool) -> str:
    woken = f"weights {memory.weights_mib} + cache {memory.cache_mib}"
    return woken if waking else f"{woken} + activations {memory.activations_mib} + overhead {memory.overhead_mib}"


def _fix(need: int, asks: int, total_mib: int | None) -> str:
    if total_mib is not None and max(need, asks) > total_mib:
        return "Choose smaller weights, a smaller cache or context, or another device"
    if asks > need:
        return f"Lower {UTILIZATION} in critic_runtime.server.command, or end what holds the memory"
    return "End what holds the memory (runtime.offload=model frees more of the generator), or choose smaller weights"


def _free_at_start_mib(runtime: OpenAIRuntime, total_mib: int | None) -> int:
    """What vLLM wants to find free of a whole card, whatever it takes afterwards; 0 for others."""
    server = server_of(runtime)
    if server.engine != "vllm" or total_mib is None:
        return 0
    return math.ceil(utilization(server.command) * total_mib)


def utilization(words: tuple[str, ...]) -> float:
    """The share of a card in vLLM's command; its default where it is not given."""
    joined = [word.partition("=")[2] for word in words if word.startswith(f"{UTILIZATION}=")]
    spaced = [after for word, after in pairwise(words) if word == UTILIZATION]
    try:
        return float([*joined, *spaced][-1])
    except (IndexError, ValueError):
        return VLLM_DEFAULT


def once_free(device: str, at_least_mib: int, ask: Ask) -> Memory:
    """The memory of a device as soon as so much is free; after a few seconds as it is. On the processor at once."""
    ends_at = time.monotonic() + COMES_FREE_S
    while True:
        memory = ask(device)
        enough = memory.free_mib is None or memory.free_mib >= at_least_mib
        if enough or device == "cpu" or time.monotonic() > ends_at:
            return memory
        time.sleep(POLL_S)


def holders(device: str) -> dict[str, int]:
    """Who has how many MiB of a card, as far as nvidia-smi tells."""
    if not device.startswith("cuda:"):
        return {}
    rows = devices.nvidia_smi("--query-compute-apps=pid,used_memory", "-i", devices.card(device)).splitlines()
    pairs = (row.split(", ") for row in rows if row.count(", ") == 1)
    return {_name(pid): int(mib) for pid, mib in pairs if mib.isdigit()}


def _name(pid: str) -> str:
    return "this process" if pid == str(os.getpid()) else f"process {pid}"
