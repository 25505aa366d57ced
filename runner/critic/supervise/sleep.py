"""Handing the device back without ending the process: vLLM's sleep, level 1 (weights wait in the machine's memory).

A reply of 200 proves nothing: memory comes free only when the engine was started for it, so the device is asked.
Level 2 is not offered: engines that drop their weights have come back with garbage. While it sleeps a server says that
it is healthy and answers no question; whoever wakes it examines it before use. What it does not know: when to do so.
"""

from __future__ import annotations

from runner.config.critic import OpenAIRuntime
from runner.critic.supervise.launch import may_sleep, server_of
from runner.critic.supervise.memory import Ask, once_free
from runner.critic.supervise.talk import Line
from runner.errors import Fault

SLEEP = "/sleep?level=1&mode=wait"  # the parameter is called level; requests in flight are finished first
WHERE = "critic_runtime.server.between"
SHARE = 0.5  # of the weights: so much has to come free, or it did not sleep


def check_sleep(runtime: OpenAIRuntime) -> Fault | None:
    """The fault of a runtime that cannot sleep."""
    server = server_of(runtime)
    if may_sleep(server):
        return None
    if server.engine != "vllm":
        what, fix = f"{server.engine} has no sleep that can be relied on; vllm has", f"Set {WHERE}=restart"
    else:
        what, fix = f"is {server.between}, so {runtime.id} was started without it", f"Set {WHERE}=sleep"
    return Fault("sleep_unsupported", WHERE, what, fix)


def put_to_sleep(line: Line, runtime: OpenAIRuntime, device: str, free_mib: int | None, ask: Ask) -> str | None:
    """Let a server sleep, given what is free now; the reason why it cannot be relied on, None when it sleeps."""
    said = line.ask("POST", SLEEP, server_of(runtime).stop_timeout_s)
    if not said.ok:
        return f"/sleep: {said}"
    if not line.ask("GET", "/is_sleeping").body.get("is_sleeping"):
        return "it says that it does not sleep"
    weights_mib = server_of(runtime).memory.weights_mib
    if free_mib is None:
        return f"the memory of {device} cannot be asked"
    now_mib = once_free(device, free_mib + int(SHARE * weights_mib), ask).free_mib or 0
    if now_mib - free_mib < SHARE * weights_mib:
        return f"{now_mib - free_mib} MiB came free, and its weights are {weights_mib} MiB"
    return None


def wake_up(line: Line, runtime: OpenAIRuntime) -> str | None:
    """Wake a server that sleeps; the reason why it is not awake."""
    said = line.ask("POST", "/wake_up", server_of(runtime).start_timeout_s)
    if not said.ok:
        return f"/wake_up: {said}"
    if line.ask("GET", "/is_sleeping").body.get("is_sleeping") is not False:
        return "it says that it still sleeps"
    return None if line.answers() else "it does not answer"
