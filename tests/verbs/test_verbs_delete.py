"""`delete`: a tombstone that covers exactly what it names, refused for what people hold, taken back until gc."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import journal, ledger, store
from runner.errors import Corrupt, Refused, Unavailable
from runner.verbs import delete as deleting
from runner.verbs.bring import About, bring
from runner.verbs.delete import delete, undo
from runner.verbs.export import gallery
from runner.verbs.gc import gc
from runner.verbs.verify import repair, verify
from tests import worlds
from tests.verbs import small_runs


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Run `a` with two images, and one of them in run `b` as well."""
    one, two = small_runs.put(tmp_path, "one", "two")
    small_runs.run(tmp_path, "a", [one, two])
    small_runs.run(tmp_path, "b", [two])
    return tmp_path


ONE, TWO = store.digest(b"one"), store.digest(b"two")


def tombstones(outputs: Path) -> dict[str, list[str]]:
    return {digest: event["records"] for digest, event in ledger.read(outputs).tombstones.items()}


def test_a_deleted_image_is_a_tombstone_and_its_bytes_stay(outputs: Path) -> None:
    value = delete(outputs, [ONE[:8]], "no licence")
    assert value == {"deleted": [{"digest": ONE, "records": ["runs/a"]}], "already": []}
    event = ledger.read(outputs).tombstones[ONE]
    assert (event["reason"], event["records"], bool(event["user"])) == ("no licence", ["runs/a"], True)
    assert small_runs.objects(outputs) == {ONE, TWO}
    assert deleting.text(value).startswith(f"{ONE} deleted: runs/a\nBytes stay until")


def test_deleting_it_again_adds_nothing(outputs: Path) -> None:
    delete(outputs, [ONE], "no licence")
    before = worlds.snapshot(outputs)
    value = delete(outputs, [ONE], "other words")
    assert value == {"deleted": [], "already": [ONE]}
    assert (worlds.snapshot(outputs), deleting.text(value)) == (before, f"{ONE} was deleted already")


def test_an_image_of_several_runs_needs_to_be_told_which(outputs: Path) -> None:
    with pytest.raises(Refused, match=r"is an image of 2 records: runs/a, runs/b\. Name one with --run RUN"):
        delete(outputs, [TWO], "no licence")
    delete(outputs, [TWO], "no licence", run="a")
    assert tombstones(outputs) == {TWO: ["runs/a"]}
    delete(outputs, [TWO], "no licence")  # one is left
    assert tombstones(outputs) == {TWO: ["runs/a", "runs/b"]}


def test_everywhere_means_all_runs_and_imports(outputs: Path) -> None:
    small_runs.tell(outputs, {"event": "imported", "object": TWO})
    delete(outputs, [TWO], "no licence", everywhere=True)
    assert tombstones(outputs) == {TWO: ["ledger", "runs/a", "runs/b"]}


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("abc", "abc: is no digest: 8 to 64 digits 0-9 a-f"),
        ("../../etc", "is no digest"),
        ("\x1b[2J", r"\\x1b\[2J: is no digest"),
        ("0" * 64, "is no image of a run or an import"),
        (store.digest(b"verdict"), "is no image of a run or an import"),
    ],
)
def test_what_is_no_image_cannot_be_deleted(outputs: Path, prefix: str, said: str) -> None:
    small_runs.put(outputs, "verdict")
    with pytest.raises(Refused, match=said):
        delete(outputs, [prefix], "no licence")
    assert not (outputs / "ledger").exists()


def test_the_beginning_of_two_digests_is_refused_with_both(outputs: Path) -> None:
    same = ["12345678" + end * 56 for end in "ab"]
    small_runs.run(outputs, "c", same)
    with pytest.raises(Refused, match="12345678: begins 2 digests: 12345678aaaaaaaaaaaa, 12345678bbbbbbbbbbbb"):
        delete(outputs, ["12345678"], "no licence")


def test_an_image_of_another_run_than_the_one_named_is_refused(outputs: Path) -> None:
    with pytest.raises(Refused, match="is no image of runs/b; it is one of runs/a"):
        delete(outputs, [ONE], "no licence", run="b")


@pytest.mark.parametrize("word", ["approve", "reject", "maybe"])
def test_a_decided_image_is_refused_with_the_decision(outputs: Path, word: str) -> None:
    small_runs.decide(outputs, ONE, word)
    with pytest.raises(Refused, match=f"a person decided on it: {word}. It stays"):
        delete(outputs, [ONE], "no licence")


def test_an_image_of_a_dataset_is_refused_with_the_version(outputs: Path) -> None:
    small_runs.dataset(outputs, "emblems-3", ONE)
    with pytest.raises(Refused, match="dataset version emblems-3 holds it"):
        delete(outputs, [ONE], "no licence")


def test_one_that_cannot_be_deleted_refuses_all_with_every_reason(outputs: Path) -> None:
    small_runs.decide(outputs, TWO, "approve")
    with pytest.raises(Refused) as refusal:
        delete(outputs, [ONE, TWO, "0" * 64], " ")
    assert [fault.code for fault in refusal.value.faults] == ["bad_option", "unknown_image", "image_held"]
    assert ledger.read(outputs).tombstones == {}


def test_decisions_that_cannot_be_read_delete_nothing(outputs: Path) -> None:
    small_runs.dataset(outputs, "emblems-3", ONE).write_bytes(b"torn")
    with pytest.raises(Corrupt, match="nothing is deleted while this cannot be read"):
        delete(outputs, [TWO], "no licence", everywhere=True)


def test_a_tampered_ledger_deletes_nothing(outputs: Path) -> None:
    delete(outputs, [ONE], "no licence")
    log = outputs / "ledger" / journal.JOURNAL
    log.write_bytes(log.read_bytes().replace(b"no licence", b"no_licence"))
    with pytest.raises(Corrupt, match="line 1 was altered"):
        delete(outputs, [TWO], "no licence", run="a")


def test_a_deletion_is_taken_back_by_a_later_line(outputs: Path) -> None:
    delete(outputs, [ONE], "no licence")
    value = undo(outputs, [ONE[:10]], "it has one")
    assert (value, tombstones(outputs)) == ({"restored": [{"digest": ONE, "records": ["runs/a"]}]}, {})
    assert [event["event"] for event in journal.read_events(outputs / "ledger").events] == [
        "tombstoned",
        "untombstoned",
    ]
    assert deleting.text(value) == f"{ONE} is back: runs/a"


def test_what_was_not_deleted_cannot_be_taken_back(outputs: Path) -> None:
    with pytest.raises(Refused, match=r"is not deleted"):
        undo(outputs, [ONE], "")


def test_after_gc_it_is_too_late_to_take_it_back(outputs: Path) -> None:
    delete(outputs, [ONE], "no licence")
    gc(outputs, yes=True, older_than_hours=1, now_s=time.time())
    with pytest.raises(Refused, match=r"Import it again with `import --again`, or make it again with run\.fresh=true"):
        undo(outputs, [ONE], "")


def test_a_ledger_that_may_not_be_written_is_named_with_its_own_remedy(outputs: Path) -> None:
    (outputs / ledger.FOLDER).symlink_to(outputs / "nowhere" / "else")  # what even the superuser cannot write into
    with pytest.raises(
        Unavailable, match=r"ledger/lock: cannot be used \(.*\)\. Mend the permissions of that folder\.$"
    ):
        delete(outputs, [ONE], "no licence")


@pytest.mark.parametrize("what", ["nothing", "a folder", "a file"])
def test_every_verb_refuses_what_is_no_outputs_folder_alike(tmp_path: Path, what: str) -> None:
    none = tmp_path / "none"
    if what != "nothing":
        none.mkdir() if what == "a folder" else none.touch()
    asked: list[Callable[[], object]] = [
        lambda: delete(none, [ONE], "x"), lambda: undo(none, [ONE], "x"), lambda: gallery(none, "a", None),
        lambda: gc(none, yes=True, older_than_hours=1, now_s=0), lambda: verify(none, None), lambda: repair(none),
    ]  # fmt: skip
    if what == "a file":  # otherwise an import begins an outputs folder
        asked.append(lambda: bring(none, [none], About("a friend"), strict=False, again=False))
    for ask in asked:
        with pytest.raises(Refused, match=r"none holds no runs\. Name the outputs folder of your runs") as no:
            ask()
        assert no.value.faults[0].code == "outputs_missing"
    assert [path for path in tmp_path.rglob("*") if path != none] == []
