"""Values of the verbs as text: what comes from files steers no terminal, fakes no line and fills no screen."""

from __future__ import annotations

import pytest

from runner.verbs import show

LOUD = "\x1b]0;own\x07\n[red]x[/red]\u202e\u200b\x9b2J"
SHOWN = "\\x1b]0;own\\x07\\n[red]x[/red]\\u202e\\u200b\\x9b2J"


CARD: dict[str, object] = {
    "kind": "lora", "path": "a.safetensors", "family": None, "families": [], "models": [], "format": "kohya",
    "algorithm": "lora", "rank": 4, "ranks": {"4": 1}, "alpha": None, "scaling": 1.0, "text_encoders": [],
    "trigger": None,
    "trigger_hints": [], "modules": 1, "tensors": 2, "sha256": None, "evidence": [], "flags": [], "metadata": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "facts",
    [
        {"trigger": LOUD},
        {"evidence": ["fine", LOUD]},
        {"path": LOUD},
        {"flags": [LOUD], "evidence": [LOUD]},
        {"compatible": "no", "reason": LOUD, "conflicts": [LOUD], "unbound": [LOUD]},
        {"metadata": {LOUD: "fine"}},
        {"metadata": {"fine": LOUD}},
    ],
)
def test_text_from_a_file_is_shown_with_escapes_and_its_markup_is_text(facts: dict[str, object]) -> None:
    text = show.facts({**CARD, **facts})
    assert SHOWN in text
    assert all(line.isprintable() for line in text.splitlines())


def test_many_files_are_a_line_each_with_what_a_person_asks_first() -> None:
    broken = {"kind": "broken", "path": "b.safetensors", "format": None, "reason": "is empty"}
    fitting = {**CARD, "families": ["chroma", "flux1"], "compatible": "cannot_tell", "coverage": "1/1"}
    lines = show.files({"files": [fitting, broken]}).splitlines()
    assert "cannot tell (chroma or flux1)" in lines[3]
    assert "is empty" in lines[4]


def test_why_a_run_failed_is_one_line() -> None:
    row = {"run_id": "r", "status": "failed", "complete": 0, "planned": 1, "failed": 1, "started": None}
    text = show.runs({"runs": [{**row, "failure": {"cause": LOUD, "hint": "Look"}, "problem": LOUD}]})
    assert text.splitlines()[-2:] == [f"r: {SHOWN}. Look", f"r: {SHOWN}"]


def test_a_file_with_more_metadata_than_a_screen_holds_says_how_much_more() -> None:
    text = show.facts({**CARD, "metadata": {str(number): "x" * 1000 for number in range(show.MAX_ROWS + 7)}})
    assert "and 7 more" in text
    assert "x" * 201 not in text.replace("\n", "").replace("│", "").replace(" ", "")
