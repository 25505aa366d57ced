"""`import`, `delete` and `gc` over both kinds of store: the same records, the same bytes gone and kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import ledger, store
from runner.config.tree import Storage
from runner.errors import Refused
from runner.verbs import verify as verifying
from runner.verbs.bring import About, bring
from runner.verbs.delete import delete
from runner.verbs.gc import gc
from tests import fakes
from tests.verbs import small_runs


def test_what_nobody_names_or_was_deleted_goes_and_the_rest_stays(storage: Storage, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    objects = store.open_store(outputs, storage)
    mine, lost = objects.put(b"mine"), objects.put(b"lost")
    small_runs.run(outputs, "a", [mine])
    (tmp_path / "a.png").write_bytes(fakes.picture("a", 1))
    (tmp_path / "b.png").write_bytes(fakes.picture("b", 2))
    rows = bring(outputs, [tmp_path / "a.png", tmp_path / "b.png"], About("a friend"), strict=True, again=False)[
        "images"
    ]
    brought, unwanted = (row["digest"] for row in rows)
    delete(outputs, [unwanted], "no licence")
    dry = gc(outputs, yes=False, older_than_hours=1, now_s=small_runs.LATER_S)
    done = gc(outputs, yes=True, older_than_hours=1, now_s=small_runs.LATER_S)
    assert {row["digest"] for row in done["objects"]} == {lost, unwanted}
    assert dry == {**done, "dry": True}
    assert {listed.name for listed in objects.listing()} == {mine, brought}
    assert set(ledger.read(outputs).collected) == {lost, unwanted}


@pytest.mark.parametrize("yes", [False, True])
def test_two_outputs_folders_in_one_prefix_remove_nothing_of_each_other(s3: Storage, tmp_path: Path, yes: bool) -> None:
    for name in "ab":
        objects = store.open_store(tmp_path / name, s3)
        small_runs.run(tmp_path / name, name, [objects.put(name.encode())])
    for name in "ab":
        with pytest.raises(Refused, match=r"also belongs to another outputs folder.*Use a prefix of its own") as no:
            gc(tmp_path / name, yes=yes, older_than_hours=1, now_s=small_runs.LATER_S)
        assert no.value.faults[0].code == "store_shared"
    assert {listed.name for listed in objects.listing()} == {store.digest(b"a"), store.digest(b"b")}
    assert "extra" not in {problem["kind"] for problem in verifying.verify(tmp_path / "a", None)["problems"]}
