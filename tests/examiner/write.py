"""Writing: a real header over a hole for data, so that a file of gigabytes takes kilobytes.

Only what a reader looks at, alphas, stands in the hole. It does not know what the file is for.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.examiner.expect import Entry
from tests.examiner.tensors import DTYPE_BYTES, Tensors


def _scalar(dtype: str, value: float) -> bytes:
    if dtype == "BF16":
        return struct.pack("<f", value)[2:]
    return struct.pack(
        {"F16": "<e", "F32": "<f", "I64": "<q", "I32": "<i"}[dtype], int(value) if dtype[0] == "I" else value
    )


def header(tensors: Tensors, metadata: Mapping[str, str] | None) -> tuple[bytes, int, dict[str, int]]:
    """A safetensors header, the bytes of data it announces, and where each scalar lies."""
    made: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at: dict[str, int] = {}
    offset = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-DTYPE_BYTES[item[1][0]], item[0])):
        size = DTYPE_BYTES[dtype] * math.prod(shape)
        made[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        if name.endswith(".alpha") or not shape:
            at[name] = offset
        offset += size
    text = json.dumps(made, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, offset, at


def write_file(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None, values: Mapping[str, float]) -> None:
    """The file at its full length; only header and scalars take room on disk."""
    head, size, scalars = header(tensors, metadata)
    with path.open("wb") as file:
        file.write(head)
        for name, offset in scalars.items():
            for suffix, value in values.items():
                if name.endswith(suffix):
                    file.seek(len(head) + offset)
                    file.write(_scalar(tensors[name][0], value))
        file.truncate(len(head) + size)


def write_entry(folder: Path, entry: Entry) -> Path:
    """Write one entry; the path to inspect."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("adapter_model.safetensors" if entry.adapter_config else "file.safetensors")
    write_file(path, entry.tensors(), entry.metadata, entry.values)
    if entry.damage:
        path.write_bytes(entry.damage(path.read_bytes()))
    if entry.adapter_config:
        (folder / "adapter_config.json").write_text(json.dumps(dict(entry.adapter_config)))
    return folder if entry.as_folder else path
