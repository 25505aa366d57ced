"""What a human deleted is not made again behind their back, and memory that was measured is used."""

from __future__ import annotations

from pathlib import Path

from runner import gpu, index, journal
from runner.execute import memory
from runner.verbs import delete, gc
from tests import fakes, worlds


def test_a_deleted_image_is_not_made_again_and_its_reason_is_in_the_journal(tmp_path: Path) -> None:
    run = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(error=MemoryError("x"), error_at=1))
    first = journal.read_run(run.folder).images()[0]
    delete.delete(tmp_path, [first["digest"]], "shows a face")
    gc.gc(tmp_path, yes=True, older_than_hours=0, now_s=2e9)
    painter = fakes.Painter()
    again = worlds.run(worlds.accept(tmp_path), generate=painter)
    assert (again.status, painter.calls) == ("complete", [("on-white.000", "on-white.001")])
    deleted = worlds.events(again.folder, "resumed")[0]["deleted"]
    assert deleted == {"image/on-blue.000": "shows a face", "verdict/on-blue.000": "shows a face"}


def test_a_complete_run_of_which_an_image_was_deleted_stays_complete(tmp_path: Path) -> None:
    run = worlds.finished(tmp_path)
    delete.delete(tmp_path, [run.images()[2]["digest"]], "dull")
    gc.gc(tmp_path, yes=True, older_than_hours=0, now_s=2e9)
    result = worlds.run(worlds.accept(tmp_path))
    assert (result.status, dict(result.made)) == ("complete", {})


def test_the_peak_of_a_role_is_measured_and_decides_the_next_admission(tmp_path: Path) -> None:
    accepted = worlds.accept(tmp_path)
    assert (accepted.needs.source, accepted.needs.role) == ("headers", "generator")
    key = memory.peak_key(accepted.request, accepted.pins, accepted.device)
    folder = worlds.run(accepted).folder
    log, _ = journal.open_log(folder, journal.manifest_digest(folder), list)
    log.append({"event": "peak", "role": "generator", "key": key, "peak_mib": 4321})
    index.refresh(tmp_path)
    assert worlds.accept(tmp_path).needs == gpu.Needs("cpu", 4321, "measured", "generator")
    other = worlds.accept(tmp_path, "generate.batch_size=1").needs
    assert (other.source, other.need_mib) == ("headers", accepted.needs.need_mib)
