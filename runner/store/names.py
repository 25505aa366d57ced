"""How bytes and values are named: the canonical form of JSON, and sha256 as 64 lower-case hex digits."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

NAME = re.compile(r"[0-9a-f]{64}")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return _ENCODER.encode(value).encode()


def digest(data: bytes) -> str:
    """The sha256 of bytes as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """The sha256 of a JSON value in canonical form."""
    return digest(canonical(value))


def is_name(text: str) -> bool:
    """Whether a text can be the name of an object."""
    return NAME.fullmatch(text) is not None
