"""A run that was cut off anywhere ends, after the same command, as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from runner import gpu, journal
from runner.errors import Unavailable
from runner.plan import Step
from runner.store import file_digest
from runner.worker import Bench, Outcome, Unmade
from tests import fakes, worlds

ONLY_IMAGES = ("stages=[generate]", "critic=none")
FIRST_MADE_LINES = 7  # writes before it: manifest, journal, started, status, two objects


def undisturbed(place: Path) -> tuple[dict[str, object], dict[str, bytes], int]:
    with pytest.MonkeyPatch.context() as patch:
        disk = fakes.Disk().install(patch)
        result = worlds.run(worlds.accept(place))
    return worlds.folded(result.folder), worlds.objects_of(place), disk.num_writes


def crash(place: Path, at: int, torn: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fakes.Disk(cut_at=at, torn=torn).install(patch)
        with pytest.raises(fakes.PowerCut, match=f"at write {at}$|is gone"):
            worlds.run(worlds.accept(place))


@pytest.mark.parametrize("torn", [False, True], ids=["before", "torn"])
def test_a_crash_at_any_write_resumes_to_the_undisturbed_end(tmp_path: Path, torn: bool) -> None:
    state, objects, num_writes = undisturbed(tmp_path / "calm")
    assert num_writes > 15
    for at in range(1, num_writes + 1):
        place = tmp_path / str(at)
        crash(place, at, torn)
        result = worlds.run(worlds.accept(place))
        assert (at, result.status, result.exit_code) == (at, "complete", 0)
        assert (at, worlds.folded(result.folder)) == (at, state)
        assert (at, worlds.objects_of(place)) == (at, objects)


def test_a_crash_in_the_resumption_of_a_crash_is_survived(tmp_path: Path) -> None:
    state, objects, _ = undisturbed(tmp_path / "calm")
    for at in (9, 7, 5, 3):
        crash(tmp_path / "run", at, torn=True)
    result = worlds.run(worlds.accept(tmp_path / "run"))
    assert (worlds.folded(result.folder), worlds.objects_of(tmp_path / "run")) == (state, objects)


def test_no_item_has_two_lines_after_a_resumption(tmp_path: Path) -> None:
    crash(tmp_path, 13, torn=False)
    folder = worlds.run(worlds.accept(tmp_path)).folder
    keys = [event["key"] for event in worlds.events(folder, "made")]
    assert len(keys) == len(set(keys)) == 8


def test_finished_images_are_not_written_again_and_the_reasons_are_noted(tmp_path: Path) -> None:
    stopped = fakes.Painter(error=MemoryError("x"), error_at=1)
    worlds.run(worlds.accept(tmp_path), generate=stopped)
    before = worlds.snapshot(tmp_path / "objects")
    folder = worlds.run(worlds.accept(tmp_path)).folder
    after = worlds.snapshot(tmp_path / "objects")
    assert {name: after[name] for name in before} == before
    note = worlds.events(folder, "resumed")[0]
    assert (note["kept"], note["again"]["image/on-white.000"]) == (2, "not made yet")


def test_of_40_planned_with_23_done_exactly_the_17_named_ones_are_made(tmp_path: Path) -> None:
    many = (worlds.prompts(8), "generate.images_per_prompt=5", "generate.batch_size=1", *ONLY_IMAGES)
    first = fakes.Painter(error=MemoryError("x"), error_at=23)
    assert dict(worlds.run(worlds.accept(tmp_path, *many), generate=first).made) == {"image": 23}
    again = fakes.Painter()
    result = worlds.run(worlds.accept(tmp_path, *many), generate=again)
    assert (dict(result.made), dict(result.kept)) == ({"image": 17}, {"image": 23})
    planned = [image.key for image in worlds.accept(tmp_path, *many).plan.images]
    assert again.calls == [(key,) for key in planned[23:]]
    assert worlds.events(result.folder, "started")[1]["left"] == {"image": 17}


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("deleted", "its object is gone"), ("altered", "its object does not verify"),
        ("cut", "its object does not verify: 156 bytes in place of 163"),
    ],
)  # fmt: skip
def test_a_harmed_object_is_made_again_in_its_planned_batch_and_nothing_else_is_stored(
    tmp_path: Path, harm: str, why: str
) -> None:
    run = worlds.finished(tmp_path)
    object_path = tmp_path / "objects" / run.images()[1]["digest"][:2] / run.images()[1]["digest"][2:]
    data = object_path.read_bytes()
    object_path.unlink()
    if harm != "deleted":
        object_path.write_bytes(data[:-7] if harm == "cut" else data[:-1] + b"?")
    others = {
        name: entry for name, entry in worlds.snapshot(tmp_path / "objects").items() if name not in object_path.parts
    }
    painter = fakes.Painter()
    result = worlds.run(worlds.accept(tmp_path), generate=painter)
    assert painter.calls == [("on-blue.000", "on-blue.001")]
    assert (result.status, dict(result.made), object_path.read_bytes()) == ("complete", {"image": 1}, data)
    after = worlds.snapshot(tmp_path / "objects")
    harmed = str(object_path.relative_to(tmp_path / "objects"))
    assert {k: v for k, v in after.items() if k != harmed} == {k: v for k, v in others.items() if k != harmed}
    again = worlds.events(result.folder, "resumed")[0]["again"]
    assert again == {"image/on-blue.001": why}


def test_a_torn_last_line_is_cut_before_the_next_append(tmp_path: Path) -> None:
    crash(tmp_path, FIRST_MADE_LINES, torn=True)
    folder = next((tmp_path / "runs").iterdir())
    assert not (folder / "journal.jsonl").read_bytes().endswith(b"\n")
    worlds.run(worlds.accept(tmp_path))
    assert journal.read_events(folder).problem is None


def test_an_image_made_anew_with_other_bytes_gets_a_verdict_of_its_own(tmp_path: Path) -> None:
    """On a device that is not exact, a new picture must not keep the verdict on the lost one."""
    first = worlds.finished(tmp_path)
    digest = first.images()[0]["digest"]
    (tmp_path / "objects" / digest[:2] / digest[2:]).unlink()
    run = journal.read_run(worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(salt="b")).folder)
    verdict = run.state.items["verdict/on-blue.000"]
    assert run.images()[0]["digest"] != digest
    assert verdict.image == run.images()[0]["digest"]


def rot(place: Path, digest: str) -> Path:
    """Bytes change and nothing shows it: size and time stay."""
    path = place / "objects" / digest[:2] / digest[2:]
    data, times = path.read_bytes(), path.stat()
    path.write_bytes(data[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


def test_bytes_that_rotted_unseen_are_found_by_the_same_command_and_made_again(tmp_path: Path) -> None:
    path = rot(tmp_path, worlds.finished(tmp_path).images()[1]["digest"])
    result = worlds.run(worlds.accept(tmp_path))
    assert (result.status, dict(result.made), dict(result.kept)) == (
        "complete",
        {"image": 1},
        {"image": 3, "verdict": 4},
    )
    assert file_digest(path) == path.parent.name + path.name


def test_bytes_that_rotted_in_an_unfinished_run_are_made_again_before_it_is_complete(tmp_path: Path) -> None:
    first = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(error=MemoryError("x"), error_at=1))
    rotten = journal.read_run(first.folder).images()[0]["digest"]
    path = rot(tmp_path, rotten)
    result = worlds.run(worlds.accept(tmp_path))
    assert (result.status, file_digest(path)) == ("complete", path.parent.name + path.name)
    lost = worlds.events(result.folder, "unmade")
    assert [(event["key"], event["kind"], event["reason"]) for event in lost] == [
        ("image/on-blue.000", "storage", "its object does not verify")
    ]
    assert dict(result.made) == {"image": 3, "verdict": 4}


def test_a_copied_outputs_folder_is_hashed_before_its_images_are_kept(tmp_path: Path) -> None:
    worlds.run(worlds.accept(tmp_path / "a"), generate=fakes.Painter(error=MemoryError("x"), error_at=1))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    for path in (tmp_path / "b" / "objects").glob("*/*"):
        os.utime(path, (later := time.time() + 9, later))
    result = worlds.run(worlds.accept(tmp_path / "b"))
    why = worlds.events(result.folder, "resumed")[0]["kept_because"]
    assert (why["its object was touched and still verifies"], dict(result.made)) == (2, {"image": 2, "verdict": 4})


def test_a_verdict_on_a_lost_picture_does_not_count_when_the_new_one_cannot_be_judged(tmp_path: Path) -> None:
    digest = worlds.finished(tmp_path).images()[0]["digest"]
    (tmp_path / "objects" / digest[:2] / digest[2:]).unlink()

    def critic(step: Step, bench: Bench) -> Outcome:
        return Outcome((), tuple(Unmade(item, "critic", "runtime_down") for item in step.items))

    result = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(salt="b"), critique=critic)
    assert (result.status, result.failure and result.failure.what) == (
        "incomplete", "1 of 8 items are not there: verdict/on-blue.000 was not made: runtime_down",
    )  # fmt: skip
    assert worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(salt="b")).status == "complete"


def test_a_picture_that_rotted_before_it_was_judged_is_made_and_judged_again(tmp_path: Path) -> None:
    stopped = worlds.run(worlds.accept(tmp_path), critique=fakes.Painter(error=KeyboardInterrupt()))
    rot(tmp_path, journal.read_run(stopped.folder).images()[0]["digest"])
    seen: list[str] = []

    def judge(step: Step, bench: Bench) -> Outcome:
        """As the critic does: no verdict on bytes that are not themselves."""
        names = [item for item in step.items if not bench.store.holds(bench.images[item.replace("verdict", "image")])]
        seen.extend(names)
        outcome = fakes.Judge()(step, bench)
        made = tuple(done for done in outcome.made if done.item not in names)
        return Outcome(made, tuple(Unmade(name, "storage", "its image is not itself") for name in names))

    result = worlds.run(worlds.accept(tmp_path), critique=judge)
    assert (result.status, seen) == ("complete", ["verdict/on-blue.000"])
    assert worlds.events(result.folder, "unmade")[0]["kind"] == "storage"


def test_a_folder_that_is_taken_away_from_a_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def take_away(bench: Bench) -> None:
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)

    result = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(before=take_away))
    assert (result.status, result.exit_code, result.folder.exists()) == ("failed", 3, False)
    assert worlds.run(worlds.accept(tmp_path)).status == "complete"


def test_a_lock_that_is_deleted_by_hand_lets_nobody_else_in(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path)

    def delete_lock(bench: Bench) -> None:
        next(tmp_path.glob("runs/*/lock")).unlink(missing_ok=True)
        assert gpu.alive(next(tmp_path.glob("runs/*")), None)
        with pytest.raises(Unavailable, match="is being written"):
            worlds.run(accepted)

    assert worlds.run(accepted, generate=fakes.Painter(before=delete_lock)).status == "complete"


def test_a_dead_writer_is_known_by_any_name_of_its_machine(tmp_path: Path) -> None:
    folder = worlds.finished(tmp_path).folder
    elsewhere = {"host": "another", "pid": 1}
    assert gpu.alive(folder, elsewhere)  # something in its folder was written a moment ago
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert not gpu.alive(folder, elsewhere)
