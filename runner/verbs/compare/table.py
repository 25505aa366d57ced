"""A comparison as text for a person: what differs, whether outputs do, and every difference with its interval."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from runner.contract.shown import shown
from runner.verbs import show

MAX_SETTINGS = 20
MAX_CHARS = 60  # of a value
NOTHING = "-"
Row = list[str]


def text(value: Mapping[str, Any]) -> str:
    parts = [show.table(["what", "is"], list(_about(value)))]
    if rows := [*map(_phase, value["phases"]), *map(_criterion, value["criteria"])]:
        parts.append(show.table(["pair by pair", "n", "A", "B", "B - A", "95 % interval", "verdict"], rows))
    if rows := [_run_phase(row) for row in value["run_phases"]]:
        parts.append(show.table(["whole run, one measurement each", "A (s)", "B (s)", "B - A (s)"], rows))
    return "\n".join([*parts, *(f"- {shown(note)}" for note in value["notes"])])


def _about(value: Mapping[str, Any]) -> Iterator[Row]:
    yield ["A", value["a"]]
    yield ["B", value["b"]]
    found = list(value["differences"].items())
    for key, (a, b) in found[:MAX_SETTINGS]:
        yield [key, f"{_short(a)} in A, {_short(b)} in B"]
    if len(found) > MAX_SETTINGS:
        yield [f"and {len(found) - MAX_SETTINGS} more", "--json has them all"]
    yield ["pairs of images", str(value["n"])]
    yield ["outputs", f"{value['outputs']['same']} the same, {value['outputs']['different']} different"]
    yield ["speed", value["speed"]["verdict"]]
    if any(value["unscored"].values()):
        yield ["unscored", f"{value['unscored']['a']} in A, {value['unscored']['b']} in B"]


def _phase(row: Mapping[str, Any]) -> Row:
    cold = f"; {row['cold']['n']} cold apart" if row["cold"]["n"] else ""
    unmeasured = f"; {row['unmeasured']} unmeasured" if row["unmeasured"] else ""
    return _measured(f"{row['phase']} (s per image, by batch)", row, cold + unmeasured)


def _criterion(row: Mapping[str, Any]) -> Row:
    return _measured(f"score {row['criterion']}", row, f"; {row['left_out']} left out" if row["left_out"] else "")


def _measured(name: str, row: Mapping[str, Any], apart: str) -> Row:
    interval = NOTHING if row["low"] is None else f"{row['low']:+.4g} to {row['high']:+.4g}"
    means = [_number(row["mean_a"]), _number(row["mean_b"]), _number(row["difference"], "+.4g")]
    return [name, f"{row['n']}{apart}", *means, interval, row["verdict"]]


def _run_phase(row: Mapping[str, Any]) -> Row:
    a, b = row["a_s"], row["b_s"]
    return [row["phase"], _number(a), _number(b), NOTHING if a is None or b is None else _number(b - a, "+.4g")]


def _number(value: float | None, form: str = ".4g") -> str:
    return NOTHING if value is None else format(value, form)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}..."
