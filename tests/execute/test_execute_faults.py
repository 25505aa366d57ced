"""A disk that refuses, at every write: the run ends with a named reason, and the same command comes to its end.

Refusals are given where the operating system would give them: at fsync, at rename, at opening, on a full filesystem.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner import journal
from runner.errors import RunnerError
from runner.worker import Bench
from tests import fakes, worlds

ONE = (worlds.prompts(1), "generate.images_per_prompt=1", "storage.min_free_mib=0")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and other users need root")
NOBODY = 65534
ENDINGS = {("not begun", 1), ("not begun", 3), ("failed", 3), ("complete", 0)}  # complete: what is only a note failed


@dataclass(slots=True)
class Refusals:
    """Counts calls of fsync; the one numbered `at` fails, and all after it when the disk stays so."""

    at: int | None
    code: int = errno.EIO
    stays: bool = False
    num_calls: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        fsync = os.fsync

        def refuse(handle: int) -> None:
            self.num_calls += 1
            if self.at is not None and (self.num_calls == self.at or (self.stays and self.num_calls > self.at)):
                raise OSError(self.code, os.strerror(self.code))
            fsync(handle)

        patch.setattr(os, "fsync", refuse)


def attempt(place: Path, *words: str) -> tuple[str, int, str]:
    """Status, exit code and the reason of one attempt, whether it began or was turned away. Nothing else may come."""
    try:
        result = worlds.run(worlds.accept(place, *(words or ONE)))
    except RunnerError as error:
        return "not begun", error.exit_code, str(error)
    said = journal.read_run(result.folder).state
    assert result.status != "complete" or (said.status, said.open) == ("complete", False), "the journal has no such end"
    return result.status, result.exit_code, str(result.failure)


def refused(place: Path, refusals: Refusals) -> tuple[str, int, str]:
    with pytest.MonkeyPatch.context() as patch:
        refusals.install(patch)
        return attempt(place)


def the_end(place: Path, *words: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the same command comes to when nothing refuses any more."""
    result = worlds.run(worlds.accept(place, *(words or ONE)))
    assert (result.status, result.exit_code) == ("complete", 0)
    made = [event["key"] for event in worlds.events(result.folder, "made")]
    assert sorted(made) == sorted(set(made))
    assert journal.read_events(result.folder).problem is None
    return worlds.folded(result.folder), worlds.objects_of(place)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, bytes]]:
    return the_end(tmp_path_factory.mktemp("calm"))


def num_fsyncs(place: Path) -> int:
    counted = Refusals(None)
    assert refused(place, counted)[0] == "complete"
    return counted.num_calls


@pytest.mark.parametrize(("code", "stays"), [(errno.EIO, False), (errno.ENOSPC, True)], ids=["once", "from then on"])
def test_a_refusal_at_any_fsync_is_named_and_nothing_is_lost(
    tmp_path: Path, undisturbed: tuple[Any, Any], code: int, stays: bool
) -> None:
    num_calls = num_fsyncs(tmp_path / "count")
    assert num_calls > 15
    seen = set()
    for at in range(1, num_calls + 1, 3 if stays else 1):
        place = tmp_path / str(at)
        status, exit_code, reason = refused(place, Refusals(at, code, stays))
        seen.add(status)
        assert (status, exit_code) in ENDINGS, (at, reason)
        assert status == "complete" or os.strerror(code) in reason, (at, reason)
        assert_recorded(place, status, stays, os.strerror(code))
        assert (at, *the_end(place)) == (at, *undisturbed)
    assert "failed" in seen


def assert_recorded(place: Path, status: str, stays: bool, reason: str) -> None:
    """The record of a failure, where the disk let one be written: kind, phase, item, cause and hint."""
    if status == "failed" and not stays:
        record = journal.read_run(next((place / "runs").iterdir())).state.failure
        assert record is not None
        assert (record["kind"], record["cause"].count(reason)) == ("storage", 1)
        assert record["phase"] in {"store", "record", "plan"}
        assert "run the same command again" in record["hint"]


def test_what_the_operating_system_refuses_a_worker_is_no_bug_of_ours(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/scratch/x")
    result = worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(error=full))
    record = journal.read_run(result.folder).state.failure
    assert record is not None
    assert (result.bug, record["kind"], record["where"]) == (None, "storage", "/scratch/x")
    assert record["cause"] == "was refused by the operating system (No space left on device)"


# ---- power cuts around a rename


@dataclass(slots=True)
class TornRename:
    """The power goes at a rename: before it, or after it and before its folder is durable. Nothing is cleaned up."""

    at: int | None
    after: bool
    num_renames: int = 0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        disk = fakes.Disk().install(patch)
        rename, unlink = Path.rename, Path.unlink

        def cut(path: Path, target: Path) -> Any:
            self.num_renames += 1
            if self.num_renames != self.at:
                return rename(path, target)
            if self.after:
                rename(path, target)
            disk._gone = True
            raise fakes.PowerCut(f"at rename {self.at}")

        def keep(path: Path, missing_ok: bool = False) -> None:
            if disk._gone:
                raise fakes.PowerCut("a process that is gone removes nothing")
            unlink(path, missing_ok)

        patch.setattr(Path, "rename", cut)
        patch.setattr(Path, "unlink", keep)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_any_rename_resumes_to_the_undisturbed_end(
    tmp_path: Path, undisturbed: tuple[Any, Any], after: bool
) -> None:
    counted = TornRename(None, after)
    with pytest.MonkeyPatch.context() as patch:
        counted.install(patch)
        assert attempt(tmp_path / "count")[0] == "complete"
    assert counted.num_renames >= 3  # the manifest, an image, a verdict
    for at in range(1, counted.num_renames + 1):
        with pytest.MonkeyPatch.context() as patch:
            TornRename(at, after).install(patch)
            with pytest.raises(fakes.PowerCut, match=r"at rename|is gone"):
                worlds.run(worlds.accept(tmp_path / str(at), *ONE))
        assert (at, *the_end(tmp_path / str(at))) == (at, *undisturbed)


# ---- real filesystems


@contextmanager
def small_disk(kib: int) -> Iterator[Path]:
    """A filesystem of its own with so much room."""
    with tempfile.TemporaryDirectory() as place:
        words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place]
        mounted = subprocess.run(words, capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip(f"mount: {mounted.stderr.decode().strip()}")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def fill(place: Path, leaving_kib: int) -> Path:
    """A file that takes all the room but so much."""
    ballast = place / "ballast"
    free = os.statvfs(place)
    ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize - (leaving_kib << 10)))
    return ballast


@needs_root
def test_a_disk_that_is_full_at_any_moment_is_named_and_room_lets_the_run_complete(tmp_path: Path) -> None:
    several = (worlds.prompts(2), "storage.min_free_mib=0")
    calm = the_end(tmp_path, *several)
    seen = []
    with small_disk(2048) as place:
        for leaving_kib in range(0, 400, 20):
            outputs = place / "outputs"
            ballast = fill(place, leaving_kib)
            status, exit_code, reason = attempt(outputs, *several)
            seen.append(status)
            assert (status, exit_code) in ENDINGS, reason
            assert status == "complete" or "No space left on device" in reason
            ballast.unlink()
            assert (leaving_kib, *the_end(outputs, *several)) == (leaving_kib, *calm)
            subprocess.run(["rm", "-r", str(outputs)], check=True)
    assert {"not begun", "failed", "complete"} <= set(seen)


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of another user, who this process is until the end of the test."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for own in (folder, folder / "outputs", folder / "leases"):
            own.mkdir(exist_ok=True)
            os.chown(own, NOBODY, NOBODY)
        monkeypatch.setenv("RUNNER_LEASES", str(folder / "leases"))
        worlds.accept(folder / "outputs", *ONE)  # what is composed and hashed is cached by us
        worlds.accept(folder / "outputs")
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            yield folder
        finally:
            os.setresuid(0, 0, 0)


@contextmanager
def as_root() -> Iterator[None]:
    os.setresuid(0, 0, 0)
    try:
        yield
    finally:
        os.setresuid(NOBODY, NOBODY, 0)


def take_away(*folders: Path) -> None:
    """Folders and what is in them become root's, to be read only."""
    with as_root():
        for folder in folders:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 0, 0)
                path.chmod(0o555 if path.is_dir() else 0o444)


def give_back(folder: Path) -> None:
    with as_root():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
            path.chmod(0o755 if path.is_dir() else 0o644)


@needs_root
def test_an_outputs_folder_that_may_only_be_read_is_refused_and_left_alone(nobody: Path) -> None:
    take_away(nobody / "outputs")
    status, exit_code, reason = attempt(nobody / "outputs")
    assert (status, exit_code) == ("not begun", 2), reason
    assert f"{nobody / 'outputs'} cannot be written. Choose another folder with outputs=DIR" in reason
    assert list((nobody / "outputs").iterdir()) == []


@needs_root
@pytest.mark.parametrize(
    ("lost", "said"), [(("objects",), "failed"), (("runs",), "planned"), (("objects", "runs"), "planned")]
)
def test_permission_lost_in_the_middle_is_named_and_given_back_the_run_completes(
    nobody: Path, tmp_path: Path, lost: tuple[str, ...], said: str
) -> None:
    outputs = nobody / "outputs"

    def lose(bench: Bench) -> None:
        if bench.images:  # the first batch is committed
            take_away(*(outputs / name for name in lost))

    result = worlds.run(worlds.accept(outputs), generate=fakes.Painter(before=lose))
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "Permission denied" in str(result.failure)
    assert "mend the permissions" in str(result.failure)
    assert len([key for key, item in journal.read_run(result.folder).state.items.items() if item.made]) == 2
    give_back(outputs)
    assert dict(worlds.run(worlds.accept(outputs)).kept) == {"image": 2}
    with as_root():
        assert worlds.objects_of(outputs) == worlds.objects_of(calm_outputs(tmp_path))


def calm_outputs(place: Path) -> Path:
    worlds.run(worlds.accept(place))
    return place
