"""A critic's verdict on one image: the record that is stored, and the check it must pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runner.config.tree import CriticProfile


class Record(BaseModel):
    """A part of a verdict: frozen, closed, and free of NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CriterionScore(Record):
    rule: str
    """Stable id of the rule that the score answers."""
    group: Literal["prompt", "physical"]
    """Whether it is judged against the prompt or for itself."""
    score: float
    """Inside the profile's scale."""
    asked: str
    """What the prompt asked for."""
    found: str
    """What the critic saw most."""
    similarities: dict[str, float]
    """The evidence: cosine similarity of the image with each text or reference."""
    tags: tuple[str, ...]
    """Tags of the closed vocabulary that the score cites."""


class Verdict(Record):
    image: str
    """sha256 of the image's bytes."""
    prompt: str
    """The text that the image was made from."""
    profile: dict[str, Any]
    """Id, version and digest of the profile."""
    model: dict[str, Any]
    """Backend, weights digest and library versions of the critic."""
    status: Literal["scored", "unscored"]
    """unscored carries a reason and no scores; it is never averaged."""
    reason: str | None
    """Failure class and detail of an unscored image."""
    criteria: dict[str, CriterionScore]
    """Scores by criterion; criteria that the prompt does not touch are absent."""
    tags: tuple[str, ...]
    """All tags cited."""
    raw: dict[str, Any]
    """What the model gave before it was read."""


def validated(
    common: Mapping[str, Any], criteria: Mapping[str, CriterionScore], tags: tuple[str, ...],
    raw: Mapping[str, Any], profile: CriticProfile,
) -> Verdict:  # fmt: skip
    """A scored verdict, or an unscored one that says which check it failed."""
    reason = _problem(criteria, tags, profile)
    if reason is None:
        try:
            return Verdict(**common, status="scored", reason=None, criteria=dict(criteria), tags=tags, raw=dict(raw))
        except ValidationError as error:
            reason = f"schema: {error.errors()[0]['msg']}"
    return Verdict(**common, status="unscored", reason=reason, criteria={}, tags=(), raw={})


def _problem(criteria: Mapping[str, CriterionScore], tags: tuple[str, ...], profile: CriticProfile) -> str | None:
    if not criteria:
        return "schema: no criterion of the profile applies to this prompt"
    known = {criterion.id for criterion in profile.criteria}
    vocabulary = {criterion.tag for criterion in profile.criteria}
    for name, score in criteria.items():
        if name not in known:
            return f"schema: {name!r} is no criterion of the profile"
        if not profile.scale.min <= score.score <= profile.scale.max:
            return f"schema: {name} is {score.score}, outside the scale"
        if not score.similarities:
            return f"schema: {name} has no evidence"
    strange = set(tags) - vocabulary
    return f"schema: tag {strange.pop()!r} is not in the vocabulary" if strange else None
