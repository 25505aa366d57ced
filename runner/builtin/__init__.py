"""The shipped models: a tiny text-to-image base, its critic, one LoRA, and the recipe that makes them.

`find_model` says where a built-in model lies. Importing this loads no weights and no torch. What is not
shipped (`tiny_sdxl`) is made on demand into the cache folder: `python -m runner.builtin.make tiny_sdxl`.
"""

import os
from pathlib import Path

import platformdirs

SHIPPED = ("shapes", "shapes_clip", "emblem")
MADE_ON_DEMAND = ("tiny_sdxl",)


def package_dir() -> Path:
    """The folder that holds the shipped models."""
    return Path(__file__).parent


def cache_dir() -> Path:
    """Where models made on demand are kept: RUNNER_CACHE, or the user's cache folder for runner."""
    return Path(os.environ.get("RUNNER_CACHE") or platformdirs.user_cache_dir("runner"))


def find_model(name: str) -> Path | None:
    """The folder of a built-in model; None if the name is unknown or the model is not made yet."""
    if name in SHIPPED:
        candidate = package_dir() / name
    elif name in MADE_ON_DEMAND:
        candidate = cache_dir() / name
    else:
        return None
    return candidate if candidate.is_dir() else None
