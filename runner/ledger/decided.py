"""What people decided: `outputs/decisions/journal.jsonl`, a hash-chained log as a run's; read here and never written.

    decision  {image, decision, tags, note, reviewer}   approve | reject | maybe; null takes the reviewer's word back

The last word of each reviewer on an image stands; the words of two reviewers both do. A word that is not known here
is kept as it is, and means nothing. `split_of` puts each image into one of three splits for good, by its digest alone.

It refuses to guess: a broken chain, or a line that is no decision, is Corrupt. What it does not know: whether the
bytes are there, which run made them, and which images look alike: two that do may be in two splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner import journal, store
from runner.errors import Corrupt, Fault

DECISIONS = "decisions"
WORDS = ("approve", "reject", "maybe")
SALT = b"runner splits, format 1: "
NUM_HEX = 8  # digits of a hash that make the share of an image
Split = Literal["train", "dev", "test"]
ENDS: tuple[tuple[Split, float], ...] = (("train", 0.6), ("dev", 0.8), ("test", 1.0))


@dataclass(frozen=True, slots=True)
class Decision:
    """What one reviewer says of one image, and has not taken back."""

    image: str
    word: str  # one of WORDS, or what a later version writes
    tags: tuple[str, ...]
    note: str
    reviewer: str
    at: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """Every standing decision, in the order in which they were made."""

    standing: tuple[Decision, ...] = ()

    def by_image(self) -> dict[str, tuple[Decision, ...]]:
        """The decisions on each image, the image that was decided on last at the end."""
        found: dict[str, tuple[Decision, ...]] = {}
        for decision in self.standing:
            found[decision.image] = (*found.pop(decision.image, ()), decision)
        return found


def decided(outputs: Path) -> Decisions:
    """The decisions of an outputs folder; none where nobody decided. Raises Corrupt when a part cannot be read."""
    chain = journal.Chain(outputs / DECISIONS)
    last: dict[tuple[str, str], Decision] = {}
    try:
        for event in chain:
            if "image" in event and "decision" in event:
                _add(last, event)
    except OSError as error:
        raise unreadable(outputs, f"cannot be read ({error.strerror})") from error
    except (TypeError, ValueError) as error:
        raise unreadable(outputs, f"line {chain.num_lines} is no decision ({error})") from error
    if chain.problem is not None:
        raise unreadable(outputs, chain.problem)
    return Decisions(tuple(last.values()))


def split_of(image_digest: str) -> Split:
    """The split of an image, the same for ever: 60 % train, 20 % dev, 20 % test."""
    share = int(store.digest(SALT + image_digest.encode())[:NUM_HEX], 16) / 16**NUM_HEX
    return next(split for split, end in ENDS if share < end)


def unreadable(outputs: Path, what: str) -> Corrupt:
    fix = "Nothing was changed. Put the original back; `python -m runner verify --all` says more"
    return Corrupt(Fault("decisions_unreadable", str(outputs / DECISIONS / journal.JOURNAL), what, fix))


def _add(last: dict[tuple[str, str], Decision], event: journal.Event) -> None:
    decision = Decision(
        image=_text(event, "image"),
        word=_text(event, "decision"),
        tags=tuple(_texts(event.get("tags") or ())),
        note=_text(event, "note"),
        reviewer=_text(event, "reviewer"),
        at=_text(event, "at"),
    )
    last.pop((decision.image, decision.reviewer), None)  # a new word goes to the end
    if event["decision"] is not None:  # null takes the word back
        last[decision.image, decision.reviewer] = decision


def _text(event: journal.Event, name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str | None):
        raise TypeError(f"its {name} is no text")
    return value or ""


def _texts(values: object) -> Sequence[str]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise TypeError("its tags are no list of texts")
    return values
