"""What MLflow is told of a review: scores, advice, failures, what it took, and who the critic was. Pure.

Scores, advice, tags and classes of failure are of the verdicts that stand and count; those of a critic that failed an
exam since are only counted. What it took (time, tokens, attempts) is of every verdict that was asked for, and of none
that was taken from a run before. What it does not know: MLflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from runner import journal
from runner.report.verdicts import Review, review_of
from runner.timing import percentile

OF_A_STOP = ("orphan_ended", "died", "ended", "asleep", "sleep_failed", "awake", "wake_failed")  # no parts of a start
TOKENS = {"prompt_tokens": "prompt", "completion_tokens": "completion", "cached_tokens": "cached"}
COUNTED = ("review/tag/", "review/advice/")
STAYS = ("review/images_per_min", "review/failures_per_100")  # nothing was asked for: they are what they were
MEASURED = ("mean", "p10", "p90")
Facts = Mapping[str, Any]


def review_metrics(run: journal.Run) -> dict[str, float]:
    """Every metric of a run's review under its agreed name; none when it has no verdict and no exam."""
    review, asked = review_of(run), _asked(run.state)
    metrics = _said(review) if review else {}
    metrics |= _took(asked, run.state) | _starts(run.state.servers) | _exam(run.state.exams)
    if review:
        metrics["review/cached"] = sum(1 for item in _verdicts(run.state) if item.facts.get("cached"))
    return metrics


def review_tags(run: journal.Run) -> dict[str, Any]:
    """Who judged: the digests of profile and exam, the model as its critic names it, and what does not count."""
    profile = run.manifest["pins"].get("profile")
    if not profile:
        return {}
    tags = {"critic.profile_digest": profile}
    if run.state.exams:
        exam = run.state.exams[-1]
        tags |= {"critic.model": _model(exam.get("identity") or {}), "exam.digest": exam.get("digest") or "unknown"}
    tags["critic.quarantined"] = sum(1 for item in _verdicts(run.state) if item.quarantined)
    return tags


def gone(before: Iterable[str], now: Mapping[str, float]) -> dict[str, float]:
    """Values for what an earlier attempt had and this one has not: MLflow would go on showing the old ones.

    A count is 0; the mean of scores that count no more is no number.
    """
    lost = [name for name in before if name.startswith(("review/", "hit_rate/")) and name not in now]
    return {name: value for name in lost if (value := _without(name)) is not None}


def _without(name: str) -> float | None:
    """What a metric is that has no value any more; None where it stays what it was, as the time of a reply does."""
    room, _, rest = name.partition("/")
    if room == "hit_rate" or (rest.rpartition("/")[2] in MEASURED and not name.startswith(COUNTED)):
        return math.nan
    return 0.0 if name.startswith(COUNTED) or ("/" not in rest and name not in STAYS) else None


# ---- what was said


def _said(review: Review) -> dict[str, float]:
    metrics: dict[str, float] = {"review/quarantined": review.num_quarantined}
    for criterion, scores in review.scores.items():
        values = (sum(scores) / len(scores), percentile(scores, 0.1), percentile(scores, 0.9))
        metrics |= {f"review/{criterion}/{name}": value for name, value in zip(MEASURED, values, strict=True)}
    metrics |= {f"review/tag/{tag}": count for tag, count in review.tags.items()}
    metrics["review/unscored"] = sum(review.unscored.values())
    metrics |= {f"review/{name}": count for name, count in review.unscored.items()}
    if review.advice is not None:
        metrics |= {f"review/advice/{word}": count for word, count in review.advice.items()}
        if review.num_counted:
            metrics["hit_rate/recommended"] = review.advice["accept"] / review.num_counted
    return metrics


# ---- what it took


def _verdicts(state: journal.State) -> list[journal.Item]:
    return [item for key, item in state.items.items() if item.made and key.startswith("verdict/")]


def _asked(state: journal.State) -> list[journal.Item]:
    return [item for item in _verdicts(state) if item.facts and not item.facts.get("cached")]


def _took(asked: list[journal.Item], state: journal.State) -> dict[str, float]:
    """Time, tokens and attempts of the verdicts that were asked for."""
    facts = [item.facts for item in asked]
    if not facts:
        return {}
    failed = [len(each.get("retried", ())) for each in facts]
    num_attempts = sum(each.get("num_attempts", 1) for each in facts)
    latencies = [each["latency_s"] for each in facts if "latency_s" in each]
    first = [each["first_token_s"] for each in facts if "first_token_s" in each]
    return {
        "review/retried": sum(failed) - sum(1 for each in facts if each.get("retried") and each.get("reason")),
        "review/failures_per_100": 100 * sum(failed) / num_attempts,
        **_shares("review/latency_s", latencies, 0.5, 0.95),
        **_shares("review/first_token_s", first, 0.5),
        **_tokens(facts),
        **_speed(asked, state),
    }


def _shares(name: str, values: list[float], *shares: float) -> dict[str, float]:
    return {f"{name}/p{100 * share:.0f}": percentile(values, share) for share in shares} if values else {}


def _tokens(facts: Iterable[Facts]) -> dict[str, float]:
    counts = [each["tokens"] for each in facts if each.get("tokens")]
    known = set(chain.from_iterable(counts)) & TOKENS.keys()
    return {f"review/tokens/{TOKENS[name]}": sum(count.get(name, 0) for count in counts) for name in known}


def _speed(asked: list[journal.Item], state: journal.State) -> dict[str, float]:
    """Verdicts of the last attempt that reviewed, over the time it reviewed for; its exam is where it began."""
    took_s = state.timings.get("review", {}).get("total_s", 0)
    began = next((exam["at"] for exam in reversed(state.exams) if exam.get("when") == "start"), None)
    if not took_s or began is None or state.open:
        return {}
    num_asked = sum(datetime.fromisoformat(item.at) >= datetime.fromisoformat(began) for item in asked)
    return {"review/images_per_min": 60 * num_asked / took_s} if num_asked else {}


# ---- who judged


def _exam(exams: list[journal.Event]) -> dict[str, float]:
    if not exams:
        return {}
    took = {"exam/took_s": exams[-1]["took_s"]} if "took_s" in exams[-1] else {}
    return {"exam/passed": float(exams[-1]["passed"]), **took}


def _starts(servers: Iterable[journal.Event]) -> dict[str, float]:
    """Seconds of each part of the last start of a server of ours, `ready` being the whole of it."""
    parts = [event for event in servers if "took_s" in event and event.get("phase") not in OF_A_STOP]
    return {f"critic/start/{part['phase']}_s": part["took_s"] for part in parts}


def _model(identity: Facts) -> str:
    """The digest of the weights where they lie here, else what the server calls its model."""
    names = ("weights", "file", "folder", "model")
    return str(next((identity[name] for name in names if identity.get(name)), "unknown"))
