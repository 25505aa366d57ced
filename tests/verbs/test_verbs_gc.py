"""`gc`: removes only what nobody names, says so before and after, and refuses wherever it cannot know."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import gpu, journal, ledger, store
from runner.errors import Corrupt, Failed, Refused, Unavailable
from runner.verbs import gc as collecting
from tests import fakes, worlds
from tests.verbs import small_runs

ONE, TWO, LOST = store.digest(b"one"), store.digest(b"two"), store.digest(b"lost")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Run `a` with two images, and an old object that nobody names."""
    small_runs.run(tmp_path, "a", small_runs.put(tmp_path, "one", "two"))
    small_runs.put(tmp_path, "lost")
    small_runs.age(tmp_path, hours=2)
    return tmp_path


def gc(outputs: Path, *, yes: bool = True, hours: float = 1.0) -> dict[str, Any]:
    value = collecting.gc(outputs, yes=yes, older_than_hours=hours, now_s=time.time())
    json.dumps(value)
    return value


def gone(value: dict[str, Any]) -> dict[str, str]:
    return {row["digest"]: row["why"] for row in value["objects"]}


def told(outputs: Path) -> list[tuple[str, list[str]]]:
    """The lines of collections, in order."""
    events = journal.read_events(outputs / "ledger").events
    return [(event["event"], event["objects"]) for event in events if event["event"].startswith("collect")]


# ---- dry


def test_dry_it_says_what_would_go_and_changes_not_one_byte(outputs: Path) -> None:
    before = worlds.snapshot(outputs)
    value = gc(outputs, yes=False)
    assert (gone(value), value["dry"], value["bytes"]) == ({LOST: "no record names it"}, True, 4)
    assert worlds.snapshot(outputs) == before
    assert collecting.text(value) == (
        f"{LOST}  4 bytes  no record names it\nWould remove 1 objects and leftovers, 0.0 MB; --yes does it."
    )


def test_dry_and_done_name_the_same(outputs: Path) -> None:
    dry, done = gc(outputs, yes=False), gc(outputs)
    assert dry == done | {"dry": True}
    assert collecting.text(gc(outputs)) == "Nothing to remove."


# ---- what goes


def test_an_object_that_nobody_names_goes_and_the_ledger_says_so_before_and_after(outputs: Path) -> None:
    gc(outputs)
    assert (small_runs.objects(outputs), told(outputs)) == (
        {ONE, TWO}, [("collecting", [LOST]), ("collected", [LOST])],
    )  # fmt: skip


def test_a_young_object_stays_because_its_line_may_be_on_its_way(outputs: Path) -> None:
    value = gc(outputs, hours=3)
    assert (gone(value), value["num_younger"], LOST in small_runs.objects(outputs)) == ({}, 1, True)
    assert "1 more objects are nobody's, but too young to tell" in collecting.text(value)


def test_a_deleted_image_goes_at_any_age(outputs: Path) -> None:
    small_runs.age(outputs, hours=0)
    small_runs.tell(outputs, small_runs.tombstone(ONE, "runs/a"))
    assert gone(gc(outputs)) == {ONE: "deleted: no licence"}
    assert list(ledger.read(outputs).collected) == [ONE]


def test_a_deleted_image_that_another_run_made_stays_and_is_told(outputs: Path) -> None:
    small_runs.run(outputs, "b", [ONE])
    small_runs.tell(outputs, small_runs.tombstone(ONE, "runs/a"))
    value = gc(outputs)
    assert value["kept"] == [{"digest": ONE, "why": "named by runs/b"}]
    assert ONE in small_runs.objects(outputs)
    assert f"{ONE}  stays, though deleted: named by runs/b" in collecting.text(value)


@pytest.mark.parametrize("place", ["ab", "0f"])
def test_what_a_crashed_write_left_goes_when_it_is_old(outputs: Path, place: str) -> None:
    (outputs / "objects" / place).mkdir(exist_ok=True)
    left = outputs / "objects" / place / f".{'c' * 62}.0123456789ab"
    left.write_bytes(b"torn")
    assert (gc(outputs)["leftovers"], left.exists()) == ([], True)
    os.utime(left, (1, 1))
    assert (gc(outputs)["leftovers"], left.exists()) == ([{"place": f"{place}/{left.name}", "bytes": 4}], False)


# ---- what stays


def test_what_any_line_of_a_run_names_stays(outputs: Path) -> None:
    small_runs.run(outputs, "b", [], facts={"request": [{"example": LOST}]})
    assert gone(gc(outputs)) == {}


def test_an_imported_image_stays(outputs: Path) -> None:
    small_runs.tell(outputs, {"event": "imported", "object": LOST})
    assert gone(gc(outputs)) == {}


@pytest.mark.parametrize("by", ["decision", "dataset"])
def test_what_is_held_stays_whether_it_is_named_or_deleted(outputs: Path, by: str) -> None:
    small_runs.tell(outputs, small_runs.tombstone(ONE, "runs/a"))
    for digest in (ONE, LOST):
        if by == "decision":
            small_runs.decide(outputs, digest, "maybe")
        else:
            small_runs.dataset(outputs, f"emblems-{digest[:4]}", digest)
    value = gc(outputs)
    assert (gone(value), small_runs.objects(outputs)) == ({}, {ONE, TWO, LOST})
    assert "decided on it: maybe" in str(value["kept"]) or "holds it" in str(value["kept"])


def test_a_run_under_another_name_is_still_a_run(outputs: Path) -> None:
    (outputs / "runs" / "a").rename(outputs / "runs" / ".a")
    assert gone(gc(outputs)) == {LOST: "no record names it"}


NAMES = [store.digest(str(n).encode()) for n in range(6)]
SOME = st.sets(st.integers(0, 5), max_size=4)


@settings(max_examples=12)
@given(a=SOME, b=SOME, brought=SOME, deleted_a=SOME, deleted_b=SOME, deleted_import=SOME, decided=SOME, data=SOME)
def test_whatever_a_live_record_names_or_a_person_holds_is_never_removed(
    a: set[int], b: set[int], brought: set[int], deleted_a: set[int], deleted_b: set[int], deleted_import: set[int],
    decided: set[int], data: set[int],
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)  # it is tested who names what, not how it lasts
        outputs = Path(place)
        small_runs.put(outputs, *map(str, range(len(NAMES))))
        for name, made in (("a", a), ("b", b)):
            small_runs.run(outputs, name, [NAMES[n] for n in made])
        covers = (("runs/a", deleted_a), ("runs/b", deleted_b), ("ledger", deleted_import))
        small_runs.tell(outputs, *({"event": "imported", "object": NAMES[n]} for n in brought))
        small_runs.tell(outputs, *(small_runs.tombstone(NAMES[n], record) for record, some in covers for n in some))
        for number in decided:
            small_runs.decide(outputs, NAMES[number], "approve")
        small_runs.dataset(outputs, "d", *(NAMES[n] for n in data))
        collecting.gc(outputs, yes=True, older_than_hours=1, now_s=small_runs.LATER_S)
        left = {NAMES.index(digest) for digest in small_runs.objects(outputs)}
    assert left == (a - deleted_a) | (b - deleted_b) | (brought - deleted_import) | decided | data


# ---- refused


def test_a_run_that_is_being_written_refuses_it_dry_and_done(outputs: Path) -> None:
    for yes in (False, True):
        with (
            gpu.only_writer(outputs / "runs" / "a", gpu.this_process("a", "generator")),
            pytest.raises(Unavailable, match=r"gc: run a is being written\. Wait until it ends"),
        ):
            gc(outputs, yes=yes)
    assert LOST in small_runs.objects(outputs)


def test_a_process_that_stores_keeps_gc_out(outputs: Path) -> None:
    with ledger.using(outputs), pytest.raises(Unavailable, match="is in use"):
        gc(outputs)
    with ledger.writing(outputs), pytest.raises(Unavailable, match="ledger: is being written"):
        gc(outputs)


@pytest.mark.parametrize("file", [journal.JOURNAL, journal.MANIFEST])
def test_a_run_that_cannot_be_read_may_name_anything(outputs: Path, file: str) -> None:
    path = outputs / "runs" / "a" / file
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))
    for yes in (False, True):
        with pytest.raises(Corrupt, match=r"a/(journal\.jsonl|manifest\.json)"):
            gc(outputs, yes=yes)
    assert small_runs.objects(outputs) == {ONE, TWO, LOST}


def test_a_manifest_of_another_run_or_none_may_name_anything(outputs: Path) -> None:
    small_runs.run(outputs, "b", [])
    (outputs / "runs" / "b" / journal.MANIFEST).replace(outputs / "runs" / "a" / journal.MANIFEST)
    with pytest.raises(Corrupt, match="belongs to another manifest"):
        gc(outputs)
    (outputs / "runs" / "a" / journal.MANIFEST).unlink()
    with pytest.raises(Corrupt, match="cannot be read"):
        gc(outputs)


@pytest.mark.parametrize("what", ["ledger", "decisions", "datasets"])
def test_a_record_that_cannot_be_read_refuses_everything(outputs: Path, what: str) -> None:
    small_runs.tell(outputs, {"event": "imported", "object": ONE})
    small_runs.decide(outputs, ONE, "approve")
    small_runs.dataset(outputs, "d", ONE)
    path = outputs / what / ("d/manifest.json" if what == "datasets" else journal.JOURNAL)
    path.write_bytes(path.read_bytes()[:9] + b"?" + path.read_bytes()[10:])
    before = worlds.snapshot(outputs)
    for yes in (False, True):
        with pytest.raises(Corrupt, match=what):
            gc(outputs, yes=yes)
    assert worlds.snapshot(outputs).keys() - before.keys() <= {".in-use"}


def test_where_nothing_is_recorded_nothing_is_nobodys(outputs: Path) -> None:
    (outputs / "runs").rename(outputs.parent / f"{outputs.name}-runs")
    with pytest.raises(Refused, match="has neither runs nor a ledger: nothing there says what is still needed"):
        gc(outputs)


@pytest.mark.parametrize("yes", [False, True])
def test_objects_that_are_anothers_by_a_link_are_left_to_the_other(outputs: Path, tmp_path: Path, yes: bool) -> None:
    other = tmp_path / "other"
    small_runs.run(other, "b", [TWO])
    (other / "objects").symlink_to(outputs / "objects")
    with pytest.raises(Refused, match=r"objects is a link: this store also belongs to another outputs folder") as no:
        gc(other, yes=yes)
    assert (no.value.faults[0].code, small_runs.objects(outputs)) == ("store_shared", {ONE, TWO, LOST})


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), -1.0])
def test_an_age_that_is_no_number_of_hours_is_refused(outputs: Path, hours: float) -> None:
    with pytest.raises(Refused, match=r"--older-than-hours: is (nan|inf|-1\.0)"):
        gc(outputs, hours=hours)


# ---- crashes


def test_after_a_kill_in_the_middle_the_next_gc_says_what_is_gone_and_goes_on(outputs: Path) -> None:
    names = small_runs.put(outputs, "lost1", "lost2", "lost3")
    small_runs.age(outputs, hours=2)
    code = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "from runner import store\nfrom runner.verbs.gc import gc\n"
        "remove, calls = store.Store.remove, []\n"
        "def die(self, name):\n"
        "    calls.append(name); remove(self, name)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "store.Store.remove = die\n"
        "gc(Path(sys.argv[1]), yes=True, older_than_hours=1, now_s=time.time())"
    )
    assert fakes.python("-c", code, str(outputs)).code == -9
    there = small_runs.objects(outputs)
    assert (len(there), len(ledger.read(outputs).collecting), {ONE, TWO} <= there) == (4, 4, True)
    gc(outputs)
    known = ledger.read(outputs)
    assert (small_runs.objects(outputs), dict(known.collecting)) == ({ONE, TWO}, {})
    assert set(known.collected) == {LOST, *names}
    assert sum(len(digests) for event, digests in told(outputs) if event == "collected") == 4


def test_a_run_that_begins_in_between_stops_the_removal(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = collecting.make_plan
    with ExitStack() as held:

        def plan_while_a_run_begins(*words: Any) -> collecting.Plan:
            held.enter_context(gpu.only_writer(outputs / "runs" / "b", gpu.this_process("b", "generator")))
            return plan(*words)

        monkeypatch.setattr(collecting, "make_plan", plan_while_a_run_begins)
        with pytest.raises(Unavailable, match="run b is being written"):
            gc(outputs)
    assert LOST in small_runs.objects(outputs)


def test_a_disk_that_refuses_is_a_storage_failure_and_is_said_to_be_under_way(
    outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch, pytest.raises(Failed, match=r"cannot be removed \(Read-only file system\)"):
        patch.setattr(Path, "unlink", refuse)
        gc(outputs)
    assert list(ledger.read(outputs).collecting) == [LOST]
    assert (gone(gc(outputs)), dict(ledger.read(outputs).collecting)) == ({LOST: "no record names it"}, {})
