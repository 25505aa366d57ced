"""A critic's verdict: the record that is stored as an object, the same bytes whenever the same was said.

Times and token counts are no part of it; they stand in the journal line that names it. What it cannot hold: a human
decision, or a score that no answer gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from runner import store
from runner.contract.profile import profile_digest
from runner.critic import decide, request
from runner.critic.answer import Answer
from runner.critic.ask import Judged, first_attempt
from runner.critic.question import Question, Unanswered

FORMAT = "runner-verdict/2"


def key_of(question: Question, model: Mapping[str, Any]) -> str:
    """What two questions have in common that get one verdict: what is asked, of which pictures, and of whom."""
    return store.digest_of([
        FORMAT,
        profile_digest(question.profile),  # every word but the prompt's, how pictures are shown, and how it decodes
        request.user_text(question),
        [image.digest for image in question.images],
        [[example.image.digest, request.example_text(question.profile, example)] for example in question.examples],
        dict(question.schema),
        dict(model),
    ])  # fmt: skip


def record_of(question: Question, judged: Judged, model: Mapping[str, Any], *, structured: bool) -> dict[str, Any]:
    """Everything that a verdict must keep: what was asked, what was said, and what the runner makes of it.

    `model` is who answered; `structured`, whether it decodes under the schema.
    """
    profile, answer = question.profile, judged.answer
    advice = decide.advise(profile, answer) if answer else None
    return {
        "format": FORMAT,
        "image": question.images[0].digest,
        **({"against": question.images[1].digest} if len(question.images) > 1 else {}),
        "prompt": question.prompt.text,
        "profile": {"id": profile.profile, "version": profile.version, "digest": profile_digest(profile)},
        "request": request_of(question),
        "model": dict(model),
        "decoded_under_schema": structured,
        "sampling": profile.sampling.model_dump(mode="json"),
        "status": "unscored" if answer is None else "scored",
        "reason": reason_of(judged),
        "advice": asdict(advice) if advice else None,
        "criteria": {name: asdict(score) for name, score in answer.criteria.items()} if answer else {},
        "findings": [asdict(finding) for finding in answer.evidence] if answer else [],
        "tags": tags_of(answer),
        "rules": sorted({finding.rule for finding in answer.evidence}) if answer else [],
        "winner": answer and answer.winner,
        "confidence": answer and answer.confidence,
        "notes": list(answer.notes) if answer else [],
        "attempts": [tried.record() for tried in judged.tries],
    }


def request_of(question: Question) -> dict[str, Any]:
    """What was asked, by digests; with the profile and the prompt it can be rendered again, to the same digest."""
    return {
        "digest": _request_digest(question),
        "schema": store.digest_of(dict(question.schema)),
        "text": request.user_text(question),
        "examples": [example.image.digest for example in question.examples],
    }


def _request_digest(question: Question) -> str | None:
    """None when a picture does not decode: then nothing can be sent."""
    try:
        return request.request_digest(question, first_attempt(question))
    except Unanswered:
        return None


def facts_of(question: Question, judged: Judged, record: dict[str, Any], key: str) -> dict[str, Any]:
    """What the journal line says: the scores for every reader, and what this one asking took."""
    first = next((t.reply.first_token_s for t in judged.tries if t.reply and t.reply.first_token_s is not None), None)
    return {
        **told(record),
        "key": key,
        "latency_s": round(judged.took_s, 6),
        "num_attempts": len(judged.tries),
        "retried": [tried.failure for tried in judged.tries if tried.failure],
        **({"tokens": judged.tokens()} if judged.tokens() else {}),
        **({"first_token_s": round(first, 6)} if first is not None else {}),
    }


def told(record: dict[str, Any]) -> dict[str, Any]:
    """The part of a verdict that stands in the journal line too."""
    advice = record["advice"]
    return {
        "image": record["image"],
        "status": record["status"],
        "reason": record["reason"],
        "scores": scores_of(record),
        "tags": record["tags"],
        "advice": advice and advice["recommend"],
    }


def scores_of(record: dict[str, Any]) -> dict[str, float]:
    """A number for each criterion that was judged; of a pair 1 for the first image, 0 for the second, 0.5 for a tie."""
    wins = {"A": 1.0, "tie": 0.5, "B": 0.0}
    scores = {
        name: wins[score["winner"]] if score["winner"] else score["score"] for name, score in record["criteria"].items()
    }
    return {name: float(score) for name, score in scores.items() if score is not None}


def tags_of(answer: Answer | None) -> list[str]:
    return list(dict.fromkeys(finding.tag for finding in answer.evidence)) if answer else []


def reason_of(judged: Judged) -> str | None:
    """`class: detail` of what has no answer."""
    return None if judged.answer else f"{judged.failure}: {judged.detail}"
