"""`critic plan`: what a run would load or start, and every fault that stands against it. It starts nothing.

A key is never shown: a request with one in it is refused before it could be. What it does not know: how much memory a
server really takes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import config, contract, gpu
from runner.config import Request
from runner.config.critic import OpenAIRuntime
from runner.contract.critic import SHIPPED, check_critic
from runner.contract.machine import device_of
from runner.contract.shown import shown
from runner.errors import Fault, Refused
from runner.verbs.show import MAX_CHARS, table

COMPOSED_WITH = "+experiment=demo"
UNKNOWN = "unknown"
HIDDEN_KEY = "[a new key for each start]"


def request_of(outputs: Path, words: Sequence[str]) -> Request:
    """The demo with these overrides, or the experiment that they name. Raises Refused, also without a critic."""
    named = any(word.lstrip("+").startswith("experiment=") for word in words)
    command = config.parse_command([*(() if named else (COMPOSED_WITH,)), *words])
    if command.needs_hydra:
        what = f"got {' '.join(command.flags)}, which is for runs"
        raise Refused(Fault("bad_option", "critic", what, f"Write overrides alone: {SHIPPED}"))
    values = {**config.compose(command.overrides), "outputs": str(outputs)}
    request = config.parse_request(contract.take_parties(values))
    if request.critic is None or request.critic_runtime is None:
        raise Refused(Fault("critic_missing", "critic", "is none: there is nothing to look at", f"Choose {SHIPPED}"))
    return request


def named(request: Request) -> dict[str, Any]:
    """The profile and the runtime of a request."""
    profile, runtime = request.critic, request.critic_runtime
    assert profile is not None and runtime is not None
    return {
        "profile": profile.profile,
        "version": profile.version,
        "runtime": runtime.id,
        "backend": runtime.backend,
    }


def device_name(request: Request) -> str:
    """torch's name of the device that a run would take."""
    kind = device_of(request)
    return f"{kind}:{request.hardware.index}" if kind == "cuda" else kind


def plan(request: Request) -> dict[str, Any]:
    """What a run would load or start: files, command, memory, and every fault that stands against it.

    Raises Refused for a request with a key in it: it would be shown.
    """
    faults = list(check_critic(request))
    if secret := [fault for fault in faults if fault.code == "secret_in_config"]:
        raise Refused(secret)
    runtime = request.critic_runtime
    started = _started(request, runtime) if isinstance(runtime, OpenAIRuntime) and runtime.server else {}
    asked = _asked(runtime) if isinstance(runtime, OpenAIRuntime) and not runtime.server else {}
    told = [*faults, *started.pop("faults", ())]
    files = list(_files(runtime))
    return {
        **named(request),
        "ok": not told,
        "files": files,
        **started,
        **asked,
        "faults": [f.as_dict() for f in told],
    }


def _files(runtime: Any) -> Iterator[dict[str, Any]]:
    """The weights and what stands beside them, with their size where they are here."""
    for name in ("path", "projector"):
        path = getattr(runtime, name, None)
        if path is not None:
            place = contract.locate(path)
            yield {"name": name, "path": path, "there": place is not None, "mib": place and _size_mib(place)}


def _size_mib(place: Path) -> int:
    files = (path for path in place.rglob("*") if path.is_file()) if place.is_dir() else (place,)
    return sum(path.stat().st_size for path in files) >> 20


def _asked(runtime: OpenAIRuntime) -> dict[str, Any]:
    """A server that others run."""
    known = runtime.key_env is not None and bool(os.environ.get(runtime.key_env))
    return {"url": runtime.url, "model": runtime.model, "key_env": runtime.key_env, "key_there": known}


def _started(request: Request, runtime: OpenAIRuntime) -> dict[str, Any]:
    """A server that we start: its words, its environment, and its memory against the device's."""
    from runner.critic.supervise import launch, memory

    server = launch.server_of(runtime)
    device = device_name(request)
    free = gpu.memory_of(device)
    fault = memory.check_memory(runtime, free.free_mib, free.total_mib, memory.holders(device))
    return {
        "command": launch.command(runtime, server.port),
        "environment": launch.environment(runtime, device, HIDDEN_KEY, {}),
        "port": server.port or "a free one",
        "limits_s": {"start": server.start_timeout_s, "stop": server.stop_timeout_s},
        "device": device,
        "memory_mib": {
            **{name.removesuffix("_mib"): mib for name, mib in server.memory.model_dump().items()},
            "needed": memory.needed_mib(server.memory), "free": free.free_mib, "total": free.total_mib,
        },
        "faults": [fault] if fault else [],
    }  # fmt: skip


def plan_text(value: Mapping[str, Any]) -> str:
    parts = [table(["what", "is"], list(_about(value)))]
    if "memory_mib" in value:
        rows = [[name, UNKNOWN if mib is None else str(mib)] for name, mib in value["memory_mib"].items()]
        parts.append(table([f"memory on {value['device']}", "MiB"], rows))
    if "command" in value:
        parts += ["Environment:", *(_line(f"{name}={text}") for name, text in value["environment"].items())]
        parts += ["Command:", _line(shlex.join(value["command"]))]
    parts += [shown(f"- {Fault(**fault)}", MAX_CHARS) for fault in value["faults"]]
    return "\n".join([*parts, "A run would use it." if value["ok"] else "A run would refuse it."])


def _line(text: str) -> str:
    return f"  {shown(text, MAX_CHARS)}"


def _about(value: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["profile", f"{value['profile']} version {value['version']}"]
    yield ["runtime", f"{value['runtime']} ({value['backend']})"]
    for file in value["files"]:
        yield [file["name"], f"{file['path']}, {file['mib']} MiB" if file["there"] else f"{file['path']}: NOT THERE"]
    if "url" in value:
        key = (
            f"from {value['key_env']}{'' if value['key_there'] else ', which is not set'}"
            if value["key_env"]
            else "none"
        )
        yield from (["url", str(value["url"])], ["model", value["model"]], ["key", key])
    if "port" in value:
        yield ["port", str(value["port"])]
        yield ["may take", f"{value['limits_s']['start']:g} s to start, {value['limits_s']['stop']:g} s to stop"]
