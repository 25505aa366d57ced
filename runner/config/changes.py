"""In which fields two stored requests, or two profiles, differ. What it does not know: whether a difference matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changed_fields(before: Any, now: Any, path: str = "") -> list[str]:
    """The dotted keys in which two stored requests differ, with both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(before.keys() | now.keys())
        return [
            line for key in keys for line in changed_fields(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{path}: was {before!r}, is {now!r}"]
