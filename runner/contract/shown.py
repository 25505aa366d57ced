"""Text from a file, made safe for one line of a terminal.

A name or a metadata value comes from a stranger: it may hold escape sequences that steer the terminal, newlines
that fake another line, characters that turn the reading direction or cannot be seen. They are shown as escapes.
What it does not know: markup; a page or a table has its own way to take text as text.
"""

from __future__ import annotations

import re

# Invisible, although Python calls them printable: joiners, fillers, the blank Braille cell, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def shown(text: str, limit: int = 200) -> str:
    r"""The text on one line of at most `limit` characters; what cannot be seen is an escape such as `\x1b`."""
    if len(text) <= limit and text.isprintable() and not _UNSEEN.search(text):
        return text
    line = "".join(map(_visible, text[:limit]))
    return line if len(text) <= limit and len(line) <= limit else line[: limit - 1] + "…"


def _visible(character: str) -> str:
    plain = character.isprintable() and not _UNSEEN.match(character)
    return character if plain else character.encode("unicode_escape").decode("ascii")
