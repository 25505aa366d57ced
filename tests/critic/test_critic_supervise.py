"""A server under supervision: real processes that start, die, are ended and begun again."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.critic import supervise
from runner.critic.supervise import family, launch
from runner.errors import Failed, Interrupted, Unavailable
from tests.critic.supervised import World, models, runtime_of, until

# ---- a start


def test_a_start_is_told_in_phases_and_is_ready_when_it_answers(standing: World) -> None:
    assert models(standing.started[0]) == 200
    assert standing.phases == ["begin", "weights", "compile", "ready"]
    assert all(event["took_s"] >= 0 for event in standing.events if event["event"] == "critic_server")
    assert standing.events[-2]["key_checked"] and standing.events[-1]["event"] == "handed_over"


def test_progress_is_told_while_it_starts(tmp_path: Path) -> None:
    moments: list[Any] = []
    runtime, note = runtime_of(tmp_path), lambda event, **facts: None
    supervise.start(runtime, tmp_path, device="cpu", note=note, progress=moments.append).stop()
    assert {(moment.status, moment.phase, moment.total) for moment in moments} == {("loading", "load_critic", 3)}


def test_a_key_is_asked_for_and_stands_in_nothing_that_others_see(standing: World) -> None:
    server = standing.started[0]
    assert models(server, "another") == 401
    told = repr(server) + json.dumps(standing.events) + json.dumps(server.identity) + str(server.last_lines())
    told += " ".join(psutil.Process(standing.record["pid"]).cmdline())
    kept = "".join(file.read_text() for file in standing.place.iterdir() if file.is_file())
    assert "the key is [key]" in kept
    assert server.key not in told + kept


def test_an_identity_is_the_same_at_every_start_and_changes_with_a_flag(standing: World) -> None:
    server = standing.started[0]
    others = [launch.identity(runtime_of(standing.place, env=env)) for env in ({}, {"A": "1"})]
    assert others[0] == server.identity != others[1]
    assert server.url[-5:] not in json.dumps(server.identity)


def test_a_server_that_dies_at_its_start_is_told_of_at_once_with_its_last_words(world: World) -> None:
    with pytest.raises(Failed, match=r"ended with exit code 1 while it started, .* into phase weights") as raised:
        world.start("dies", start_timeout_s=600.0)
    fault = raised.value.faults[0]
    assert (fault.code, raised.value.kind) == ("critic_start_failed", "load")
    assert fault.evidence["last_lines"][-1] == "RuntimeError: no such layer: [key]"
    assert world.phases[-1] == "died" and world.record is None


def test_a_start_without_memory_is_out_of_memory(world: World) -> None:
    with pytest.raises(Failed, match=r"it said: torch.OutOfMemoryError: CUDA out of memory") as raised:
        world.start("oom")
    assert raised.value.kind == "oom"


def test_a_server_that_never_answers_is_ended_when_its_time_is_up(world: World) -> None:
    with pytest.raises(Failed, match=r"did not answer within 0.4 s, .* into phase weights; it said: loading weights"):
        world.start("never", start_timeout_s=0.4)
    assert not world.living()


def test_a_program_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(Failed, match=r"it said: cannot start no-such-server \(No such file or directory\)"):
        world.start(command=["no-such-server"])


def test_an_interrupted_start_leaves_no_process(world: World) -> None:
    def interrupt(event: str, **facts: Any) -> None:
        if facts.get("phase") == "begin":
            raise Interrupted("SIGINT")

    runtime = runtime_of(world.place, "never")
    with pytest.raises(Interrupted, match="SIGINT"):
        supervise.start(runtime, world.place, device="cpu", note=interrupt)
    assert not world.living()


def test_a_port_of_another_program_is_refused(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"is {port}, where another program listens.*port=0"):
            world.start(port=port)


def test_a_chosen_port_that_is_lost_meanwhile_is_chosen_again(world: World) -> None:
    server = world.start()
    server.stop()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        ports = iter([other.getsockname()[1], launch.free_port("127.0.0.1")])
        server.choose_port = lambda host: next(ports)
        server.begin()
    assert models(server) == 200
    assert world.phases[-3:] == ["weights", "compile", "ready"]


def test_another_program_that_answers_at_the_port_is_not_taken_for_ours(standing: World) -> None:
    port = standing.record["port"]
    assert family.listens(standing.record, port)
    assert not family.listens({**standing.record, "pid": 1, "mark": "x", "pipe": "x"}, port)


# ---- an end, and a new beginning


def test_an_end_leaves_no_process_of_the_whole_family_and_no_record(world: World) -> None:
    server = world.start("family")
    (child,) = psutil.Process(world.record["pid"]).children()
    server.stop()
    assert not world.living() and not family.is_alive(child)
    assert world.record is None and not server.alive()
    server.stop()


def test_a_stopped_server_that_does_not_hear_is_killed(world: World) -> None:
    server = world.start(stop_timeout_s=0.1)
    os.kill(world.record["pid"], signal.SIGSTOP)
    server.stop()
    assert not world.living()
    assert world.events[-2] | {"took_s": 0} == {
        "event": "critic_server", "runtime": "test", "phase": "ended", "took_s": 0, "exit_code": 128 + signal.SIGKILL,
    }  # fmt: skip


def test_a_server_outlives_the_thread_that_started_it(world: World) -> None:
    thread = threading.Thread(target=world.start)
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert models(world.started[0]) == 200


def test_a_server_that_died_is_started_again(world: World) -> None:
    server = world.start()
    key = server.key
    os.kill(world.record["pid"], signal.SIGKILL)
    until(lambda: not server.alive())
    server.restart()
    assert models(server) == 200 and models(server, key) == 401
    assert world.phases[4:] == ["died", "begin", "weights", "compile", "ready"]


def test_restarts_are_counted(world: World) -> None:
    server = world.start(max_restarts=0)
    with pytest.raises(Failed, match=r"test ended once more; critic_runtime.server.max_restarts is 0; it said: up"):
        server.restart()
    assert not world.living()


# ---- a server that judges


def test_a_server_that_judges_is_supervised_like_any_other(world: World) -> None:
    pytest.importorskip("tests.critic.speaking")
    command = [sys.executable, "-m", "tests.critic.speaking", "--port", "{port}"]
    server = world.start(command=command, key_variable="SPEAKING_KEY", phases=[])
    assert (models(server), models(server, "another")) == (200, 401)
