"""The fingerprint of the machine and the libraries that make a run what it is; torch is not imported for it."""

from __future__ import annotations

import functools
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "runner", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "hydra-core",
    "omegaconf", "mlflow", "numpy", "pillow", "llguidance",
)  # fmt: skip
DECIDES_PIXELS = ("python", "machine", "torch", "diffusers", "transformers", "peft", "numpy", "pillow", "device")


def fingerprint(device: str) -> dict[str, Any]:
    """Versions, platform and git state as plain values; libraries that are not installed read as null."""
    return {
        "device": device.partition(":")[0],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "nvidia_driver": _nvidia_driver(),
        **{name.replace("-", "_"): _version(name) for name in LIBRARIES},
        **git_state(),
    }


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What may change pixels and is not as it was."""
    return [f"{k} was {before.get(k)}, is {now.get(k)}" for k in DECIDES_PIXELS if before.get(k) != now.get(k)]


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout that runs; null in an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"git_commit": None, "git_dirty": None}
    commit = _git(root, "rev-parse", "HEAD")
    return {"git_commit": commit or None, "git_dirty": bool(_git(root, "status", "--porcelain", "-uno"))}


@functools.cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _nvidia_driver() -> str | None:
    try:
        return Path("/proc/driver/nvidia/version").read_text().split("Kernel Module")[1].split()[0]
    except (OSError, IndexError):
        return None


def _git(root: Path, *words: str) -> str:
    try:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, timeout=5, check=False
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
