"""`import`, `delete` and `gc` over both kinds of store: the same records, the same bytes gone and kept."""

from __future__ import annotations

from pathlib import Path

from runner import ledger, store
from runner.config.tree import Storage
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
