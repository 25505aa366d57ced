"""Marks: how each answer of the inspector did against what a careful person would say.

Strict: a wrong name is WRONG, null where a name was possible is CANNOT TELL, a true name where the file cannot show
it is LUCKY. It does not know how an answer came about.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.examiner.expect import Entry, Expect
from tests.examiner.pairs import Pair

RIGHT, UNSURE, LUCKY, WRONG = "right", "cannot tell", "lucky", "wrong"
VERDICTS = (RIGHT, UNSURE, LUCKY, WRONG)
Answer = dict[str, Any]


class Mark(NamedTuple):
    """One expectation of one file, and how the answer did."""

    name: str
    asked: str
    verdict: str
    expected: str
    got: str


def _kind(expect: Expect, answer: Answer) -> str:
    got = answer.get("kind")
    if got in expect.kinds:
        return RIGHT
    return UNSURE if got in (None, "unknown", "UNKNOWN") and "broken" not in expect.kinds else WRONG


def _family(expect: Expect, answer: Answer) -> str:
    got = answer.get("family")
    if got in (None, "unknown"):
        return RIGHT if expect.undecidable or expect.lenient else UNSURE
    if got == expect.family:
        return LUCKY if expect.undecidable else RIGHT
    return RIGHT if got in expect.extra else WRONG


def _families(expect: Expect, answer: Answer) -> str:
    got = set(answer.get("families") or [])
    if not got:
        return RIGHT if answer.get("family") and not expect.undecidable else UNSURE
    if not got & ({expect.family} | expect.extra):
        return WRONG
    return RIGHT if got <= expect.families | expect.extra | {"other"} else UNSURE


def _number(wanted: frozenset[Any], got: Any) -> str:
    if isinstance(got, list | tuple):
        return RIGHT if set(got) & wanted else WRONG
    if got is None:
        return RIGHT if None in wanted else UNSURE
    return RIGHT if float(got) in {float(number) for number in wanted if number is not None} else WRONG


def _format(expect: Expect, answer: Answer) -> str:
    return RIGHT if any(word in str(answer.get("format")).lower() for word in expect.formats) else UNSURE


def _trigger(expect: Expect, answer: Answer) -> str:
    got = answer.get("trigger")
    return UNSURE if not got else RIGHT if str(expect.trigger) in str(got) else WRONG


def _text_encoders(expect: Expect, answer: Answer) -> str:
    got = tuple(sorted(answer.get("text_encoders") or []))
    return RIGHT if got == expect.text_encoders else WRONG


ABOUT = re.compile(r"metadata|claim|says|card|modelspec|ss_", re.I)
AGAINST = re.compile(r"disagree|contradict|conflict|mismatch|differ|wrong|false|but |however", re.I)


def contradicted(answer: Answer) -> bool:
    """Does the answer say that the metadata's claim is not true."""
    said = [*(answer.get("flags") or []), *(answer.get("conflicts") or []), *(answer.get("evidence") or [])]
    return any(ABOUT.search(str(line)) and AGAINST.search(str(line)) for line in said)


def mark_file(entry: Entry, answer: Answer) -> Iterator[Mark]:
    """Every expectation of one file."""
    expect = entry.expect

    def made(asked: str, verdict: str, wanted: Any) -> Mark:
        return Mark(entry.name, asked, verdict, str(wanted), str(answer.get(asked)))

    yield made("kind", _kind(expect, answer), sorted(expect.kinds))
    if expect.family is not None:
        wanted = f"{expect.family}{' (undecidable)' if expect.undecidable else ''}"
        yield made("family", _family(expect, answer), wanted)
        yield made("families", _families(expect, answer), sorted(expect.families))
    if expect.rank is not None:
        yield made("rank", _number(expect.rank, answer.get("rank")), sorted(map(str, expect.rank)))
    if expect.alpha is not None:
        yield made("alpha", _number(expect.alpha, answer.get("alpha")), list(expect.alpha))
    if expect.text_encoders is not None:
        yield made("text_encoders", _text_encoders(expect, answer), expect.text_encoders)
    if expect.formats:
        yield made("format", _format(expect, answer), expect.formats)
    if expect.trigger is not None:
        yield made("trigger", _trigger(expect, answer), expect.trigger)
    if expect.disagrees is not None:
        verdict = RIGHT if contradicted(answer) == expect.disagrees else WRONG
        yield Mark(entry.name, "claim", verdict, f"disagrees={expect.disagrees}", _short(answer.get("evidence")))


def mark_pair(pair: Pair, how: str, answer: Answer) -> Mark:
    """One LoRA before one base."""
    got = answer.get("compatible")
    verdict = RIGHT if str(got) in pair.allowed else UNSURE if got in (None, "cannot_tell") else WRONG
    crash = answer["kind"] if got == "CRASH" else ""
    said = f"{got} {crash}{answer.get('coverage')} {_short(answer.get('conflicts'))}"
    return Mark(f"{pair.entry.name} on {pair.base}", f"pair {how}", verdict, "|".join(sorted(pair.allowed)), said)


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:160]


def table(marks: Iterable[Mark]) -> str:
    """A line per expectation: how many of each verdict."""
    counts: dict[str, Counter[str]] = {}
    for mark in marks:
        counts.setdefault(mark.asked, Counter())[mark.verdict] += 1
    lines = [f"{'':16}" + "".join(f"{verdict:>13}" for verdict in VERDICTS)]
    for asked, counter in counts.items():
        lines.append(f"{asked:16}" + "".join(f"{counter[verdict]:13}" for verdict in VERDICTS))
    return "\n".join(lines)


def listed(marks: Iterable[Mark], verdicts: set[str], most: int | None = None) -> Iterator[str]:
    """A line per answer of some verdicts, the first so many of each expectation."""
    seen: Counter[str] = Counter()
    for mark in marks:
        seen[mark.asked] += mark.verdict in verdicts
        if mark.verdict in verdicts and (most is None or seen[mark.asked] <= most):
            yield f"{mark.verdict.upper()} {mark.asked}: {mark.name}: expected {mark.expected}, got {mark.got}"
