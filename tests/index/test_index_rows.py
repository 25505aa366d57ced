"""The index says what journals, manifests and the ledger say, at every moment."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from runner import gpu, index, journal
from runner.index import answer
from runner.verbs.status import status
from tests import worlds
from tests.index.dumped import DUMP, ENDINGS, KEY, accepted, dump, finished, rebuilt, written
from tests.report import judged
from tests.verbs import small_runs

# ---- it says what the journals say


def test_runs_read_as_status_tells_them(made: Path) -> None:
    rows, told = index.runs(made), status(made, None)
    assert {row["status"] for row in rows} == {*ENDINGS, "crashed"}
    for row, line in zip(rows, told, strict=True):
        assert {name: row[name] for name in line.keys() & row.keys()} == {n: line[n] for n in line.keys() & row.keys()}


def test_exit_codes_are_those_of_the_journal(made: Path) -> None:
    codes = {row["status"]: row["exit_code"] for row in index.runs(made)}
    assert codes == {"complete": 0, "incomplete": 3, "failed": 3, "interrupted": 130, "crashed": None}


def test_images_read_as_their_runs_tell_them(made: Path) -> None:
    for row in index.runs(made):
        images = journal.read_run(made / "runs" / row["run_id"]).images()
        found = index.find_images(made, index.ImageQuery(run=row["run_id"], limit=None))
        names = found.images[0].keys() & images[0].keys()
        assert names >= {
            "key",
            "digest",
            "seed",
            "prompt",
            "prompt_id",
            "status",
            "reason",
            "scores",
            "tags",
            "unscored",
        }
        assert [{n: i[n] for n in names} for i in found.images] == [{n: i[n] for n in names} for i in images]


def test_a_run_of_many_images_is_read_and_told_in_parts(outputs: Path) -> None:
    like = journal.read_run(sorted((outputs / "runs").iterdir())[0])
    run = written(like, "large", num_images=1_200, chance=random.Random(3))
    found = index.find_images(outputs, index.ImageQuery(run="large", limit=None))
    scores = [(image["key"], image["digest"], image["scores"], sorted(image["tags"])) for image in run.images()]
    assert [(i["key"], i["digest"], i["scores"], i["tags"]) for i in found.images] == scores


def test_a_folder_with_a_name_that_is_no_text_is_no_run(outputs: Path) -> None:
    shutil.copytree(sorted((outputs / "runs").iterdir())[0], outputs / "runs" / "odd\udcff")
    assert len(index.runs(outputs)) == 5


def test_deleting_and_rebuilding_makes_every_row_again(outputs: Path) -> None:
    index.refresh(outputs)
    before = dump(outputs)
    assert all(before[name] for name in DUMP if name != "tags")
    assert rebuilt(outputs) == before


def test_only_what_changed_is_read_again(outputs: Path) -> None:
    assert (index.refresh(outputs), index.refresh(outputs)) == (5, 0)
    worlds.run(accepted(outputs, 1))
    assert index.refresh(outputs) == 1
    finished(outputs, 20)
    assert (index.refresh(outputs), index.refresh(outputs)) == (1, 0)


def test_brought_up_to_date_it_is_as_made_from_nothing(outputs: Path) -> None:
    (ended,) = [row["run_id"] for row in index.runs(outputs) if row["status"] == "complete"]
    worlds.run(accepted(outputs, 2))
    finished(outputs, 20)
    shutil.rmtree(outputs / "runs" / ended)
    small_runs.tell(outputs, {"event": "tombstoned", "object": "c" * 64, "records": ["ledger"], "reason": None})
    assert index.refresh(outputs) == 3
    assert dump(outputs) == rebuilt(outputs)


def test_an_open_run_is_asked_for_its_writer_each_time(outputs: Path) -> None:
    (run_id,) = [row["run_id"] for row in index.runs(outputs) if row["status"] == "crashed"]
    with gpu.only_writer(outputs / "runs" / run_id, gpu.this_process(run_id, "generator")):
        assert {row["run_id"]: row["status"] for row in index.runs(outputs)}[run_id] == "generating"
    assert {row["run_id"]: row["status"] for row in index.runs(outputs)}[run_id] == "crashed"


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", '{"request": {}}', "\x00\xff"])
def test_a_manifest_that_cannot_be_read_is_a_row_and_hides_no_other(outputs: Path, text: str) -> None:
    folder = sorted((outputs / "runs").iterdir())[0]
    (folder / journal.MANIFEST).write_text(text, "latin-1")
    rows = {row["run_id"]: row for row in index.runs(outputs)}
    assert (rows[folder.name]["status"], len(rows)) == ("corrupt", 5)
    assert (
        "cannot be read" in rows[folder.name]["problem"] or "is not the canonical JSON" in rows[folder.name]["problem"]
    )


def test_a_manifest_of_another_form_is_a_row_with_the_reason(outputs: Path) -> None:
    folder = sorted((outputs / "runs").iterdir())[0]
    shutil.rmtree(folder)
    journal.write_manifest(folder, {key: {} for key in journal.REQUIRED})
    (row,) = [row for row in index.runs(outputs) if row["run_id"] == folder.name]
    assert (row["status"], row["problem"]) == ("corrupt", "is not the canonical JSON that a run writes")


def test_an_altered_journal_is_corrupt_and_what_stands_before_is_known(outputs: Path) -> None:
    (run_id,) = [row["run_id"] for row in index.runs(outputs) if row["status"] == "complete"]
    log = outputs / "runs" / run_id / journal.JOURNAL
    log.write_text(log.read_text().replace("on a white", "on a green", 1))
    (row,) = [row for row in index.runs(outputs) if row["run_id"] == run_id]
    assert (row["status"], row["complete"]) == ("corrupt", 2)
    assert "was altered" in row["problem"]


# ---- memory that was measured


def test_the_largest_peak_of_exactly_this_key_is_known(made: Path) -> None:
    index.refresh(made)
    assert index.peak_mib(made, KEY, "generator") == 900
    assert index.peak_mib(made, KEY, "critic") is None
    assert all(index.peak_mib(made, {**KEY, name: "other"}, "generator") is None for name in KEY)


# ---- verdicts


def test_a_verdict_is_found_by_its_beginning_and_an_image_by_who_judged_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    world = judged.world(tmp_path_factory.getbasetemp())
    row, key = world.first.images()[1], "on-blue.001"
    held = [(run.id, key, row["verdict"]) for run in (world.first, world.again)]
    assert answer.verdicts(world.outputs, row["verdict"][:9]) == held
    on = [(run.id, key) for run in (world.first, world.again, world.pairs)]
    assert sorted(answer.judged(world.outputs, row["digest"])) == sorted(on)
    second = world.pairs.manifest["given"][key][1]
    assert answer.judged(world.outputs, second) == [(world.other.id, key), (world.pairs.id, key)]
    assert (answer.verdicts(world.outputs, "0" * 12), answer.judged(world.outputs, "0" * 12)) == ([], [])
