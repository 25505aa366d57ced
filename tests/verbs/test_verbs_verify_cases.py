"""`verify` against what hands and disks do to an outputs folder: each manipulation with exactly its problems."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import journal, store
from runner.store import Store
from tests.verbs.verify_world import Told, World, copied, make_world, place

LINE = "a journal line that names it"
CHAIN = "an unbroken chain"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("original") / "outputs")


@pytest.fixture
def world(original: World, tmp_path: Path) -> World:
    return copied(original, tmp_path / "outputs")


CASES: dict[str, Callable[[World], list[Told]]] = {}


def case(function: Callable[[World], list[Told]]) -> Callable[[World], list[Told]]:
    CASES[function.__name__] = function
    return function


# ---- objects


@case
def nothing_happened(world: World) -> list[Told]:
    return []


@case
def an_object_is_deleted(world: World) -> list[Told]:
    world.path(world.images[0]).unlink()
    return [("missing", world.images[0], place(world.images[0]), None)]


@case
def a_deleted_object_whose_copy_is_in_a_gallery_is_missing(world: World) -> list[Told]:
    world.path(world.images[1]).unlink()
    return [("missing", world.images[1], place(world.images[1]), None)]


@case
def an_imported_object_is_deleted(world: World) -> list[Told]:
    world.path(world.imported).unlink()
    return [("missing", world.imported, place(world.imported), None)]


@case
def an_object_with_a_tombstone_is_gone(world: World) -> list[Told]:
    world.path(world.deleted).unlink()
    return []


@case
def an_object_with_a_tombstone_is_altered(world: World) -> list[Told]:
    world.path(world.deleted).write_bytes(b"deleted, and still ther?")
    return [("altered", world.deleted, world.deleted, store.digest(b"deleted, and still ther?"))]


@case
def one_bit_of_an_object_is_flipped(world: World) -> list[Told]:
    data = bytearray(world.data(world.images[2]))
    data[len(data) // 2] ^= 1
    world.path(world.images[2]).write_bytes(data)
    return [("altered", world.images[2], world.images[2], store.digest(bytes(data)))]


@case
def an_object_loses_its_last_byte(world: World) -> list[Told]:
    data = world.data(world.images[0])[:-1]
    world.path(world.images[0]).write_bytes(data)
    return [("truncated", world.images[0], world.images[0], store.digest(data))]


@case
def an_object_is_empty(world: World) -> list[Told]:
    world.path(world.images[0]).write_bytes(b"")
    return [("truncated", world.images[0], world.images[0], store.digest(b""))]


@case
def an_object_has_a_byte_more(world: World) -> list[Told]:
    data = world.data(world.images[0]) + b"\n"
    world.path(world.images[0]).write_bytes(data)
    return [("altered", world.images[0], world.images[0], store.digest(data))]


@case
def an_object_is_renamed_in_its_folder(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.path(lost).parent / "copy.png")
    return [("misplaced", lost, place(lost), f"objects/{lost[:2]}/copy.png")]


@case
def an_object_gets_a_name_in_capitals(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.path(lost).parent / lost[2:].upper())
    return [("misplaced", lost, place(lost), f"objects/{lost[:2]}/{lost[2:].upper()}")]


@case
def an_object_is_moved_to_another_objects_place(world: World) -> list[Told]:
    lost, there = world.images[0], "0" * 64
    world.path(there).parent.mkdir(exist_ok=True)
    world.path(lost).rename(world.path(there))
    return [("misplaced", lost, place(lost), place(there))]


@case
def an_object_is_moved_to_the_top_of_the_store(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.outputs / "objects" / lost)
    return [("misplaced", lost, place(lost), f"objects/{lost}")]


@case
def an_object_is_moved_into_a_new_folder_of_the_store(world: World) -> list[Told]:
    lost, folder = world.images[0], world.outputs / "objects" / "mine" / "best"
    folder.mkdir(parents=True)
    world.path(lost).rename(folder / "a.png")
    return [("misplaced", lost, place(lost), "objects/mine/best/a.png")]


@case
def an_object_is_moved_into_a_run_folder(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.run("a.png"))
    return [("misplaced", lost, place(lost), f"runs/{world.one}/a.png")]


@case
def an_object_is_moved_into_an_exported_gallery(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.outputs / "exports" / world.one / "b.png")
    return [("misplaced", lost, place(lost), f"exports/{world.one}/b.png")]


@case
def an_object_is_moved_to_the_root_of_the_outputs(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.outputs / "a.png")
    return [("misplaced", lost, place(lost), "a.png")]


@case
def an_object_is_hidden_beside_its_place(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).rename(world.path(lost).parent / f".{lost[2:]}.0123456789ab")
    return [("misplaced", lost, place(lost), f"objects/{lost[:2]}/.{lost[2:]}.0123456789ab")]


@case
def two_objects_change_places(world: World) -> list[Told]:
    a, b = world.images[:2]
    first, second = world.data(a), world.data(b)
    world.path(a).write_bytes(second)
    world.path(b).write_bytes(first)
    return [("misplaced", a, place(a), place(b)), ("misplaced", b, place(b), place(a))]


@case
def an_object_is_moved_over_another(world: World) -> list[Told]:
    a, b = world.images[:2]
    world.path(a).rename(world.path(b))
    return [("altered", b, b, a), ("misplaced", a, place(a), place(b))]


@case
def an_object_is_copied_over_another(world: World) -> list[Told]:
    a, b = world.images[0], max(world.others, key=lambda digest: len(world.data(digest)))
    shutil.copy(world.path(a), world.path(b))
    short = len(world.data(a)) < journal_bytes(world, b)
    return [("truncated" if short else "altered", b, b, a)]


def journal_bytes(world: World, digest: str) -> int:
    items = journal.read_run(world.run("", world.two)).state.items.values()
    return next(int(item.bytes or 0) for item in items if item.object == digest)


@case
def an_object_is_copied_beside_itself(world: World) -> list[Told]:
    there = "objects/copy.png"
    shutil.copy(world.path(world.images[0]), world.outputs / there)
    return [("extra", there, None, world.images[0])]


@case
def an_object_is_copied_to_another_objects_place(world: World) -> list[Told]:
    there = "0" * 64
    world.path(there).parent.mkdir(exist_ok=True)
    shutil.copy(world.path(world.images[0]), world.path(there))
    return [("extra", place(there), None, world.images[0])]


@case
def an_object_is_moved_and_copied(world: World) -> list[Told]:
    lost, objects = world.images[0], world.outputs / "objects"
    shutil.copy(world.path(lost), objects / "b.png")
    world.path(lost).rename(objects / "a.png")
    return [("extra", "objects/b.png", None, lost), ("misplaced", lost, place(lost), "objects/a.png")]


@case
def a_folder_stands_in_an_objects_place(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).unlink()
    world.path(lost).mkdir()
    return [("missing", lost, place(lost), "a folder")]


@case
def an_object_lies_in_a_folder_of_its_own_name(world: World) -> list[Told]:
    lost = world.images[0]
    data = world.data(lost)
    world.path(lost).unlink()
    world.path(lost).mkdir()
    (world.path(lost) / "a.png").write_bytes(data)
    return [("misplaced", lost, place(lost), f"{place(lost)}/a.png")]


@case
def a_pipe_stands_in_an_objects_place(world: World) -> list[Told]:
    world.path(world.images[0]).unlink()
    os.mkfifo(world.path(world.images[0]))
    return [("missing", world.images[0], place(world.images[0]), "a pipe")]


@case
def a_link_stands_in_an_objects_place(world: World) -> list[Told]:
    lost, elsewhere = world.images[0], world.outputs.parent / "elsewhere.png"
    world.path(lost).rename(elsewhere)
    world.path(lost).symlink_to(elsewhere)
    return [("misplaced", lost, place(lost), f"a link to {elsewhere}")]


@case
def a_link_that_leads_nowhere_stands_in_an_objects_place(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).unlink()
    world.path(lost).symlink_to("nowhere")
    return [("missing", lost, place(lost), "a link that leads nowhere")]


@case
def a_link_to_other_bytes_stands_in_an_objects_place(world: World) -> list[Told]:
    lost = world.images[0]
    world.path(lost).unlink()
    world.path(lost).symlink_to(world.outputs / "notes.txt")
    return [("truncated", lost, lost, store.digest(b"mine"))]


@case
def an_object_that_no_line_names_is_stored(world: World) -> list[Told]:
    return [("orphan", Store(world.outputs / "objects").put(b"nobody's"), LINE, None)]


@case
def a_strange_file_is_put_into_the_store(world: World) -> list[Told]:
    (world.outputs / "objects" / "notes.txt").write_text("mine")
    return [("extra", "objects/notes.txt", None, store.digest(b"mine"))]


@case
def a_hidden_strange_file_is_put_into_the_store(world: World) -> list[Told]:
    (world.outputs / "objects" / ".hidden").write_text("mine")
    return [("extra", "objects/.hidden", None, store.digest(b"mine"))]


@case
def wrong_bytes_lie_in_the_place_of_an_object_that_never_was(world: World) -> list[Told]:
    world.path("ab" * 32).parent.mkdir(exist_ok=True)
    world.path("ab" * 32).write_bytes(b"?")
    return [("extra", place("ab" * 32), None, store.digest(b"?"))]


@case
def a_pipe_and_an_empty_folder_are_in_the_store(world: World) -> list[Told]:
    os.mkfifo(world.outputs / "objects" / "pipe")
    (world.outputs / "objects" / "mine").mkdir()
    return [("extra", "objects/mine", None, "an empty folder"), ("extra", "objects/pipe", None, "a pipe")]


@case
def crashed_writes_left_neighbours(world: World) -> list[Told]:
    (world.path(world.images[0]).parent / f".{'c' * 62}.0123456789ab").write_bytes(b"half")
    world.run(".manifest.json.0123456789ab").write_bytes(b"half")
    return []


@case
def the_whole_store_is_renamed(world: World) -> list[Told]:
    (world.outputs / "objects").rename(world.outputs / "objects.old")
    needed = world.objects_of(world.one) | world.objects_of(world.two) | {world.imported}
    return [("misplaced", d, place(d), place(d).replace("objects", "objects.old")) for d in needed]


@case
def the_whole_store_is_deleted(world: World) -> list[Told]:
    needed = world.objects_of(world.one) | world.objects_of(world.two) | {world.imported}
    shutil.rmtree(world.outputs / "objects")
    return [("missing", d, place(d), None) for d in needed]


# ---- runs


@case
def a_strange_file_is_put_into_a_run_folder(world: World) -> list[Told]:
    world.run("notes.txt").write_text("mine")
    return [("extra", f"runs/{world.one}/notes.txt", None, store.digest(b"mine"))]


@case
def a_folder_with_files_is_put_into_a_run_folder(world: World) -> list[Told]:
    world.run("mine").mkdir()
    world.run("mine/a.txt").write_text("mine")
    (world.outputs / "runs" / "readme.txt").write_text("mine")
    name = store.digest(b"mine")
    return [("extra", f"runs/{world.one}/mine/a.txt", None, name), ("extra", "runs/readme.txt", None, name)]


@case
def a_byte_of_a_manifest_is_edited(world: World) -> list[Told]:
    was = journal.manifest_digest(world.run(""))
    data = world.run("manifest.json").read_bytes().replace(b'"steps":2', b'"steps":3')
    world.run("manifest.json").write_bytes(data)
    return [("manifest_altered", f"runs/{world.one}/manifest.json", was, store.digest(data))]


@case
def a_manifest_is_no_json_any_more(world: World) -> list[Told]:
    was = journal.manifest_digest(world.run(""))
    world.run("manifest.json").write_bytes(b"{}\n")
    what = "is not the canonical JSON that a run writes"
    return [("manifest_altered", f"runs/{world.one}/manifest.json", was, what)]


@case
def a_manifest_is_another_runs(world: World) -> list[Told]:
    was = journal.manifest_digest(world.run(""))
    shutil.copy(world.run("manifest.json", world.two), world.run("manifest.json"))
    found = journal.manifest_digest(world.run("", world.two))
    return [("manifest_altered", f"runs/{world.one}/manifest.json", was, found)]


@case
def a_manifest_is_deleted(world: World) -> list[Told]:
    was = journal.manifest_digest(world.run(""))
    world.run("manifest.json").unlink()
    return [("missing", f"runs/{world.one}/manifest.json", was, None)]


@case
def a_pipe_stands_in_place_of_each_file_of_a_run(world: World) -> list[Told]:
    for name in ("manifest.json", "seal.json", "journal.jsonl"):
        world.run(name).unlink()
        os.mkfifo(world.run(name))
    at, own = f"runs/{world.one}/", world.objects_of(world.two)
    orphans = [
        ("orphan", d, LINE, None) for d in all_of(world) - own - {world.imported, world.deleted, world.images[0]}
    ]
    return [
        *orphans,
        ("journal_altered", at + "journal.jsonl", CHAIN, "a pipe"),
        ("journal_altered", at + "seal.json", "the number and hash of a line", "a pipe"),
        ("manifest_altered", at + "manifest.json", None, "a pipe"),
    ]


def all_of(world: World) -> set[str]:
    return {listed.name for listed in Store(world.outputs / "objects").listing()}


@case
def a_run_folder_is_renamed(world: World) -> list[Told]:
    world.run("").rename(world.outputs / "runs" / "mine")
    return [("misplaced", "runs/mine", f"runs/{world.one}", "runs/mine")]


@case
def two_run_folders_change_names(world: World) -> list[Told]:
    world.run("").rename(world.outputs / "runs" / "x")
    world.run("", world.two).rename(world.run(""))
    (world.outputs / "runs" / "x").rename(world.run("", world.two))
    a, b = f"runs/{world.one}", f"runs/{world.two}"
    return [("misplaced", a, b, a), ("misplaced", b, a, b)]


@case
def a_run_folder_is_copied(world: World) -> list[Told]:
    shutil.copytree(world.run(""), world.outputs / "runs" / "mine")
    return [("extra", "runs/mine", None, f"a copy of run {world.one}")]


@case
def a_run_folder_is_deleted(world: World) -> list[Told]:
    orphans = world.objects_of(world.two) - {world.imported}
    shutil.rmtree(world.run("", world.two))
    return [("orphan", d, LINE, None) for d in orphans]


@case
def derived_files_of_a_run_are_deleted(world: World) -> list[Told]:
    world.run("report.html").unlink()
    return []


# ---- journals and seals


def broken(world: World, what: str, *more: Told, run: str = "", file: str = "journal.jsonl") -> list[Told]:
    return [("journal_altered", f"runs/{run or world.one}/{file}", CHAIN, what), *more]


@case
def a_word_of_a_journal_line_is_edited(world: World) -> list[Told]:
    lines = world.lines()
    world.write_lines([lines[0], lines[1].replace(b'"n":1', b'"n":7'), *lines[2:]])
    return broken(world, "line 2 was altered: its hash is not that of its content")


@case
def the_digest_in_a_journal_line_is_edited(world: World) -> list[Told]:
    digest = world.images[3].encode()
    world.write_lines([line.replace(digest, b"0" + digest[1:]) for line in world.lines()])
    number = next(n for n, line in enumerate(world.lines(), 1) if b"0" + digest[1:] in line)
    return broken(world, f"line {number} was altered: its hash is not that of its content")


@case
def a_journal_line_is_edited_and_an_object_that_a_later_line_names_is_altered(world: World) -> list[Told]:
    problems = a_word_of_a_journal_line_is_edited(world)
    return [*problems, *one_bit_of_an_object_is_flipped(world)]


@case
def a_journal_line_is_edited_and_an_object_that_a_later_line_names_is_deleted(world: World) -> list[Told]:
    problems = a_word_of_a_journal_line_is_edited(world)
    return [*problems, *an_object_is_deleted(world)]


@case
def a_journal_line_is_removed(world: World) -> list[Told]:
    number = next(n for n, line in enumerate(world.lines()) if b'"status"' in line)
    world.write_lines([*world.lines()[:number], *world.lines()[number + 1 :]])
    return broken(world, f"line {number + 1} does not follow the line before it: lines are missing or were moved")


@case
def the_first_journal_line_is_removed(world: World) -> list[Told]:
    world.write_lines(world.lines()[1:])
    return broken(world, "line 1 has the wrong number")


@case
def two_journal_lines_change_places(world: World) -> list[Told]:
    lines = world.lines()
    world.write_lines([lines[0], lines[2], lines[1], *lines[3:]])
    return broken(world, "line 2 does not follow the line before it: lines are missing or were moved")


@case
def a_journal_line_stands_twice(world: World) -> list[Told]:
    lines = world.lines()
    world.write_lines([*lines[:2], *lines[1:]])
    return broken(world, "line 3 does not follow the line before it: lines are missing or were moved")


@case
def a_line_of_another_run_is_put_in(world: World) -> list[Told]:
    lines, other = world.lines(), world.run("journal.jsonl", world.two).read_bytes().splitlines(keepends=True)
    world.write_lines([*lines[:2], other[2], *lines[2:]])
    return broken(world, "line 3 does not follow the line before it: lines are missing or were moved")


@case
def a_line_that_is_not_ours_is_put_in(world: World) -> list[Told]:
    world.write_lines([*world.lines()[:2], b"# a remark\n", *world.lines()[2:]])
    return broken(world, "line 3 is not one of our lines")


@case
def a_journal_loses_its_last_line(world: World) -> list[Told]:
    count = len(world.lines())
    world.write_lines(world.lines()[:-1])
    return broken(world, f"is cut short: it has {count - 1} lines and had at least {count}")


@case
def a_journal_is_emptied(world: World) -> list[Told]:
    count = len(world.lines())
    orphans = world.objects_of(world.one) - {world.images[0]}
    world.write_lines([])
    more = [("orphan", d, f"{LINE}; a log that may have named it is altered", None) for d in orphans]
    return broken(world, f"is cut short: it has 0 lines and had at least {count}", *more)


@case
def a_journal_is_deleted(world: World) -> list[Told]:
    orphans = world.objects_of(world.one) - {world.images[0]}
    world.run("journal.jsonl").unlink()
    more = [("orphan", d, LINE, None) for d in orphans]
    return [("missing", f"runs/{world.one}/journal.jsonl", "a journal", None), *more]


@case
def a_journal_and_its_seal_are_deleted(world: World) -> list[Told]:
    orphans = world.objects_of(world.one) - {world.images[0]}
    world.run("journal.jsonl").unlink()
    world.run("seal.json").unlink()
    more = [("orphan", d, LINE, None) for d in orphans]
    return [("missing", f"runs/{world.one}/journal.jsonl", "a journal", None), *more]


@case
def a_journal_is_another_runs(world: World) -> list[Told]:
    orphans = world.objects_of(world.one) - {world.images[0]}
    shutil.copy(world.run("journal.jsonl", world.two), world.run("journal.jsonl"))
    was, found = journal.manifest_digest(world.run("", world.two)), journal.manifest_digest(world.run(""))
    more: list[Told] = [("manifest_altered", f"runs/{world.one}/manifest.json", was, found)]
    more += [("orphan", d, f"{LINE}; a log that may have named it is altered", None) for d in orphans]
    return broken(world, "is not the one that was sealed when the run ended", *more)


@case
def a_journal_has_a_torn_last_line(world: World) -> list[Told]:
    with world.run("journal.jsonl").open("ab") as file:
        file.write(b'{"at":"2026-01-01T00:00:00.000+00:00","eve')
    return []


@case
def a_remark_without_an_end_of_line_is_appended(world: World) -> list[Told]:
    with world.run("journal.jsonl").open("ab") as file:
        file.write(b"seen by me")
    return broken(world, "ends in 10 bytes that no run writes")


@case
def a_seal_is_deleted(world: World) -> list[Told]:
    world.run("seal.json").unlink()
    return [("missing", f"runs/{world.one}/seal.json", "the seal of this journal", None)]


@case
def a_seal_has_a_space_more(world: World) -> list[Told]:
    world.run("seal.json").write_bytes(world.run("seal.json").read_bytes() + b" ")
    name = f"runs/{world.one}/seal.json"
    return [("journal_altered", name, "the number and hash of a line", "is not what a run writes when it ends")]


@case
def a_seal_names_another_hash(world: World) -> list[Told]:
    seal = json.loads(world.run("seal.json").read_bytes())
    world.run("seal.json").write_bytes(store.canonical({**seal, "hash": "0" * 64}))
    return broken(world, "is not the one that was sealed when the run ended")


@case
def a_seal_is_moved_to_an_earlier_line(world: World) -> list[Told]:
    first = json.loads(world.lines()[0])
    world.run("seal.json").write_bytes(store.canonical({"n": 0, "hash": first["hash"]}))
    name = f"runs/{world.one}/seal.json"
    return [("journal_altered", name, "the end of an attempt", "names line 1, where no attempt ended")]


@case
def the_ledger_is_edited(world: World) -> list[Told]:
    path = world.outputs / "ledger" / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"a test", b"a jest"))
    what = "line 3 was altered: its hash is not that of its content"
    return [("journal_altered", "ledger/journal.jsonl", CHAIN, what)]


@case
def the_ledger_is_cut_short(world: World) -> list[Told]:
    path = world.outputs / "ledger" / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    what = "is cut short: it has 2 lines and had at least 3"
    return [("journal_altered", "ledger/journal.jsonl", CHAIN, what)]


@case
def the_seal_of_the_ledger_is_deleted_and_a_note_is_put_there(world: World) -> list[Told]:
    (world.outputs / "ledger" / "seal.json").unlink()
    (world.outputs / "ledger" / "notes.txt").write_text("mine")
    return [
        ("extra", "ledger/notes.txt", None, store.digest(b"mine")),
        ("missing", "ledger/seal.json", "the seal of this log", None),
    ]


@case
def a_decision_is_edited(world: World) -> list[Told]:
    path = world.outputs / "decisions" / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"approve", b"reject!"))
    what = "line 1 was altered: its hash is not that of its content"
    return [("journal_altered", "decisions/journal.jsonl", CHAIN, what)]


@case
def a_dataset_holds_an_object_that_is_gone(world: World) -> list[Told]:
    version = world.outputs / "datasets" / "v1"
    version.mkdir(parents=True)
    (version / "manifest.json").write_bytes(store.canonical({"items": [{"object": "d" * 64}]}))
    return [("missing", "d" * 64, place("d" * 64), None)]


@case
def everything_at_once(world: World) -> list[Told]:
    names = ["a_byte_of_a_manifest_is_edited", "an_object_that_no_line_names_is_stored", "a_seal_is_deleted"]
    names += ["an_object_is_deleted", "one_bit_of_an_object_is_flipped", "a_strange_file_is_put_into_a_run_folder"]
    return [problem for name in names for problem in CASES[name](world)]


@pytest.mark.parametrize("name", CASES)
def test_each_manipulation_has_exactly_its_problems(world: World, name: str) -> None:
    expected = CASES[name](world)
    assert world.verify() == sorted(expected)
