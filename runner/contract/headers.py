"""The header and metadata of a safetensors file, read without its weights.

It refuses what is not one whole, sound file: truncated, overlapping, over-long, with duplicate keys. What it
does not know: what the tensors mean; that is `families`.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian length, JSON, then the data).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class Broken(Exception):
    """The file is not a sound safetensors file; the text is one line that says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]
    begin: int  # first byte of its data in the file
    end: int

    @property
    def num_values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself: its tensors by name, and its metadata (texts only)."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check a header. Raises Broken with the reason, OSError when the file cannot be read."""
    if not path.is_file():
        raise Broken("is not a file")
    size = path.stat().st_size
    if size < 8:
        raise Broken(f"has {size} bytes; a header alone has more")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise Broken(f"is truncated: its header should have {length} bytes, the file has {size}")
        if length > MAX_HEADER_BYTES:
            raise Broken(f"has a header of {length} bytes; more than {MAX_HEADER_BYTES} is not sound")
        raw = file.read(length)
    table = _parse(raw)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Broken("has metadata that is not a table of texts")
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in table.items()}
    _check_layout(tensors, 8 + length, size)
    return Header(tensors, metadata)


def read_values(path: Path, tensor: Tensor) -> bytes:
    """The raw bytes of one tensor; for scalar alphas."""
    with path.open("rb") as file:
        file.seek(tensor.begin)
        return file.read(tensor.end - tensor.begin)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        table = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise Broken(f"has a header that is not sound JSON ({type(error).__name__})") from error
    if not isinstance(table, dict):
        raise Broken("has a header that is not a table")
    return table


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise Broken("has a header that names a tensor twice")
    return table


def _tensor(name: str, entry: Any, data_begin: int) -> Tensor:
    try:
        shape = tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
        bits = BITS[entry["dtype"]]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise Broken(f"describes tensor {name[:80]!r} in a way we cannot read") from error
    if min(shape, default=0) < 0 or begin < 0 or (end - begin) * 8 != prod(shape) * bits:
        raise Broken(f"gives tensor {name[:80]!r} a size that does not fit its shape")
    return Tensor(entry["dtype"], shape, data_begin + begin, data_begin + end)


def _check_layout(tensors: Mapping[str, Tensor], data_begin: int, size: int) -> None:
    place = data_begin
    for tensor in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if tensor.begin != place:
            raise Broken("has tensors that overlap or leave a gap")
        place = tensor.end
    if place != size:
        raise Broken(f"should have {place} bytes and has {size}: it is truncated or has something behind its end")
