"""A whole run with a server of its own: it dies and is started again; the run is killed and goes on; nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner import index, journal
from tests import worlds
from tests.critic.test_critic_work import run

MARK = "tests.critic.speaking"


def server_of(place: Path, *words: str) -> tuple[str, ...]:
    """Overrides that make the test server one of the runner's own."""
    weights = place / "weights.gguf"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"weights")
    command = [sys.executable, "-m", MARK, "--port", "{port}", "--model", "{path}", *words]
    server = {
        "engine": "other", "command": command, "env": {"PYTHONPATH": str(worlds.ROOT)},
        "key_variable": "SPEAKING_KEY", "host": "127.0.0.1", "port": 0, "start_timeout_s": 60.0,
        "stop_timeout_s": 5.0, "max_restarts": 2, "between": "restart", "phases": [],
        "memory": {"weights_mib": 8, "cache_mib": 0, "activations_mib": 0, "overhead_mib": 64},
    }  # fmt: skip
    return (
        "critic_runtime=external", "critic_runtime.url=null", f"critic_runtime.path={weights}",
        f"critic_runtime.server={yaml_of(server)}", "critic_runtime.concurrency=1",
    )  # fmt: skip


def yaml_of(value: Any) -> str:
    """A value as Hydra's override grammar reads it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{yaml_of(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(yaml_of, value)) + "]"
    return json.dumps(value) if not isinstance(value, str) else "'" + value + "'"


def servers_in(place: Path) -> list[int]:
    """Processes of the test server that run for this place."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if MARK in words and any(str(place) in word for word in words):
            found.append(process.pid)
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An outputs folder with one finished run of drawn images."""
    result = run(tmp_path / "outputs", *server_of(tmp_path / "first"))
    assert result.status == "complete", result.failure
    assert servers_in(tmp_path / "first") == []
    index.refresh(tmp_path / "outputs")
    return result.folder


def review(images: Path, place: Path, *server: str, name: str) -> subprocess.Popen[bytes]:
    words = ("+experiment=rereview", f"name={name}", f"critique.images_of={images.name}", "critic=shapes", "track=none")
    outputs = f"outputs={images.parent.parent}"
    command = worlds.command(*words, outputs, *server_of(place, *server), "run.fresh=true" if name == "once" else "")
    return subprocess.Popen(
        [word for word in command if word], cwd=worlds.ROOT, env=worlds.environment(place),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


def verdict_lines(images: Path, name: str) -> int:
    lines = (path.read_bytes() for path in images.parent.glob(f"{name}-*/journal.jsonl"))
    return sum(text.count(b'"key":"verdict/') for text in lines)


def test_a_server_that_dies_in_a_review_is_started_again_examined_and_the_run_completes(tmp_path: Path) -> None:
    result = run(tmp_path, *server_of(tmp_path / "s", "--die-after", "15"))
    assert result.status == "complete", result.failure
    exams = worlds.events(result.folder, "exam")
    assert [exam["when"] for exam in exams] == ["start", "restart"]
    assert all(exam["passed"] for exam in exams)
    assert servers_in(tmp_path / "s") == []


@pytest.mark.slow
def test_a_server_that_always_dies_fails_the_run_and_keeps_what_it_said(tmp_path: Path) -> None:
    result = run(tmp_path, *server_of(tmp_path / "s", "--die-after", "14"))
    assert (result.status, result.exit_code) == ("failed", 3)
    assert result.failure and result.failure.code == "critic_restarts_exhausted"
    kept = result.made["verdict"]
    assert 0 < kept < 4
    again = run(tmp_path, *server_of(tmp_path / "s", "--die-after", "14"))
    assert again.kept["verdict"] == kept


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_server_and_the_same_command_judges_the_rest(
    tmp_path: Path, images: Path
) -> None:
    slow = ("--mode", "slow", "--delay-s", "0.3")
    killed = review(images, tmp_path / "k", *slow, name="killed")
    until(lambda: verdict_lines(images, "killed") >= 2)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    until(lambda: not servers_in(tmp_path / "k"))
    done = verdict_lines(images, "killed")
    assert 2 <= done < 4
    resumed = review(images, tmp_path / "k", *slow, name="killed")
    assert resumed.wait() == 0
    folder = next(images.parent.glob("killed-*"))
    rows = journal.read_run(folder).images()
    assert all(row["verdict"] for row in rows) and len(worlds.events(folder, "made")) == 4
    assert servers_in(tmp_path / "k") == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_its_server_starts_leaves_none(
    tmp_path: Path, images: Path, number: signal.Signals
) -> None:
    stopped = review(images, tmp_path / "k", "--start-delay-s", "60", name="stopped")
    until(lambda: servers_in(tmp_path / "k"))
    stopped.send_signal(number)
    assert stopped.wait() == 130
    assert servers_in(tmp_path / "k") == []
    assert worlds.events(next(images.parent.glob("stopped-*")), "ended")[0]["status"] == "interrupted"


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    yield
    for pid in servers_in(tmp_path):
        psutil.Process(pid).kill()
