"""The promises of a store, made by every kind of it: what is put is there, itself, once, and named when it is not."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runner import store
from runner.config.tree import Storage
from runner.errors import Corrupt
from runner.store import Checked, Objects
from tests import fakes
from tests.store.server import hands, place

BIG = bytes(range(256)) * 19_532  # 5 MB
NAME = store.digest(b"x")


def checked(objects: Objects, *names: str) -> set[Checked]:
    return set(objects.check(names, num_threads=2))


@pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "one", "5MB"])
def test_what_is_put_is_there_and_itself(objects: Objects, data: bytes) -> None:
    name = objects.put(data)
    assert name == store.digest(data)
    assert (objects.get(name), objects.holds(name)) == (data, True)
    assert [(each.name, each.size) for each in objects.listing()] == [(name, len(data))]
    assert checked(objects, name) == {Checked(name, name, len(data))}


def test_the_same_bytes_are_written_once(objects: Objects) -> None:
    objects.put(b"x")
    before = list(objects.listing())
    assert objects.put(b"x") == NAME
    assert list(objects.listing()) == before


def test_an_object_lies_under_its_own_name_in_a_place_that_messages_show(objects: Objects) -> None:
    name = objects.put(b"hello")
    assert name == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert objects.place(name) == f"{objects.where}/2c/{name[2:]}"


def test_a_missing_object_is_named(objects: Objects) -> None:
    assert (objects.holds(NAME), list(objects.listing())) == (False, [])
    assert checked(objects, NAME) == {Checked(NAME, None, None)}
    with pytest.raises(Corrupt, match=rf"^- object {NAME[:12]}: is not in the store\. `python -m runner verify --all`"):
        objects.get(NAME)


@pytest.mark.parametrize("damage", [b"", b"y", b"x" * 99], ids=["empty", "altered", "longer"])
def test_a_damaged_object_is_found_and_mended_by_putting_it_again(objects: Objects, damage: bytes) -> None:
    objects.put(b"x")
    hands(objects).write(place(NAME), damage)
    found = store.digest(damage)
    assert (objects.holds(NAME), checked(objects, NAME)) == (False, {Checked(NAME, found, len(damage))})
    with pytest.raises(Corrupt, match=f"holds bytes with sha256 {found[:12]}") as error:
        objects.get(NAME)
    assert error.value.faults[0].evidence == {"expected": NAME, "found": found}
    assert (objects.put(b"x"), objects.get(NAME)) == (NAME, b"x")


def test_an_object_that_was_deleted_by_hand_is_put_again(objects: Objects) -> None:
    hands(objects).delete(place(objects.put(b"x")))
    assert not objects.holds(NAME)
    assert objects.get(objects.put(b"x")) == b"x"


def test_many_objects_are_listed_looked_at_and_checked(objects: Objects) -> None:
    names = {objects.put(b"%d" % number): len(b"%d" % number) for number in range(40)}
    listed = {each.name: each for each in objects.listing()}
    assert {name: each.size for name, each in listed.items()} == names
    assert checked(objects, *names) == {Checked(name, name, size) for name, size in names.items()}
    for look in (objects.look(1), objects.look(1000)):
        assert {name: seen and seen.size for name in names if (seen := look(name))} == names
        assert look(NAME) is None


def test_looking_shows_when_an_object_was_touched(objects: Objects) -> None:
    objects.put(b"x")
    (listed,) = objects.listing()
    seen = objects.look(1)(NAME)
    assert seen is not None
    assert abs(seen.modified_s - listed.modified_s) <= 1


def test_a_check_reads_only_a_little_ahead_of_who_listens(objects: Objects) -> None:
    asked = itertools.count()
    results = objects.check((f"{next(asked):064x}" for _ in range(100_000)), num_threads=2)
    assert next(iter(results)).found is None
    results.close()  # type: ignore[attr-defined]  # it is a generator, and the listener has heard enough
    assert next(asked) < 1000


@pytest.mark.parametrize("where", ["notes.txt", f"zz/{NAME[2:]}", f"2d/{NAME[2:10]}", f"2d/{NAME[2:].upper()}"])
def test_what_has_no_place_is_no_object(objects: Objects, where: str) -> None:
    assert place(objects.put(b"x")).startswith("2d/")
    hands(objects).write(where, b"x")
    assert [each.name for each in objects.listing()] == [NAME]
    assert list(objects.leftovers()) == []


def test_a_store_in_order_holds_its_objects_and_nothing_else(objects: Objects) -> None:
    objects.probe()
    objects.put(b"x")
    assert (hands(objects).places(), list(objects.leftovers())) == ([place(NAME)], [])
    assert objects.shared() is None


def test_what_is_no_object_is_discarded_and_an_object_never(objects: Objects) -> None:
    objects.put(b"x")
    hands(objects).write("notes.txt", b"mine")
    objects.discard("notes.txt")
    assert hands(objects).places() == [place(NAME)]
    with pytest.raises(AssertionError, match=NAME[2:]):
        objects.discard(place(NAME))


def test_removing_takes_one_object_and_may_be_said_twice(objects: Objects) -> None:
    other = objects.put(b"y")
    for _ in range(2):
        objects.remove(objects.put(b"x") if objects.holds(NAME) else NAME)
    assert (objects.holds(NAME), objects.holds(other)) == (False, True)


def test_threads_that_put_one_object_at_once_leave_one(objects: Objects) -> None:
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(objects.put, [BIG] * 4))
    assert names == {store.digest(BIG)}
    assert [each.size for each in objects.listing()] == [len(BIG)]
    assert hands(objects).places() == [place(store.digest(BIG))]


PUT_ALL = """
import sys

from pathlib import Path
from runner import store
objects = store.open_store(Path(sys.argv[1]), None)
for number in range(20):
    name = objects.put(b"%d" % number * 10_000)
    assert objects.holds(name)
"""


def test_processes_that_put_the_same_objects_at_once_leave_each_once(objects: Objects, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: fakes.python("-c", PUT_ALL, str(tmp_path / "outputs")), range(2)))
    assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 2
    names = [each.name for each in objects.listing()]
    assert (len(names), all(each.sound for each in checked(objects, *names))) == (20, True)
    assert hands(objects).places() == sorted(map(place, names))


def test_a_verb_opens_the_same_store_without_being_told_which(
    objects: Objects, storage: Storage, tmp_path: Path
) -> None:
    name = objects.put(b"x")
    opened = store.open_store(tmp_path / "outputs", None)
    assert (opened.where, opened.there(), opened.get(name)) == (objects.where, True, b"x")
    assert type(opened) is type(objects)
