"""What was said of a run's images, for those who show it: counts and scores from the journal, findings from the store.

Verdicts of a critic that failed an exam since are in no figure but their own number; an unscored image is counted by
its class and never averaged. Verdicts of before that have no findings, and ones whose bytes are gone, read as none.
It decides nothing and checks nothing: `inspect` does that for one verdict.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runner.errors import Corrupt, Failed
from runner.journal import Run
from runner.store import Objects

ADVICE = ("accept", "unsure", "reject")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Review:
    """What all verdicts of a run come to."""

    num_counted: int  # verdicts but those that are quarantined
    num_quarantined: int
    scores: Mapping[str, list[float]]  # by criterion, in the order of the profile
    advice: Mapping[str, int] | None  # accept, unsure, reject; None where the profile gives no advice
    tags: Mapping[str, int]  # on how many images, the most frequent first
    unscored: Mapping[str, int]  # by class of failure


def review_of(run: Run) -> Review | None:
    """The review of a run; None when it has no verdict."""
    judged = [row for row in run.images() if row["verdict"]]
    counted = [row for row in judged if not row["quarantined"]]
    if not judged:
        return None
    return Review(
        len(counted), len(judged) - len(counted), score_lists(counted, criteria_of(run.manifest)),
        _advice(run.manifest, counted),
        dict(Counter(tag for row in counted for tag in row["tags"]).most_common()),
        Counter(class_of(row["unscored"]) for row in counted if row["unscored"]),
    )  # fmt: skip


def criteria_of(manifest: Row) -> list[str]:
    """The criteria that a run's profile asks, in its order."""
    return [str(criterion["id"]) for criterion in (manifest["request"].get("critic") or {}).get("criteria") or ()]


def score_lists(rows: Iterable[Row], order: Iterable[str] = ()) -> dict[str, list[float]]:
    """Scores by criterion; an unscored image has none and is not averaged."""
    lists: dict[str, list[float]] = {name: [] for name in order}
    for row in rows:
        for name, score in row["scores"].items():
            lists.setdefault(name, []).append(score)
    return {name: scores for name, scores in lists.items() if scores}


def in_order(scores: Mapping[str, float], manifest: Row) -> dict[str, float]:
    """The scores of an image in the order of its profile; the journal sorts them by name."""
    return {name: scores[name] for name in (*criteria_of(manifest), *scores) if name in scores}


def class_of(reason: str) -> str:
    """Of `timeout: no reply in 5 s` the class."""
    return reason.partition(":")[0]


def _advice(manifest: Row, counted: list[dict[str, Any]]) -> dict[str, int] | None:
    """A comparison gives none, nor did profiles of before."""
    if (manifest["request"].get("critic") or {}).get("mode") != "pointwise":
        return None
    given = Counter(row["advice"] for row in counted)
    return {word: given[word] for word in ADVICE}


# ---- verdicts as they are stored


def record(digest: str | None, objects: Objects | None) -> dict[str, Any]:
    """A verdict's own record; empty when its bytes are gone, are others, or are no record, or there is no store."""
    try:
        value = json.loads(objects.get(digest)) if digest and objects else {}
    except (Corrupt, Failed, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def findings_of(said: Row) -> list[dict[str, Any]]:
    """The findings of a record, each with its tag, text, severity, box and image."""
    listed = said.get("findings")
    return [found for found in listed if isinstance(found, dict)] if isinstance(listed, list) else []


def in_words(found: Row) -> str:
    """`B extra_button: a second button @120,40,300,210`: which image of a pair, what, and where."""
    side = f"{found['image']} " if found.get("image") else ""
    box = f" @{','.join(map(str, found['box']))}" if found.get("box") else ""
    return f"{side}{found.get('tag')}: {found.get('what')}{box}"
