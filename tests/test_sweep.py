"""A sweep: every job is checked before the first one starts, and the exit code is true."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from runner import critic, generate, journal
from runner.worker import Bench
from tests import fakes, worlds

SWEEP = ("-m", *worlds.TINY)


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra reads `sys.argv`, and the door sets HYDRA_FULL_ERROR; both are put back."""
    monkeypatch.setattr("sys.argv", ["runner"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> fakes.Painter:
    """The door's own workers are replaced: a sweep has no other way to be given fakes."""
    made = fakes.Painter()
    monkeypatch.setattr(generate, "work", made)
    monkeypatch.setattr(critic, "work", fakes.Judge())
    return made


def sweep(capsys: pytest.CaptureFixture[str], outputs: Path, *words: str) -> fakes.Answer:
    return worlds.open_door(capsys, (*SWEEP, f"outputs={outputs}", *words))


def runs(outputs: Path) -> list[journal.Run]:
    return [journal.read_run(path.parent) for path in sorted((outputs / "runs").glob("*/manifest.json"))]


def test_one_bad_job_refuses_the_whole_sweep_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    answer = sweep(capsys, tmp_path / "outputs", "lora.scale=0.5,1.0,9")
    assert answer.code == 2
    assert "job 2 [" in answer.err
    assert "lora.scale" in answer.err
    assert (painter.calls, (tmp_path / "outputs").exists()) == ([], False)


def test_the_faults_of_every_bad_job_are_told_with_its_number(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    answer = sweep(capsys, tmp_path / "outputs", "lora.scale=1.4,1.6,1.0,1.7")
    assert answer.code == 2
    assert [f"job {number} [" in answer.err for number in range(4)] == [False, True, False, True]
    assert "from 0 to 1.5" in answer.err


def test_an_unknown_option_in_one_job_is_a_refusal_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    answer = sweep(capsys, tmp_path / "outputs", "hardware=cpu,gpux")
    assert answer.code == 2
    assert "job 1 [" in answer.err
    assert "Traceback" not in answer.err


def test_an_unknown_key_in_a_sweep_is_a_refusal_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    answer = sweep(capsys, tmp_path / "outputs", "+stpes=1,2")
    assert answer.code == 2
    assert "stpes" in answer.err
    assert "Did you mean" in answer.err


def test_a_good_sweep_makes_a_run_for_each_job_with_one_sweep_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    assert sweep(capsys, tmp_path / "outputs", "seed=1,2").code == 0
    made = runs(tmp_path / "outputs")
    assert sorted(run.manifest["request"]["seed"] for run in made) == [1, 2]
    names = {run.manifest["request"]["sweep"] for run in made}
    assert len(names) == 1
    assert names.pop().startswith("sweep-")


def test_a_sweep_leaves_no_litter_beside_its_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    sweep(capsys, tmp_path / "outputs", "seed=1,2")
    files = {path for path in (tmp_path / "outputs" / "sweeps").rglob("*") if path.is_file()}
    assert {path.name for path in files} <= {"multirun.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}


def test_a_job_of_a_sweep_is_the_same_run_as_the_job_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    sweep(capsys, tmp_path / "outputs", "seed=1,2")
    before = len(painter.calls)
    alone = worlds.open_door(capsys, (*worlds.TINY, f"outputs={tmp_path / 'outputs'}", "seed=2"))
    assert (alone.code, len(painter.calls), len(runs(tmp_path / "outputs"))) == (0, before, 2)


def test_an_incomplete_job_makes_the_exit_code_3_and_the_others_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    painter.broken = frozenset({"on-white.001"})
    answer = sweep(capsys, tmp_path / "outputs", "generate.images_per_prompt=2,1")
    assert answer.code == 3
    assert sorted(run.state.status for run in runs(tmp_path / "outputs")) == ["complete", "incomplete"]


def test_the_same_sweep_finds_everything_there(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    sweep(capsys, tmp_path / "outputs", "seed=1,2")
    before = len(painter.calls)
    assert sweep(capsys, tmp_path / "outputs", "seed=1,2").code == 0
    assert (len(painter.calls), len(runs(tmp_path / "outputs"))) == (before, 2)


def test_an_interrupt_ends_the_sweep_and_not_only_its_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, painter: fakes.Painter
) -> None:
    def interrupt(bench: Bench) -> None:
        if len(runs(tmp_path / "outputs")) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    painter.before = interrupt
    answer = sweep(capsys, tmp_path / "outputs", "seed=1,2,3")
    assert answer.code == 130
    assert [run.state.status for run in runs(tmp_path / "outputs")] == ["interrupted"]
