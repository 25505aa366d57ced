"""Outputs, time and scores of two runs that may be compared, pair by pair. Pure.

Scores are paired by image. Time is paired by batch, because the images of a batch share it: where batches have other
sizes, by groups of images that are whole batches in both runs. Cold batches stand apart, and the time of encoding
counts only where a prompt comes up for the first time. An unscored image is counted and never averaged. Each interval
is 95 % by itself: of twenty equal criteria one is expected to show a difference by chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from runner import controlled, paired
from runner.timing import PHASES
from runner.verbs.compare.side import Side

SAME_OUTPUTS = "valid: outputs are the same"
OTHER_OUTPUTS = "invalid: outputs differ"
OTHER_WORK = "outputs differ; not the same work"
ENCODE = "encode_prompt"
Rows = list[dict[str, Any]]


def outputs(one: Side, other: Side) -> dict[str, int]:
    """Whether the images of each pair have the same bytes; the settings that are written in them count as well."""
    same = sum(1 for key, image in one.images.items() if image["digest"] == other.images[key]["digest"])
    return {"same": same, "different": len(one.images) - same}


def speed(keys: Iterable[str], num_different: int) -> dict[str, Any]:
    """Whether times may be compared: only those of the same work, and the outputs show whether it was the same.

    Knobs that promise the same pixels and no knob at all make other outputs an error; other knobs make other work.
    """
    if not num_different:
        return {"valid": True, "verdict": SAME_OUTPUTS}
    promised = all(any(controlled.covers(name, key) for name in controlled.SAME_PIXELS) for key in keys)
    return {"valid": False, "verdict": OTHER_OUTPUTS if promised else OTHER_WORK}


# ---- time


class Group(NamedTuple):
    """Images that are whole batches in both runs."""

    keys: Sequence[str]
    cold: bool  # one of the batches is cold in its run
    first: bool  # a prompt comes up for the first time


def phases(one: Side, other: Side, speed: Mapping[str, Any]) -> Rows:
    """Seconds per image of each phase that the journal has per image: warm batches, and the means of the cold ones."""
    groups = _groups(one, other)
    timings = (image["timing"] for side in (one, other) for image in side.images.values())
    names = {name.removesuffix("_s") for timing in timings for name in timing}
    return [_phase(name, one, other, groups, speed) for name in sorted(names, key=_place)]


def _groups(one: Side, other: Side) -> list[Group]:
    if one.batches.keys() != other.batches.keys():
        return []
    cold = {key for side in (one, other) for key, step in side.batches.items() if step in side.cold}
    first = {key for side in (one, other) for key in _first_of_prompts(side)}
    groups = joint_groups(one.batches, other.batches)
    return [Group(keys, not cold.isdisjoint(keys), not first.isdisjoint(keys)) for keys in groups]


def _first_of_prompts(side: Side) -> Iterable[str]:
    first: dict[str, str] = {}
    for key, image in side.images.items():
        first.setdefault(image["prompt"], key)
    return first.values()


def joint_groups(a: Mapping[str, str], b: Mapping[str, str]) -> list[list[str]]:
    """Images in the order of `a`, cut where whole batches of both runs end; both name each image's batch."""
    left = Counter(("a", batch) for batch in a.values()) + Counter(("b", batch) for batch in b.values())
    groups: list[list[str]] = [[]]
    begun: set[tuple[str, str]] = set()
    for key in a:
        groups[-1].append(key)
        for batch in (("a", a[key]), ("b", b[key])):
            left[batch] -= 1
            (begun.add if left[batch] else begun.discard)(batch)
        if not begun:
            groups.append([])
    return groups[:-1]


def _phase(phase: str, one: Side, other: Side, groups: Iterable[Group], speed: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{phase}_s"
    counted = [group for group in groups if group.first or phase != ENCODE]
    spent = [(_per_image(one, group, name), _per_image(other, group, name), group.cold) for group in counted]
    pairs = [(a, b, cold) for a, b, cold in spent if a is not None and b is not None]
    warm = _difference([(a, b) for a, b, cold in pairs if not cold])
    cold = _difference([(a, b) for a, b, cold in pairs if cold])
    return {
        "phase": phase, "unit": "s per image", "by": "batch", **asdict(warm), "verdict": _timed(warm.verdict, speed),
        "unmeasured": len(spent) - len(pairs), "cold": {"n": cold.n, "mean_a": cold.mean_a, "mean_b": cold.mean_b},
    }  # fmt: skip


def _per_image(side: Side, group: Group, name: str) -> float | None:
    """Mean over the images of whole batches; None when one of them was not measured."""
    spent = [side.images[key]["timing"].get(name) for key in group.keys]
    return None if None in spent else math.fsum(spent) / len(spent)


def _difference(pairs: Sequence[tuple[float, float]]) -> paired.Difference:
    return paired.difference([a for a, _ in pairs], [b for _, b in pairs])


def _timed(verdict: str, speed: Mapping[str, Any]) -> str:
    """A verdict on time, as far as the outputs allow one."""
    if speed["valid"] or verdict in (paired.ONE_EACH, paired.NOTHING):
        return verdict
    return OTHER_OUTPUTS if speed["verdict"] == OTHER_OUTPUTS else f"{verdict} ({OTHER_WORK})"


def run_phases(one: Side, other: Side) -> Rows:
    """Seconds of every phase over the whole run, one measurement each; none where a run took several attempts."""
    if any(side.run.state.attempts > 1 for side in (one, other)):
        return []
    a, b = one.run.state.timings, other.run.state.timings
    return [
        {"phase": name, "a_s": _total_s(a, name), "b_s": _total_s(b, name), "verdict": paired.ONE_EACH}
        for name in sorted({*a, *b}, key=_place)
    ]


def _place(phase: str) -> tuple[int, str]:
    """Phases in the order of a run, what is none of them last."""
    return PHASES.index(phase) if phase in PHASES else len(PHASES), phase


def _total_s(timings: Mapping[str, Mapping[str, float]], name: str) -> float | None:
    return timings[name]["total_s"] if name in timings else None


# ---- scores


def criteria(one: Side, other: Side) -> Rows:
    """Scores of each criterion, paired by image. `left_out` counts pairs that have the score on one side or on none,
    unless both images were scored and the criterion asks nothing of either."""
    names = dict.fromkeys(name for side in (one, other) for image in side.images.values() for name in image["scores"])
    return [_criterion(name, one, other) for name in names]


def _criterion(name: str, one: Side, other: Side) -> dict[str, Any]:
    pairs: list[tuple[float, float]] = []
    num_left_out = 0
    for key, image in one.images.items():
        partner = other.images[key]
        a, b = image["scores"].get(name), partner["scores"].get(name)
        if a is not None and b is not None:
            pairs.append((a, b))
        elif a is not None or b is not None or image["unscored"] or partner["unscored"]:
            num_left_out += 1
    return {"criterion": name, "unit": "score", "by": "image", **asdict(_difference(pairs)), "left_out": num_left_out}


def num_unscored(side: Side) -> int:
    return sum(1 for image in side.images.values() if image["unscored"])
