"""The table at the head of a safetensors file: its text becomes tensors and metadata, or the reason why not.

It goes through the text entry by entry, so that the first unsound one ends it and no more is ever held than what is
sound so far. It accepts what safetensors accepts but for a few things that no writer writes: a key that is there
twice, a tensor described by a list or its dtype by a table, and more than the bounds below. What it does not know:
the file around the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from runner.contract.shown import shown

MAX_TENSORS = 50_000
MAX_DIMENSIONS = 16  # of one tensor
MAX_METADATA = 10_000  # entries
MAX_NAME_CHARS = 1_000  # of a tensor or a metadata key, with the spaces around it
MAX_ENTRY_CHARS = 1_000  # what describes one tensor takes about 70
MAX_BRACKETS = 128  # in the description of one tensor; safetensors ends at this depth
MAX_INT = 2**64 - 1

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_SPACE = r"[ \t\n\r]*+"  # possessive, like what follows: nothing here is ever tried twice
_KEY = rf'{_SPACE}"([^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+)"{_SPACE}:{_SPACE}'
_FIRST_KEY, _NEXT_KEY = re.compile(_KEY), re.compile(rf"{_SPACE},{_KEY}")
_OPEN, _CLOSE, _END = (re.compile(_SPACE + sign) for sign in (r"\{", r"\}", r"\Z"))
_SURROGATE = re.compile("[\ud800-\udfff]")
_MINUS_ZERO = re.compile(r"[\[,:\s]-0(?![.eE])")
_LONG_NUMBER = re.compile(r"[0-9]{300}")
_DECODER = json.JSONDecoder()


class Broken(Exception):
    """The file is not a sound safetensors file; the text is one line that says why."""


class Tensor(NamedTuple):
    """Where a tensor lies in its file, and what it is there."""

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


def parse(text: str, data_begin: int) -> Header:
    """Go through the table entry by entry: the first unsound one ends it, before more of it is held."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] | None = None
    place = _open(text, 0, "has a header that is not a table")
    found = _FIRST_KEY.match(text, place, place + MAX_NAME_CHARS)
    while found:
        name, place = found[1], found.end()
        if "\\" in name:
            name = _string(text, found.start(1) - 1)[0]
        if name in tensors or (name == "__metadata__" and metadata is not None):
            raise Broken(f"has a header that names '{shown(name, 80)}' twice")
        if name == "__metadata__":
            metadata, place = _metadata(text, place)
        else:
            tensors[name], place = _tensor(text, place, name, data_begin)
        if len(tensors) > MAX_TENSORS:
            raise Broken(f"has more than {MAX_TENSORS} tensors; we read no more")
        found = _NEXT_KEY.match(text, place, place + MAX_NAME_CHARS)
    place = _close(text, place)
    if not _END.match(text, place):
        raise _not_json(text, place)
    return Header(tensors, metadata or {})


def _metadata(text: str, place: int) -> tuple[dict[str, str], int]:
    if text.startswith("null", place):
        return {}, place + 4
    table: dict[str, str] = {}
    place = _open(text, place, "has metadata that is not a table of texts")
    found = _FIRST_KEY.match(text, place, place + MAX_NAME_CHARS)
    while found:
        name, place = _string(text, found.start(1) - 1)[0], found.end()
        if name in table:
            raise Broken(f"has metadata that names '{shown(name, 80)}' twice")
        if not text.startswith('"', place):
            raise Broken("has metadata that is not a table of texts")
        table[name], place = _string(text, place)
        if len(table) > MAX_METADATA:
            raise Broken(f"has more than {MAX_METADATA} entries of metadata; we read no more")
        found = _NEXT_KEY.match(text, place, place + MAX_NAME_CHARS)
    return table, _close(text, place)


def _tensor(text: str, place: int, name: str, data_begin: int) -> tuple[Tensor, int]:
    entry, end = _entry(text, place, name)
    try:
        dtype, shape, (begin, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        bits = BITS[dtype]
    except (TypeError, KeyError, ValueError) as error:
        raise _unread(name) from error
    if type(shape) is not list or type(begin) is not int or type(stop) is not int:
        raise _unread(name)
    if len(shape) > MAX_DIMENSIONS:
        raise Broken(f"gives tensor '{shown(name, 80)}' {len(shape)} dimensions; we read at most {MAX_DIMENSIONS}")
    num_values = 1
    for length in shape:
        if type(length) is not int:
            raise _unread(name)
        num_values *= length
        if length < 0 or length > MAX_INT or num_values > MAX_INT:
            raise _unfit(name)
    if not 0 <= begin <= stop or (stop - begin) * 8 != num_values * bits:
        raise _unfit(name)
    return Tensor(dtype, tuple(shape), data_begin + begin, data_begin + stop), end


def _entry(text: str, place: int, name: str) -> tuple[Any, int]:
    """What describes a tensor, and where it ends; never more than MAX_ENTRY_CHARS of it are read."""
    piece = text[place : text.find("}", place, place + MAX_ENTRY_CHARS) + 1]
    try:
        entry, num_chars = _DECODER.raw_decode(piece)
    except (ValueError, RecursionError):  # the first bracket was not its last: it holds other tables or texts
        piece = text[place : place + MAX_ENTRY_CHARS]
        entry, num_chars = _long_entry(piece, name)
    if type(entry) is not dict:
        raise _unread(name)
    if piece.count('"') != 8 or "-" in piece:  # three keys and the dtype have eight
        _check_unusual(piece[:num_chars], name)
    return entry, place + num_chars


def _long_entry(piece: str, name: str) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(piece)
    except (ValueError, RecursionError) as error:
        longer = f", or in more than the {MAX_ENTRY_CHARS} characters that we read"
        what = f"describes tensor '{shown(name, 80)}' in no sound JSON"
        raise Broken(what + (longer if len(piece) == MAX_ENTRY_CHARS else "")) from error


def _check_unusual(piece: str, name: str) -> None:
    """Keys that we do not know may say what JSON can say, within the bounds that safetensors has for it."""
    if piece.count("[") + piece.count("{") > MAX_BRACKETS or _MINUS_ZERO.search(piece) or _LONG_NUMBER.search(piece):
        raise _unread(name)
    try:
        pairs = json.loads(piece, object_pairs_hook=tuple)
        json.dumps(pairs, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # a number without an end, or half a character
        raise _unread(name) from error
    if len({key for key, _ in pairs}) != len(pairs):
        raise Broken(f"describes tensor '{shown(name, 80)}' with a key that is there twice")


def _open(text: str, place: int, otherwise: str) -> int:
    found = _OPEN.match(text, place)
    if found is None:
        raise Broken(otherwise)
    return found.end()


def _close(text: str, place: int) -> int:
    found = _CLOSE.match(text, place)
    if found is None:
        raise _not_json(text, place)
    return found.end()


def _string(text: str, place: int) -> tuple[str, int]:
    try:
        value, end = _DECODER.raw_decode(text, place)
    except ValueError as error:
        raise _not_json(text, place) from error
    if not value.isascii() and _SURROGATE.search(value):
        raise Broken("has a header with half a character in it (a lone surrogate)")
    return value, end


def _not_json(text: str, place: int) -> Broken:
    name = f", or has a name of more than {MAX_NAME_CHARS}" if len(text) - place > MAX_NAME_CHARS else ""
    return Broken(f"has a header that is not sound JSON at character {place}{name}")


def _unread(name: str) -> Broken:
    return Broken(f"describes tensor '{shown(name, 80)}' in a way we cannot read")


def _unfit(name: str) -> Broken:
    return Broken(f"gives tensor '{shown(name, 80)}' a size that does not fit its shape")
