"""`status`: what is true now, whatever state a run folder is in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import gpu, journal
from runner.errors import Interrupted
from runner.worker import Bench
from tests import fakes, worlds

GONE = {"pid": 2**22 - 3, "process_started": 1.0, "host": gpu.this_process("x", "y").host, "run_id": "x", "role": "y"}
FIELDS = {
    "run_id", "experiment", "status", "planned", "complete", "failed", "phase", "started", "ended", "mlflow_run_id",
}  # fmt: skip


def rows(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> list[dict[str, Any]]:
    answer = worlds.open_door(capsys, ("status", *words, "--json", "--outputs", str(outputs)))
    assert answer.code == 0
    return list(answer.line["runs"])


def crashed(outputs: Path) -> Path:
    """A run whose journal has no end and whose writer is no process of this machine."""
    folder = worlds.run(worlds.accept(outputs), generate=fakes.Painter(error=MemoryError("x"), error_at=1)).folder
    log, _ = journal.open_log(folder, journal.manifest_digest(folder), list)
    log.append({"event": "started", "owner": GONE, "left": {}}, {"event": "status", "status": "generating"})
    return folder


def test_an_empty_outputs_folder_says_how_to_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert rows(capsys, tmp_path) == []
    answer = worlds.open_door(capsys, ("status", "--outputs", str(tmp_path)))
    assert "No runs yet. Start one: python -m runner +experiment=demo" in answer.out


def test_a_complete_run_has_all_the_fields_of_the_design(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    (row,) = rows(capsys, tmp_path)
    assert row.keys() >= FIELDS
    assert (row["run_id"], row["experiment"], row["status"]) == (run.id, "demo", "complete")
    assert (row["planned"], row["complete"], row["failed"]) == (4, 4, 0)
    assert row["started"] <= row["ended"]


@pytest.mark.parametrize(
    ("painter", "status", "complete", "failed"),
    [
        (fakes.Painter(broken=frozenset({"on-blue.000"})), "incomplete", 3, 1),
        (fakes.Painter(error=MemoryError("x"), error_at=1), "failed", 2, 0),
        (fakes.Painter(error=Interrupted("SIGINT"), error_at=1), "interrupted", 2, 0),
    ],
    ids=["incomplete", "failed", "interrupted"],
)
def test_an_ended_run_reads_as_it_ended(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter, status: str, complete: int, failed: int
) -> None:
    worlds.run(worlds.accept(tmp_path), generate=painter)
    (row,) = rows(capsys, tmp_path)
    assert (row["status"], row["complete"], row["failed"]) == (status, complete, failed)


def test_a_running_run_reads_as_what_it_does_now(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    seen: list[str] = []

    def look(bench: Bench) -> None:
        bench.status("generating")
        seen.append(rows(capsys, tmp_path)[0]["status"])

    worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(before=look))
    assert seen == ["generating", "generating"]


def test_a_run_whose_process_is_gone_reads_crashed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    crashed(tmp_path)
    (row,) = rows(capsys, tmp_path)
    assert (row["status"], row["complete"], row["attempts"]) == ("crashed", 2, 2)


def test_a_crashed_run_goes_on_with_the_same_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    crashed(tmp_path)
    worlds.run(worlds.accept(tmp_path))
    assert [row["status"] for row in rows(capsys, tmp_path)] == ["complete"]


def test_a_failure_is_told_to_a_person(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(error=MemoryError("3 GiB")))
    answer = worlds.open_door(capsys, ("status", "--outputs", str(tmp_path)))
    assert f"{result.run_id}: ran out of memory (3 GiB). Choose a smaller" in answer.out


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"request": {}}', "\x00\xff"])
def test_a_manifest_that_cannot_be_read_is_corrupt_and_hides_no_other_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    folder = worlds.finished(tmp_path).folder
    other = worlds.finished(tmp_path, "seed=3")
    (folder / "manifest.json").write_text(text, "latin-1")
    states = {row["run_id"]: row["status"] for row in rows(capsys, tmp_path)}
    assert states == {folder.name: "corrupt", other.id: "complete"}


def test_a_person_is_told_what_is_corrupt(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = worlds.finished(tmp_path).folder
    (folder / "manifest.json").write_text("{")
    answer = worlds.open_door(capsys, ("status", "--outputs", str(tmp_path)))
    assert "corrupt" in answer.out
    assert "cannot be read" in answer.out


def test_an_altered_journal_is_told_with_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = worlds.finished(tmp_path).folder / "journal.jsonl"
    log.write_text(log.read_text().replace("on a white", "on a green", 1))
    (row,) = rows(capsys, tmp_path)
    assert "was altered" in row["problem"]
    assert "was altered" in worlds.open_door(capsys, ("status", "--outputs", str(tmp_path))).out


def test_a_run_is_found_by_the_beginning_of_its_id(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, _ = worlds.finished(tmp_path), worlds.finished(tmp_path, "seed=3")
    assert [row["run_id"] for row in rows(capsys, tmp_path, run.id[:9])] == [run.id]


def test_a_beginning_of_two_ids_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seed in ("seed=1", "seed=3"):
        worlds.finished(tmp_path, seed)
    answer = worlds.open_door(capsys, ("status", "demo", "--outputs", str(tmp_path)))
    assert answer.code == 2
    assert "'demo' begins 2 run ids" in answer.err


def test_an_unknown_run_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    answer = worlds.open_door(capsys, ("status", "nosuch", "--json", "--outputs", str(tmp_path)))
    assert (answer.code, answer.line["faults"][0]["code"]) == (2, "unknown_run")
    assert run.id in answer.line["faults"][0]["fix"]


def test_a_copied_run_folder_answers_on_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path / "outputs")
    copy = shutil.copytree(run.folder, tmp_path / "elsewhere" / "mine")
    assert [row["status"] for row in rows(capsys, copy)] == ["complete"]
    answer = worlds.open_door(capsys, ("inspect", str(copy), "--json", "--outputs", str(tmp_path / "none")))
    assert (answer.code, len(answer.line["images"])) == (0, 4)


def test_rows_stand_oldest_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    ids = [worlds.finished(tmp_path, seed).id for seed in ("seed=5", "seed=4", "seed=6")]
    assert [row["run_id"] for row in rows(capsys, tmp_path)] == ids


def test_machine_output_is_one_json_value_and_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    answer = worlds.open_door(capsys, ("status", "--json", "--outputs", str(tmp_path)))
    assert json.loads(answer.out)["runs"]
    assert answer.err == ""


def test_the_outputs_folder_is_taken_from_the_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = worlds.finished(tmp_path)
    monkeypatch.setenv("RUNNER_OUTPUTS", str(tmp_path))
    answer = worlds.open_door(capsys, ("status", "--json"))
    assert [row["run_id"] for row in answer.line["runs"]] == [run.id]


def test_reading_changes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    before = worlds.snapshot(tmp_path)
    for words in (("status",), ("inspect", run.id), ("verify", "--all")):
        assert worlds.open_door(capsys, (*words, "--outputs", str(tmp_path))).code == 0
    assert worlds.snapshot(tmp_path) == before
