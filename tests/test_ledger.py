"""The ledger: what came in, what was deleted and collected, who holds what; and who keeps out of whose way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner import journal, ledger, store
from runner.errors import Corrupt, Failed, Unavailable
from tests import fakes, worlds
from tests.verbs import small_runs

ONE, TWO = "1" * 64, "2" * 64
IMPORTED = {"event": "imported", "object": ONE, "source": "a friend"}


def tombstone(*records: str, digest: str = ONE) -> dict[str, Any]:
    return {"event": "tombstoned", "object": digest, "records": list(records), "reason": "no licence", "user": "me"}


def log_of(outputs: Path) -> Path:
    return outputs / ledger.FOLDER / journal.JOURNAL


# ---- the log


def test_the_first_line_follows_a_fixed_text(tmp_path: Path) -> None:
    small_runs.tell(tmp_path, IMPORTED)
    assert store.digest(b"runner ledger, format 1") == ledger.GENESIS
    assert journal.read_events(tmp_path / ledger.FOLDER).events[0]["prev"] == ledger.GENESIS


def test_a_ledger_that_is_not_there_says_nothing_and_reading_it_makes_nothing(tmp_path: Path) -> None:
    known = ledger.read(tmp_path)
    assert (known.imports, known.tombstones, known.repairs, known.problem) == ({}, {}, (), None)
    assert list(tmp_path.iterdir()) == []


def test_what_is_appended_is_read_and_sealed(tmp_path: Path) -> None:
    small_runs.tell(tmp_path / "outputs", IMPORTED)
    small_runs.tell(tmp_path / "outputs", {"event": "repaired", "kind": "missing", "name": TWO})
    known = ledger.read(tmp_path / "outputs")
    assert (known.imports[ONE]["source"], known.repairs[0]["name"], known.problem) == ("a friend", TWO, None)
    assert b'"n":1' in (tmp_path / "outputs" / "ledger" / journal.SEAL).read_bytes()


def test_a_cut_end_shows_and_nothing_is_added_to_it(tmp_path: Path) -> None:
    small_runs.tell(tmp_path, IMPORTED)
    small_runs.tell(tmp_path, tombstone("ledger"))
    log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes().splitlines(keepends=True)[0])
    before = worlds.snapshot(tmp_path)
    with pytest.raises(Corrupt, match="cut short: it has 1 lines and had at least 2"):
        small_runs.tell(tmp_path, IMPORTED)
    assert worlds.snapshot(tmp_path) == before


def test_an_edited_line_shows_and_says_what_to_do(tmp_path: Path) -> None:
    small_runs.tell(tmp_path, IMPORTED)
    log_of(tmp_path).write_bytes(log_of(tmp_path).read_bytes().replace(b"a friend", b"a fiend!"))
    assert ledger.read(tmp_path).problem == "line 1 was altered: its hash is not that of its content"
    with pytest.raises(Corrupt, match=r"line 1 was altered.* Put the ledger/ folder back from a copy"):
        small_runs.tell(tmp_path, IMPORTED)


def test_another_log_in_its_place_is_no_ledger(tmp_path: Path) -> None:
    (tmp_path / ledger.FOLDER).mkdir()
    journal.open_log(tmp_path / ledger.FOLDER, "0" * 64, list)[0].append(IMPORTED)
    with pytest.raises(Corrupt, match="does not begin as a ledger does"):
        small_runs.tell(tmp_path, IMPORTED)


@pytest.mark.parametrize("event", [{"event": "imported"}, {"event": "tombstoned", "object": ONE, "records": 3}])
def test_a_sound_line_that_is_no_event_of_ours_is_told_by_its_number(tmp_path: Path, event: dict[str, Any]) -> None:
    (tmp_path / ledger.FOLDER).mkdir()
    journal.open_log(tmp_path / ledger.FOLDER, ledger.GENESIS, list)[0].append(event)
    assert str(ledger.read(tmp_path).problem).startswith("line 1 is no event of a ledger")


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with (
        ledger.writing(tmp_path),
        pytest.raises(Unavailable, match=rf"ledger: is being written by process {os.getpid()}"),
    ):
        small_runs.tell(tmp_path, IMPORTED)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("cut_at", range(1, 8))
def test_a_power_cut_at_any_write_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int, torn: bool
) -> None:
    events = [{**IMPORTED, "object": str(n) * 64} for n in range(3)]
    done = 0
    with monkeypatch.context() as patch:
        fakes.Disk(cut_at=cut_at, torn=torn).install(patch)
        try:
            for event in events:
                small_runs.tell(tmp_path, event)
                done += 1
        except fakes.PowerCut:
            pass
    known = ledger.read(tmp_path)
    assert known.problem is None
    assert done <= len(known.imports) <= done + 1
    small_runs.tell(tmp_path, *events[len(known.imports) :])
    lines = journal.read_events(tmp_path / ledger.FOLDER).events
    assert [event["object"] for event in lines] == [event["object"] for event in events]


def test_a_full_disk_is_a_storage_failure_and_the_ledger_stays_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_runs.tell(tmp_path, IMPORTED)
    with monkeypatch.context() as patch:
        fakes.Disk(cut_at=2, torn=True, error=OSError(28, "No space left on device")).install(patch)
        with pytest.raises(Failed, match=r"seal.json: cannot be written \(No space left on device\)"):
            small_runs.tell(tmp_path, tombstone("ledger"))
    assert ledger.read(tmp_path).problem is None


# ---- what events add up to


def fold(*events: dict[str, Any]) -> ledger.Ledger:
    return ledger.fold([{"at": "2026-01-01", **event} for event in events])


def test_a_tombstone_covers_the_records_it_names_and_no_others() -> None:
    known = fold(tombstone("runs/a"), tombstone("ledger"))
    assert [known.deletes(ONE, record) for record in ("runs/a", "ledger", "runs/b")] == [True, True, False]
    assert not known.deletes(TWO, "runs/a")


def test_taking_it_back_takes_all_tombstones_of_an_object_back() -> None:
    known = fold(tombstone("runs/a"), tombstone("ledger"), {"event": "untombstoned", "object": ONE})
    assert known.tombstones == {}


def test_importing_a_deleted_image_again_brings_back_the_import_and_not_the_runs() -> None:
    known = fold(IMPORTED, tombstone("ledger", "runs/a"), IMPORTED)
    assert (known.deletes(ONE, "ledger"), known.deletes(ONE, "runs/a")) == (False, True)
    assert fold(IMPORTED, tombstone("ledger"), IMPORTED).tombstones == {}


def test_the_last_import_of_an_image_counts() -> None:
    assert fold(IMPORTED, {**IMPORTED, "source": "a museum"}).imports[ONE]["source"] == "a museum"


def test_a_collection_is_under_way_until_its_end_is_said() -> None:
    begun = {"event": "collecting", "objects": [ONE, TWO], "bytes": 2}
    assert list(fold(begun).collecting) == [ONE, TWO]
    ended = fold(begun, {"event": "collected", "objects": [ONE], "bytes": 1, "kept": [TWO]})
    assert (list(ended.collecting), list(ended.collected)) == ([], [ONE])


# ---- what is held


def decide(outputs: Path, *decisions: tuple[str, str | None]) -> None:
    (outputs / ledger.DECISIONS).mkdir(parents=True, exist_ok=True)
    log, _ = journal.open_log(outputs / ledger.DECISIONS, "0" * 64, list)
    log.append(*({"event": "decided", "image": image, "decision": word} for image, word in decisions))


def dataset(outputs: Path, name: str, data: bytes) -> Path:
    path = outputs / ledger.DATASETS / name / journal.MANIFEST
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_nothing_is_held_where_nobody_decided() -> None:
    assert ledger.held(Path("no such folder")) == {}


@pytest.mark.parametrize("word", ["approve", "reject", "maybe"])
def test_an_image_that_a_person_decided_on_is_held(tmp_path: Path, word: str) -> None:
    decide(tmp_path, (ONE, word))
    assert ledger.held(tmp_path) == {ONE: f"a person decided on it: {word}"}


def test_the_last_decision_counts_and_only_none_lets_go(tmp_path: Path) -> None:
    decide(tmp_path, (ONE, "approve"), (TWO, "reject"), (ONE, None), (TWO, "skip"))
    assert ledger.held(tmp_path) == {TWO: "a person decided on it, in a word that is not known here ('skip')"}


def test_a_line_without_a_decision_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / ledger.DECISIONS).mkdir()
    journal.open_log(tmp_path / ledger.DECISIONS, "0" * 64, list)[0].append({"event": "shown", "image": ONE})
    assert ledger.held(tmp_path) == {}


def test_what_a_dataset_version_is_made_of_is_held(tmp_path: Path) -> None:
    dataset(tmp_path, "emblems-1", store.canonical({"items": [{"object": ONE}, {"object": TWO, "caption": "x"}]}))
    dataset(tmp_path, ".emblems-2", b"unfinished")
    why = "dataset version emblems-1 holds it"
    assert ledger.held(tmp_path) == {ONE: why, TWO: why}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b'{"items": []}', "is not canonical JSON with a list of `items`"),
        (b"[]", "is not canonical JSON"),
        (b"{}", "is not canonical JSON with a list"),
        (b'{"items":[3]}', "with a list of `items`"),
        (b'{"items":[{"object":null}]}', r"has an item without a digest \('None'\)"),
        (b'{"items":[{"object":"1234"}]}', r"has an item without a digest \('1234'\)"),
    ],
)
def test_a_dataset_that_cannot_be_read_holds_everything(tmp_path: Path, data: bytes, said: str) -> None:
    dataset(tmp_path, "emblems-1", data)
    with pytest.raises(Corrupt, match=f"{said}.*nothing is deleted while this cannot be read"):
        ledger.held(tmp_path)


def test_a_dataset_whose_manifest_is_gone_or_a_pipe_holds_everything(tmp_path: Path) -> None:
    path = dataset(tmp_path, "emblems-1", b"")
    path.unlink()
    with pytest.raises(Corrupt, match="No such file"):
        ledger.held(tmp_path)
    os.mkfifo(path)
    with pytest.raises(Corrupt, match="is no regular file"):
        ledger.held(tmp_path)


def test_a_decisions_journal_with_a_broken_chain_holds_everything(tmp_path: Path) -> None:
    decide(tmp_path, (ONE, "approve"))
    path = tmp_path / ledger.DECISIONS / journal.JOURNAL
    path.write_bytes(path.read_bytes().replace(b"approve", b"appRove"))
    with pytest.raises(Corrupt, match="line 1 was altered"):
        ledger.held(tmp_path)


# ---- storing and removing keep apart


def test_runs_share_the_outputs_and_a_removal_has_them_alone(tmp_path: Path) -> None:
    with (
        ledger.using(tmp_path),
        ledger.using(tmp_path),
        pytest.raises(Unavailable, match="is in use: a run or another gc"),
        ledger.alone(tmp_path),
    ):
        pass
    with ledger.alone(tmp_path), pytest.raises(Unavailable, match="is in use"), ledger.alone(tmp_path):
        pass


def test_a_process_that_is_killed_lets_go_of_the_outputs(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from runner import ledger\n"
        "with ledger.using(Path(sys.argv[1])): print('holds', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=fakes.ROOT) as user:
        assert user.stdout is not None and user.stdout.readline() == b"holds\n"
        with pytest.raises(Unavailable, match="is in use"), ledger.alone(tmp_path):
            pass
        user.send_signal(signal.SIGKILL)
        user.wait()
        with ledger.alone(tmp_path):
            pass
