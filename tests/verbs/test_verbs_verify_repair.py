"""`verify --repair`: what can be mended is mended, with a record; the rest is left and named; nothing is deleted."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import gpu, journal, ledger, store
from runner.errors import Corrupt, Refused, Unavailable
from runner.store import Store
from runner.verbs import verify as verifying
from runner.verbs.verify import repairs
from tests import fakes, worlds
from tests.verbs.verify_world import World, copied, make_world, told


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("original") / "outputs")


@pytest.fixture
def world(original: World, tmp_path: Path) -> World:
    return copied(original, tmp_path / "outputs")


def mend(world: World) -> tuple[list[tuple[str, str]], list[str]]:
    """What a repair did, and the kinds that are left; the record of it is in the ledger, word for word."""
    facts = verifying.repair(world.outputs)
    written = [{name: event[name] for name in facts["repaired"][0]} for event in repaired(world)]
    assert written == facts["repaired"], "the ledger has each repair"
    assert told(facts) == world.verify(), "what is left is what verify names"
    return [(act["how"], act["name"]) for act in facts["repaired"]], [p["kind"] for p in facts["problems"]]


def repaired(world: World) -> list[dict[str, Any]]:
    return list(ledger.read(world.outputs).repairs)


def quarantined(world: World) -> list[bytes]:
    return [path.read_bytes() for path in sorted((world.outputs / "quarantine").glob("*")) if path.is_file()]


def rename(world: World) -> str:
    world.path(world.images[0]).rename(world.outputs / "objects" / "a.png")
    return "objects/a.png"


def into_run(world: World) -> str:
    world.path(world.images[0]).rename(world.run("a.png"))
    return f"runs/{world.one}/a.png"


def hide(world: World) -> str:
    hidden = world.path(world.images[0]).parent / f".{'c' * 62}.0123456789ab"
    world.path(world.images[0]).rename(hidden)
    return hidden.relative_to(world.outputs).as_posix()


def over_another_place(world: World) -> str:
    world.path("0" * 64).parent.mkdir(exist_ok=True)
    world.path(world.images[0]).rename(world.path("0" * 64))
    return f"objects/00/{'0' * 62}"


def behind_a_folder(world: World) -> str:
    data = world.data(world.images[0])
    world.path(world.images[0]).unlink()
    world.path(world.images[0]).mkdir()
    (world.path(world.images[0]) / "a.png").write_bytes(data)
    return world.path(world.images[0]).relative_to(world.outputs).as_posix() + "/a.png"


@pytest.mark.parametrize("move", [rename, into_run, hide, over_another_place, behind_a_folder])
def test_a_misplaced_object_is_put_back(world: World, move: Callable[[World], str]) -> None:
    lost = world.images[0]
    data, there = world.data(lost), move(world)
    done, left = mend(world)
    assert (("put_back", lost) in done, world.data(lost)) == (True, data)
    assert left == (["extra"] if there.startswith("runs/") else []), "a stray outside the store is a person's"
    assert repaired(world)[0]["bytes_from"] == there


def test_a_folder_made_for_moved_objects_does_not_stay_as_a_stranger(world: World) -> None:
    (world.outputs / "objects" / "mine" / "deep").mkdir(parents=True)
    world.path(world.images[0]).rename(world.outputs / "objects" / "mine" / "deep" / "a.png")
    assert mend(world) == ([("put_back", world.images[0])], [])
    assert not (world.outputs / "objects" / "mine").exists()


def test_two_objects_that_changed_places_both_come_back(world: World) -> None:
    a, b = world.images[:2]
    first, second = world.data(a), world.data(b)
    world.path(a).write_bytes(second)
    world.path(b).write_bytes(first)
    done, left = mend(world)
    assert (sorted(done), left) == (sorted([("put_back", a), ("put_back", b)]), [])
    assert (world.data(a), world.data(b)) == (first, second)


def test_a_ring_of_objects_comes_back_and_one_that_is_lost_is_named(world: World) -> None:
    a, b, c = world.images[:3]
    data = {name: world.data(name) for name in (a, b, c)}
    for name, other in ((a, b), (b, c), (c, a)):
        world.path(name).write_bytes(data[other])
    world.path(world.images[3]).unlink()
    done, left = mend(world)
    assert (len(done), left) == (3, ["missing"])
    assert {name: world.data(name) for name in (a, b, c)} == data


@pytest.mark.parametrize("harm", [b"", b"?", None])
def test_an_object_is_restored_from_a_copy_in_a_gallery(world: World, harm: bytes | None) -> None:
    lost = world.images[1]
    data = world.data(lost)
    world.path(lost).unlink()
    if harm is not None:
        world.path(lost).write_bytes(harm)
    assert mend(world) == ([("restored", lost)], [])
    assert (world.data(lost), quarantined(world)) == (data, [] if harm is None else [harm])
    assert (world.outputs / "exports" / world.one / "a.png").read_bytes() == data


def test_an_altered_object_without_a_copy_is_moved_aside_and_its_run_makes_it_again(tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    name = run.images()[0]["digest"]
    path = Store(tmp_path / "objects").path(name)
    path.write_bytes(b"harmed")
    facts = verifying.repair(tmp_path)
    assert ([p["kind"] for p in facts["problems"]], path.exists()) == (["missing"], False)
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert (aside.name.startswith(f"{name}-"), aside.read_bytes()) == (True, b"harmed")
    worlds.run(worlds.accept(tmp_path))
    assert verifying.verify(tmp_path, None)["ok"]


def test_strange_things_in_the_store_are_moved_aside_whatever_they_are(world: World) -> None:
    objects = world.outputs / "objects"
    (objects / "notes.txt").write_text("mine")
    os.mkfifo(objects / "pipe")
    (objects / "mine").mkdir()
    (objects / "link").symlink_to("nowhere")
    shutil.copy(world.path(world.images[0]), objects / "copy.png")
    done, left = mend(world)
    assert ({how for how, _ in done}, len(done), left) == ({"set_aside"}, 5, [])
    assert len(list((world.outputs / "quarantine").iterdir())) == 5


def test_notes_in_a_run_folder_and_orphans_are_left_alone(world: World) -> None:
    world.run("notes.txt").write_text("mine")
    Store(world.outputs / "objects").put(b"nobody's")
    before = worlds.snapshot(world.outputs)
    facts = verifying.repair(world.outputs)
    assert ([p["kind"] for p in facts["problems"]], facts["repaired"]) == (["orphan", "extra"], [])
    assert worlds.snapshot(world.outputs) == before


def test_a_link_in_an_objects_place_becomes_the_object(world: World, tmp_path: Path) -> None:
    lost = world.images[0]
    data = world.data(lost)
    world.path(lost).rename(tmp_path / "elsewhere.png")
    world.path(lost).symlink_to(tmp_path / "elsewhere.png")
    assert mend(world) == ([("put_back", lost)], [])
    assert (world.path(lost).is_symlink(), world.data(lost)) == (False, data)
    assert (tmp_path / "elsewhere.png").read_bytes() == data


def test_a_missing_seal_is_made_again(world: World) -> None:
    before = world.run("seal.json").read_bytes()
    world.run("seal.json").unlink()
    assert mend(world) == ([("sealed", f"runs/{world.one}/seal.json")], [])
    assert world.run("seal.json").read_bytes() == before


def test_a_missing_seal_of_the_ledger_is_made_again(world: World) -> None:
    (world.outputs / "ledger" / "seal.json").unlink()
    assert mend(world) == ([("sealed", "ledger/seal.json")], [])


def test_a_torn_last_line_is_cut_and_kept_aside(world: World) -> None:
    before = world.run("journal.jsonl").read_bytes()
    world.run("journal.jsonl").write_bytes(before + b'{"at":"2026')
    assert mend(world) == ([("cut", f"runs/{world.one}/journal.jsonl")], [])
    assert (world.run("journal.jsonl").read_bytes(), quarantined(world)) == (before, [b'{"at":"2026'])


def broken_line(world: World) -> Path:
    path = world.run("journal.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7', 1))
    return path


def edited_manifest(world: World) -> Path:
    path = world.run("manifest.json")
    path.write_bytes(path.read_bytes().replace(b'"steps":2', b'"steps":3'))
    return path


@pytest.mark.parametrize("harm", [broken_line, edited_manifest])
def test_what_a_broken_file_of_truth_said_is_never_guessed(world: World, harm: Callable[[World], Path]) -> None:
    path = harm(world)
    before, seal = path.read_bytes(), world.run("seal.json").read_bytes()
    facts = verifying.repair(world.outputs)
    assert (facts["ok"], facts["repaired"], path.read_bytes()) == (False, [], before)
    assert world.run("seal.json").read_bytes() == seal


def test_a_missing_seal_of_a_run_with_another_manifest_is_not_made(world: World) -> None:
    edited_manifest(world)
    world.run("seal.json").unlink()
    facts = verifying.repair(world.outputs)
    assert (facts["repaired"], world.run("seal.json").exists()) == ([], False)
    assert facts["failed"][0]["reason"] == "is not the one that the journal began with"


def test_nothing_is_mended_when_the_ledger_cannot_take_the_record(world: World) -> None:
    rename(world)
    path = world.outputs / "ledger" / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"a test", b"a jest"))
    with pytest.raises(Corrupt, match="Put the ledger/ folder back from a copy"):
        verifying.repair(world.outputs)
    assert (world.outputs / "objects" / "a.png").exists()


def test_it_refuses_while_a_run_is_being_written(world: World) -> None:
    rename(world)
    held = gpu.only_writer(world.run(""), gpu.this_process(world.one, "generator"))
    with held, pytest.raises(Unavailable, match=f"run {world.one} is being written. Wait until it ends"):
        verifying.repair(world.outputs)
    assert (world.outputs / "objects" / "a.png").exists()


def test_it_refuses_while_the_outputs_folder_is_in_use(world: World) -> None:
    with ledger.using(world.outputs), pytest.raises(Unavailable, match="is in use"):
        verifying.repair(world.outputs)


def test_a_run_folder_alone_and_a_strange_folder_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is one run; its store is elsewhere"):
        verifying.repair(world.run(""))
    with pytest.raises(Refused, match="holds no runs"):
        verifying.repair(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_sound_folder_is_left_as_it_is(world: World) -> None:
    before = worlds.snapshot(world.outputs)
    facts = verifying.repair(world.outputs)
    assert (facts["ok"], facts["repaired"], facts["failed"]) == (True, [], [])
    assert worlds.snapshot(world.outputs) == before


@pytest.mark.parametrize("cut_at", range(1, 8))
def test_a_crash_in_the_middle_loses_nothing_and_the_next_repair_ends_it(world: World, cut_at: int) -> None:
    a, b = world.images[:2]
    first, second = world.data(a), world.data(b)
    world.path(a).write_bytes(second)
    world.path(b).write_bytes(first)
    world.run("seal.json").unlink()
    before = worlds.snapshot(world.outputs)
    with pytest.MonkeyPatch.context() as patch:
        disk = fakes.Disk(cut_at=cut_at, torn=True).install(patch)
        try:
            verifying.repair(world.outputs)
        except fakes.PowerCut:
            intents = [e for e in journal.read_events(world.outputs / "ledger").events if e["event"] == "repairing"]
            assert (
                intents
                or {k: v for k, v in worlds.snapshot(world.outputs).items() if k in before} == before
                or (disk.num_writes == 1)
            )
    facts = verifying.repair(world.outputs)
    assert (facts["ok"], world.data(a), world.data(b)) == (True, first, second)


def test_the_record_names_no_place_of_this_machine(world: World) -> None:
    rename(world)
    (world.outputs / "objects" / "notes.txt").write_text("mine")
    verifying.repair(world.outputs)
    events = [e for e in journal.read_events(world.outputs / "ledger").events if e["event"].startswith("repair")]
    assert [event["event"] for event in events] == ["repairing", "repaired", "repaired"]
    assert str(world.outputs.parent) not in json.dumps(events)


def test_an_object_that_came_back_meanwhile_is_not_moved_aside(world: World) -> None:
    name = world.images[0]
    act = repairs.Act("altered", name, "set_aside", (world.path(name),))
    moved: dict[Path, Path] = {}
    repairs._move_aside(world.outputs, act, "now", moved)
    assert (moved, store.digest(world.data(name))) == ({}, name)
