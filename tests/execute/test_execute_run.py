"""What one attempt writes and how it ends, with workers that stand in for the models."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from runner import environment, execute, gpu, journal, store
from runner.config.tree import Request
from runner.errors import Corrupt, Failed, Fault, Interrupted, Refused, Unavailable
from runner.timing import Clock
from runner.worker import Bench, Work
from tests import fakes, worlds

FIRST_OBJECT, FIRST_MADE_LINES = 5, 7  # the writes: manifest, journal, started, status, two objects, their lines


def failing(outputs: Path, error: BaseException) -> execute.Result:
    return worlds.run(worlds.accept(outputs), generate=fakes.Painter(error=error))


def test_a_complete_run_has_every_image_and_verdict_and_exit_code_0(tmp_path: Path) -> None:
    result = worlds.run(worlds.accept(tmp_path))
    assert (result.status, result.exit_code, dict(result.made)) == ("complete", 0, {"image": 4, "verdict": 4})
    assert all(image["status"] == "complete" and image["verdict"] for image in journal.read_run(result.folder).images())


def test_every_object_is_named_by_its_bytes_and_by_a_journal_line(tmp_path: Path) -> None:
    result = worlds.run(worlds.accept(tmp_path))
    objects = worlds.objects_of(tmp_path)
    assert all(store.digest(data) == name for name, data in objects.items())
    assert {event["object"] for event in worlds.events(result.folder, "made")} == set(objects)


def test_manifest_and_journal_are_on_disk_before_a_worker_is_called(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(bench: Bench) -> None:
        folder = next((tmp_path / "runs").iterdir())
        journal.read_manifest(folder)
        seen.append([event["event"] for event in journal.read_events(folder).events])

    worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(before=look))
    assert seen[0] == ["started"]


def test_statuses_come_in_the_order_of_the_design(tmp_path: Path) -> None:
    folder = worlds.run(worlds.accept(tmp_path)).folder
    statuses = [event["status"] for event in worlds.events(folder, "status")]
    assert statuses == ["generating", "reviewing", "verifying"]
    assert worlds.events(folder, "ended")[0]["status"] == "complete"


def test_the_run_id_is_the_same_for_the_same_request_and_another_for_another_seed(tmp_path: Path) -> None:
    ids = [worlds.run(worlds.accept(tmp_path / name, over)).run_id for name, over in zip("abc", SEEDS, strict=True)]
    assert ids[0] == ids[1] != ids[2]


SEEDS = ("seed=1", "seed=1", "seed=2")


def test_a_second_command_finds_everything_there_and_writes_nothing(tmp_path: Path) -> None:
    worlds.run(worlds.accept(tmp_path))
    before = worlds.snapshot(tmp_path / "objects")
    again = fakes.Painter()
    result = worlds.run(worlds.accept(tmp_path), generate=again)
    assert (again.calls, dict(result.made), dict(result.kept)) == ([], {}, {"image": 4, "verdict": 4})
    assert worlds.snapshot(tmp_path / "objects") == before


def test_an_image_that_cannot_be_made_leaves_the_run_incomplete(tmp_path: Path) -> None:
    result = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(broken=frozenset({"on-blue.001"})))
    assert (result.status, result.exit_code) == ("incomplete", 3)
    assert "2 of 8 items are not there: image/on-blue.001 was not made" in str(result.failure)
    lost = [image for image in journal.read_run(result.folder).images() if image["status"] == "failed"]
    assert [(image["key"], image["reason"]) for image in lost] == [("on-blue.001", "is blank")]


def test_the_same_command_tries_an_unmade_image_again_and_only_its_batch(tmp_path: Path) -> None:
    worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(broken=frozenset({"on-blue.001"})))
    again = fakes.Painter()
    result = worlds.run(worlds.accept(tmp_path), generate=again)
    assert (result.status, dict(result.made)) == ("complete", {"image": 1, "verdict": 1})
    assert again.calls == [("on-blue.000", "on-blue.001")]


def test_an_image_of_another_size_than_planned_is_incomplete(tmp_path: Path) -> None:
    result = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(size=(32, 64)))
    assert result.status == "incomplete"
    assert "is 32x64, planned was 64x64" in str(result.failure)


def test_a_failed_worker_ends_the_run_with_its_kind_item_and_phase(tmp_path: Path) -> None:
    fault = Fault("sampling_failed", "image/x", "came out wrong", "Try again")
    result = failing(tmp_path, Failed("sampling", fault, item="image/on-blue.000"))
    failure = journal.read_run(result.folder).state.failure or {}
    assert (result.status, result.exit_code) == ("failed", 3)
    assert [failure[name] for name in ("kind", "phase", "item")] == ["sampling", "sample", "image/on-blue.000"]


def test_running_out_of_memory_says_what_to_make_smaller(tmp_path: Path) -> None:
    result = failing(tmp_path, MemoryError("no room for 3 GiB"))
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "ran out of memory (no room for 3 GiB). Choose a smaller generate.batch_size" in str(result.failure)


def test_running_out_of_memory_without_a_word_is_a_failure_too(tmp_path: Path) -> None:
    result = failing(tmp_path, MemoryError())
    assert result.failure is not None
    assert "ran out of memory" in result.failure.what


def test_a_bug_is_handed_to_the_door_and_the_journal_has_its_end(tmp_path: Path) -> None:
    result = failing(tmp_path, ZeroDivisionError("one by none"))
    state = journal.read_run(result.folder).state
    assert isinstance(result.bug, ZeroDivisionError)
    assert (state.status, (state.failure or {})["kind"]) == ("failed", "internal")
    assert "stopped on ZeroDivisionError: one by none" in (state.failure or {})["cause"]


def test_an_interrupted_run_keeps_what_is_finished(tmp_path: Path) -> None:
    stopped = fakes.Painter(error=Interrupted("SIGTERM"), error_at=1)
    result = worlds.run(worlds.accept(tmp_path), generate=stopped)
    assert (result.status, result.exit_code, dict(result.made)) == ("interrupted", 130, {"image": 2})
    assert dict(worlds.run(worlds.accept(tmp_path)).kept) == {"image": 2}


def test_facts_that_are_no_json_end_the_run_and_leave_the_journal_whole(tmp_path: Path) -> None:
    nan = fakes.Painter(facts={"on-blue.001": {"difference": float("nan")}})
    result = worlds.run(worlds.accept(tmp_path), generate=nan)
    assert "Out of range float values" in str(result.failure)
    reading = journal.read_events(next((tmp_path / "runs").iterdir()))
    assert (reading.problem, reading.events[-1]["event"]) == (None, "ended")


@pytest.mark.parametrize("torn", [False, True])
def test_a_journal_line_that_did_not_reach_the_disk_does_not_break_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    full = Failed("storage", Fault("storage_failed", "journal", "cannot be written (disk full)", "Free space"))
    with monkeypatch.context() as patch:
        fakes.Disk(cut_at=FIRST_MADE_LINES, torn=torn, error=full).install(patch)
        result = worlds.run(worlds.accept(tmp_path))
    assert result.status == "failed"
    assert worlds.run(worlds.accept(tmp_path)).status == "complete"


def test_a_full_disk_fails_the_run_and_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        fakes.Disk(cut_at=FIRST_OBJECT, error=full).install(patch)
        result = worlds.run(worlds.accept(tmp_path))
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "cannot be written (No space left on device)" in str(result.failure)


def test_a_second_writer_is_turned_away(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path)

    def second(bench: Bench) -> None:
        with pytest.raises(Unavailable, match="is being written by process") as refusal:
            worlds.run(accepted)
        assert (refusal.value.exit_code, refusal.value.faults[0].code) == (1, "run_locked")

    assert worlds.run(accepted, generate=fakes.Painter(before=second)).status == "complete"


def test_a_held_device_blocks_a_run_that_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LEASES", str(tmp_path / "leases"))
    holder = gpu.this_process("other-run", "generator")
    with gpu.lease("cpu", holder, wait=False, on_wait=lambda owner: None):
        result = worlds.run(worlds.accept(tmp_path, "hardware.wait=false"))
    assert (result.status, result.exit_code) == ("blocked", 1)
    assert "cpu is held by process" in str(result.failure)
    assert "(run other-run)" in str(result.failure)
    assert worlds.run(worlds.accept(tmp_path, "hardware.wait=false")).status == "complete"


def test_a_run_that_waits_says_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_LEASES", str(tmp_path / "leases"))
    hold = "import sys; from runner import gpu; me = gpu.this_process('slow-run', 'generator')\n"
    hold += "with gpu.lease('cpu', me, wait=False, on_wait=print): print('held', flush=True); sys.stdin.read()"
    waited: list[str] = []

    def let_go(event: journal.Event) -> None:
        if event.get("status") == "waiting_for_gpu":
            waited.append(event["holder"]["run_id"])
            other.communicate()

    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=worlds.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        watch = execute.Watch(on_event=let_go)
        table: dict[str, Work] = {"generate": fakes.Painter(), "critique": fakes.Judge()}
        result = execute.execute(worlds.accept(tmp_path), table, Clock(), watch)
    assert (waited, result.status) == (["slow-run"], "complete")


def test_a_fresh_run_is_a_second_attempt_beside_the_first(tmp_path: Path) -> None:
    first = worlds.run(worlds.accept(tmp_path))
    second = worlds.run(worlds.accept(tmp_path, "run.fresh=true"))
    assert (second.run_id, dict(second.made)) == (f"{first.run_id}-2", {"image": 4, "verdict": 4})
    assert worlds.folded(second.folder) == worlds.folded(first.folder)


def test_after_a_fresh_attempt_the_plain_command_goes_on_with_that_one(tmp_path: Path) -> None:
    worlds.run(worlds.accept(tmp_path))
    second = worlds.run(worlds.accept(tmp_path, "run.fresh=true"), generate=fakes.Painter(error=MemoryError("x")))
    assert worlds.run(worlds.accept(tmp_path)).run_id == second.run_id


def test_a_named_run_with_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    first = worlds.run(worlds.accept(tmp_path))
    with pytest.raises(Refused, match=r"generate\.steps: was 2, is 3") as refusal:
        worlds.run(worlds.accept(tmp_path, "generate.steps=3", f"run.id={first.run_id}"))
    assert [fault.code for fault in refusal.value.faults] == ["settings_changed"]


def test_a_named_run_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no-such-run"):
        worlds.run(worlds.accept(tmp_path, "run.id=no-such-run"))
    assert not (tmp_path / "runs" / "no-such-run").exists()


def test_a_manifest_edited_by_hand_is_corrupt_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = worlds.run(worlds.accept(tmp_path)).folder
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps":2', '"steps":3'))
    edited = manifest.read_bytes()
    with pytest.raises(Corrupt, match="is not the one that the journal began with") as error:
        worlds.run(worlds.accept(tmp_path))
    assert (error.value.exit_code, manifest.read_bytes()) == (4, edited)


def test_a_manifest_of_another_plan_is_corrupt(tmp_path: Path) -> None:
    folder = worlds.run(worlds.accept(tmp_path)).folder
    other = worlds.run(worlds.accept(tmp_path / "other", "seed=9")).folder
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    with pytest.raises(Corrupt, match="is not the one this run was named by"):
        worlds.run(worlds.accept(tmp_path))


def test_a_journal_edited_by_hand_is_corrupt_and_stays_as_it_is(tmp_path: Path) -> None:
    folder = worlds.run(worlds.accept(tmp_path)).folder
    log = folder / "journal.jsonl"
    log.write_text(log.read_text().replace("on a blue", "on a green", 1))
    edited = log.read_bytes()
    with pytest.raises(Corrupt, match="line 3 was altered: its hash is not that of its content"):
        worlds.run(worlds.accept(tmp_path))
    assert log.read_bytes() == edited


def test_a_journal_with_a_line_taken_out_is_corrupt(tmp_path: Path) -> None:
    log = worlds.run(worlds.accept(tmp_path)).folder / "journal.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(Corrupt, match="line 3 does not follow the line before it"):
        worlds.run(worlds.accept(tmp_path))


def test_other_versions_with_work_left_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(error=MemoryError("x"), error_at=1))
    now = environment.fingerprint("cpu")
    monkeypatch.setattr(environment, "fingerprint", lambda device: {**now, "torch": "9.9.9"})
    with pytest.raises(Refused, match=r"torch was .*, is 9\.9\.9") as refusal:
        worlds.run(worlds.accept(tmp_path))
    assert (refusal.value.exit_code, refusal.value.faults[0].code) == (2, "environment_changed")


def test_other_versions_with_nothing_left_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worlds.run(worlds.accept(tmp_path))
    now = environment.fingerprint("cpu")
    monkeypatch.setattr(environment, "fingerprint", lambda device: {**now, "torch": "9.9.9"})
    assert worlds.run(worlds.accept(tmp_path)).status == "complete"


def test_a_fallback_to_the_processor_is_recorded_in_the_manifest(tmp_path: Path) -> None:
    over = ("hardware=cuda", "hardware.index=7", "hardware.on_missing=cpu")
    folder = worlds.run(worlds.accept(tmp_path, *over)).folder
    manifest = journal.read_manifest(folder)
    assert manifest["fallback"] == "cuda:7 is not there; hardware.on_missing=cpu"
    assert manifest["environment"]["device"] == "cpu"


def test_an_outputs_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Refused, match="cannot be written") as refusal:
        worlds.run(worlds.accept(tmp_path / "file"))
    assert refusal.value.faults[0].code == "outputs_unwritable"


def test_a_disk_without_room_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has \d+ MiB free, this run needs \d+ MiB") as refusal:
        worlds.run(worlds.accept(tmp_path, "storage.min_free_mib=1000000000"))
    assert refusal.value.faults[0].code == "over_capacity"


def test_what_does_not_change_the_result_is_no_part_of_the_run_id(tmp_path: Path) -> None:
    over = ("track=mlflow", "storage.min_free_mib=1", "output=json", "hardware.wait=false")
    assert worlds.accept(tmp_path).plan.identity == worlds.accept(tmp_path, *over).plan.identity


def test_a_request_is_a_value_that_can_be_read_back_from_the_manifest(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path)
    stored = journal.read_manifest(worlds.run(accepted).folder)["request"]
    again = {**stored, "until": "run", "output": "text", "outputs": str(tmp_path), "run": {"fresh": False, "id": None}}
    request = Request.model_validate(again)
    assert replace(accepted.contract, request=request) == accepted.contract
