"""`verify`: every difference by its exact name, exit code 4, and nothing repaired."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from runner import journal
from runner.store import Store
from tests import fakes, worlds


def verify(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> tuple[int, dict[str, Any]]:
    answer = worlds.open_door(capsys, ("verify", *words, "--json", "--outputs", str(outputs)))
    return answer.code, answer.line


def first_object(run: journal.Run) -> tuple[str, Path]:
    digest = run.images()[0]["digest"]
    return digest, Store(run.folder.parent.parent / "objects").path(digest)


def only_problem(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> tuple[str, str]:
    """The one problem there is, by kind and name; anything else than exit code 4 and one problem is wrong."""
    code, facts = verify(capsys, outputs, *words)
    assert (code, facts["ok"], len(facts["problems"])) == (4, False, 1), facts["problems"]
    (problem,) = facts["problems"]
    assert problem.keys() == {"kind", "name", "expected", "found"}
    return problem["kind"], problem["name"]


@pytest.mark.parametrize("words", [(), ("--all",), ("demo",)])
def test_an_untouched_run_is_ok(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str, ...]) -> None:
    worlds.finished(tmp_path)
    code, facts = verify(capsys, tmp_path, *words)
    assert (code, facts["ok"], facts["checked"], facts["problems"]) == (0, True, 10, [])


def test_a_person_reads_one_line_when_all_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    answer = worlds.open_door(capsys, ("verify", "--outputs", str(tmp_path)))
    assert answer.out == "All is as it was written: 10 things checked.\n"


def test_a_deleted_object_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.unlink()
    assert only_problem(capsys, tmp_path) == ("missing", digest)


def test_a_changed_byte_is_altered(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert only_problem(capsys, tmp_path) == ("altered", digest)


def test_a_shorter_object_is_truncated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.write_bytes(path.read_bytes()[:-1])
    assert only_problem(capsys, tmp_path, "--all") == ("truncated", digest)


def test_an_empty_object_is_truncated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    path.write_bytes(b"")
    assert only_problem(capsys, tmp_path) == ("truncated", digest)


def test_an_object_that_no_journal_names_is_an_orphan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    name = Store(tmp_path / "objects").put(b"nobody's")
    assert only_problem(capsys, tmp_path) == ("orphan", name)


def test_an_object_under_another_name_is_misplaced(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    digest, path = first_object(worlds.finished(tmp_path))
    place = tmp_path / "objects" / "00" / ("0" * 62)
    place.parent.mkdir(exist_ok=True)
    shutil.copy(path, place)
    code, facts = verify(capsys, tmp_path)
    (problem,) = facts["problems"]
    assert (code, problem["kind"], problem["name"]) == (4, "misplaced", f"00/{'0' * 62}")
    assert (problem["expected"], problem["found"]) == (f"{digest[:2]}/{digest[2:]}", digest)


def test_two_objects_that_changed_places_are_both_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    objects = Store(tmp_path / "objects")
    one, two = (image["digest"] for image in run.images()[:2])
    first, second = objects.path(one).read_bytes(), objects.path(two).read_bytes()
    objects.path(one).write_bytes(second)
    objects.path(two).write_bytes(first)
    code, facts = verify(capsys, tmp_path)
    assert (code, {p["name"]: p["found"] for p in facts["problems"]}) == (4, {one: two, two: one})


def test_a_strange_file_in_the_store_is_extra(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    (tmp_path / "objects" / "notes.txt").write_text("mine")
    assert only_problem(capsys, tmp_path) == ("extra", "notes.txt")


def test_a_strange_file_in_a_run_folder_is_extra(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    (run.folder / "notes.txt").write_text("mine")
    assert only_problem(capsys, tmp_path) == ("extra", f"{run.id}/notes.txt")


def test_an_edited_manifest_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    manifest = run.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"steps":2', '"steps":3'))
    assert only_problem(capsys, tmp_path) == ("manifest_altered", f"{run.id}/manifest.json")


def test_a_manifest_that_is_gone_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    (run.folder / "manifest.json").unlink()
    code, facts = verify(capsys, tmp_path, "--all")
    assert (code, f"{run.id}/manifest.json" in {problem["name"] for problem in facts["problems"]}) == (4, True)


@pytest.mark.parametrize(("old", "new"), [("on a blue", "on a pink"), ('"n":3', '"n":4'), ('{"at"', '{"at" ')])
def test_an_edited_journal_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str, new: str) -> None:
    run = worlds.finished(tmp_path)
    log = run.folder / "journal.jsonl"
    log.write_text(log.read_text().replace(old, new, 1))
    code, facts = verify(capsys, tmp_path, run.id)
    assert (code, [p["kind"] for p in facts["problems"]]) == (4, ["journal_altered"])


def test_a_journal_whose_first_line_is_gone_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    log = run.folder / "journal.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[1:]))
    _, facts = verify(capsys, tmp_path, run.id)
    assert "journal_altered" in {problem["kind"] for problem in facts["problems"]}


def test_verifying_repairs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, path = first_object(worlds.finished(tmp_path))
    path.write_bytes(b"?")
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


def test_two_runs_share_the_store_and_neither_is_the_others_orphan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    one, _ = worlds.finished(tmp_path), worlds.finished(tmp_path, "seed=3")
    assert verify(capsys, tmp_path)[1].items() >= {"ok": True, "checked": 20, "problems": []}.items()
    assert verify(capsys, tmp_path, one.id)[1]["checked"] == 10
