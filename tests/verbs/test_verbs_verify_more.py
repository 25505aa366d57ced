"""`verify` beyond the table: any byte of truth, one run, copies, what it may not open, who else is there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import gpu, journal, store
from runner.config.tree import Storage
from runner.errors import Refused
from runner.store import Store
from runner.store.s3 import Bucket
from runner.verbs import verify as verifying
from tests import worlds
from tests.store.conftest import s3, s3_endpoint  # noqa: F401  # fixtures
from tests.verbs import small_runs
from tests.verbs.verify_world import World, copied, make_world, place, told


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("original") / "outputs")


@pytest.fixture
def world(original: World, tmp_path: Path) -> World:
    return copied(original, tmp_path / "outputs")


@given(data=st.data())
def test_any_byte_of_any_file_of_truth_that_changes_is_found_and_named(original: World, data: st.DataObject) -> None:
    files = sorted([*original.outputs.glob("runs/*/*.json*"), *original.outputs.glob("ledger/*.json*"),
                    *original.outputs.glob("objects/*/*")])  # fmt: skip
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    changed = data.draw(st.integers(0, 255).filter(lambda byte: byte != before[at]))
    try:
        path.write_bytes(before[:at] + bytes([changed]) + before[at + 1 :])
        names = {problem[1] for problem in original.verify()}
    finally:
        path.write_bytes(before)
    folder = path.parent.relative_to(original.outputs).as_posix()
    assert names & {path.parent.name + path.name, f"{folder}/{path.name}", f"{folder}/journal.jsonl"}


@pytest.mark.parametrize("byte", [b"x", b" ", b"\0", b"\n"])
@pytest.mark.parametrize("at", [0, -2, -1])
def test_the_ends_of_a_journal_are_watched_as_its_middle(world: World, at: int, byte: bytes) -> None:
    path = world.run("journal.jsonl")
    data = bytearray(path.read_bytes())
    if data[at : at + 1 or None] == byte:
        return
    data[at] = byte[0]
    path.write_bytes(data)
    assert (f"runs/{world.one}/journal.jsonl", "journal_altered") in {(p[1], p[0]) for p in world.verify()}


def test_an_untouched_world_counts_every_object_and_every_file_of_truth(world: World) -> None:
    facts = verifying.verify(world.outputs, None)
    num_objects = sum(1 for _ in Store(world.outputs / "objects").listing())
    assert facts == {"ok": True, "checked": num_objects + 4 + 2, "objects": True, "problems": [], "notes": []}


def test_one_run_answers_for_itself_alone(world: World) -> None:
    world.path(world.others[0]).unlink()
    Store(world.outputs / "objects").put(b"nobody's")
    world.path(world.images[0]).rename(world.outputs / "objects" / "a.png")
    assert world.verify(world.one) == [
        ("misplaced", world.images[0], place(world.images[0]), "objects/a.png")
    ]  # fmt: skip
    assert world.verify(world.two) == [("missing", world.others[0], place(world.others[0]), None)]


def test_a_run_without_its_manifest_can_still_be_named(world: World) -> None:
    was = journal.manifest_digest(world.run(""))
    world.run("manifest.json").unlink()
    assert world.verify(world.one) == [("missing", f"runs/{world.one}/manifest.json", was, None)]


def test_a_run_folder_that_was_copied_away_is_checked_without_a_store(world: World, tmp_path: Path) -> None:
    copy = shutil.copytree(world.run(""), tmp_path / "mine")
    facts = verifying.verify(copy, None)
    assert (facts["ok"], facts["objects"], facts["checked"]) == (True, False, 2)
    (copy / "journal.jsonl").write_bytes((copy / "journal.jsonl").read_bytes()[:-2])
    assert [(p[0], p[1]) for p in told(verifying.verify(copy, None))] == [("journal_altered", "mine/journal.jsonl")]


def test_a_copied_run_that_is_named_by_its_folder_finds_its_own_store(world: World, tmp_path: Path) -> None:
    assert told(verifying.verify(tmp_path / "none", str(world.run("")))) == []
    world.path(world.images[0]).unlink()
    (problem,) = told(verifying.verify(tmp_path / "none", str(world.run(""))))
    assert problem[:2] == ("missing", world.images[0])


def test_a_folder_that_no_run_wrote_into_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"holds no runs\. Name the outputs folder of your runs with --outputs DIR"):
        verifying.verify(tmp_path, None)


def test_outputs_with_imports_alone_are_checked(tmp_path: Path) -> None:
    name = Store(tmp_path / "objects").put(b"from outside")
    small_runs.tell(tmp_path, {"event": "imported", "object": name, "bytes": 12})
    Store(tmp_path / "objects").path(name).write_bytes(b"from outsid")
    found = store.digest(b"from outsid")
    assert told(verifying.verify(tmp_path, None)) == [("truncated", name, name, found)]


def test_a_store_that_is_a_link_to_another_disk_is_a_store(world: World, tmp_path: Path) -> None:
    (world.outputs / "objects").rename(tmp_path / "disk")
    (world.outputs / "objects").symlink_to(tmp_path / "disk")
    assert world.verify() == []
    world.path(world.images[0]).unlink()
    assert [(p[0], p[1]) for p in world.verify()] == [("missing", world.images[0])]


def test_a_record_of_storage_that_cannot_be_read_is_named(world: World) -> None:
    (world.outputs / "storage.json").write_text('{"kind": "tape"}')
    (problem,) = world.verify()
    assert problem[:3] == ("manifest_altered", "storage.json", "where the objects are")


def test_what_a_crash_left_is_noted_and_no_problem(world: World) -> None:
    with world.run("journal.jsonl").open("ab") as file:
        file.write(b'{"at":"2026')
    hidden = world.path(world.images[0]).parent / f".{'c' * 62}.0123456789ab"
    hidden.write_bytes(b"half")
    facts = verifying.verify(world.outputs, None)
    assert (facts["ok"], [(note["kind"], note["bytes"]) for note in facts["notes"]]) == (
        True, [("torn", 11), ("leftover", 4)],
    )  # fmt: skip


def test_an_object_that_a_running_run_has_stored_and_not_yet_named_is_no_orphan(world: World) -> None:
    with gpu.only_writer(world.run(""), gpu.this_process(world.one, "generator")):
        name = Store(world.outputs / "objects").put(b"soon to be named")
        assert world.verify() == []
    assert [(p[0], p[1]) for p in world.verify()] == [("orphan", name)]


def test_an_object_of_an_earlier_attempt_that_was_made_again_is_no_orphan(tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    first = run.images()[0]["digest"]
    log, _ = journal.open_log(run.folder, journal.manifest_digest(run.folder), list)
    again = Store(tmp_path / "objects").put(b"other bytes")
    key = f"image/{run.images()[0]['key']}"
    log.append({"event": "made", "key": key, "step": "s", "object": again, "bytes": 11, "facts": {}})
    assert verifying.verify(tmp_path, None)["ok"]
    Store(tmp_path / "objects").path(first).unlink()
    assert verifying.verify(tmp_path, None)["ok"]


@pytest.fixture
def as_nobody(original: World) -> Iterator[World]:
    """A world that a user without rights looks at; root reads everything."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        world = copied(original, Path(name) / "outputs")
        yield world
        os.seteuid(os.getuid())


@pytest.mark.parametrize("file", ["journal.jsonl", "seal.json", "manifest.json"])
def test_a_file_of_a_run_that_cannot_be_read_says_so(as_nobody: World, file: str) -> None:
    as_nobody.run(file).chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    found = {problem[1]: problem[3] or "" for problem in as_nobody.verify(as_nobody.one)}
    assert "Permission denied" in found[f"runs/{as_nobody.one}/{file}"]


def test_an_object_that_cannot_be_read_is_altered_and_says_so(as_nobody: World) -> None:
    name = as_nobody.images[0]
    as_nobody.path(name).chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    assert as_nobody.verify() == [("altered", name, name, "cannot be read (Permission denied)")]


def test_a_closed_folder_of_objects_names_itself_and_its_objects(as_nobody: World) -> None:
    name = as_nobody.images[0]
    as_nobody.path(name).parent.chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)
    try:
        problems = as_nobody.verify()
    finally:
        os.seteuid(os.getuid())
        as_nobody.path(name).parent.chmod(0o755)
    closed = f"objects/{name[:2]}"
    assert ("extra", closed, None, "a folder that cannot be read: Permission denied") in problems
    assert ("altered", name, name, "cannot be read (Permission denied)") in problems


# ---- a bucket


@pytest.fixture
def bucket(s3: Storage, tmp_path: Path) -> tuple[Path, Bucket, str, str]:  # noqa: F811  # the fixture
    """Outputs whose objects are in a bucket, with two imports."""
    objects = store.open_store(tmp_path, s3)
    assert isinstance(objects, Bucket)
    one, two = objects.put(b"from outside"), objects.put(b"from further")
    small_runs.tell(tmp_path, *({"event": "imported", "object": name, "bytes": 12} for name in (one, two)))
    return tmp_path, objects, one, two


def test_a_bucket_is_verified_by_the_same_words(bucket: tuple[Path, Bucket, str, str]) -> None:
    import obstore

    outputs, objects, one, two = bucket
    assert verifying.verify(outputs, None)["ok"]
    obstore.put(objects.client, f"{one[:2]}/{one[2:]}", b"short")
    obstore.delete(objects.client, f"{two[:2]}/{two[2:]}")
    obstore.put(objects.client, "notes.txt", b"mine")
    orphan = objects.put(b"nobody's")
    assert told(verifying.verify(outputs, None)) == sorted([
        ("truncated", one, one, store.digest(b"short")), ("missing", two, objects.place(two), None),
        ("extra", f"{objects.uri}/notes.txt", None, store.digest(b"mine")),
        ("orphan", orphan, "a journal line that names it", None),
    ])  # fmt: skip


def test_a_bucket_is_mended_from_what_lies_in_it(bucket: tuple[Path, Bucket, str, str]) -> None:
    import obstore

    outputs, objects, one, two = bucket
    obstore.rename(objects.client, f"{one[:2]}/{one[2:]}", "mine/a.png")
    obstore.put(objects.client, f"{two[:2]}/{two[2:]}", b"altered, and no copy")
    assert ("misplaced", one, objects.place(one), f"{objects.uri}/mine/a.png") in told(verifying.verify(outputs, None))
    facts = verifying.repair(outputs)
    assert [(act["how"], act["name"]) for act in facts["repaired"]] == [("put_back", one)]
    assert (objects.get(one), [p["kind"] for p in facts["problems"]]) == (b"from outside", ["altered", "extra"])
