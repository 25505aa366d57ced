"""What the runner makes of an answer: accept, reject or unsure, and the rule that says so. The model is not asked.

Advice only: a decision is a human's. What rejects by itself comes first, then what must be judged and was not, then the
aggregate of what was judged. A finding's severity is the model's word and decides nothing; its tag's is the profile's.
A comparison gets no advice: that one picture is better than another does not say that either is good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.config.critic import CriticProfile
from runner.critic.answer import Answer

DECIMALS = 6  # of an aggregate: the mean of three times 0.7 is 0.7


@dataclass(frozen=True, slots=True)
class Advice:
    """What is recommended, by which rule, and the scores as one number from 0 to 1 where any was given."""

    recommend: Literal["accept", "reject", "unsure"]
    because: str
    aggregate: float | None


def advise(profile: CriticProfile, answer: Answer) -> Advice | None:
    """The advice of a profile on a pointwise answer; None for a comparison."""
    if profile.mode == "pairwise":
        return None
    total = aggregate(profile, answer)
    if (because := _rejected(profile, answer)) is not None:
        return Advice("reject", because, total)
    if (because := _unjudged(profile, answer)) is not None:
        return Advice("unsure", because, total)
    return Advice("unsure", "nothing judged", None) if total is None else _by_threshold(profile, total)


def aggregate(profile: CriticProfile, answer: Answer) -> float | None:
    """The scores that were given, as one number from 0 (worst of the scale) to 1; None where none was."""
    scale = profile.scale
    given = [(c.weight, answer.criteria[c.id].score) for c in profile.criteria]
    shares = [(weight, (score - scale.min) / (scale.max - scale.min)) for weight, score in given if score is not None]
    if not shares:
        return None
    return round(_combined(profile.decision.aggregate, shares), DECIMALS)


def _combined(kind: str, shares: Sequence[tuple[float, float]]) -> float:
    total = math.fsum(weight for weight, _ in shares)
    if kind == "min":
        return min(share for _, share in shares)
    if kind == "weighted_mean":
        return math.fsum(weight * share for weight, share in shares) / total
    if any(share == 0 for _, share in shares):  # one zero is a zero, whatever the others are
        return 0.0
    return math.exp(math.fsum(weight * math.log(share) for weight, share in shares) / total)


def _rejected(profile: CriticProfile, answer: Answer) -> str | None:
    """The first gate that a score does not pass, or the first critical tag that was cited."""
    for gate in profile.decision.gates:
        score = answer.criteria[gate.criterion].score
        if score is not None and score < gate.min:
            return f"gate:{gate.criterion}"
    critical = {tag.id for tag in profile.tags if tag.severity == "critical" and profile.decision.critical_rejects}
    return next((f"critical:{found.tag}" for found in answer.evidence if found.tag in critical), None)


def _unjudged(profile: CriticProfile, answer: Answer) -> str | None:
    missing = (c.id for c in profile.criteria if c.needed and answer.criteria[c.id].score is None)
    return next((f"needed:{name}" for name in missing), None)


def _by_threshold(profile: CriticProfile, total: float) -> Advice:
    accept_at, reject_below = profile.decision.accept_at, profile.decision.reject_below
    if total < reject_below:
        return Advice("reject", f"aggregate {total:g} < {reject_below:g}", total)
    if total >= accept_at:
        return Advice("accept", f"aggregate {total:g} >= {accept_at:g}", total)
    return Advice("unsure", f"{reject_below:g} <= aggregate {total:g} < {accept_at:g}", total)
