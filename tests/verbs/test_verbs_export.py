"""`export gallery`: a folder for people, marked as derived; never another's folder, never the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner import journal, store
from runner.errors import Corrupt, Refused
from runner.verbs import export as exporting
from runner.verbs.export import MARK, PAGE, RECORD, gallery
from tests import worlds
from tests.verbs import small_runs


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def run(outputs: Path) -> journal.Run:
    return worlds.finished(outputs)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_a_gallery_has_every_image_by_key_and_digest_and_says_what_it_is(outputs: Path, run: journal.Run) -> None:
    value = gallery(outputs, "demo", None)
    folder = outputs / "exports" / run.id
    objects = worlds.objects_of(outputs)
    wanted = {f"{image['key']}-{image['digest'][:8]}.png": objects[image["digest"]] for image in run.images()}
    assert value == {"ok": True, "of": run.id, "to": str(folder), "files": 4, "missing": []}
    assert pictures(folder) == wanted
    assert (folder / MARK).read_text().startswith(f"Derived from run {run.id} by `runner export gallery`.\nMoving or")
    record = json.loads((folder / RECORD).read_bytes())
    assert (record["of"], record["whole"], sorted(record["files"])) == (run.id, True, sorted(wanted))
    assert exporting.text(value) == f"4 images of {run.id}: {folder}/index.html"


def test_the_page_shows_prompts_as_text_and_asks_nobody_for_anything(outputs: Path) -> None:
    worlds.finished(outputs, worlds.prompts(2, "a {trigger} & 1 < 2"))
    page = (Path(gallery(outputs, "demo", None)["to"]) / PAGE).read_text()
    assert "&amp; 1 &lt; 2" in page
    assert ("1 < 2" in page, "http" in page, "<script" in page) == (False, False, False)
    assert page.count("<img src=") == 4


def test_what_is_moved_or_edited_there_changes_nothing_and_comes_back(outputs: Path, run: journal.Run) -> None:
    folder = Path(gallery(outputs, run.id, None)["to"])
    before, objects = pictures(folder), worlds.objects_of(outputs)
    one, two, *_ = sorted(before)
    (folder / one).unlink()
    (folder / two).write_bytes(b"painted over")
    (folder / "mine.txt").write_text("a note")
    gallery(outputs, run.id, None)
    assert (pictures(folder), worlds.objects_of(outputs)) == (before, objects)
    assert (folder / "mine.txt").read_text() == "a note"


def test_a_file_that_became_a_link_is_not_written_through(outputs: Path, run: journal.Run, tmp_path: Path) -> None:
    folder = Path(gallery(outputs, run.id, None)["to"])
    name = min(pictures(folder))
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "elsewhere")
    gallery(outputs, run.id, None)
    assert ((tmp_path / "elsewhere").read_bytes(), (folder / name).is_symlink()) == (b"mine", False)


def test_an_image_that_is_deleted_is_left_out_and_taken_out(outputs: Path, run: journal.Run) -> None:
    folder = Path(gallery(outputs, run.id, None)["to"])
    image = run.images()[0]
    small_runs.tell(outputs, small_runs.tombstone(image["digest"], f"runs/{run.id}"))
    value = gallery(outputs, run.id, None)
    assert (value["ok"], value["files"], len(pictures(folder))) == (True, 3, 3)
    assert value["missing"] == [{"key": image["key"], "digest": image["digest"], "reason": "was deleted"}]


@pytest.mark.parametrize("harm", ["gone", "altered"])
def test_an_image_whose_bytes_are_not_its_own_is_named_and_not_shown(
    outputs: Path, run: journal.Run, harm: str
) -> None:
    image = run.images()[1]
    path = store.Store(outputs / "objects").path(image["digest"])
    path.unlink() if harm == "gone" else path.write_bytes(b"?")
    value = gallery(outputs, run.id, None)
    assert (value["ok"], value["files"], [row["key"] for row in value["missing"]]) == (False, 3, [image["key"]])
    assert f"{image['key']}: " in exporting.text(value)
    assert image["key"] not in (Path(value["to"]) / PAGE).read_text()


def test_it_goes_where_it_is_told(outputs: Path, run: journal.Run, tmp_path: Path) -> None:
    assert len(pictures(Path(gallery(outputs, run.id, tmp_path / "a" / "b")["to"]))) == 4
    assert not (outputs / "exports").exists()


def test_a_folder_with_something_else_in_it_is_refused(outputs: Path, run: journal.Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "index.html").write_text("mine")
    with pytest.raises(Refused, match=r"photos: has 1 things in it that no export wrote\. Name an empty folder"):
        gallery(outputs, run.id, tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["index.html"]


def test_an_export_of_another_run_is_refused(outputs: Path, run: journal.Run, tmp_path: Path) -> None:
    other = worlds.finished(outputs, "seed=3")
    gallery(outputs, run.id, tmp_path / "g")
    with pytest.raises(Refused, match=f"is an export of run {run.id}"):
        gallery(outputs, other.id, tmp_path / "g")


@pytest.mark.parametrize("place", ["objects", "runs/x", "ledger", "decisions", "exports/../objects/ab"])
def test_the_truth_holds_no_copies(outputs: Path, run: journal.Run, place: str) -> None:
    before = worlds.snapshot(outputs)
    with pytest.raises(Refused, match="which holds the truth and no copies of it"):
        gallery(outputs, run.id, outputs / place)
    assert worlds.snapshot(outputs) == before


def test_an_export_that_died_is_made_whole_by_the_next(
    outputs: Path, run: journal.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path, *words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(exporting, "_write_images", die)
        gallery(outputs, run.id, None)
    folder = outputs / "exports" / run.id
    assert json.loads((folder / RECORD).read_bytes())["whole"] is False
    assert (gallery(outputs, run.id, None)["files"], len(pictures(folder))) == (4, 4)


def test_a_record_edited_by_hand_removes_nothing_but_pictures_of_ours(outputs: Path, run: journal.Run) -> None:
    folder = Path(gallery(outputs, run.id, None)["to"])
    record = json.loads((folder / RECORD).read_bytes())
    record["files"] |= {"../../storage.txt": "", "notes.txt": "", "old-01234567.png": ""}
    for name in ("notes.txt", "old-01234567.png", "../../storage.txt"):
        (folder / name).write_text("x")
    (folder / RECORD).write_text(json.dumps(record))
    gallery(outputs, run.id, None)
    assert [(folder / name).exists() for name in ("notes.txt", "../../storage.txt", "old-01234567.png")] == [
        True, True, False,
    ]  # fmt: skip


def test_a_run_whose_journal_is_broken_is_not_exported(outputs: Path, run: journal.Run) -> None:
    log = run.folder / journal.JOURNAL
    log.write_bytes(log.read_bytes().replace(b'"n":3', b'"n":4'))
    with pytest.raises(Corrupt, match="line 4 was altered"):
        gallery(outputs, run.id, None)
    assert not (outputs / "exports").exists()
