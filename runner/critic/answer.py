"""A reply becomes an answer, or is refused whole: never a part of it is taken, never a 0 put for what is missing.

Three checks, each with its own failure class. `parse`: it is one JSON value, no key twice, no NaN. `schema`: it matches
the schema it was asked under, whether or not the runtime decoded under it. `semantic`: it does not contradict itself.

Semantic errors (the answer is refused, all of them are named):
  duplicate_evidence_id        a citation of that id could mean either finding
  dangling_evidence:CRITERION  it cites a finding that is not there
  missing_evidence:CRITERION   a score under `evidence_below` rests on nothing
  degenerate_box:FINDING       a place without an area is no place
  contradiction:CRITERION      the best score, resting on what it calls a major or critical fault
  contradiction:winner         every criterion prefers one image, and the other one wins
  all_equal                    four or more scores, all alike, not the best, and no finding that says what is wrong
  nothing_judged               no criterion was judged: there is no score to believe
Notes (kept beside the answer, because a good answer can look like this as well):
  all_best                     four or more scores, all the best, and no finding: a perfect picture, or a lazy critic
  copied_text                  four or more reasons, all the same words
  wrong_rule:CRITERION         it cites a finding of a rule that it does not answer: misfiled, but not untrue
A box out of range or left out where it is required does not match the schema. What this file does not know: whether an
answer is right; that is for the exam and for people.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from runner.config.critic import Criterion, CriticProfile, Rule
from runner.critic.question import Unanswered
from runner.errors import first_line

MANY = 4  # fewer scores or reasons may well be alike by chance
GRAVE = ("major", "critical")
DETAIL_CHARS = 200
Box = tuple[int, int, int, int]
DEEPEST = 16
_CONTROLS = re.compile(r"[\x00-\x1f]")
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)  # a text, or a bracket outside of one


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was seen: which tag, in words, where, and the rule that it breaks."""

    id: str
    tag: str
    rule: str
    group: str  # physical | prompt
    what: str
    box: Box | None  # left, top, right, bottom in thousandths of the image
    severity: str
    image: str | None  # A | B of a pair


@dataclass(frozen=True, slots=True)
class Score:
    """What was said on one criterion: a score (None: it cannot be judged), or for a pair which is better."""

    score: float | None
    winner: str | None  # A | B | tie of a pair
    reason: str
    evidence: tuple[str, ...]  # ids of findings
    rules: tuple[str, ...]  # the rules that it answers


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that passed every check."""

    evidence: tuple[Finding, ...]
    criteria: Mapping[str, Score]  # in the order of the profile
    confidence: str
    winner: str | None
    lenient: bool  # raw control characters in its texts were taken as blanks
    notes: tuple[str, ...] = ()


def read(text: str, profile: CriticProfile, schema: Mapping[str, Any]) -> Answer:
    """The answer in a reply. Raises Unanswered(parse | schema | semantic) with a detail that is the same every time."""
    value, lenient = matching(text, schema)
    answer = _answer(value, profile, lenient)
    if errors := [name for check in ERRORS for name in check(profile, answer)]:
        raise Unanswered("semantic", ", ".join(errors))
    return replace(answer, notes=tuple(name for check in NOTES for name in check(profile, answer)))


def matching(text: str, schema: Mapping[str, Any]) -> tuple[Any, bool]:
    """The value of a JSON text that matches a schema, and whether it had to be read leniently. Raises Unanswered."""
    value, lenient = _parsed(text)
    _match(value, schema)
    return value, lenient


def looping(text: str, *, longest: int = 240, times: int = 4, least_chars: int = 160) -> bool:
    """Whether a reply ends in circles: nothing but blanks, or the same up to `longest` characters `times` over.

    Only its end is looked at, so a reply that came to its end is never taken for one.
    """
    if len(text) >= least_chars and not text[-least_chars:].strip():
        return True
    return any(_repeats(text[-max(times * period, least_chars) :], period, times) for period in range(1, longest + 1))


def _repeats(tail: str, period: int, times: int) -> bool:
    return len(tail) >= times * period and tail[period:] == tail[:-period]


# ---- JSON, and the schema


def _parsed(text: str) -> tuple[Any, bool]:
    if _depth(text) > DEEPEST:
        raise Unanswered("parse", f"nested more than {DEEPEST} deep")
    try:
        return _strict(text), False
    except Unanswered:
        if _CONTROLS.search(text) is None:
            raise
    return _strict(_CONTROLS.sub(" ", text)), True  # some decoders write raw line ends into texts


def _depth(text: str) -> int:
    """How deep a text is nested: where a parser gives up by itself depends on who called it."""
    steps = (1 if mark[0] in "[{" else -1 if mark[0] in "]}" else 0 for mark in _MARKS.finditer(text))
    return max(itertools.accumulate(steps), default=0)


def _strict(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        message = error.msg.rstrip(": ").removesuffix(" at")
        raise Unanswered("parse", _plain(f"{message} at character {error.pos}")) from error
    except ValueError as error:  # a key twice, NaN, a number of thousands of digits
        raise Unanswered("parse", _plain(first_line(error))) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"key {name!r} twice")
        table[name] = value
    return table


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _match(value: Any, schema: Mapping[str, Any]) -> None:
    from jsonschema.exceptions import best_match

    errors = list(_checker()(schema).iter_errors(value))
    if errors:
        worst = best_match(errors)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise Unanswered("schema", _plain(f"{worst.json_path}: {worst.message}", DETAIL_CHARS - len(more)) + more)


@functools.cache
def _checker() -> Any:
    """Draft 2020-12 with patterns that hold for the whole text: Python's `$` alone lets a line end pass."""
    from jsonschema import validators
    from jsonschema.exceptions import ValidationError

    def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Iterator[Any]:
        if isinstance(value, str) and re.fullmatch(wanted, value) is None:
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    return validators.extend(validators.Draft202012Validator, {"pattern": pattern})


def _plain(text: str, most_chars: int = DETAIL_CHARS) -> str:
    """Short ASCII: a detail is stored in records, and a reply may hold half a character."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    return plain if len(plain) <= most_chars else plain[: most_chars - 3] + "..."


def _answer(value: Mapping[str, Any], profile: CriticProfile, lenient: bool) -> Answer:
    rules = {tag.id: next(rule for rule in profile.rules if rule.id == tag.rule) for tag in profile.tags}
    findings = tuple(_finding(found, rules[found["tag"]]) for found in value["evidence"])
    criteria = {criterion.id: _score(criterion, value["criteria"][criterion.id]) for criterion in profile.criteria}
    return Answer(findings, criteria, value["confidence"], value.get("winner"), lenient)


def _finding(said: Mapping[str, Any], rule: Rule) -> Finding:
    box, image = _box(said.get("box")), said.get("image")
    return Finding(said["id"], said["tag"], rule.id, rule.group, said["what"], box, said["severity"], image)


def _score(criterion: Criterion, said: Mapping[str, Any]) -> Score:
    score, cited = said.get("score"), tuple(dict.fromkeys(said["evidence"]))
    number = None if score is None else float(score)
    return Score(number, said.get("winner"), said["reason"], cited, criterion.rules)


def _box(said: list[float] | None) -> Box | None:
    if said is None:
        return None
    left, top, right, bottom = (int(side) for side in said)
    return left, top, right, bottom


# ---- checks of what it means: each names what it finds


def duplicate_evidence_id(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    if len({found.id for found in answer.evidence}) < len(answer.evidence):
        yield "duplicate_evidence_id"


def dangling_evidence(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    known = {found.id for found in answer.evidence}
    yield from (
        f"dangling_evidence:{name}" for name, said in answer.criteria.items() if not known.issuperset(said.evidence)
    )


def missing_evidence(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    for criterion in profile.criteria:
        said = answer.criteria[criterion.id]
        if said.score is not None and said.score < criterion.evidence_below and not said.evidence:
            yield f"missing_evidence:{criterion.id}"


def degenerate_box(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    for found in answer.evidence:
        if found.box is not None and (found.box[0] >= found.box[2] or found.box[1] >= found.box[3]):
            yield f"degenerate_box:{found.id}"


def contradiction(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    grave = {found.id for found in answer.evidence if found.severity in GRAVE}
    for name, said in answer.criteria.items():
        if said.score is not None and said.score >= max(profile.scale.levels) and grave.intersection(said.evidence):
            yield f"contradiction:{name}"


def contradicting_winner(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    if (answer.winner, {said.winner for said in answer.criteria.values()}) in (("A", {"B"}), ("B", {"A"})):
        yield "contradiction:winner"


def all_equal(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    score = _one_score(answer)
    if score is not None and score < max(profile.scale.levels):
        yield "all_equal"


def all_best(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    score = _one_score(answer)
    if score is not None and score >= max(profile.scale.levels):
        yield "all_best"


def nothing_judged(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    if profile.mode == "pointwise" and not _scores(answer):
        yield "nothing_judged"


def copied_text(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    if len(answer.criteria) >= MANY and len({said.reason for said in answer.criteria.values()}) == 1:
        yield "copied_text"


def wrong_rule(profile: CriticProfile, answer: Answer) -> Iterator[str]:
    rule_of = {found.id: found.rule for found in answer.evidence}
    for name, said in answer.criteria.items():
        if any(rule_of[cited] not in said.rules for cited in said.evidence):
            yield f"wrong_rule:{name}"


def _scores(answer: Answer) -> list[float]:
    return [said.score for said in answer.criteria.values() if said.score is not None]


def _one_score(answer: Answer) -> float | None:
    """The score that all of many criteria share, where nothing was found to tell them apart."""
    scores = _scores(answer)
    return scores[0] if len(scores) >= MANY and len(set(scores)) == 1 and not answer.evidence else None


Check = Callable[[CriticProfile, Answer], Iterator[str]]
ERRORS: tuple[Check, ...] = (
    duplicate_evidence_id, dangling_evidence, missing_evidence, degenerate_box, contradiction, contradicting_winner,
    all_equal, nothing_judged,
)  # fmt: skip
NOTES: tuple[Check, ...] = (all_best, copied_text, wrong_rule)
