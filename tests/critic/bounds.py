"""How long an answer to a schema can be: where it could go on without end, and the characters of the longest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_NUMBER_CHARS = 24  # the longest float as JSON: -2.2250738585072014e-308
_PIECE = r"(?:\[(?:\\.|[^\]\\])+\]|[A-Za-z0-9])(?:\{(?:\d+,)?(\d+)\})?"


def unbounded(schema: Mapping[str, Any], path: str = "$") -> list[str]:
    """Places of an answer that could go on without end; a pattern that we cannot read counts as one.

    A number in a range counts as bounded, though its digits are not: no runtime decodes under a continuous schema.
    """
    kind = schema.get("type")
    if "enum" in schema or kind in ("null", "boolean"):
        return []
    if "anyOf" in schema:
        return [place for option in schema["anyOf"] for place in unbounded(option, path)]
    if kind == "object":
        parts = schema.get("properties", {}).items()
        inside = [place for name, part in parts for place in unbounded(part, f"{path}.{name}")]
        return ([] if schema.get("additionalProperties") is False else [path]) + inside
    if kind == "array":
        inside = unbounded(schema["items"], f"{path}[]") if "items" in schema else [f"{path}[]"]
        return ([] if "maxItems" in schema else [path]) + inside
    bounded = kind == "string" and _most_chars(schema.get("pattern", "")) is not None
    bounded |= kind in ("integer", "number") and {"minimum", "maximum"} <= schema.keys()
    return [] if bounded else [path]


def longest_reply_chars(schema: Mapping[str, Any]) -> int:
    """Characters of the longest answer, with one blank after each comma and colon. The schema must be bounded."""
    if "enum" in schema:
        return max(len(json.dumps(value)) for value in schema["enum"])
    if "anyOf" in schema:
        return max(longest_reply_chars(option) for option in schema["anyOf"])
    if schema["type"] in ("object", "array"):
        parts = _parts_chars(schema)
        return sum(parts) + len("{}") + len(", ") * max(0, len(parts) - 1)
    return _plain_chars(schema)


def _parts_chars(schema: Mapping[str, Any]) -> list[int]:
    if schema["type"] == "array":
        return [longest_reply_chars(schema["items"])] * schema["maxItems"]
    parts = schema["properties"].items()
    return [len(json.dumps(name)) + len(": ") + longest_reply_chars(part) for name, part in parts]


def _plain_chars(schema: Mapping[str, Any]) -> int:
    match schema["type"]:
        case "string":
            most_chars = _most_chars(schema["pattern"])
            assert most_chars is not None, schema["pattern"]
            return most_chars + len('""')
        case "integer":
            return max(len(str(schema["minimum"])), len(str(schema["maximum"])))
        case "number":
            return _NUMBER_CHARS
        case _:
            return len("false")


def _most_chars(pattern: str) -> int | None:
    """The longest text that an anchored row of characters and classes allows; None for any other pattern."""
    if re.fullmatch(rf"\^(?:{_PIECE})+\$", pattern) is None:
        return None
    return sum(int(piece[1] or 1) for piece in re.finditer(_PIECE, pattern[1:-1]))
