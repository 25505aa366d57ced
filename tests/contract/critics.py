"""Profiles and runtimes of a critic for the tests of its contract: the shipped ones with a few keys changed."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from runner import builtin
from runner.config.critic import CriticProfile, OpenAIRuntime
from runner.errors import Fault
from tests import fakes

CLIP = builtin.package_dir() / "shapes_clip"
EXTERNAL: dict[str, Any] = {
    "id": "there", "backend": "openai", "url": "http://127.0.0.1:8000", "model": "critic", "key_env": None,
    "path": None, "projector": None, "sha256": None, "family": None, "quantization": None, "concurrency": 1,
    "context": 8192, "max_images": 1, "thinking_switch": False, "stop_repeating": False, "server": None,
}  # fmt: skip
SERVER: dict[str, Any] = {
    "engine": "llama_server", "command": ["sh", "-m", "{path}", "--port", "{port}"], "env": {},
    "key_variable": "LLAMA_API_KEY", "host": "127.0.0.1", "port": 0, "start_timeout_s": 9.0, "stop_timeout_s": 9.0,
    "max_restarts": 1, "between": "restart", "phases": [],
    "memory": {"weights_mib": 1, "cache_mib": 1, "activations_mib": 1, "overhead_mib": 1},
}  # fmt: skip


def changed(values: Any, changes: Mapping[str, Any]) -> Any:
    """Plain values with dotted keys changed; a number is a place in a list."""
    for path, value in changes.items():
        *parents, leaf = (int(part) if part.isdigit() else part for part in path.split("."))
        place: Any = functools.reduce(lambda place, name: place[name], parents, values)
        place[leaf] = value
    return values


def profile(changes: Mapping[str, Any] | None = None, name: str = "shapes") -> CriticProfile:
    values = fakes.composed("demo", f"critic={name}")["critic"]
    return CriticProfile.model_validate(changed(values, changes or {}))


def external(**changes: Any) -> OpenAIRuntime:
    """A server that others run."""
    return OpenAIRuntime.model_validate({**EXTERNAL, **changes})


def ours(changes: Mapping[str, Any] | None = None, **server: Any) -> OpenAIRuntime:
    """A server that we start."""
    values = {**EXTERNAL, "url": None, "path": str(CLIP), "server": {**SERVER, **server}, **(changes or {})}
    return OpenAIRuntime.model_validate(values)


def said(faults: Iterable[Fault]) -> list[str]:
    return [f"{fault.code}: {fault}" for fault in faults]
