"""Verbs as words on a command line: the wrong ones are refused with the right ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import verbs
from tests import worlds


def test_an_unknown_verb_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    answer = worlds.open_door(capsys, ("statos",))
    assert answer.code == 2
    assert "'statos' is not a verb. Did you mean 'status'? Known: " in answer.err


def test_an_experiment_typed_as_a_verb_gets_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    answer = worlds.open_door(capsys, ("demo", "output=json"))
    assert (answer.code, answer.line["faults"][0]["code"]) == (2, "unknown_verb")
    assert "Did you mean +experiment=demo?" in answer.err


@pytest.mark.parametrize("words", [("status", "--nosuch"), ("verify", "a", "b"), ("inspect",), ("ui", "--port", "x")])
def test_a_wrong_option_is_exit_code_2_with_usage(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    answer = worlds.open_door(capsys, words)
    assert (answer.code, answer.out) == (2, "")
    assert "Usage: python -m runner" in answer.err


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_every_verb_has_help_and_takes_json(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    words = {"export": ("export", "gallery"), "critic": ("critic", "diff")}.get(verb, (verb,))
    answer = worlds.open_door(capsys, (*words, "--help"))
    assert answer.code == 0
    assert "--json" in answer.out
    assert "--outputs" in answer.out or verb == "gpu"  # leases are the machine's


def test_the_ui_without_a_store_says_what_to_run_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answer = worlds.open_door(capsys, ("ui", "--json", "--outputs", str(tmp_path)))
    assert (answer.code, answer.line["faults"][0]["code"]) == (2, "tracking_missing")
    assert "Run an experiment first: python -m runner +experiment=demo" in answer.err
