"""The verb `verify` as it is typed: exit codes, JSON, what a person reads, and runs as they really come to be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import journal
from runner.execute import folders
from runner.store import Store
from runner.verbs.verify import logs
from tests import fakes, worlds


def verify(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> tuple[int, dict[str, Any]]:
    answer = worlds.open_door(capsys, ("verify", *words, "--json", "--outputs", str(outputs)))
    return answer.code, answer.line


def first_object(run: journal.Run) -> tuple[str, Path]:
    digest = run.images()[0]["digest"]
    return digest, Store(run.folder.parent.parent / "objects").path(digest)


@pytest.mark.parametrize("words", [(), ("--all",), ("demo",)])
def test_an_untouched_run_is_ok(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]) -> None:
    worlds.finished(tmp_path)
    code, facts = verify(capsys, tmp_path, *words)
    assert (code, facts["ok"], facts["checked"], facts["problems"]) == (0, True, 10, [])


def test_a_person_reads_one_line_when_all_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    answer = worlds.open_door(capsys, ("verify", "--outputs", str(tmp_path)))
    assert answer.out == "All is as it was written: 10 things checked.\n"


def test_any_difference_ends_with_4_and_four_fields(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.write_bytes(path.read_bytes()[:-1])
    code, facts = verify(capsys, tmp_path, "--all")
    (problem,) = facts["problems"]
    assert (code, facts["ok"], list(problem)) == (4, False, ["kind", "name", "expected", "found"])
    assert (problem["kind"], problem["name"], problem["expected"]) == ("truncated", digest, digest)


def test_a_person_reads_every_difference(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.unlink()
    answer = worlds.open_door(capsys, ("verify", "--outputs", str(tmp_path)))
    assert (answer.code, "missing" in answer.out, digest[:20] in answer.out) == (4, True, True)


def test_repairing_is_said_and_ends_with_0_when_nothing_is_left(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.rename(tmp_path / "objects" / "a.png")
    code, facts = verify(capsys, tmp_path, "--repair")
    assert (code, facts["ok"], [(r["how"], r["name"]) for r in facts["repaired"]]) == (0, True, [("put_back", digest)])
    assert verify(capsys, tmp_path, "--all")[0] == 0


def test_a_repair_that_leaves_something_ends_with_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, path = first_object(worlds.finished(tmp_path))
    path.write_bytes(b"?")
    answer = worlds.open_door(capsys, ("verify", "--repair", "--outputs", str(tmp_path)))
    assert (answer.code, "set_aside" in answer.out, "missing" in answer.out) == (4, True, True)


def test_a_repair_of_one_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    code, facts = verify(capsys, tmp_path, run.id, "--repair")
    assert (code, facts["faults"][0]["code"]) == (2, "bad_option")


def test_looking_changes_nothing_not_even_a_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    _, path = first_object(run)
    path.write_bytes(b"?")
    (tmp_path / "objects" / "notes.txt").write_text("mine")
    with (run.folder / "journal.jsonl").open("ab") as file:
        file.write(b'{"at"')
    before = worlds.snapshot(tmp_path)
    verify(capsys, tmp_path, "--all")
    assert worlds.snapshot(tmp_path) == before


def test_a_run_that_resumed_after_a_crash_verifies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fakes.Disk(cut_at=7, torn=True).install(patch)
        with pytest.raises(fakes.PowerCut, match="is gone"):
            worlds.run(worlds.accept(tmp_path))
    worlds.run(worlds.accept(tmp_path))
    assert verify(capsys, tmp_path, "--all")[0] == 0


@pytest.mark.parametrize("cut_at", [1, 3, 5, 7, 9, 11])
def test_a_crash_at_any_write_leaves_orphans_at_worst(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, cut_at: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fakes.Disk(cut_at=cut_at, torn=True).install(patch)
        with pytest.raises(fakes.PowerCut, match=r"is gone|at write"):
            worlds.run(worlds.accept(tmp_path))
    code, facts = verify(capsys, tmp_path, "--all")
    assert (code in (0, 4), {problem["kind"] for problem in facts["problems"]} <= {"orphan"}) == (True, True), facts


def test_two_runs_share_the_store_and_neither_is_the_others_orphan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, _ = worlds.finished(tmp_path), worlds.finished(tmp_path, "seed=3")
    assert verify(capsys, tmp_path)[1].items() >= {"ok": True, "checked": 20, "problems": []}.items()
    assert verify(capsys, tmp_path, one.id)[1]["checked"] == 10


def test_a_copied_run_folder_is_verified_without_its_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path / "outputs")
    copy = shutil.copytree(run.folder, tmp_path / "elsewhere" / "mine")
    code, facts = verify(capsys, copy, "--all")
    assert (code, facts["objects"], facts["checked"]) == (0, False, 2)


def test_what_a_running_attempt_keeps_beside_its_journal_is_known() -> None:
    assert folders.RESERVE in logs.BESIDE
