"""The header of a safetensors file: one whole, sound file, or the reason why it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.contract.headers import MAX_HEADER_BYTES, Broken, read_header, read_values
from tests import fakes


def tensor(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_a_sound_file_gives_its_tensors_and_metadata(tmp_path: Path) -> None:
    file = fakes.write_lora(tmp_path / "a.safetensors", {"unet.x": (3, 5)}, rank=2, metadata={"who": "me"}, alpha=4)
    header = read_header(file)
    assert dict(header.metadata) == {"who": "me"}
    assert {name: t.shape for name, t in header.tensors.items()} == {
        "unet.x.lora_A.weight": (2, 3), "unet.x.lora_B.weight": (5, 2), "unet.x.alpha": (),
    }  # fmt: skip
    assert np.frombuffer(read_values(file, header.tensors["unet.x.alpha"]), "<f4").tolist() == [4.0]


@pytest.mark.parametrize(
    ("table", "data", "reason"),
    [
        (b"{not json", b"", "has a header that is not sound JSON (JSONDecodeError)"),
        (b'{"\xff": 1}', b"", "has a header that is not sound JSON (UnicodeDecodeError)"),
        (b'{"a":' + b"[" * 100_000, b"", "has a header that is not sound JSON (RecursionError)"),
        ([1, 2], b"", "has a header that is not a table"),
        ({"__metadata__": [1]}, b"", "has metadata that is not a table of texts"),
        ({"__metadata__": {"a": 1}}, b"", "has metadata that is not a table of texts"),
        ({"a": tensor(0, 4), "b": tensor(0, 4)}, b"1234", "has tensors that overlap or leave a gap"),
        ({"a": tensor(0, 4), "b": tensor(8, 12)}, b"1" * 12, "has tensors that overlap or leave a gap"),
        ({"a": tensor(4, 8)}, b"1" * 8, "has tensors that overlap or leave a gap"),
        ({"a": tensor(0, 4, [2])}, b"1234", "gives tensor 'a' a size that does not fit its shape"),
        ({"a": tensor(0, 4, [-1])}, b"1234", "gives tensor 'a' a size that does not fit its shape"),
        ({"a": tensor(4, 0, [1])}, b"1234", "gives tensor 'a' a size that does not fit its shape"),
        ({"a": tensor(0, 4, dtype="F33")}, b"1234", "describes tensor 'a' in a way we cannot read"),
        ({"a": tensor(0, 4, dtype=["F32"])}, b"1234", "describes tensor 'a' in a way we cannot read"),
        ({"a": tensor(0, 4, ["x"])}, b"1234", "describes tensor 'a' in a way we cannot read"),
        ({"a": tensor(0, 4, [float("inf")])}, b"1234", "describes tensor 'a' in a way we cannot read"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"1234", "describes tensor 'a' in a way we cannot read"),
        ({"a": {**tensor(0, 4), "data_offsets": [0, 2, 4]}}, b"1234", "describes tensor 'a' in a way we cannot read"),
        ({"a": 5}, b"", "describes tensor 'a' in a way we cannot read"),
    ],
)
def test_a_broken_file_says_why(tmp_path: Path, table: object, data: bytes, reason: str) -> None:
    file = fakes.write_safetensors(tmp_path / "a.safetensors", table, data)
    with pytest.raises(Broken) as broken:
        read_header(file)
    assert str(broken.value) == reason


def test_a_tensor_named_twice_is_broken(tmp_path: Path) -> None:
    entry = json.dumps(tensor(0, 4))
    file = fakes.write_safetensors(tmp_path / "a.safetensors", f'{{"a": {entry}, "a": {entry}}}'.encode(), b"1234")
    with pytest.raises(Broken, match=r"^has a header that names a tensor twice$"):
        read_header(file)


@pytest.mark.parametrize(("missing", "added"), [(1, b""), (4, b""), (0, b"x")])
def test_a_file_that_is_too_short_or_too_long_is_broken(tmp_path: Path, missing: int, added: bytes) -> None:
    data = b"1234"[: 4 - missing] + added
    file = fakes.write_safetensors(tmp_path / "a.safetensors", {"a": tensor(0, 4)}, data)
    whole = file.stat().st_size + missing - len(added)
    with pytest.raises(Broken) as broken:
        read_header(file)
    size = file.stat().st_size
    assert str(broken.value) == (
        f"should have {whole} bytes and has {size}: it is truncated or has something behind its end"
    )


def test_a_header_longer_than_its_file_is_truncated(tmp_path: Path) -> None:
    file = fakes.write_safetensors(tmp_path / "a.safetensors", {}, length=500)
    with pytest.raises(Broken, match=r"^is truncated: its header should have 500 bytes, the file has 10$"):
        read_header(file)


def test_a_header_without_end_is_not_read(tmp_path: Path) -> None:
    file = fakes.write_safetensors(tmp_path / "a.safetensors", {}, length=MAX_HEADER_BYTES + 1)
    os.truncate(file, MAX_HEADER_BYTES + 100)  # sparse: takes no room
    with pytest.raises(Broken, match=r"^has a header of 100000001 bytes; more than 100000000 is not sound$"):
        read_header(file)


@pytest.mark.parametrize("num_bytes", [0, 1, 7])
def test_a_file_shorter_than_a_length_is_broken(tmp_path: Path, num_bytes: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\0" * num_bytes)
    with pytest.raises(Broken, match=rf"^has {num_bytes} bytes; a header alone has more$"):
        read_header(tmp_path / "a.safetensors")


def test_a_broken_file_is_no_wrong_value() -> None:
    assert not issubclass(Broken, ValueError)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"^is not a file$"):
        read_header(tmp_path)


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sound") / "a.safetensors"
    return fakes.write_lora(place, {"unet.x": (3, 5)}, rank=2, metadata={"who": "me"})


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_broken(sound_file: Path, cut: float) -> None:
    data = sound_file.read_bytes()
    short = sound_file.with_name("short.safetensors")
    short.write_bytes(data[: int(cut * len(data))])
    with pytest.raises(Broken, match=r"truncated|a header alone has more"):
        read_header(short)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_header_with_one_wrong_byte_is_read_or_broken_and_never_a_crash(
    sound_file: Path, place: int, byte: int
) -> None:
    data = bytearray(sound_file.read_bytes())
    data[place % (8 + int.from_bytes(data[:8], "little"))] = byte
    wrong = sound_file.with_name("wrong.safetensors")
    wrong.write_bytes(data)
    try:
        read_header(wrong)
    except Broken as broken:
        assert "\n" not in str(broken)
