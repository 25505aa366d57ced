"""Files cut, damaged or dressed up: what no reader of safetensors should take, and odd headers that every one must.

It does not know a model, but for the LoRAs whose headers are made odd.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.examiner.expect import Entry, Expect
from tests.examiner.lora import lora_entry
from tests.examiner.models import ALL, Names
from tests.examiner.tensors import Tensors

BROKEN = Expect(kinds=frozenset({"broken"}))


def _broken(name: str, damage: Callable[[bytes], bytes]) -> Entry:
    tensors: Tensors = {"unet.a.lora_A.weight": ("F32", (4, 8)), "unet.a.lora_B.weight": ("F32", (8, 4))}
    return Entry(f"broken/{name}", lambda: tensors, BROKEN, damage=damage)


def _reheaded(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    made = json.loads(data[8 : 8 + size])
    change(made)
    text = json.dumps(made).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _edit(name: str, **fields: Any) -> Callable[[bytes], bytes]:
    return lambda data: _reheaded(data, lambda made: made[name].update(fields))


A, B = "unet.a.lora_A.weight", "unet.a.lora_B.weight"
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "short_length": lambda data: data[:5],
    "length_beyond": lambda data: struct.pack("<Q", 10**9) + data[8:],
    "length_huge": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "cut_header": lambda data: data[:60],
    "cut_data": lambda data: data[:-16],
    "no_data": lambda data: data[: 8 + struct.unpack("<Q", data[:8])[0]],
    "trailing": lambda data: data + b"\0" * 64,
    "not_json": lambda data: data[:8] + b"x" * struct.unpack("<Q", data[:8])[0] + data[8:],
    "json_list": lambda data: struct.pack("<Q", 2) + b"[]",
    "not_utf8": lambda data: data[:8] + b"\xff\xfe" + data[10:],
    "html": lambda data: b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 4,
    "lfs_pointer": lambda data: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    ),
    "pickle": lambda data: b"PK\x03\x04" + b"archive/data.pkl" + b"\0" * 200,
    "overlap": _edit(B, data_offsets=[0, 128]),
    "hole": _edit(B, data_offsets=[256, 384]),
    "wrong_size": _edit(A, shape=[4, 9]),
    "negative": _edit(A, shape=[-4, -8]),
    "bad_dtype": _edit(A, dtype="Q9"),
    "no_offsets": lambda data: _reheaded(data, lambda made: made[A].pop("data_offsets")),
    "backwards": _edit(A, data_offsets=[128, 0]),
    "shape_text": _edit(A, shape="4,8"),
    "metadata_number": lambda data: _reheaded(data, lambda made: made.update(__metadata__={"a": 1})),
}


def _pretty(data: bytes) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(json.loads(data[8 : 8 + size]), indent=2).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _turned(data: bytes) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    made = json.loads(data[8 : 8 + size])
    text = json.dumps(dict(reversed(made.items()))).encode() + b" " * 17
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def odd_entries(among: Names = ALL) -> Iterator[Entry]:
    """Good files with an unusual header, and good files cut short."""
    heavy = {"ss_tag_frequency": json.dumps({f"10_{num}": {f"tag {n}": n for n in range(400)} for num in range(40)})}
    for model in (name for name in ("sd15", "sdxl", "sd35_large", "z_image") if name in among):
        good = lora_entry(model, "diffusers", "one", among=among)
        assert good
        for label, damage in (("pretty", _pretty), ("turned", _turned)):
            yield replace(good, name=f"odd/{model}/{label}", damage=damage)
        yield replace(good, name=f"odd/{model}/heavy", metadata=heavy)
        yield replace(
            good,
            name=f"odd/{model}/unicode",
            metadata={"ss_output_name": "\u732b\U0001f408", "modelspec.author": "\u00e9"},
        )
        yield replace(good, name=f"odd/{model}/half", damage=lambda data: data[: len(data) // 2], expect=BROKEN)
        yield replace(good, name=f"odd/{model}/one_byte_short", damage=lambda data: data[:-1], expect=BROKEN)


def broken_entries() -> Iterator[Entry]:
    """Files that no reader of safetensors should take."""
    for name, damage in DAMAGE.items():
        yield _broken(name, damage)
