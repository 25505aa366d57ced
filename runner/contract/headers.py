"""The header and metadata of a safetensors file, read without its weights.

It refuses what is not one whole, sound file, and says what the file is instead, by its first bytes. What it does not
know: what the tensors mean; that is `families`.

Files come from strangers, so no length in them is believed, and one that is no regular file is not waited for.
safetensors refuses a header above 100 MB. Ours ends at 12 MB, because text takes up to four bytes a character and is
held twice while it is cut up: the worst 12 MB take about 110 MB. Real headers are smaller: a shard of a large model
stays below 2 MB, and the counts of tags that kohya's trainer writes into LoRA files reach a few MB.
Format: https://huggingface.co/docs/safetensors (8 bytes little-endian length, JSON, then the data).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

from runner.contract.first_bytes import HEAD_BYTES, find_kind
from runner.contract.header_table import BITS, Broken, Header, Tensor, parse
from runner.contract.scalars import number

__all__ = [
    "MAX_HEADER_BYTES", "Broken", "Header", "Tensor", "read_header", "read_scalar", "read_scalars", "read_values",
]  # fmt: skip

MAX_HEADER_BYTES = 12_000_000


def read_header(path: Path) -> Header:
    """Read and check a header. Raises Broken with the reason, and nothing else."""
    try:
        with _opened(path) as (file, size):
            raw = _header_bytes(file, size)
        data_begin = 8 + len(raw)
        text = _text(raw)
        del raw  # the text takes up to four times as much
        header = parse(text, data_begin)
    except MemoryError as error:
        raise Broken("needs more memory to be read than there is") from error
    _check_layout(header.tensors, data_begin, size)
    return header


def read_values(path: Path, tensor: Tensor) -> bytes:
    """The raw bytes of one tensor. Raises Broken when they are not there."""
    with _opened(path) as (file, _):
        return _read(file, tensor.begin, tensor.end - tensor.begin)


def read_scalar(path: Path, tensor: Tensor) -> float | None:
    """The value of a one-value tensor; None when it is no finite number, of another size, or of a dtype without one."""
    return read_scalars(path, {"": tensor})[""]


def read_scalars(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, float | None]:
    """As `read_scalar`, for many tensors of one file, opened once. Raises Broken when the file is shorter by now."""
    values: dict[str, float | None] = dict.fromkeys(tensors)
    single = [(tensor.begin, name) for name, tensor in tensors.items() if tensor.num_values == 1]
    with _opened(path) as (file, _):
        for begin, name in sorted(single):
            dtype = tensors[name].dtype
            values[name] = number(dtype, _read(file, begin, BITS[dtype] // 8))
    return values


# ---- the file


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """A regular file's descriptor and size. A pipe, a device or a socket is neither opened nor waited for."""
    try:
        _check_regular(path.stat().st_mode)
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise Broken(f"cannot be read: {_reason(error)}") from error
    try:
        info = os.fstat(file)
        _check_regular(info.st_mode)  # another file may stand there by now
        yield file, info.st_size
    except OSError as error:
        raise Broken(f"cannot be read: {_reason(error)}") from error
    finally:
        os.close(file)


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Broken("is a folder, not a file")
    if not stat.S_ISREG(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise Broken(f"is a {kind}, not a file")


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _read(file: int, begin: int, num_bytes: int) -> bytes:
    data = os.pread(file, num_bytes, begin)
    while len(data) < num_bytes:
        more = os.pread(file, num_bytes - len(data), begin + len(data))
        if not more:
            raise Broken(f"became shorter while it was read: it should have {begin + num_bytes} bytes")
        data += more
    return data


def _header_bytes(file: int, size: int) -> bytes:
    head = _read(file, 0, min(size, HEAD_BYTES))
    length = int.from_bytes(head[:8], "little")
    like_a_header = head[8:9] in (b"{", b" ", b"\t", b"\n", b"\r")
    if like_a_header and length <= min(size - 8, MAX_HEADER_BYTES):
        return _read(file, 8, length)
    if kind := find_kind(head):
        raise Broken(kind)
    if size < 8:
        raise Broken(f"has {size} bytes; a header alone has more")
    if not like_a_header and size > 8:
        raise Broken("is no safetensors file, nor of another kind that we know")
    if length > size - 8:
        raise Broken(f"is truncated: its header should have {length} bytes, the file has {size}")
    raise Broken(f"has a header of {length} bytes; we read at most {MAX_HEADER_BYTES}")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Broken(f"has a header that is not UTF-8 text (byte {8 + error.start})") from error


def _check_layout(tensors: Mapping[str, Tensor], data_begin: int, size: int) -> None:
    place = data_begin
    for _, _, begin, end in sorted(tensors.values(), key=itemgetter(2, 3)):
        if begin != place:
            raise Broken("has tensors that overlap or leave a gap")
        place = end
    if place != size:
        raise Broken(f"should have {place} bytes and has {size}: it is truncated or has something behind its end")
