"""What the terminal shows: faults once each, plain lines without a terminal, and a true summary."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import execute, journal
from runner.errors import Fault, Refused
from runner.report.live import Live, plain_line, spoken
from runner.report.summary import print_faults, print_summary
from runner.timing import Clock
from runner.worker import Work
from tests import fakes, worlds


def said(capsys: pytest.CaptureFixture[str], *faults: Fault) -> str:
    print_faults(Refused(faults))
    out, err = capsys.readouterr()
    assert out == ""
    return err


def overflow(prompt: str) -> Fault:
    return Fault("prompt_overflow", f"prompt.items ({prompt})", "is too long", "Shorten it")


def test_a_fault_reads_where_what_fix(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, Fault("missing_value", "mode", "has no value", "Type mode=base"))
    assert text == "refused:\n- mode: has no value. Type mode=base.\n"


def test_the_same_fault_of_two_prompts_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, overflow("a"), overflow("b"))
    assert text == "refused:\n- prompt.items (a), prompt.items (b): is too long. Shorten it.\n"


def test_the_same_fault_of_many_prompts_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, *[overflow(name) for name in "abcdef"])
    assert text.splitlines()[1].startswith("- prompt.items (a), prompt.items (b), prompt.items (c) (and 3 more): ")
    assert len(text.splitlines()) == 2


def test_different_faults_keep_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, overflow("a"), Fault("x", "seed", "is odd", "Choose 2"), overflow("b"))
    assert [line.partition(":")[0] for line in text.splitlines()[1:]] == [
        "- prompt.items (a), prompt.items (b)", "- seed",
    ]  # fmt: skip


def test_statuses_are_spoken_in_words() -> None:
    words = [spoken(status) for status in ("waiting_for_gpu", "loading", "generating", "complete")]
    assert words == ["waiting for the device", "loading model", "sampling", "complete"]


def test_a_made_image_has_no_line_of_its_own_and_an_unmade_one_has() -> None:
    assert plain_line({"event": "made", "key": "image/a.000"}) is None
    unmade = {"event": "unmade", "key": "image/a.000", "reason": "is blank"}
    assert plain_line(unmade) == "image/a.000 was not made: is blank"


def test_without_a_terminal_progress_is_plain_lines_on_standard_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    accepted = worlds.accept(tmp_path)
    table: dict[str, Work] = {"generate": fakes.Painter(broken=frozenset({"on-blue.001"})), "critique": fakes.Judge()}
    with Live(accepted.plan.num_expected) as live:
        execute.execute(accepted, table, Clock(), execute.Watch(on_event=live.on_event, on_progress=live.on_progress))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "sampling",
        "image/on-blue.001 was not made: is blank",
        "reviewing",
        "verdict/on-blue.001 was not made: its image was not made",
        "verifying",
    ]


def test_the_summary_counts_what_was_made_now_and_before(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.run(worlds.accept(tmp_path), generate=fakes.Painter(error=MemoryError("x"), error_at=1))
    result = worlds.run(worlds.accept(tmp_path))
    print_summary(journal.read_run(result.folder), result.status, result.made, result.kept, None)
    out, _ = capsys.readouterr()
    assert "4 of 4 (2 made now, 2 already there)" in out
    assert f"{result.run_id}: complete" in out
    assert "not tracked" in out


def test_a_summary_of_nothing_new_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    worlds.finished(tmp_path)
    result = worlds.run(worlds.accept(tmp_path))
    print_summary(journal.read_run(result.folder), result.status, result.made, result.kept, "abc")
    assert "everything was already there, nothing was made" in capsys.readouterr().out
