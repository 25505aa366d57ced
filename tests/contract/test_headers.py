"""The header of a safetensors file: one whole, sound file, or the reason why it is not."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.contract.header_table import BITS
from runner.contract.headers import Broken, Header, Tensor, read_header, read_scalar, read_scalars, read_values
from tests import fakes
from tests.contract import hostile
from tests.contract.hostile import entry, write

MAX_MIB = 200  # of the whole process, with the interpreter and what the command line imports


def reason(path: Path) -> str | None:
    """Why a file is broken; None when it is sound. Any other exception than Broken fails the test."""
    try:
        read_header(path)
    except Broken as broken:
        return str(broken)
    return None


# ---- sound files


def test_a_sound_file_gives_its_tensors_and_metadata(tmp_path: Path) -> None:
    file = fakes.write_lora(tmp_path / "a.safetensors", {"unet.x": (3, 5)}, rank=2, metadata={"who": "me"}, alpha=4)
    header = read_header(file)
    assert dict(header.metadata) == {"who": "me"}
    assert {name: t.shape for name, t in header.tensors.items()} == {
        "unet.x.lora_A.weight": (2, 3), "unet.x.lora_B.weight": (5, 2), "unet.x.alpha": (),
    }  # fmt: skip
    assert np.frombuffer(read_values(file, header.tensors["unet.x.alpha"]), "<f4").tolist() == [4.0]


def test_a_tensor_knows_where_it_lies_and_how_many_values_it_has(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", {"b": entry(8, 32, [2, 3]), "a": entry(0, 8, [], "F64")}, bytes(32))
    begin = file.stat().st_size - 32
    tensors = read_header(file).tensors
    assert tensors == {"b": Tensor("F32", (2, 3), begin + 8, begin + 32), "a": Tensor("F64", (), begin, begin + 8)}
    assert [tensors[name].num_values for name in "ab"] == [1, 6]


def test_a_broken_file_is_no_wrong_value() -> None:
    assert not issubclass(Broken, ValueError)


# ---- what is no safetensors file


@pytest.mark.parametrize("name", hostile.FILES)
def test_a_file_that_is_something_else_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    make, said = hostile.FILES[name]
    make(path := tmp_path / "itself.safetensors")
    assert reason(path) == said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_broken(tmp_path: Path) -> None:
    write(path := tmp_path / "a.safetensors", {}).chmod(0)
    assert reason(path) == "cannot be read: Permission denied"


@pytest.mark.parametrize(("name", "said"), [("a\0b", "embedded null byte"), ("a" * 300, "File name too long")])
def test_a_name_that_no_file_can_have_is_broken(tmp_path: Path, name: str, said: str) -> None:
    assert reason(tmp_path / name) == f"cannot be read: {said}"


# ---- unsound headers

SIZE = "gives tensor 'a' a size that does not fit its shape"
UNREAD = "describes tensor 'a' in a way we cannot read"
OVERLAP = "has tensors that overlap or leave a gap"
TEXTS = "has metadata that is not a table of texts"
HALF = "has a header with half a character in it (a lone surrogate)"
FOUR = b'"dtype":"F32","shape":[1],"data_offsets":[0,4]'  # of the data b"1234"


def no_json(character: int) -> str:
    return f"has a header that is not sound JSON at character {character}"


@pytest.mark.parametrize(
    ("table", "data", "said"),
    [
        (b"{not json", b"", no_json(1)),
        (b"{}x", b"", no_json(2)),
        (b"{}\0", b"", no_json(2)),
        (b"{", b"", no_json(1)),
        (b"{1:2}", b"", no_json(1)),
        (b'{"a\\x41":{}}', b"", no_json(1)),
        (b'{"a":{%s},}' % FOUR, b"1234", no_json(53)),
        (b'{"a\0":{}}', b"", no_json(1)),
        (b'{"\xff": 1}', b"", "has a header that is not UTF-8 text (byte 10)"),
        (b'{"a":{"x', b"", "describes tensor 'a' in no sound JSON"),
        (b'{"a":' + b"[" * 900, b"", "describes tensor 'a' in no sound JSON"),
        (b" [1]", b"", "has a header that is not a table"),
        (b' "a"', b"", "has a header that is not a table"),
        ({"__metadata__": [1]}, b"", TEXTS),
        ({"__metadata__": "a"}, b"", TEXTS),
        ({"__metadata__": {"a": 1}}, b"", TEXTS),
        ({"__metadata__": {"a": None}}, b"", TEXTS),
        ({"__metadata__": {"a": {}}}, b"", TEXTS),
        (b'{"__metadata__":{"a":"\\ud800"}}', b"", HALF),
        (b'{"__metadata__":{"\\udc00":""}}', b"", HALF),
        (b'{"\\ud800":{%s}}' % FOUR, b"1234", HALF),
        ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234", OVERLAP),
        ({"a": entry(0, 8), "b": entry(4, 12)}, b"1" * 12, OVERLAP),
        ({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12, OVERLAP),
        ({"a": entry(0, 4), "b": entry(2, 2, [0])}, b"1234", OVERLAP),
        ({"a": entry(4, 8)}, b"1" * 8, OVERLAP),
        ({"a": entry(2**63, 2**63 + 4)}, b"1234", OVERLAP),
        ({"a": entry(0, 4, [2])}, b"1234", SIZE),
        ({"a": entry(0, 4, [-1])}, b"1234", SIZE),
        ({"a": entry(0, 4, [-1, -1])}, b"1234", SIZE),
        ({"a": entry(-4, 0)}, b"1234", SIZE),
        ({"a": entry(4, 0, [1])}, b"1234", SIZE),
        ({"a": entry(4, 0, [0])}, b"1234", SIZE),
        ({"a": entry(0, 1, [1], "F4")}, b"1", SIZE),
        ({"a": entry(0, 0, [2**63, 4, 0])}, b"", SIZE),
        ({"a": entry(0, 0, [0, 2**64])}, b"", SIZE),
        ({"a": entry(0, 4, dtype="F33")}, b"1234", UNREAD),
        ({"a": entry(0, 4, dtype=["F32"])}, b"1234", UNREAD),
        ({"a": entry(0, 4, ["x"])}, b"1234", UNREAD),
        ({"a": entry(0, 4, [True])}, b"1234", UNREAD),
        ({"a": entry(0, 4, [1.0])}, b"1234", UNREAD),
        ({"a": entry(0, 4, [None])}, b"1234", UNREAD),
        ({"a": entry(0, 4, [float("nan")])}, b"1234", UNREAD),
        ({"a": entry(0, 4, [float("inf")])}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "shape": {}}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "shape": "1"}}, b"1234", UNREAD),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "data_offsets": [0, 2, 4]}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "data_offsets": ["0", "4"]}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "data_offsets": [False, 4]}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "data_offsets": "04"}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "x": float("nan")}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "x": "\ud800"}}, b"1234", UNREAD),
        ({"a": {**entry(0, 4), "x": 10**400}}, b"1234", UNREAD),
        (b'{"a":{%s,"x":1e999}}' % FOUR, b"1234", UNREAD),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0,4]}}', b"1234", UNREAD),
        (b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', b"", UNREAD),
        ({"a": 5}, b"", UNREAD),
        ({"a": None}, b"", UNREAD),
        ({"a": []}, b"", UNREAD),
        ({"a": {}}, b"", UNREAD),
        ({"a": "dtype"}, b"", UNREAD),
    ],
)
def test_a_broken_header_says_why(tmp_path: Path, table: object, data: bytes, said: str) -> None:
    assert reason(write(tmp_path / "a.safetensors", table, data)) == said
    assert not accepted(tmp_path / "a.safetensors"), "safetensors accepts it; then it belongs to STRICTER"


@pytest.mark.parametrize(("missing", "added"), [(1, b""), (4, b""), (0, b"x")])
def test_a_file_that_is_too_short_or_too_long_is_broken(tmp_path: Path, missing: int, added: bytes) -> None:
    file = write(tmp_path / "a.safetensors", {"a": entry(0, 4)}, b"1234"[: 4 - missing] + added)
    size = file.stat().st_size
    whole = size + missing - len(added)
    assert reason(file) == f"should have {whole} bytes and has {size}: it is truncated or has something behind its end"


def test_a_name_from_a_file_cannot_steer_the_terminal_or_fill_it(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", {"\x1b[2J\n\u202e" + "a" * 500: 5})
    said = reason(file)
    assert said is not None
    assert said.startswith("describes tensor '\\x1b[2J\\n\\u202eaaaa")
    assert (said.isprintable(), len(said) < 150) == (True, True)


# ---- the same answers as safetensors itself


def accepted(path: Path) -> bool:
    """Whether safetensors opens a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file is not None
    except SafetensorError:
        return False


def as_safetensors_reads(path: Path) -> tuple[dict[str, tuple[str, list[int]]], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it has no __iter__
        return {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}, file.metadata() or {}


def as_we_read(header: Header) -> tuple[dict[str, tuple[str, list[int]]], dict[str, str]]:
    return {name: (t.dtype, list(t.shape)) for name, t in header.tensors.items()}, dict(header.metadata)


def assert_same_answer(path: Path) -> None:
    said = reason(path)
    if said is None:
        assert accepted(path)
        assert as_we_read(read_header(path)) == as_safetensors_reads(path)
    else:
        stricter = said.endswith("twice") or b"-0" in path.read_bytes()  # see STRICTER
        assert stricter or not accepted(path), said


@pytest.mark.parametrize(
    ("table", "data"),
    [
        (b"{}", b""),
        (b" \n\t\r{ \n\t\r} \n\t\r", b""),
        (b'{"__metadata__":null}', b""),
        (b'{"__metadata__":{}}', b""),
        (b'{"__metadata__":{"a":"\\ud83d\\ude00\x7f\\u0000"}}', b""),
        (b'{"__metadat\\u0061__":{"dtype":"F32"}}', b""),
        (b'{"a\\u0000\\"\xc3\xa9":{%s}}' % FOUR, b"1234"),
        (b'{"":{%s}}' % FOUR, b"1234"),
        (b'{ "a" : { "data_offsets" : [ 0 , 4 ] , "shape" : [ ] , "\\u0064type" : "F32" } }', b"1234"),
        (b'{"a":{%s,"x":[{"y":"}"},-0.5,true,null]}}' % FOUR, b"1234"),
        (b'{"a":{%s,"x":%s}}' % (FOUR, b"[" * 125 + b"]" * 125), b"1234"),
        ({"a": entry(0, 0, [0]), "b": entry(0, 0, [0, 3]), "c": entry(0, 4), "d": entry(4, 4, [0])}, b"1234"),
        ({"a": entry(0, 0, [0, 2**64 - 1, 2**64 - 1])}, b""),
        ({"b": entry(4, 8), "a": entry(0, 4)}, b"12345678"),
        *[({"a": entry(0, bits, [8], dtype)}, bytes(bits)) for dtype, bits in BITS.items()],
        *[({"a": entry(0, 64, [512 // bits], dtype)}, bytes(64)) for dtype, bits in BITS.items() if 512 % bits == 0],
    ],
)
def test_what_safetensors_accepts_is_accepted(tmp_path: Path, table: object, data: bytes) -> None:
    path = write(tmp_path / "a.safetensors", table, data)
    assert accepted(path)
    assert as_we_read(read_header(path)) == as_safetensors_reads(path)


STRICTER: dict[str, tuple[object, str]] = {
    "a tensor that is there twice": (
        b'{"a":{%s},"a":{%s}}' % (FOUR, FOUR), "has a header that names 'a' twice",
    ),
    "metadata with a key twice": (
        b'{"__metadata__":{"x":"","x":""},"a":{%s}}' % FOUR, "has metadata that names 'x' twice",
    ),
    "an unknown key of a tensor that is there twice": (
        b'{"a":{%s,"x":1,"x":1}}' % FOUR, "describes tensor 'a' with a key that is there twice",
    ),
    "a tensor described by a list": (b'{"a":["F32",[1],[0,4]]}', UNREAD),
    "a dtype written as a table": ({"a": entry(0, 4, [1], {"F32": None})}, UNREAD),
    "minus zero under an unknown key": (b'{"a":{%s,"x":-0}}' % FOUR, UNREAD),
    "many brackets under an unknown key": ({"a": {**entry(0, 4), "x": [[]] * 125}}, UNREAD),
    "300 digits in a text under an unknown key": ({"a": {**entry(0, 4), "x": "1" * 300}}, UNREAD),
    "a long name": ({"a" * 1000: entry(0, 4)}, f"{no_json(1)}, or has a name of more than 1000"),
    "a long description": (
        {"a": {"x": "1" * 1000, **entry(0, 4)}},
        "describes tensor 'a' in no sound JSON, or in more than the 1000 characters that we read",
    ),
    "17 dimensions": ({"a": entry(0, 4, [1] * 17)}, "gives tensor 'a' 17 dimensions; we read at most 16"),
    "10,001 texts": (
        {"a": entry(0, 4), "__metadata__": {str(number): "" for number in range(10_001)}},
        "has more than 10000 entries of metadata; we read no more",
    ),
    "50,001 tensors": (
        {"a": entry(0, 4), **{f"{number}": entry(4, 4, [0]) for number in range(50_000)}},
        "has more than 50000 tensors; we read no more",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRICTER)
def test_we_are_stricter_than_safetensors_on_purpose(tmp_path: Path, name: str) -> None:
    table, said = STRICTER[name]
    path = write(tmp_path / "a.safetensors", table, b"1234")
    assert accepted(path)
    assert reason(path) == said


TOKENS = (
    "0", "1", "2", "4", "8", "00", "-0", "-1", "1.0", "1e0", "true", "null", '"1"', "[]", "{}", "NaN", "Infinity",
    "18446744073709551615", "18446744073709551616", "9" * 310, "",
)  # fmt: skip
VALUES = (
    *TOKENS, "[0,4]", "[4,8]", "[0,0]", "[1,1]", "[0,4,4]", '"F33"', '"F4"', '"I64"', '"\\ud800"', '"\\ud83d\\ude00"',
    '"é"', '"\\u00e9"', '"\\x"', '{"x":"}"}', '[{"x":1},"]"]', "[1e999]",
)  # fmt: skip
KEYS = ("dtype", "shape", "data_offsets", "x", "__metadata__", "\\u0064type", "\\ud800", "é", "")


@st.composite
def almost_sound_headers(draw: st.DrawFn) -> tuple[str, int]:
    """A header with the size of its data: sound, but for a few changes that may or may not break it."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c.d", "é", "\\u0000", "\\ud83d\\ude00", ""]), unique=True))
    tensors: list[tuple[str, dict[str, str]]] = []
    place = 0
    for name in names:
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(st.lists(st.sampled_from([0, 1, 2, 4, 8]), max_size=3))
        size = int(np.prod([1, *shape])) * BITS[dtype] // 8
        offsets = f"[{place},{place + size}]"
        tensors.append((name, {"dtype": f'"{dtype}"', "shape": json.dumps(shape), "data_offsets": offsets}))
        place += size
    for _, table in draw(st.lists(st.sampled_from(tensors), max_size=2)) if tensors else []:
        table[draw(st.sampled_from(KEYS))] = draw(st.sampled_from(VALUES))
    space = draw(st.sampled_from(["", "", " ", "\n\t", "\r"]))
    pairs = [(name, _table(table.items(), space)) for name, table in draw(st.permutations(tensors))]
    if draw(st.booleans()):
        pairs.append(("__metadata__", draw(st.sampled_from(['{"a":"b"}', '{"a":"\\udc00"}', '{"é":"\\n"}', *VALUES]))))
    behind = draw(st.sampled_from(["", "", "   ", "\n", "x", "\0", ","]))
    return _table(pairs, space) + behind, max(0, place + draw(st.sampled_from([0, 0, 0, -1, 1])))


def _table(pairs: Any, space: str) -> str:
    return "{" + ",".join(f'{space}"{name}"{space}:{space}{value}{space}' for name, value in pairs) + "}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "a.safetensors"


@settings(max_examples=300)
@given(case=almost_sound_headers())
def test_an_almost_sound_header_gets_the_same_answer_as_from_safetensors(place: Path, case: tuple[str, int]) -> None:
    header, num_bytes = case
    assert_same_answer(write(place, header.encode(), bytes(num_bytes)))


# ---- damage


@pytest.fixture(scope="module")
def sound_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "a.safetensors"
    said = {"who": "me\n\u00e9\U0001f600", "ss_tag": '{"a": 1}'}
    return fakes.write_lora(path, {"unet.x": (3, 5)}, rank=2, metadata=said, alpha=1).read_bytes()


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_broken(place: Path, sound_bytes: bytes, cut: float) -> None:
    place.write_bytes(sound_bytes[: int(cut * len(sound_bytes))])
    with pytest.raises(Broken, match=r"truncated|a header alone has more|is empty"):
        read_header(place)


@settings(max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_header_with_wrong_bytes_gets_the_same_answer_as_from_safetensors(
    place: Path, sound_bytes: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(sound_bytes)
    header_end = 8 + int.from_bytes(data[:8], "little")
    for where, byte in changes:
        data[where % header_end] = byte
    place.write_bytes(data)
    assert_same_answer(place)


@settings(max_examples=200)
@given(data=st.binary(max_size=600), begin=st.sampled_from([b"", b"\x20" + bytes(7), b"\x20" + bytes(7) + b'{"a":']))
def test_noise_is_broken_with_one_line_that_can_be_printed(place: Path, data: bytes, begin: bytes) -> None:
    place.write_bytes(begin + data)
    said = reason(place)
    assert said is not None
    assert said.isprintable()


# ---- headers that cost memory

READER = """
import sys
from pathlib import Path

import runner.verbs.app
from runner.contract.headers import Broken, read_header

for line in sys.stdin:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    try:
        read_header(Path(line.rstrip()))
        said = ""
    except Broken as broken:
        said = str(broken)
    peak_kib = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    print(int(peak_kib) // 1024, said, flush=True)
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    """One process that reads what it is told to and says its own peak: that of `getrusage` holds its parent's too."""
    home = {**os.environ, "PYTHONPATH": str(fakes.ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", READER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=home) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is asked of Linux")
@pytest.mark.parametrize("name", hostile.BOMBS)
def test_a_header_that_would_fill_the_memory_does_not(place: Path, reader: subprocess.Popen[str], name: str) -> None:
    bomb = hostile.BOMBS[name]
    bomb.write(place)
    assert reader.stdin is not None
    assert reader.stdout is not None
    print(place, file=reader.stdin, flush=True)
    peak_mib, _, said = reader.stdout.readline().rstrip("\n").partition(" ")
    assert said == (bomb.reason or "")
    assert int(peak_mib) < MAX_MIB


# ---- scalars


def scalar(place: Path, dtype: str, raw: bytes, shape: list[int] | None = None) -> float | None:
    path = write(place, {"a": entry(0, len(raw), shape or [], dtype)}, raw)
    return read_scalar(path, read_header(path).tensors["a"])


@pytest.mark.parametrize(
    ("dtype", "raw", "value"),
    [
        ("F64", struct.pack("<d", 0.1), 0.1),
        ("F32", struct.pack("<f", -2.5), -2.5),
        ("F16", struct.pack("<e", 16), 16.0),
        ("BF16", b"\x80\x3f", 1.0),
        ("BF16", b"\x00\xc1", -8.0),
        ("F8_E4M3", b"\x38", 1.0),
        ("F8_E4M3", b"\x7e", 448.0),
        ("F8_E4M3", b"\xfe", -448.0),
        ("F8_E4M3", b"\x01", 2.0**-9),
        ("F8_E4M3", b"\x08", 2.0**-6),
        ("F8_E4M3", b"\x00", 0.0),
        ("F8_E5M2", b"\x3c", 1.0),
        ("F8_E5M2", b"\x7b", 57344.0),
        ("F8_E5M2", b"\x01", 2.0**-16),
        ("I8", b"\xff", -1.0),
        ("I16", b"\x00\x80", -32768.0),
        ("I32", struct.pack("<i", 64), 64.0),
        ("I64", struct.pack("<q", -5), -5.0),
        ("U8", b"\xff", 255.0),
        ("U16", b"\x10\x00", 16.0),
        ("U32", struct.pack("<I", 2**32 - 1), 4294967295.0),
        ("U64", struct.pack("<Q", 2**63), 2.0**63),
        ("BOOL", b"\x01", 1.0),
        ("BOOL", b"\x00", 0.0),
        ("F64", struct.pack("<d", float("nan")), None),
        ("F32", struct.pack("<f", float("inf")), None),
        ("F16", struct.pack("<e", float("-inf")), None),
        ("BF16", b"\xc0\x7f", None),
        ("F8_E4M3", b"\x7f", None),
        ("F8_E4M3", b"\xff", None),
        ("F8_E5M2", b"\x7c", None),
        ("F8_E5M2", b"\x7e", None),
        ("F8_E8M0", b"\x7f", None),
        ("F8_E4M3FNUZ", b"\x40", None),
        ("F8_E5M2FNUZ", b"\x40", None),
        ("C64", bytes(8), None),
    ],
)
def test_a_scalar_of_every_dtype_is_read_or_is_none(place: Path, dtype: str, raw: bytes, value: float | None) -> None:
    assert scalar(place, dtype, raw) == value
    assert scalar(place, dtype, raw, [1, 1]) == value


@pytest.mark.parametrize("shape", [[2], [0], [1, 2]])
def test_a_tensor_of_more_or_less_than_one_value_has_no_scalar(place: Path, shape: list[int]) -> None:
    assert scalar(place, "F32", bytes(4 * int(np.prod(shape))), shape) is None


def test_many_scalars_are_read_by_name_whatever_their_order(tmp_path: Path) -> None:
    numbers = np.arange(1000, dtype="<f4")
    table = {f"{n}.alpha": entry(4 * n, 4 * n + 4, []) for n in reversed(range(1000))}
    path = write(tmp_path / "a.safetensors", table, numbers.tobytes())
    found = read_scalars(path, read_header(path).tensors)
    assert found == {f"{n}.alpha": float(n) for n in range(1000)}
    assert list(found) == list(table)


def test_a_file_that_became_shorter_is_broken_when_its_values_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"a": entry(0, 4)}, b"1234")
    tensor = read_header(path).tensors["a"]
    os.truncate(path, tensor.begin + 3)
    said = rf"^became shorter while it was read: it should have {tensor.end} bytes$"
    with pytest.raises(Broken, match=said):
        read_scalar(path, tensor)
    with pytest.raises(Broken, match=said):
        read_values(path, tensor)


def test_a_file_that_is_gone_is_broken_when_its_values_are_read(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"^cannot be read: No such file or directory$"):
        read_scalars(tmp_path / "a.safetensors", {"a": Tensor("F32", (), 100, 104)})
