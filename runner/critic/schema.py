"""What an answer must look like: a JSON schema derived from the profile, never written by hand.

Only words that every server's grammar knows are used (no maxLength, uniqueItems, $ref or oneOf), and everything has a
bound: text by a pattern, lists by maxItems, objects by their keys. What an answer rests on comes before what it says:
findings, then each criterion's citations, reason and score, then how sure it is. Texts are printable ASCII without
quote and backslash and begin with no blank: nothing in them needs an escape, which is where constrained decoders
disagree. What it does not know: what an answer means; that is `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.config.critic import CriticProfile

Schema = dict[str, Any]
SEVERITIES = ("note", "minor", "major", "critical")
CONFIDENCES = ("low", "medium", "high")
SIDES = ("A", "B")
WINNERS = (*SIDES, "tie")
CANARY = "k7Q-ember-heron"  # a word that no free text would give
BOX_SPAN = 1000  # boxes are in thousandths of the image

_FIRST, _OTHERS = r"[!#-\[\]-~]", r"[ !#-\[\]-~]"


def answer_schema(profile: CriticProfile, *, continuous: bool = False) -> Schema:
    """The schema of a reply under this profile; `continuous` allows any score of the scale, not only its levels."""
    properties: Schema = {"evidence": _findings(profile), "criteria": _criteria(profile, continuous)}
    if profile.mode == "pairwise":
        properties["winner"] = {"enum": list(WINNERS)}
    return _object({**properties, "confidence": {"enum": list(CONFIDENCES)}})


def canary_schema() -> Schema:
    """A schema with one answer, which only a runtime that decodes under it can give."""
    return _object({"canary": {"enum": [CANARY]}})


def finding_ids(profile: CriticProfile) -> list[str]:
    """The ids that findings may have: as many as there may be findings."""
    return [f"e{number}" for number in range(1, (profile.evidence.max_items or 0) + 1)]


# ---- the parts of an answer


def _object(properties: Mapping[str, Any]) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": dict(properties),
    }


def _list(items: Schema, max_items: int | None) -> Schema:
    bound = {} if max_items is None else {"maxItems": max_items}
    return {"type": "array", "items": items, **bound}


def _text(max_chars: int | None) -> Schema:
    if max_chars is None:
        return {"type": "string"}
    others = f"{_OTHERS}{{0,{max_chars - 1}}}" if max_chars > 1 else ""
    return {"type": "string", "pattern": f"^{_FIRST}{others}$"}


def _finding_id(profile: CriticProfile) -> Schema:
    if profile.evidence.max_items is None:
        return {"type": "string", "pattern": "^e[0-9]{1,4}$"}
    return {"enum": finding_ids(profile)}


def _findings(profile: CriticProfile) -> Schema:
    """No more findings than the profile allows, and none where it has no word for them."""
    if not profile.tags:
        return _list({"enum": [None]}, 0)
    parts: Schema = {"id": _finding_id(profile)}
    if profile.mode == "pairwise":
        parts["image"] = {"enum": list(SIDES)}
    parts["tag"] = {"enum": [tag.id for tag in profile.tags]}
    parts["what"] = _text(profile.evidence.max_chars)
    if profile.evidence.boxes != "none":
        parts["box"] = _box(optional=profile.evidence.boxes == "optional")
    parts["severity"] = {"enum": list(SEVERITIES)}
    return _list(_object(parts), profile.evidence.max_items)


def _box(*, optional: bool) -> Schema:
    side = {"type": "integer", "minimum": 0, "maximum": BOX_SPAN}
    box = {"type": "array", "items": side, "minItems": 4, "maxItems": 4}
    return {"anyOf": [box, {"type": "null"}]} if optional else box


def _criteria(profile: CriticProfile, continuous: bool) -> Schema:
    """An object by criterion: an array would let a model judge one twice and another never."""
    judged = (
        {"winner": {"enum": list(WINNERS)}} if profile.mode == "pairwise" else {"score": _score(profile, continuous)}
    )
    cited = _list(_finding_id(profile), profile.evidence.max_items if profile.tags else 0)
    reason = _text(profile.evidence.max_chars)
    return _object({c.id: _object({"evidence": cited, "reason": reason, **judged}) for c in profile.criteria})


def _score(profile: CriticProfile, continuous: bool) -> Schema:
    if not continuous:
        return {"enum": [*map(_whole, profile.scale.levels), None]}
    least, most = _whole(profile.scale.min), _whole(profile.scale.max)
    return {"anyOf": [{"type": "number", "minimum": least, "maximum": most}, {"type": "null"}]}


def _whole(level: float) -> float:
    """1, not 1.0: a grammar compares text."""
    return int(level) if level.is_integer() else level
