"""What a server is started with: its words with the blanks filled in, its environment, and a port.

The environment is made, not inherited: a variable of a person's shell (`LLAMA_ARG_CTX_SIZE`, `VLLM_...`, a token) must
neither change how a critic answers nor reach a program that needs no such thing. The key is only in the environment,
where `ps` does not show it. It refuses a blank that nothing fills. What it does not know: what a flag means.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from runner import builtin, store
from runner.config.critic import OpenAIRuntime, Server
from runner.errors import Fault, Refused

KEPT = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS",
    "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE",
)  # fmt: skip
KEPT_BEGINNINGS = ("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_")  # which cards there are, and in which order
ALWAYS = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
BLANK = re.compile(r"\{([a-z_]+)\}")
SLEEP_FLAG, SLEEP_ROUTES = "--enable-sleep-mode", "VLLM_SERVER_DEV_MODE"  # vLLM needs both, and is asked by `between`


def server_of(runtime: OpenAIRuntime) -> Server:
    assert runtime.server is not None, "only a server that we start is supervised"
    return runtime.server


def command(runtime: OpenAIRuntime, port: int) -> list[str]:
    """The words that start a server. Raises Refused for a blank that nothing fills."""
    server = server_of(runtime)
    words = (*server.command, SLEEP_FLAG) if may_sleep(server) else server.command
    values = {
        "path": _absolute(runtime.path), "projector": _absolute(runtime.projector), "model": runtime.model,
        "host": server.host, "port": str(port), "context": str(runtime.context), "max_images": str(runtime.max_images),
        "concurrency": str(runtime.concurrency), "total_context": str(runtime.context * runtime.concurrency),
    }  # fmt: skip
    return [_filled(word, values, "critic_runtime.server.command") for word in words]


def environment(runtime: OpenAIRuntime, device: str, key: str, given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a server: a few of ours, the device that it may see, the profile's own, and the key."""
    server, cache = server_of(runtime), cache_folder(runtime)
    kept = {name: text for name, text in given.items() if name in KEPT or name.startswith(KEPT_BEGINNINGS)}
    own = {
        name: _filled(text, {"cache": str(cache)}, f"critic_runtime.server.env.{name}")
        for name, text in server.env.items()
    }
    routes = {SLEEP_ROUTES: "1"} if may_sleep(server) else {}
    return {**kept, **_cards(device, given), **ALWAYS, **own, **routes, server.key_variable: key}


def may_sleep(server: Server) -> bool:
    """Whether it is started so that it can sleep; else the routes for that, which ask for no key, are not there."""
    return server.engine == "vllm" and server.between == "sleep"


def cache_folder(runtime: OpenAIRuntime) -> Path:
    """What a server compiled stays here between starts."""
    return builtin.cache_dir() / "critic" / runtime.id


def _cards(device: str, given: Mapping[str, str]) -> dict[str, str]:
    """The one card that is leased, by the name that it has in this process; none for work on the processor."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return {"CUDA_VISIBLE_DEVICES": ""}
    visible = [name.strip() for name in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    number = int(index or 0)
    return {"CUDA_VISIBLE_DEVICES": visible[number] if number < len(visible) else str(number)}


def identity(runtime: OpenAIRuntime) -> dict[str, str]:
    """What decides a server's answers beside its weights: the engine, and a digest of flags and variables as declared.

    Blanks are not filled: it is the same on every port and wherever the weights lie.
    """
    server = server_of(runtime)
    sizes = [runtime.context, runtime.concurrency, runtime.max_images]
    return {"engine": server.engine, "launch": store.digest_of([server.engine, server.command, server.env, sizes])}


def base_url(server: Server, port: int) -> str:
    return f"http://[{server.host}]:{port}" if ":" in server.host else f"http://{server.host}:{port}"


def free_port(host: str) -> int:
    """A port that was free a moment ago."""
    with _socket(host) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen at a port now."""
    with _socket(host) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _socket(host: str) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that ended a moment ago is not in the way
    return probe


def _filled(text: str, values: Mapping[str, str | None], where: str) -> str:
    """Braces around a lower-case word are a blank; those of JSON are not."""

    def value(match: re.Match[str]) -> str:
        if (found := values.get(match[1])) is None:
            known = ", ".join(f"{{{name}}}" for name, filled in values.items() if filled is not None)
            raise Refused(
                Fault("unknown_blank", where, f"nothing fills {match[0]} in {text!r}", f"Known here: {known}")
            )
        return found

    return BLANK.sub(value, text)


def _absolute(path: str | None) -> str | None:
    return path and os.path.abspath(path)  # noqa: PTH100  # resolve() would follow links, and hide a model's own name
