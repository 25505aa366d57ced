"""What a killed run leaves behind: its server is found and ended, and nobody else's process is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest

from runner.critic import supervise
from runner.critic.supervise import family
from runner.errors import Unavailable
from tests.critic.supervised import World, models, runtime_of, until
from tests.fakes import ROOT

PARENT = """
import sys, time
from pathlib import Path
from runner.config.critic import OpenAIRuntime
from runner.critic import supervise
runtime = OpenAIRuntime.model_validate_json(sys.argv[1])
server = supervise.start(runtime, Path(sys.argv[2]), device="cpu", note=lambda event, **facts: None)
print("up", flush=True)
time.sleep(600)
"""


def parent(world: World, modes: str) -> subprocess.Popen[bytes]:
    """A process like a run's, with a server that is up."""
    words = [sys.executable, "-c", PARENT, runtime_of(world.place, modes).model_dump_json(), str(world.place)]
    begun = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE)
    assert begun.stdout is not None and begun.stdout.readline() == b"up\n"
    return begun


def kill(run: subprocess.Popen[bytes]) -> None:
    run.kill()
    run.wait()
    assert run.stdout is not None
    run.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_server_ends_with_a_run_that_is_killed(world: World) -> None:
    run = parent(world, "ok")
    assert world.living()
    kill(run)
    until(lambda: not world.living())


def test_a_server_that_outlived_its_run_is_ended_by_the_next_start_and_only_it(world: World) -> None:
    bystander = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"])
    run = parent(world, "stubborn,family")
    with pytest.raises(Unavailable, match=r"is held: the critic's server of a run that lives \(process \d+, port"):
        world.start()
    left = world.record["pid"]
    kill(run)
    assert left in world.living()
    world.start(stop_timeout_s=0.1)
    assert left not in world.living() and bystander.poll() is None
    ended = world.events[0]
    assert (ended["phase"], left in ended["pids"], len(ended["pids"])) == ("orphan_ended", True, 2)
    bystander.kill()
    bystander.wait()


def test_a_process_that_was_given_the_pid_of_a_record_is_left_alone(world: World) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]) as other:
        started = psutil.Process(other.pid).create_time()
        old = {"pid": other.pid, "process_started": started, "host": os.uname().nodename, "boot": family.boot()}
        (world.place / supervise.RECORD).write_text(json.dumps({**old, "mark": "m", "pipe": "pipe:[1]"}))
        world.start()
        assert other.poll() is None and "orphan_ended" not in world.phases
        other.kill()


@pytest.mark.parametrize("field", ["host", "boot"])
def test_a_record_of_another_machine_or_of_before_its_start_names_nobody(standing: World, field: str) -> None:
    assert family.find(standing.record)
    assert not family.find({**standing.record, field: "another"})


def test_a_process_without_a_readable_environment_is_known_by_where_it_writes(standing: World) -> None:
    first = psutil.Process(standing.record["pid"])
    first.environ = dict  # type: ignore[method-assign]  # as of an engine that wrote its title over it
    assert family.is_ours(first, {**standing.record, "pid": 0})
    assert not family.is_ours(first, {**standing.record, "pid": 0, "pipe": "pipe:[0]"})


def test_a_torn_record_names_nobody_and_is_in_nobodys_way(world: World) -> None:
    (world.place / supervise.RECORD).write_text('{"pid": 1, "proc')
    assert models(world.start()) == 200
