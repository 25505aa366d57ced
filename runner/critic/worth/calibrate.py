"""How far a critic's advice is that of the people who decided on the same images. Pure.

    agreement, kappa   where critic and human both chose: accept or reject, approve or reject
    kappa, 3 steps     reject < unsure or maybe < accept or approve, a disagreement by two steps four times as bad
    precision, recall  of "accept" against approve; an `unsure` about an approved image is not found
    criteria           rank correlation of each score with approval

One row is one reviewer's word on one image; intervals draw images. `maybe` is counted apart: it is no approval and no
rejection. Images of the split that the profile may show to the critic are left out, and so are unscored and
quarantined verdicts; each is counted. What it does not know: why somebody decided as they did, and whether images that
look alike are among them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from runner.critic.worth import agreement
from runner.critic.worth.agreement import Array, Figure
from runner.critic.worth.review_sets import ReviewSet
from runner.ledger.decided import WORDS, Decision, split_of

ADVICE = ("reject", "unsure", "accept")  # in the order of the scale
SAID = ("reject", "maybe", "approve")
CHOSEN = ("reject", "approve")
OUTER = (0, 2)  # the places of a choice in both


@dataclass(frozen=True, slots=True)
class Pair:
    """What the critic and one reviewer say of one image."""

    image: str
    advice: str
    scores: Mapping[str, float]
    word: str
    reviewer: str


def calibrate(reviews: ReviewSet, decisions: Iterable[Decision], shown_split: str | None) -> dict[str, Any]:
    """Compare a review set with decisions; `shown_split` is the one that the critic may have seen, if any."""
    judged = reviews.digests
    of_run = [decision for decision in decisions if decision.image in judged]
    known = [decision for decision in of_run if decision.word in WORDS]
    unseen = [decision for decision in known if shown_split is None or split_of(decision.image) != shown_split]
    pairs, left_out = _paired(reviews, unseen)
    left_out |= {"split": len(known) - len(unseen), "other_words": len(of_run) - len(known)}
    return {
        "images": len({pair.image for pair in pairs}),
        "n": len(pairs),
        "words": {word: sum(pair.word == word for pair in pairs) for word in WORDS},
        "shown_split": shown_split,
        "left_out": left_out,
        "table": _table(pairs),
        **{name: asdict(figure) for name, figure in _figures(pairs).items()},
        "criteria": [_criterion(name, pairs) for name in reviews.criteria],
        "reviewers": [_reviewers(*two, known) for two in combinations(sorted({d.reviewer for d in known}), 2)],
    }


def _paired(reviews: ReviewSet, decisions: Sequence[Decision]) -> tuple[list[Pair], dict[str, Any]]:
    """Decisions with a verdict that gave advice, and how many have none, by the reason."""
    pairs: list[Pair] = []
    unscored: Counter[str] = Counter()
    quarantined = without_advice = 0
    for decision in decisions:
        verdict = reviews.verdicts.get(decision.image)
        if verdict is None:
            quarantined += 1
        elif verdict.unscored:
            unscored[verdict.unscored] += 1
        elif verdict.advice not in ADVICE:
            without_advice += 1
        else:
            pairs.append(Pair(decision.image, verdict.advice, verdict.scores, decision.word, decision.reviewer))
    return pairs, {"unscored": dict(unscored), "quarantined": quarantined, "without_advice": without_advice}


def _table(pairs: Sequence[Pair]) -> dict[str, dict[str, int]]:
    """How often each advice met each word."""
    counts = Counter((pair.advice, pair.word) for pair in pairs)
    return {advice: {word: counts[advice, word] for word in WORDS} for advice in reversed(ADVICE)}


def _figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    units = _units((pair.image, ADVICE.index(pair.advice), SAID.index(pair.word)) for pair in pairs)
    chosen = units[:, OUTER, :][:, :, OUTER]
    accepted, approved = units[:, 2, OUTER], units[:, :, 2]
    kinds, kinds_chosen = _kinds(units), _kinds(chosen)
    num_accepted = int(accepted.any(axis=1).sum())
    return {
        "agreement": _figure(chosen, _agreement, *kinds_chosen),
        "kappa": _figure(chosen, agreement.kappa, *kinds_chosen),
        "kappa_3_steps": _figure(units, _ordered_kappa, *kinds),
        "precision": _figure(accepted, _last_of_all, *kinds, ("accepted by the critic", num_accepted)),
        "recall": _figure(approved, _last_of_all, *kinds),
    }


def _units(said: Iterable[tuple[str, int, int]], size: int = 3) -> Array:
    """(images, size, size): for each image how often row and column were said of it."""
    found: dict[str, Array] = {}
    for image, row, column in said:
        found.setdefault(image, np.zeros((size, size), int))[row, column] += 1
    return np.array([*found.values()]) if found else np.zeros((0, size, size), int)


def _kinds(units: Array) -> tuple[tuple[str, int], tuple[str, int]]:
    """On how many images people said approve, and on how many reject."""
    said = units.any(axis=1).sum(axis=0)
    return ("approved", int(said[-1])), ("rejected", int(said[0]))


def _figure(units: Array, measure: Any, *kinds: tuple[str, int]) -> Figure:
    """A figure with its interval over images, or why there is none; `measure` takes what one image has, summed up."""
    if because := agreement.too_few(*kinds):
        return Figure(None, None, None, int(units.sum()), because)
    shape = units.shape[1:]
    return agreement.resampled(
        units.reshape(len(units), -1), lambda sums: measure(sums.reshape(*sums.shape[:-1], *shape))
    )


def _agreement(tables: Array) -> Array:
    return agreement.share(np.trace(tables, axis1=-2, axis2=-1), tables.sum((-2, -1)))


def _ordered_kappa(tables: Array) -> Array:
    return agreement.kappa(tables, agreement.quadratic(3))


def _last_of_all(counts: Array) -> Array:
    return agreement.share(counts[..., -1], counts.sum(-1))


def _criterion(name: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Rank correlation of one criterion's score with approval (1) against rejection (0)."""
    rated = [pair for pair in pairs if name in pair.scores and pair.word in CHOSEN]
    approved, rejected = ({p.image for p in rated if p.word == word} for word in ("approve", "reject"))
    because = agreement.too_few(("approved", len(approved)), ("rejected", len(rejected)))
    scores, words = [pair.scores[name] for pair in rated], [float(pair.word == "approve") for pair in rated]
    value = None if because else agreement.spearman(scores, words)
    if value is None and because is None:
        because = "the critic gives every image the same score"
    return {"criterion": name, "correlation": value, "n": len(rated), "because": because}


def _reviewers(one: str, other: str, decisions: Sequence[Decision]) -> dict[str, Any]:
    """How far two reviewers agree on the images that both approved or rejected: the most a critic can be asked for."""
    words = [
        {d.image: CHOSEN.index(d.word) for d in decisions if d.reviewer == who and d.word in CHOSEN}
        for who in (one, other)
    ]
    both = [image for image in words[0] if image in words[1]]
    units = _units(((image, words[0][image], words[1][image]) for image in both), size=2)
    kinds = [
        (f"{kind} by {who}", sum(words[at][image] == CHOSEN.index(word) for image in both))
        for at, who in enumerate((one, other))
        for word, kind in (("approve", "approved"), ("reject", "rejected"))
    ]
    figures = {"agreement": _figure(units, _agreement, *kinds), "kappa": _figure(units, agreement.kappa, *kinds)}
    return {"a": one, "b": other, "n": len(both), **{name: asdict(figure) for name, figure in figures.items()}}
