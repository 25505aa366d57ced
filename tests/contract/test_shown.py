"""Text from a file on one line of a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.contract.shown import shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lora_unet.alpha", "lora_unet.alpha"),
        ("été 漢字 [bold]", "été 漢字 [bold]"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("gpj\u202egnp.exe", "gpj\\u202egnp.exe"),
        ("a\u200bb\ufeff\u2066", "a\\u200bb\\ufeff\\u2066"),
        ("\u2028\u3164\ufe0f", "\\u2028\\u3164\\ufe0f"),
        ("\ud800\U000e0041", "\\ud800\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_an_escape(text: str, line: str) -> None:
    assert shown(text) == line


@pytest.mark.parametrize(("text", "line"), [("abcdef", "abcd…"), ("abcde", "abcde"), ("\x1b\x1b", "\\x1b…")])
def test_a_long_text_is_cut_to_the_limit_with_an_ellipsis(text: str, line: str) -> None:
    assert shown(text, 5) == line


@given(st.text(), st.integers(1, 50))
def test_every_text_becomes_one_printable_line_within_the_limit(text: str, limit: int) -> None:
    line = shown(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
