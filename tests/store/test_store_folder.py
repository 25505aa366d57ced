"""The canonical form, and the folder of objects: never half there, whatever the disk does."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import store
from runner.errors import Failed
from runner.store import Checked, Store

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def objects(tmp_path: Path) -> Store:
    return Store(tmp_path / "objects")


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# ---- the canonical form


@pytest.mark.parametrize(
    ("value", "data", "digest"),
    [
        ({}, b"{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        ([], b"[]", "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"),
        (
            {"b": 1, "a": [1.5, "é", None, True]},
            '{"a":[1.5,"é",null,true],"b":1}'.encode(),
            "22fae1fa0fcfe9da59b204fe012a36bdc483630af84576a15afd90fa605533c3",
        ),
    ],
)
def test_a_value_has_one_byte_form_and_one_digest(value: object, data: bytes, digest: str) -> None:
    assert store.canonical(value) == data
    assert store.digest_of(value) == digest


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_json_cannot_say_has_no_canonical_form(value: object) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        store.canonical(value)


@given(JSON)
def test_the_canonical_form_reads_back_as_the_value(value: Any) -> None:
    assert json.loads(store.canonical(value)) == value
    assert store.canonical(json.loads(store.canonical(value))) == store.canonical(value)


@given(st.dictionaries(st.text(max_size=4), st.integers(), min_size=2, max_size=4))
def test_the_order_of_keys_changes_no_digest(value: dict[str, int]) -> None:
    assert store.digest_of(dict(reversed(value.items()))) == store.digest_of(value)


# ---- the folder


@settings(max_examples=10)
@given(st.lists(st.binary(max_size=8), max_size=4))
def test_what_was_put_is_got_and_held(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        objects = Store(Path(folder))
        names = [objects.put(data) for data in pieces]
        assert [objects.get(name) for name in names] == pieces
        assert all(map(objects.holds, names))
        assert [name.replace("/", "") for name in files(Path(folder))] == sorted(set(names))


def test_the_same_bytes_are_written_once(objects: Store) -> None:
    name = objects.put(b"x")
    before = objects.path(name).stat()
    assert objects.put(b"x") == name
    assert objects.path(name).stat().st_ino == before.st_ino


def test_a_hidden_neighbour_of_an_unfinished_write_is_in_nobodys_way(objects: Store) -> None:
    path = objects.path(store.digest(b"x"))
    path.parent.mkdir(parents=True)
    path.with_name(f".{path.name}.left-behind").write_bytes(b"half")
    assert not objects.holds(store.digest(b"x"))
    assert objects.get(objects.put(b"x")) == b"x"
    (left,) = objects.leftovers()
    assert (left.place, left.size) == (f"2d/.{path.name}.left-behind", 4)
    objects.discard(left.place)
    assert list(objects.leftovers()) == []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_object_and_nobody_waits_for_it(objects: Store, make: Callable[[Path], None]) -> None:
    name = store.digest(b"x")
    objects.path(name).parent.mkdir(parents=True)
    make(objects.path(name))
    assert not objects.holds(name)
    assert list(objects.check([name], 1)) == [Checked(name, None, None, "is no file")]
    assert (objects.look(1)(name), list(objects.listing())) == (None, [])


def test_a_file_where_a_folder_of_objects_belongs_holds_none(objects: Store) -> None:
    name = objects.put(b"x")
    (objects.root / "2e").write_bytes(b"")
    assert ([each.name for each in objects.listing()], objects.holds("2e" + "0" * 62)) == ([name], False)


def test_a_link_to_anothers_folder_of_objects_lists_none_of_them(objects: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    name = other.put(b"x")
    objects.probe()
    (objects.root / "2d").symlink_to(other.path(name).parent)
    assert list(objects.listing()) == []


def test_a_folder_of_objects_that_is_a_link_may_be_anothers_too(objects: Store, tmp_path: Path) -> None:
    assert objects.shared() is None
    objects.root.symlink_to(tmp_path / "elsewhere")
    assert str(objects.shared()) == (
        f"{objects.root} is a link: this store also belongs to another outputs folder: gc would remove what its runs "
        "name. Name the outputs folder that the objects lie in with --outputs DIR, or move them here in place of the "
        "link."
    )


def test_an_empty_or_missing_store_lists_nothing(objects: Store) -> None:
    assert (list(objects.listing()), list(objects.leftovers()), objects.there()) == ([], [], False)
    objects.probe()
    assert (list(objects.listing()), list(objects.leftovers()), objects.there()) == ([], [], True)


# ---- a disk that lets go


def full(*words: Any, **more: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped(*words: Any, **more: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "rename")])
def test_a_full_disk_leaves_no_object_and_no_neighbour(
    objects: Store, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(Failed, match=r"cannot be written \(No space left on device\)\. Free space or mend") as error:
        objects.put(b"x")
    assert error.value.kind == "storage"
    assert files(objects.root) == []


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "rename")])
def test_a_stop_between_write_and_rename_leaves_no_object(
    objects: Store, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt, match=r"^$"):
        broken.setattr(owner, name, stopped)
        objects.put(b"x")
    assert not objects.holds(store.digest(b"x"))
    assert objects.get(objects.put(b"x")) == b"x"


def test_a_folder_that_cannot_be_made_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Failed, match=r"cannot be written \(Not a directory\)"):
        Store(tmp_path / "file" / "objects").put(b"x")


@pytest.mark.parametrize("broken", [full, stopped])
def test_a_durable_write_keeps_the_old_bytes_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[..., None]
) -> None:
    store.write_durably(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises((OSError, KeyboardInterrupt), match=r"No space left|^$"):
        store.write_durably(tmp_path / "a", b"new")
    assert ((tmp_path / "a").read_bytes(), files(tmp_path)) == (b"old", ["a"])
