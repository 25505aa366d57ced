"""What a supervised server is started with, what its log means, its memory, and its sleep."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.critic import supervise
from runner.critic.supervise import Supervised, launch, log, memory, process
from runner.errors import Failed, Refused
from tests.critic.supervised import LARGE, World, models, runtime_of, world_in
from tests.fakes import StandingClock


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as made:
        yield made


# ---- what it is started with


def test_blanks_of_a_command_are_filled_and_braces_of_json_stay(tmp_path: Path) -> None:
    words = ["serve", "{model}:{port}", '{"image":{"count":{max_images}}}', "{total_context}"]
    assert supervise.command(runtime_of(tmp_path, command=words), 80) == [
        "serve", "critic:80", '{"image":{"count":1}}', "1024",
    ]  # fmt: skip


@pytest.mark.parametrize("blank", ["{path}", "{pth}"])
def test_a_blank_that_nothing_fills_is_refused(tmp_path: Path, blank: str) -> None:
    with pytest.raises(Refused, match=rf"nothing fills \{blank}.*Known here: \{{model\}}, \{{host\}}"):
        supervise.command(runtime_of(tmp_path, command=["serve", blank]), 80)


def test_an_environment_is_made_and_not_inherited(tmp_path: Path) -> None:
    shell = {
        "PATH": "/bin",
        "HOME": "/h",
        "LLAMA_ARG_CTX_SIZE": "1",
        "OPENAI_API_KEY": "secret",
        "CUDA_DEVICE_ORDER": "x",
    }
    env = launch.environment(runtime_of(tmp_path, env={"C": "{cache}/c"}), "cpu", "k", shell)
    cache = env.pop("C")
    assert cache.endswith("/critic/test/c")
    assert env == {
        "PATH": "/bin", "HOME": "/h", "CUDA_DEVICE_ORDER": "x", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1", "SERVER_KEY": "k",
    }  # fmt: skip


@pytest.mark.parametrize(("device", "visible", "seen"), [("cuda:1", "", "1"), ("cuda:1", "5,GPU-ab", "GPU-ab")])
def test_a_server_sees_the_leased_card_alone(tmp_path: Path, device: str, visible: str, seen: str) -> None:
    env = launch.environment(runtime_of(tmp_path), device, "k", {"CUDA_VISIBLE_DEVICES": visible})
    assert env["CUDA_VISIBLE_DEVICES"] == seen


def test_an_address_of_version_six_is_written_as_one(tmp_path: Path) -> None:
    assert launch.base_url(launch.server_of(runtime_of(tmp_path, host="::1")), 80) == "http://[::1]:80"


# ---- its log


def test_a_phase_begins_with_its_first_line_and_lasts_until_the_next() -> None:
    clock = StandingClock()
    phases = log.Phases({"weights": re.compile("load"), "up": re.compile("up")}, clock)
    for seconds, line in [(1, "hello"), (2, "load 1"), (3, "load 2"), (4, "up")]:
        clock.passes(seconds)
        phases.hear(line)
    assert phases.ended() == [("begin", 3), ("weights", 7)] and phases.ended() == []
    assert (phases.current(), phases.total_s()) == (("up", 0), 10)


def test_a_log_does_not_grow_without_end(tmp_path: Path) -> None:
    kept = log.Log(tmp_path / log.NAME, log.Phases({}), max_bytes=1000)
    for number in range(100):
        kept.hear(f"line {number} " + "x" * 40)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2200
    assert kept.tail(1)[0].startswith("line 99 ")


def test_what_tells_most_is_the_last_line_of_an_error() -> None:
    kept = log.Log(Path(os.devnull), log.Phases({}))
    for line in ("ValueError: too large", "\x1b[31mbye\x1b[0m"):
        kept.hear(line)
    assert (kept.telling(), kept.tail(1)) == ("ValueError: too large", ["bye"])


def test_output_is_read_in_lines_whatever_a_program_writes() -> None:
    data = b"one\r 50%\r100%\n" + b"x" * 20_000 + b"\n\xff two"
    read = list(process.lines(io.BytesIO(data)))
    assert [line[:6] for line in read] == ["one", " 50%", "100%", "xxxxxx", "\ufffd two"]
    assert len(read[3]) == process.MAX_LINE


def test_a_pattern_that_is_none_is_refused(world: World) -> None:
    with pytest.raises(Refused, match=r"phases\[0\].pattern: '\(' is no regular expression"):
        world.start(phases=[{"name": "weights", "pattern": "("}])


# ---- memory


def test_a_server_that_does_not_fit_is_refused_with_every_number(tmp_path: Path) -> None:
    fault = supervise.check_memory(runtime_of(tmp_path, memory=LARGE), 9000, 32000, {"process 7": 20000})
    assert fault is not None and fault.code == "over_capacity"
    assert fault.what == (
        "test needs 18000 MiB (weights 16000 + cache 1000 + activations 500 + overhead 500); "
        "9000 MiB are free of 32000 MiB; process 7 has 20000 MiB"
    )
    assert fault.evidence["others_mib"] == {"process 7": 20000}


def test_a_device_that_is_too_small_asks_for_other_weights(tmp_path: Path) -> None:
    fault = supervise.check_memory(runtime_of(tmp_path, memory=LARGE), 12000, 16000, {})
    assert fault is not None and fault.fix.startswith("Choose smaller weights")


@pytest.mark.parametrize("free_mib", [18000, None])
def test_memory_that_is_enough_or_cannot_be_asked_admits(tmp_path: Path, free_mib: int | None) -> None:
    assert supervise.check_memory(runtime_of(tmp_path, memory=LARGE), free_mib, None, {}) is None


def test_vllm_wants_its_share_of_the_card_free_whatever_it_takes(tmp_path: Path) -> None:
    words = ["vllm", "serve", "--gpu-memory-utilization", "0.80"]
    asked = runtime_of(tmp_path, engine="vllm", command=words, memory=LARGE)
    fault = supervise.check_memory(asked, 20000, 32000, {})
    assert fault is not None and "wants 25600 MiB free when it starts (--gpu-memory-utilization)" in fault.what
    assert supervise.check_memory(asked, 20000, 32000, {}, waking=True) is None


@pytest.mark.parametrize(("word", "share"), [("--gpu-memory-utilization=0.5", 0.5), ("--other", 0.92)])
def test_the_share_is_read_from_the_command(word: str, share: float) -> None:
    assert memory.utilization(("vllm", word)) == share


def test_nothing_is_started_where_it_does_not_fit(world: World) -> None:
    (world.place / "free").write_text("17999")
    with pytest.raises(Failed, match="test needs 18000 MiB"):
        world.start(memory=LARGE)
    assert world.events == [] and not (world.place / log.NAME).exists()


def test_memory_is_told_when_it_changes_hands(world: World) -> None:
    (world.place / "free").write_text("30000")
    world.start(memory=LARGE).stop()
    taken, given = (event for event in world.events if event["event"] == "handed_over")
    assert (taken["from"], taken["to"], taken["free_before_mib"], taken["free_after_mib"]) == (
        "device", "critic", 30000, 12000,
    )  # fmt: skip
    assert (given["from"], given["to"]) == ("critic", "device")


# ---- sleep


UTILIZED = "--gpu-memory-utilization=0.3"  # of the 32000 MiB there are


def sleeper(world: World, modes: str = "ok") -> Supervised:
    (world.place / "free").write_text("30000")
    command = [*launch.server_of(runtime_of(world.place, modes)).command]
    return world.start(modes, engine="vllm", between="sleep", memory=LARGE, command=[*command, UTILIZED])


def test_a_server_sleeps_when_its_memory_comes_free_and_wakes(world: World) -> None:
    server = sleeper(world)
    assert server.sleep() and server.asleep and server.alive()
    server.wake()
    assert models(server) == 200 and not server.asleep
    assert world.phases[-2:] == ["asleep", "awake"]


def test_a_server_that_says_it_sleeps_and_frees_nothing_is_ended(world: World) -> None:
    server = sleeper(world, "liar")
    assert not server.sleep()
    failed = next(event for event in world.events if event.get("phase") == "sleep_failed")
    assert failed["because"] == "0 MiB came free, and its weights are 16000 MiB"
    assert not world.living()
    server.wake()
    assert models(server) == 200 and server.num_restarts == 0


def test_a_server_goes_on_sleeping_while_others_have_the_memory(world: World) -> None:
    server = sleeper(world)
    server.sleep()
    (world.place / "free").write_text("16999")
    with pytest.raises(Failed, match=r"test needs 17000 MiB \(weights 16000 \+ cache 1000\); 16999 MiB are free"):
        server.wake()
    assert server.asleep and server.alive()


def test_a_server_that_does_not_wake_is_started_again(world: World) -> None:
    server = sleeper(world, "wake_fails")
    server.sleep()
    server.wake()
    failed = next(event for event in world.events if event.get("phase") == "wake_failed")
    assert failed["because"] == "/wake_up: status 500"
    assert models(server) == 200 and server.num_restarts == 1


@pytest.mark.parametrize(
    ("server", "said"),
    [({}, "llama_server has no sleep that can be relied on"), ({"engine": "vllm"}, "so test was started without it")],
)
def test_sleep_is_refused_where_there_is_none(world: World, server: dict[str, Any], said: str) -> None:
    fault = supervise.check_sleep(runtime_of(world.place, **server))
    assert fault is not None and said in fault.what


def test_the_routes_for_sleep_are_there_only_where_they_are_wanted(tmp_path: Path) -> None:
    for between, wanted in [("sleep", True), ("restart", False)]:
        asked = runtime_of(tmp_path, engine="vllm", between=between)
        assert ("--enable-sleep-mode" in supervise.command(asked, 1)) is wanted
        assert ("VLLM_SERVER_DEV_MODE" in launch.environment(asked, "cuda:0", "k", {})) is wanted
