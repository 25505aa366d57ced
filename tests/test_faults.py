"""Signals to a real process: it ends by itself and says so, keeps what is finished, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from runner import journal
from tests import worlds
from tests.kill import attempts, painted
from tests.kill.scenes import Scene, look, num_lines

SLOWLY = (*attempts.PAINTED, "0.2")  # seconds between two batches: time to be interrupted in
A_FEW_LINES = 7  # some batches are committed


def interrupted(place: Path, command: tuple[str, ...], *signals: signal.Signals, lines: int = A_FEW_LINES) -> int:
    """Start a run, send it signals once its journal has so many lines; its exit code."""
    with attempts.start(command, place) as process:
        while process.poll() is None and num_lines(place / "outputs") < lines:
            time.sleep(attempts.POLL_S)
        for each in signals:
            process.send_signal(each)
        return process.wait()


def assert_ended_by_itself(scene: Scene) -> None:
    last = scene.events[-1]
    assert (scene.status, scene.torn, scene.problems) == ("interrupted", False, ())
    assert (last["event"], last["status"], last["exit_code"]) == ("ended", "interrupted", 130)
    record = last["failure"]
    assert (record["kind"], record["item"]) == ("interrupted", None)
    assert "phase" in record
    assert record["cause"] == "was interrupted; what is finished is kept"
    assert record["hint"] == "Run it again to do the rest"


def test_a_terminated_run_ends_as_interrupted(tmp_path: Path) -> None:
    assert interrupted(tmp_path, SLOWLY, signal.SIGTERM) == 130
    assert_ended_by_itself(look(tmp_path / "outputs"))


def test_an_impatient_person_loses_nothing_and_the_same_command_makes_the_rest(tmp_path: Path) -> None:
    assert interrupted(tmp_path, SLOWLY, signal.SIGINT, signal.SIGINT, signal.SIGTERM) == 130
    before = look(tmp_path / "outputs")
    assert_ended_by_itself(before)
    assert 0 < len(before.made) < 32
    assert painted.main(tmp_path / "outputs") == 0
    after = look(tmp_path / "outputs")
    assert (after.status, len(after.made), len(after.committed)) == ("complete", 32, 32)
    assert before.made.items() <= after.made.items()
    assert {name: after.objects[name] for name in before.objects} == before.objects


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lines", [1, 5, 9, 25])
def test_a_signal_ends_a_real_run_in_any_phase(tmp_path: Path, number: signal.Signals, lines: int) -> None:
    """While libraries are imported and models load, while it samples, and while the critic works."""
    command = attempts.real("demo")
    assert interrupted(tmp_path, command, number, lines=lines) == 130
    assert_ended_by_itself(look(tmp_path / "outputs"))
    assert attempts.finish(command, tmp_path)[0] == 0
    assert look(tmp_path / "outputs").status == "complete"


@pytest.mark.slow
def test_a_tracker_that_is_down_changes_neither_the_end_nor_the_journal(tmp_path: Path) -> None:
    nobody_listens = ("track=mlflow", "track.uri=http://127.0.0.1:9", "track.timeout_s=5")
    command = [word for word in attempts.real("demo") if word != "track=none"]
    code, _ = attempts.finish((*command, *nobody_listens), tmp_path)
    scene = look(tmp_path / "outputs")
    assert (code, scene.status, len(scene.made)) == (0, "complete", 32)
    assert "the journal has it all" in (tmp_path / "said.txt").read_text()


def test_a_signal_while_the_last_line_is_written_does_not_cost_that_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = journal.Journal._write

    def interrupted_write(log: journal.Journal, data: bytes) -> None:
        if b'"event":"ended"' in data:
            os.kill(os.getpid(), signal.SIGINT)
        write(log, data)

    monkeypatch.setattr(journal.Journal, "_write", interrupted_write)
    result = worlds.run(worlds.accept(tmp_path))
    assert (result.status, result.exit_code) == ("complete", 0)
    assert worlds.events(result.folder, "ended")[0]["status"] == "complete"
