"""Nothing that happens to the file of the index, or to a process that writes it, matters."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runner import index
from runner.errors import Unavailable
from tests import fakes, worlds
from tests.index.dumped import KEY, dump, rebuilt

# ---- its file


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scratch(path: Path) -> None:
    """Noise in the middle, which the first look does not see."""
    data = bytearray(path.read_bytes())
    data[8192:] = random.Random(1).randbytes(len(data) - 8192)
    path.write_bytes(data)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE runs (mine)")


def older(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 0")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("no database"), "empty": lambda path: path.write_bytes(b""), "cut": cut,
    "scratched": scratch, "foreign": foreign, "older": older,
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_file_is_thrown_away_and_said_so(
    outputs: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    index.refresh(outputs)
    before = dump(outputs)
    DAMAGE[damage](outputs / index.INDEX)
    assert index.find_images(outputs, index.ImageQuery()).total == 21
    assert "it is made again" in capsys.readouterr().err
    assert dump(outputs) == before


def test_the_journal_of_a_file_that_is_gone_spoils_no_new_one(outputs: Path) -> None:
    index.refresh(outputs)
    (outputs / f"{index.INDEX}-journal").write_bytes((outputs / index.INDEX).read_bytes())
    assert rebuilt(outputs) == dump(outputs)


def test_a_rebuild_while_another_reads_is_one_transaction_to_it(outputs: Path) -> None:
    index.refresh(outputs)
    with closing(sqlite3.connect(outputs / index.INDEX)) as reader:
        assert reader.execute("SELECT count(*) FROM images").fetchone() == (21,)
        index.rebuild(outputs)
        assert reader.execute("SELECT count(*) FROM images").fetchone() == (21,)


def test_nothing_else_is_written(outputs: Path) -> None:
    before = worlds.snapshot(outputs)
    index.refresh(outputs)
    index.rebuild(outputs)
    after = worlds.snapshot(outputs)
    assert after.keys() - before.keys() <= {index.INDEX, ".index.lock"}
    assert {name: after[name] for name in before} == before


def test_where_nothing_is_nothing_is_made(tmp_path: Path) -> None:
    assert (index.refresh(tmp_path / "none"), index.runs(tmp_path)) == (0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_copied_run_folder_answers_and_gets_no_file(outputs: Path, tmp_path: Path) -> None:
    run_id = index.runs(outputs)[0]["run_id"]
    copy = shutil.copytree(outputs / "runs" / run_id, tmp_path / "elsewhere" / run_id)
    before = worlds.snapshot(copy)
    assert index.find_images(copy, index.ImageQuery(run=run_id)).total == 4
    assert worlds.snapshot(copy) == before


@pytest.fixture
def read_only(outputs: Path) -> Iterator[Path]:
    """A folder that this process may read and not write; whoever is root is somebody else for the while."""
    place = Path(tempfile.mkdtemp())
    folder = shutil.copytree(outputs, place / "outputs")
    me = os.geteuid()
    for path in (place, *place.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if me == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(me)
        for path in (place, *(path for path in place.rglob("*") if path.is_dir())):
            path.chmod(0o755)
        shutil.rmtree(place)


def test_a_folder_that_cannot_be_written_is_answered_from_a_private_copy(
    read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index.find_images(read_only, index.ImageQuery()).total == 21
    assert "this answer comes from a private copy" in capsys.readouterr().err
    assert not (read_only / index.INDEX).exists()
    with pytest.raises(Unavailable, match=r"index.db: cannot be made .*Mend the permissions of that folder"):
        index.rebuild(read_only)


# ---- several processes, and the end of one

REFRESH = "import sys, pathlib; from runner import index; print(index.refresh(pathlib.Path(sys.argv[1])))"
FOREVER = """
import os, pathlib, sys
from runner import index
outputs = pathlib.Path(sys.argv[1])
while True:
    print("again", flush=True)
    for seal in outputs.glob("runs/*/seal.json"):
        os.utime(seal)
    index.refresh(outputs)
    index.rebuild(outputs)
"""


def process(code: str, outputs: Path) -> subprocess.Popen[str]:
    place = {**os.environ, "PYTHONPATH": str(fakes.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, str(outputs)], stdout=subprocess.PIPE, text=True, env=place)


def test_four_processes_at_once_do_the_work_once(outputs: Path) -> None:
    counts = [int(one.communicate()[0]) for one in [process(REFRESH, outputs) for _ in range(4)]]
    assert sorted(counts) == [0, 0, 0, 5]
    assert dump(outputs) == rebuilt(outputs)


def kill_at(outputs: Path, seconds: float) -> None:
    """A process that does nothing but refresh and rebuild, ended by the kernel."""
    with process(FOREVER, outputs) as running:
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(seconds)
        running.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("rounds", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_leaves_a_sound_index(outputs: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    for _ in range(rounds):
        kill_at(outputs, chance.random() * 0.2)
        index.refresh(outputs)
        assert dump(outputs) == rebuilt(outputs)


@pytest.mark.parametrize("damage", ["text", "empty", "foreign", "older", "scratched"])
def test_a_peak_that_cannot_be_asked_is_not_known(outputs: Path, damage: str) -> None:
    assert index.peak_mib(outputs, KEY, "generator") is None
    index.refresh(outputs)
    DAMAGE[damage](outputs / index.INDEX)
    assert index.peak_mib(outputs, KEY, "generator") is None
