"""The tracking process: it closes what a dead process left, and a store that is down costs the run nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runner import gpu, journal, track
from tests import worlds
from tests.track import stores

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def outputs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder with an empty store."""
    stores.give_store(tmp_path, tmp_path_factory.getbasetemp())
    return tmp_path


def crashed(outputs: Path) -> Path:
    """A run that nobody ended."""
    folder = worlds.finished(outputs, "track=mlflow", "run.fresh=true").folder
    stores.open_attempt(folder)
    return folder


def finish(folder: Path, uri: str | None, timeout_s: float = 120) -> track.Answer:
    tracker = track.Tracker(folder, timeout_s)
    tracker.start(stores.at(uri) if uri else stores.LOCAL)
    answer = tracker.finish()
    assert tracker.process
    assert tracker.process.returncode is not None, "it waits for the tracker"
    return answer


def wait_for_end(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(120)


# ---- runs of dead processes


HOLDER = """
import sys, time; from pathlib import Path
from runner import gpu, track; from runner.config.tree import Track
folder = Path(sys.argv[1])
with gpu.only_writer(folder, gpu.this_process("x", "generator")):
    tracker = track.Tracker(folder, 60); tracker.start(Track.model_validate_json(sys.argv[2]))
    print(tracker.process.pid, flush=True); time.sleep(600)
"""


@pytest.mark.slow
def test_killed_processes_leave_no_run_open(outputs: Path) -> None:
    """The pipe closes when the process that holds it dies, however it dies. Where the tracking process died with it,
    before MLflow heard of the run or after, the tracking process of the next run sees to it."""
    unheard, heard, killed = crashed(outputs), crashed(outputs), crashed(outputs)
    with gpu.only_writer(heard, gpu.this_process("x", "generator")):
        track.project(heard, stores.LOCAL)
    assert stores.tracked(heard).info.status == "RUNNING"
    words = [sys.executable, "-c", HOLDER, str(killed), stores.LOCAL.model_dump_json()]
    with subprocess.Popen(words, cwd=worlds.ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        tracker = int(holder.stdout.readline())
        holder.send_signal(signal.SIGKILL)
    wait_for_end(tracker)
    deadline = time.monotonic() + 120
    while list(track.left_behind(outputs)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for folder in (unheard, heard, killed):
        tracked = stores.tracked(folder)
        assert (tracked.info.status, tracked.data.tags["status"]) == ("KILLED", "crashed")


@pytest.mark.slow
def test_two_reapers_at_once_close_each_run_once(outputs: Path) -> None:
    left = [crashed(outputs) for _ in range(6)]
    words = [sys.executable, "-m", "runner.track", "reap", str(outputs)]
    reapers = [subprocess.Popen(words, cwd=worlds.ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    said = [reaper.communicate()[1].decode() for reaper in reapers]
    assert not any("tracker_failed" in text or "Traceback" in text for text in said), said
    assert sorted(stores.dump(outputs)) == sorted(folder.name for folder in left)
    assert {run.info.status for run in stores.tracked_runs(outputs)} == {"KILLED"}
    assert len(stores.tracked_runs(outputs)) == len(left)


def test_runs_that_live_or_ended_or_are_not_tracked_are_no_work_for_the_reaper(outputs: Path) -> None:
    alive, untracked = crashed(outputs), worlds.finished(outputs, "run.fresh=true").folder
    worlds.finished(outputs, "track=mlflow", "run.fresh=true")
    stores.open_attempt(untracked)
    with gpu.only_writer(alive, gpu.this_process("x", "generator")):
        assert not list(track.left_behind(outputs))
    assert list(track.left_behind(outputs)) == [alive]


def test_a_run_that_was_closed_and_crashed_again_is_left_behind_again(outputs: Path) -> None:
    folder = worlds.finished(outputs, "track=mlflow").folder
    track.project(folder, stores.LOCAL)
    assert not list(track.left_behind(outputs))
    stores.open_attempt(folder)
    assert list(track.left_behind(outputs)) == [folder]


# ---- a store that is down


@pytest.mark.parametrize("trouble", stores.USELESS)
def test_a_useless_server_is_found_out_before_mlflow_is_asked(trouble: str) -> None:
    with stores.USELESS[trouble]() as uri:
        fault = track.unreachable(uri, 0.3)
    assert fault is not None
    assert (fault.code, fault.where) == ("tracker_down", "track.uri")
    cause = {"refuses": "refused", "hangs": "no answer in time", "answers 500": "answers 500", "is unknown": ""}
    assert f"MLflow at {uri} does not answer (" in fault.what
    assert cause[trouble] in fault.what


def test_a_server_that_wants_a_password_answers() -> None:
    with stores.unauthorised() as uri:
        assert track.unreachable(uri) is None


def lock(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def spoil(path: Path) -> Iterator[None]:
    path.write_bytes(b"no database" * 1000)
    yield


def replace(path: Path) -> Iterator[None]:
    path.unlink()
    path.mkdir()
    yield


TROUBLES: dict[str, tuple[Callable[[Path], Iterator[None]], str]] = {
    "locked": (lock, "database is locked"),
    "corrupt": (spoil, "file is not a database"),
    "a folder": (replace, "unable to open database file"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_file_that_sqlite_cannot_write_is_found_out_before_mlflow_is_asked(outputs: Path, trouble: str) -> None:
    make, cause = TROUBLES[trouble]
    with contextlib.contextmanager(make)(outputs / "mlflow.db"):
        fault = track.unreachable(track.store_uri(outputs), 0.1)
    assert fault is not None
    assert fault.what.endswith(f"mlflow.db cannot be written ({cause})")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write what is read-only")
def test_a_read_only_file_is_found_out_before_mlflow_is_asked(outputs: Path) -> None:
    (outputs / "mlflow.db").chmod(0o444)
    fault = track.unreachable(track.store_uri(outputs))
    assert fault is not None
    assert fault.what.endswith("mlflow.db cannot be written (it is read-only)")


def test_the_run_is_told_that_its_server_is_down_and_what_to_do(tmp_path: Path) -> None:
    folder = worlds.finished(tmp_path).folder
    with stores.closed() as uri:
        answer = finish(folder, uri.replace("//", "//me:secret@"))
    assert (answer.status, answer.code) == ("down", "tracker_down")
    assert answer.line(tmp_path) == (
        f"MLflow at {uri} does not answer (Connection refused); the journal has it all: "
        f"python -m runner rebuild mlflow --outputs {tmp_path} brings it up to date later"
    )
    assert f"tracker_down: MLflow at {uri}" in (folder / "tracking.log").read_text()
    assert not track.read_pointer(folder)
    assert journal.read_run(folder).state.status == "complete"


def test_a_tracking_process_that_dies_is_an_answer_too(tmp_path: Path) -> None:
    tracker = track.Tracker(worlds.finished(tmp_path).folder, 60)
    with stores.silent() as uri:
        tracker.start(stores.at(uri))
        assert tracker.process
        tracker.process.kill()
        answer = tracker.finish()
    assert (answer.status, answer.code) == ("failed", "tracker_failed")
    assert "ended with -9" in str(answer.line(tmp_path))


def test_a_tracking_process_that_cannot_start_is_an_answer_too(tmp_path: Path) -> None:
    tracker = track.Tracker(tmp_path / "gone", 60)
    tracker.start(stores.LOCAL)
    assert "did not start" in str(tracker.finish().line(tmp_path))


def test_a_store_that_goes_away_and_comes_back_gets_it_all(outputs: Path) -> None:
    """In this process; the slow one below is with a real server."""
    from runner.track import __main__ as following

    folder = worlds.finished(outputs).folder
    one = following.Following(folder, stores.LOCAL)
    away = outputs / "mlflow.db.away"
    (outputs / "mlflow.db").rename(away)
    (outputs / "mlflow.db").mkdir()
    assert one.project().status == "down"
    (outputs / "mlflow.db").rmdir()
    away.rename(outputs / "mlflow.db")
    with open(os.devnull) as closed:  # noqa: PTH123  # it stands for a pipe
        assert one.until(closed).status == "tracked"
    assert stores.tracked(folder).info.status == "FINISHED"


@pytest.mark.slow
def test_a_real_server_that_restarts_in_the_middle_of_a_run_gets_it_all(tmp_path: Path) -> None:
    with stores.closed() as uri:
        port = int(uri.rpartition(":")[2])
    folder = worlds.finished(tmp_path, "track=mlflow", f"track.uri={uri}").folder
    tracker = track.Tracker(folder, 120)
    with stores.mlflow_server(tmp_path / "server", port):
        tracker.start(stores.at(uri))
        assert tracker.process
    answer_without = finish(folder, uri)
    assert answer_without.status == "down"
    with stores.mlflow_server(tmp_path / "server", port):
        assert tracker.finish() == track.Answer("tracked")
        assert rebuilt(tmp_path)
    assert stores.tracked_runs(tmp_path / "server")[0].info.status == "FINISHED"
    assert track.read_pointer(folder)["uri"] == uri


def rebuilt(outputs: Path) -> bool:
    from runner.verbs.rebuild import rebuild

    return bool(rebuild(outputs, "mlflow")["mlflow"]["projected"])
