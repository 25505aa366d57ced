"""The pulse: long phases give signs of life, short ones do not, and nothing that it meets harms the run."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from runner import journal
from runner.errors import Failed, Fault
from runner.execute.pulse import Pulse
from runner.timing import Clock
from runner.worker import Progress
from tests import acting, fakes, worlds

ZERO = "0" * 64


@pytest.fixture
def log(tmp_path: Path) -> journal.Journal:
    return journal.open_log(tmp_path, ZERO, list)[0]


def beats(folder: Path) -> list[dict[str, object]]:
    names = ("phase", "phase_s", "done", "total")
    return [{name: event[name] for name in names} for event in worlds.events(folder, "beat")]


def test_a_phase_of_less_than_ten_seconds_needs_no_beat(tmp_path: Path, log: journal.Journal) -> None:
    now = fakes.StandingClock()
    pulse = Pulse(log, clock := Clock(now=now))
    pulse.beat()
    with clock.phase("sample"):
        now.passes(9.9)
        pulse.beat()
    assert beats(tmp_path) == []


def test_a_long_phase_says_for_how_long_and_how_far_it_is(tmp_path: Path, log: journal.Journal) -> None:
    now = fakes.StandingClock()
    pulse = Pulse(log, clock := Clock(now=now))
    with clock.phase("load_base"):
        now.passes(11)
        pulse.beat()
    with clock.phase("sample"):
        now.passes(12)
        pulse.moment = Progress("generating", "sample", 3, 8)
        with clock.phase("record"):
            pulse.beat()
    assert beats(tmp_path) == [
        {"phase": "load_base", "phase_s": 11, "done": None, "total": None},
        {"phase": "sample", "phase_s": 12, "done": 3, "total": 8},
    ]


def test_the_lease_beats_in_every_phase(log: journal.Journal) -> None:
    told: list[int] = []
    Pulse(log, Clock(), beat_lease=lambda: not told.append(1)).beat()  # type: ignore[func-returns-value]  # it is None
    assert told == [1]


def test_a_lease_file_that_is_gone_is_noted_once(tmp_path: Path, log: journal.Journal) -> None:
    pulse = Pulse(log, Clock(), beat_lease=lambda: False)
    pulse.beat()
    pulse.beat()
    assert [event["reason"] for event in worlds.events(tmp_path, "lease_lost")] == ["its file was deleted"]


def test_memory_that_cannot_be_asked_does_not_stop_the_pulse(tmp_path: Path, log: journal.Journal) -> None:
    now = fakes.StandingClock()

    def broken() -> bool:
        raise ZeroDivisionError

    pulse = Pulse(log, clock := Clock(now=now), beat_lease=broken)
    with clock.phase("sample"):
        now.passes(11)
        pulse.beat()
    assert len(beats(tmp_path)) == 1


def test_a_disk_that_takes_no_beat_does_not_stop_the_pulse(
    log: journal.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: journal.Journal, data: bytes) -> None:
        raise Failed("storage", Fault("storage_failed", "journal", "cannot be written", "Free space"))

    monkeypatch.setattr(journal.Journal, "_write", full)
    now = fakes.StandingClock()
    pulse = Pulse(log, clock := Clock(now=now))
    with clock.phase("sample"):
        now.passes(30)
        pulse.beat()
    assert log.next_number == 0


def test_it_beats_by_itself_until_the_block_is_left(tmp_path: Path, log: journal.Journal) -> None:
    now, thrice = fakes.StandingClock(), threading.Event()
    log.watchers.append(lambda event: thrice.set() if event["n"] == 2 else None)
    clock = Clock(now=now)
    with clock.phase("review"), Pulse(log, clock).beating(every_s=0.001):
        now.passes(60)
        assert thrice.wait(120)
    count = len(beats(tmp_path))
    assert not [thread for thread in threading.enumerate() if thread.name == "pulse"]
    assert (len(beats(tmp_path)), journal.read_events(tmp_path).problem) == (count, None)


def test_lines_of_several_threads_make_one_chain(tmp_path: Path, log: journal.Journal) -> None:
    def write(name: str) -> None:
        for _ in range(40):
            log.append({"event": "proved", "by": name}, {"event": "proved", "by": name})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reading = journal.read_events(tmp_path)
    assert (reading.problem, len(reading.events), log.next_number) == (None, 240, 240)


def test_a_stop_that_comes_while_another_thread_commits_is_raised_at_once(
    tmp_path: Path, log: journal.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, inside, let_go = journal.Journal._write, threading.Event(), threading.Event()

    def slow(self: journal.Journal, data: bytes) -> None:
        inside.set()
        let_go.wait(120)
        write(self, data)

    monkeypatch.setattr(journal.Journal, "_write", slow)
    other = threading.Thread(target=log.append, args=({"event": "beat"},))
    other.start()
    inside.wait(120)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        log.interrupt(KeyboardInterrupt("stop"))
    let_go.set()
    other.join()
    assert len(journal.read_events(tmp_path).events) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_batch_ends_a_run_as_interrupted(tmp_path: Path, number: signal.Signals) -> None:
    with acting.start(tmp_path, 30) as process:
        acting.until_batch(process, 1)
        os.kill(process.pid, number)
        assert process.wait(120) == 130
    run = journal.read_run(next((tmp_path / "outputs" / "runs").iterdir()))
    assert (run.state.status, run.problem) == ("interrupted", None)
    failure = run.state.failure or {}
    assert (failure["kind"], failure["phase"], failure["cause"]) == (
        "interrupted", "sample", "was interrupted; what is finished is kept",
    )  # fmt: skip
