"""One outputs folder for the room's tests: a run of every ending, in one MLflow store."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import journal, store, track
from runner.errors import Failed, Fault, Unavailable
from runner.report.page import write_report
from tests import fakes, worlds
from tests.track import stores

WORD = Fault("told_to", "test", "was told to", "Nothing to mend")


@pytest.fixture(scope="package")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    stores.give_store(outputs, tmp_path_factory.getbasetemp())
    return outputs


@pytest.fixture(scope="package")
def run(outputs: Path) -> journal.Run:
    """A finished run with one image that was not scored, its report drawn, projected twice."""
    judge = fakes.Judge(unscored=frozenset({"on-white.001"}))
    accepted = worlds.accept(outputs, "track=mlflow", "critic.budget.max_unscored_share=1")
    folder = worlds.run(accepted, critique=judge).folder
    write_report(folder, store.Store(outputs / "objects"))
    assert track.project(folder, stores.LOCAL) == track.project(folder, stores.LOCAL)
    return journal.read_run(folder)


@pytest.fixture(scope="package")
def runs(outputs: Path, run: journal.Run) -> dict[str, Path]:
    """Every way to end, in the same store, by status; each projected."""
    asked = worlds.accept(outputs, "track=mlflow", "run.fresh=true")
    painters = {
        "incomplete": fakes.Painter(broken=frozenset({"on-white.001"})),
        "failed": fakes.Painter(error=Failed("sampling", WORD), error_at=1),
        "blocked": fakes.Painter(error=Unavailable(WORD)),
        "interrupted": fakes.Painter(error=KeyboardInterrupt(), error_at=1),
        "complete": fakes.Painter(),
        "crashed": fakes.Painter(broken=frozenset({"on-white.001"})),
        "resumed": fakes.Painter(broken=frozenset({"on-white.001"})),
    }
    folders = {status: worlds.run(asked, generate=painter).folder for status, painter in painters.items()}
    stores.open_attempt(folders["crashed"])
    track.project(folders["resumed"], stores.LOCAL)
    worlds.run(worlds.accept(outputs, "track=mlflow", f"run.id={folders['resumed'].name}"))
    for folder in folders.values():
        track.project(folder, stores.LOCAL)
    return folders
