"""A run whose objects lie in a bucket: the same digests, the same resume, and no bytes beside its journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import journal, store
from runner.config.tree import Storage
from runner.errors import Refused
from tests import fakes, worlds
from tests.store.server import hands, place


def words(s3: Storage) -> list[str]:
    return ["storage=s3", f"storage.uri={s3.uri}", f"storage.endpoint={s3.endpoint}"]


def test_a_run_into_a_bucket_makes_what_a_run_into_a_folder_makes(s3: Storage, tmp_path: Path) -> None:
    there = worlds.finished(tmp_path / "bucket", *words(s3))
    here = worlds.finished(tmp_path / "folder")
    assert (there.id, worlds.folded(there.folder)) == (here.id, worlds.folded(here.folder))
    assert not (tmp_path / "bucket" / "objects").exists()
    objects = store.open_store(tmp_path / "bucket", None)
    assert {each.name for each in objects.listing()} == set(worlds.objects_of(tmp_path / "folder"))


def test_a_resume_from_a_bucket_makes_what_was_deleted_there_and_nothing_else(s3: Storage, tmp_path: Path) -> None:
    run = worlds.finished(tmp_path, *words(s3))
    image = run.images()[0]
    hands(store.open_store(tmp_path, None)).delete(place(image["digest"]))
    painter = fakes.Painter()
    again = worlds.run(worlds.accept(tmp_path, *words(s3)), generate=painter)
    assert (again.status, len(painter.calls)) == ("complete", 1)
    assert worlds.folded(run.folder) == worlds.folded(again.folder)


def test_the_same_request_does_not_move_from_a_bucket_to_a_folder_unseen(s3: Storage, tmp_path: Path) -> None:
    run = worlds.finished(tmp_path, *words(s3))
    with pytest.raises(Refused, match=r"storage: asks for a folder of objects; .* uses s3://"):
        worlds.run(worlds.accept(tmp_path))
    assert journal.read_run(run.folder).state.status == "complete"
