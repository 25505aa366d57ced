"""Files that lie: everything a stranger may leave under a name that ends in .safetensors, and what it is called.

`FILES` are small. `BOMBS` are headers that cost a careless reader its memory or its time.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runner.contract.headers import MAX_HEADER_BYTES


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32") -> dict[str, Any]:
    """How a header describes a tensor: by default a list of float32 values."""
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def write(path: Path, header: object, data: bytes = b"", *, length: int | None = None, size: int | None = None) -> Path:
    """A file of any header, any claimed length of it, any data; `size` makes it longer with zeros that take no room."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    if size is not None:
        os.truncate(path, size)
    return path


# ---- what is no safetensors file at all: how it is made, and what it is called


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


_ZIP = b"PK\x03\x04" + bytes(26)
_FIX = ": get its .safetensors version, or convert it"
FILES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot be read: No such file or directory"),
    "folder": (lambda path: path.mkdir(), "is a folder, not a file"),
    "pipe": (os.mkfifo, "is a pipe, not a file"),
    "socket": (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "is a socket, not a file"),
    "device": (_link("/dev/zero"), "is a device, not a file"),
    "link to a folder": (_link("."), "is a folder, not a file"),
    "link to nothing": (_link("nothing"), "cannot be read: No such file or directory"),
    "link to itself": (_link("itself.safetensors"), "cannot be read: Too many levels of symbolic links"),
    "empty": (_bytes(b""), "is empty"),
    "one byte": (_bytes(b"a"), "has 1 bytes; a header alone has more"),
    "seven bytes": (_bytes(b"\x07" + bytes(6)), "has 7 bytes; a header alone has more"),
    "zeros": (_bytes(bytes(10_000)), "begins with nothing but zeros: it was not written to its end; get it again"),
    "LFS pointer": (
        _bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"),
        "is a Git LFS pointer: the file itself was not downloaded (git lfs pull)",
    ),
    "checkpoint": (_bytes(_ZIP + b"archive/data.pkl"), f"is a PyTorch checkpoint, a pickle in a zip{_FIX}"),
    "zip": (_bytes(_ZIP + b"model.safetensors"), "is a zip archive: unpack it"),
    "pickle": (_bytes(b"\x80\x02}q\x00."), f"is a pickle, such as an old PyTorch checkpoint{_FIX}"),
    "old checkpoint": (
        _bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."),
        f"is a pickle, such as an old PyTorch checkpoint{_FIX}",
    ),
    "new pickle": (_bytes(b"\x80\x04\x95" + bytes(20)), f"is a pickle, such as an old PyTorch checkpoint{_FIX}"),
    "GGUF": (_bytes(b"GGUF\x03\0\0\0" + bytes(16)), f"is a GGUF file{_FIX}"),
    "ONNX": (_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.1.0"), f"is an ONNX model{_FIX}"),
    "HDF5": (_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), f"is an HDF5 file{_FIX}"),
    "NumPy": (_bytes(b"\x93NUMPY\x01\0v\0{'descr': '<f4'}"), f"is a NumPy array{_FIX}"),
    "gzip": (_bytes(b"\x1f\x8b\x08\0" + bytes(20)), "is a compressed file: unpack it"),
    "PNG": (_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20)), "is a picture: name the file that holds the weights"),
    "JPEG": (_bytes(b"\xff\xd8\xff\xe0" + bytes(20)), "is a picture: name the file that holds the weights"),
    "WebP": (_bytes(b"RIFF\x10\0\0\0WEBPVP8 "), "is a picture: name the file that holds the weights"),
    "page": (
        _bytes(b"\n<!DOCTYPE html><html><title>Sign in</title>"),
        "is a web page: the download failed; look at it, then get the file again",
    ),
    "XML": (
        _bytes(b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
        "is a web page: the download failed; look at it, then get the file again",
    ),
    "JSON": (
        _bytes(b'{"error": "Repository not found"}'),
        "is a JSON text, perhaps an index or a server's error: look at it, then get the weights",
    ),
    "text": (_bytes(b"Entry not\nfound"), "is a text without tensors: it begins with 'Entry not found'"),
    "loud text": (
        _bytes("Entry\u00a0not \u202efound".encode()),
        "is no safetensors file, nor of another kind that we know",
    ),
    "noise": (_bytes(b"\xd3\x9e\x01" * 50), "is no safetensors file, nor of another kind that we know"),
    "byte order mark": (
        lambda path: write(path, b"\xef\xbb\xbf{}"),
        "is no safetensors file, nor of another kind that we know",
    ),
    "length alone": (
        _bytes((200).to_bytes(8, "little")),
        "is truncated: its header should have 200 bytes, the file has 8",
    ),
    "length beyond the file": (
        lambda path: write(path, {}, length=500),
        "is truncated: its header should have 500 bytes, the file has 10",
    ),
    "longest length": (
        lambda path: write(path, {}, length=2**64 - 1),
        "is truncated: its header should have 18446744073709551615 bytes, the file has 10",
    ),
    "150 MB header": (
        lambda path: write(path, {}, length=150_000_000, size=160_000_000),
        "has a header of 150000000 bytes; we read at most 12000000",
    ),
}  # fmt: skip


# ---- headers that cost memory or time


class Bomb(NamedTuple):
    """A header as long as we read: one piece again and again, numbered where it says %d; None: it is sound."""

    begin: str
    piece: str
    end: str
    reason: str | None
    num_bytes: int = MAX_HEADER_BYTES

    def write(self, path: Path) -> Path:
        size = len(self._numbered(0).encode())
        count = (self.num_bytes - len((self.begin + self.end).encode())) // size
        body = "".join(map(self._numbered, range(count))) if "%d" in self.piece else self.piece * count
        return write(path, (self.begin + body + self.end).encode())

    def _numbered(self, number: int) -> str:
        return self.piece % (1_000_000 + number) if "%d" in self.piece else self.piece


_EMPTY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
_WIDE = ',"%d\U0001f600{}":{{"dtype":"F8_E5M2","shape":[0{}],"data_offsets":[0,0]}}'
_WIDEST = _WIDE.format("n" * 113, ",300" * 15)  # with its number, 240 bytes
_SAYS = '{"__metadata__":{"a":"'
_NO_NAME = "has a header that is not sound JSON at character {}, or has a name of more than 1000"
_NO_TENSOR = "describes tensor 'a' in no sound JSON, or in more than the 1000 characters that we read"
_NUMBERS = '{"a":{"dtype":"U8","data_offsets":[0,0],"shape":['
BOMBS: Mapping[str, Bomb] = {
    "tiny tensors": Bomb("{", f'"%d":{_EMPTY},', "}", "has more than 50000 tensors; we read no more"),
    "as many tensors as we read": Bomb('{"__metadata__":{}', _WIDEST, "}", None),
    "tables of nothing": Bomb("{", '"a":{},', "}", "describes tensor 'a' in a way we cannot read"),
    "one text": Bomb(_SAYS, "a", '"}}', None),
    "one text of wide characters": Bomb(_SAYS + "\U0001f600", "a", '"}}', None),
    "one text of wide characters and an escape": Bomb(_SAYS + "\U0001f600\\n", "a", '"}}', None),
    "one text that turns wide at its end": Bomb(_SAYS, "a", '\U0001f600\\n"}}', None),
    "one text of nothing but wide characters": Bomb(_SAYS, "\U0001f600", '"}}', None),
    "one text of escapes": Bomb(_SAYS, "\\n", '"}}', None),
    "one text of escaped pairs": Bomb(_SAYS, "\\ud83d\\ude00", '"}}', None),
    "one text of half characters": Bomb(
        _SAYS, "\\ud83d", '"}}', "has a header with half a character in it (a lone surrogate)"
    ),
    "one text without an end": Bomb(_SAYS, "a", "", _NO_NAME.format(21)),
    "metadata of small entries": Bomb(
        '{"__metadata__":{', '"%d":"",', '"a":""}}', "has more than 10000 entries of metadata; we read no more"
    ),
    "metadata of lists": Bomb('{"__metadata__":{"a":[', "[],", "[]]}}", "has metadata that is not a table of texts"),
    "metadata under a long name": Bomb('{"__metadata__":{"', "a", '":""}}', _NO_NAME.format(17)),
    "a long name": Bomb('{"', "a", '":{}}', _NO_NAME.format(1)),
    "a long name of escapes": Bomb('{"', "\\n", '":{}}', _NO_NAME.format(1)),
    "brackets": Bomb(" ", "[", "", "has a header that is not a table"),
    "spaces": Bomb(" ", " ", "", "has a header that is not a table"),
    "spaces behind": Bomb("{}", " ", "", None),
    "spaces, then more": Bomb("{}", " ", "x", _NO_NAME.format(2)),
    "a tensor of brackets": Bomb('{"a":', "[", "", _NO_TENSOR),
    "a tensor of tables": Bomb("{", '"a":{', "", _NO_TENSOR),
    "a shape without end": Bomb(_NUMBERS, "0,", "", _NO_TENSOR),
    "a shape of long numbers": Bomb(_NUMBERS, "123456789,", "", _NO_TENSOR),
    "a number without end": Bomb(_NUMBERS, "9", "]}}", _NO_TENSOR),
    "a table without end under another key": Bomb('{"a":{"x":{', '"a":{},', '"a":0}}}', _NO_TENSOR),
    "a text without end under another key": Bomb('{"a":{"x":"', "a", '"}}', _NO_TENSOR),
    "99 MB of tiny tensors": Bomb(
        "{", f'"a":{_EMPTY},', "}", "has a header of 98999994 bytes; we read at most 12000000", 99_000_000
    ),
}
