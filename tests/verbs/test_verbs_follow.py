"""`status --follow`: a run of another process, live, until it ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner import journal
from runner.verbs import show, status
from tests import acting, worlds


def followed(outputs: Path) -> Iterator[dict[str, Any]]:
    """The one run, each time that something about it changed."""
    before: list[dict[str, Any]] = []
    for rows in status.follow(outputs, None, every_s=0.02):
        if (now := status.without_time(rows)) != before and rows:
            yield rows[0]
        before = now


def test_a_run_of_another_process_is_followed_from_batch_to_batch(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    with acting.start(tmp_path, acting.TOLD, "stages=[generate]", "critic=none") as process:
        acting.until_batch(process, 1)
        for row in followed(tmp_path / "outputs"):
            seen.append(row)
            if row["status"] == "generating":
                acting.end_batch(process)
        assert process.wait(120) == 0
    assert [row["complete"] for row in seen if row["status"] == "generating"] == [0, 2]
    assert (seen[-1]["status"], seen[-1]["complete"], seen[-1]["heartbeat"]) == ("complete", 4, None)
    assert all(row["phase"] == "sample" and row["phase_s"] < 60 for row in seen if row["status"] == "generating")


def test_a_run_that_dies_while_it_is_followed_ends_as_crashed(tmp_path: Path) -> None:
    with acting.start(tmp_path, 30) as process:
        acting.until_batch(process, 1)
        rows = status.follow(tmp_path / "outputs", None, every_s=0.02)
        assert next(rows)[0]["status"] == "generating"
        process.kill()
        process.wait(120)
        assert list(rows)[-1][0]["status"] == "crashed"


def test_a_program_reads_one_json_line_a_change(tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    command = worlds.command("status", "--follow", "--json", "--outputs", str(tmp_path))
    done = subprocess.run(command, cwd=worlds.ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert [row["status"] for row in json.loads(line)["runs"]] == ["complete"]


def beating(tmp_path: Path) -> dict[str, Any]:
    """A row of a run whose writer is gone; its last line is a beat."""
    folder = worlds.finished(tmp_path).folder
    log, _ = journal.open_log(folder, journal.manifest_digest(folder), list)
    log.append({"event": "started", "owner": None}, {"event": "status", "status": "generating", "phase": "sample"})
    log.append({"event": "beat", "phase": "sample", "phase_s": 31.5, "done": 3, "total": 8})
    return status.status(tmp_path, None)[0]


def test_a_beat_says_which_step_of_a_long_phase_is_done(tmp_path: Path) -> None:
    row = beating(tmp_path)
    assert (row["beat_phase"], row["done"], row["total"], row["status"]) == ("sample", 3, 8, "crashed")
    assert row["heartbeat"] >= row["phase_at"]


def test_a_log_gets_a_line_with_phase_counts_and_the_last_sign_of_life(tmp_path: Path) -> None:
    row = {**beating(tmp_path), "status": "generating", "phase_s": 33.2, "silent_s": 1.7}
    (line,) = show.lines({"runs": [row]}).splitlines()
    assert line.endswith("generating, images 4/4, verdicts 4, sample step 3/8 for 33 s, last sign of life 2 s ago")


def test_who_waits_says_for_whom(tmp_path: Path) -> None:
    folder = worlds.finished(tmp_path).folder
    log, _ = journal.open_log(folder, journal.manifest_digest(folder), list)
    wait = {"event": "status", "status": "waiting_for_gpu", "phase": "gpu_wait", "reason": "cpu is held by process 7"}
    log.append({"event": "started", "owner": None}, wait)
    assert "cpu is held by process 7" in show.lines({"runs": status.status(tmp_path, None)})


@pytest.mark.parametrize("words", [("status", "--follow"), ("status",)])
def test_nothing_to_follow_ends_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: tuple[str]) -> None:
    assert worlds.open_door(capsys, (*words, "--outputs", str(tmp_path))).code == 0
