"""Two pictures in both orders: what a critic prefers wherever it stands counts, anything else is a tie.

A model tends to prefer a place. It is asked about A and B, then about B and A, and the second answer is read with its
sides exchanged. Where the two disagree the result is a tie that is marked inconsistent: recorded, and no failure.
What this file does not know: who is asked, and how.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from runner.critic.answer import Answer, Finding, Score
from runner.critic.question import Question
from runner.critic.schema import CONFIDENCES

OTHER = {"A": "B", "B": "A", "tie": "tie"}
ORDERS = ("ab", "ba")  # before the id of a finding: in which order it was seen


@dataclass(frozen=True, slots=True)
class Preference:
    """What both orders say on one criterion, in the places of the first; the ids are of the pair's findings."""

    winner: str  # A | B | tie
    consistent: bool
    reasons: tuple[str, str]  # as they were given: the second speaks of A where we mean B
    evidence: tuple[str, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers on the same two pictures as one, in the places of the first: A is what was shown first there."""

    winner: str  # A | B | tie
    consistent: bool
    criteria: Mapping[str, Preference]
    evidence: tuple[Finding, ...]  # ids are `ab.e1`, `ba.e1`
    confidence: tuple[str, str]


def swapped(question: Question) -> Question:
    """The same question with its two images exchanged."""
    first, second = question.images
    return replace(question, images=(second, first))


def combine(first: Answer, second: Answer) -> Pair:
    """What an answer on (A, B) and an answer on (B, A) say together."""
    winner, consistent = _agreed(first.winner, second.winner)
    return Pair(
        winner=winner,
        consistent=consistent,
        criteria={name: _preference(said, second.criteria[name]) for name, said in first.criteria.items()},
        evidence=(*_findings(first, ORDERS[0]), *_findings(second, ORDERS[1])),
        confidence=(first.confidence, second.confidence),
    )


def _agreed(first: str | None, second: str | None) -> tuple[str, bool]:
    assert first is not None and second is not None, "answers of a pairwise profile name a winner"
    return (first, True) if first == OTHER[second] else ("tie", False)


def _preference(first: Score, second: Score) -> Preference:
    winner, consistent = _agreed(first.winner, second.winner)
    cited = [f"{order}.{name}" for order, said in zip(ORDERS, (first, second), strict=True) for name in said.evidence]
    return Preference(winner, consistent, (first.reason, second.reason), tuple(cited), first.rules)


def _findings(answer: Answer, order: str) -> Iterator[Finding]:
    """Findings under ids of their own, on the side on which the first order has their picture."""
    for found in answer.evidence:
        assert found.image is not None, "findings of a pairwise profile name an image"
        image = found.image if order == ORDERS[0] else OTHER[found.image]
        yield replace(found, id=f"{order}.{found.id}", image=image)


def as_answer(pair: Pair) -> Answer:
    """The pair in the form of every answer; where the orders disagree a note says so."""
    criteria = {
        name: Score(None, said.winner, " / ".join(said.reasons), said.evidence, said.rules)
        for name, said in pair.criteria.items()
    }
    notes = ["inconsistent"] if not pair.consistent else []
    notes += [f"inconsistent:{name}" for name, said in pair.criteria.items() if not said.consistent]
    confidence = next(word for word in CONFIDENCES if word in pair.confidence)
    return Answer(pair.evidence, criteria, confidence, pair.winner, False, tuple(notes))
