"""The exam: what a critic must show before its scores are used, after every start of what answers.

Of four drawn pictures the truth is known. A critic has to score each well under its own prompt, score grey and another
prompt's picture clearly less, and say the same again: asked twice, and after other pictures. Every picture is right
under one prompt and wrong under another, and the two are equally bright: who looks at the prompt alone, the picture
alone, its brightness, or the picture before, never passes. Of a pair the right picture has to win on either side. A
canary, a schema with one answer that no free text would give, shows whether replies are decoded under their schema. It
refuses nothing itself: it tells. What it does not know: how good a critic is at anything but these pictures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runner.config.critic import CriticProfile
from runner.critic import answer, exam_pictures, schema
from runner.critic.ask import Asker, Judged, first_attempt
from runner.critic.exam_pictures import BLANK, NUMBERS, OTHER
from runner.critic.question import OF_THE_RUNTIME, Backend, Question, Unanswered
from runner.critic.review import as_they_come

NOBODY_THERE = (*OF_THE_RUNTIME, "timeout", "disconnected")  # each further question would only wait as long again
DETAIL_CHARS = 160

MAX_QUESTIONS = 13
Ask = Callable[[Backend, Question, Asker], Judged]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a critic had to show, whether it did, and what was found."""

    name: str  # schema | good | blank | swapped | order | repeat
    passed: bool
    what: str


@dataclass(frozen=True, slots=True)
class Exam:
    """How an exam went; a critic that did not pass is not used."""

    passed: bool
    checks: tuple[Check, ...]
    enforced: bool | None = None  # whether replies are decoded under the schema; None: nothing is decoded
    num_asked: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For the journal, with the version and digest of what was asked."""
        return {
            "passed": self.passed,
            "version": exam_pictures.VERSION,
            "digest": exam_pictures.digest(),
            "enforced": self.enforced,
            "num_asked": self.num_asked,
            "checks": [asdict(check) for check in self.checks],
        }


def take(
    backend: Backend, profile: CriticProfile, judge: Ask, tell: Callable[[int, int], None] = lambda done, most: None
) -> Exam:
    """Examine a critic: at most 13 questions, as many at once as it takes. Never raises for what it does or says."""
    sitting = Sitting(backend, profile, judge, tell)
    first, enforced, is_there = _schema(sitting)
    rest = (_chosen(sitting) if profile.mode == "pairwise" else _scored(sitting)) if is_there else []
    checks = (first, *rest)
    return Exam(all(check.passed for check in checks), checks, enforced, sitting.num_asked)


def still(backend: Backend, profile: CriticProfile, judge: Ask, turn: int) -> bool:
    """Whether a critic that passed tells a right picture from a wrong one now as well: one pair, another each turn.

    A critic that gives no reply has said nothing wrong.
    """
    sitting, at = Sitting(backend, profile, judge, lambda done, most: None), NUMBERS[turn % len(NUMBERS)]
    if profile.mode == "pairwise":
        asked = [_sides(at, OTHER[at], right_first=turn % 2 == 0)]
        heard = sitting.ask(*asked)
        check = _won("still", asked, heard)
    else:
        heard = sitting.ask(Asked(at, (at,)), Asked(at, (OTHER[at],)))
        check = _apart("still", heard[:1], heard[1:], profile.exam.apart_at_least)
    return check.passed or any(one.failure in NOBODY_THERE for one in heard)


# ---- asking


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: whose prompt, and the names of one picture, or of A and B."""

    prompt: int
    pictures: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """What was said on the exam's criterion: a score or a winner, or neither (it cannot be judged); or the failure."""

    score: float | None = None
    winner: str | None = None
    failure: str | None = None
    detail: str | None = None

    def __str__(self) -> str:
        score = None if self.score is None else f"{round(self.score, 3):g}"
        return self.failure or self.winner or score or "null"

    def less_than(self, other: Heard) -> float:
        """By how much it scores less; nothing where either has no score."""
        return float("-inf") if self.score is None or other.score is None else round(other.score - self.score, 9)


@dataclass(slots=True)
class Sitting:
    """Who is examined, under which profile, and by whom the questions are put."""

    backend: Backend
    profile: CriticProfile
    judge: Ask
    tell: Callable[[int, int], None]  # how many have been answered, of at most how many
    num_asked: int = 0
    num_heard: int = 0

    def ask(self, *asked: Asked) -> list[Heard]:
        """As many at once as the critic takes; what was heard in the order of the questions."""
        wanted = schema.answer_schema(self.profile, continuous=self.backend.continuous)
        questions = [self.question(one, wanted) for one in asked]
        stop = threading.Event()
        asker = Asker(self.backend, wait=stop.wait, give_up=stop.is_set)
        come = as_they_come(range(len(asked)), lambda n: self.judge(self.backend, questions[n], asker), self.backend,
                            stop, lambda: None)  # fmt: skip
        judged: dict[int, Judged] = {}
        for number, said in come:
            judged[number] = said
            self.num_heard += 1
            self.tell(self.num_heard, MAX_QUESTIONS)
        return [self._heard(judged[n]) for n in range(len(asked))]

    def question(self, asked: Asked, wanted: dict[str, Any]) -> Question:
        self.num_asked += 1
        images = tuple(exam_pictures.pictures()[name] for name in asked.pictures)
        return Question(self.profile, exam_pictures.prompt(asked.prompt), images, wanted)

    def _heard(self, judged: Judged) -> Heard:
        if judged.answer is not None:
            said = judged.answer.criteria[self.profile.exam.criterion]
            return Heard(said.score, said.winner)
        if judged.detail == answer.nothing_judged.__name__:  # null for every criterion, not for this one alone
            return Heard()
        return Heard(failure=judged.failure, detail=judged.detail)


def _check(name: str, passed: bool, what: str, heard: Sequence[Heard]) -> Check:
    """A check fails if any question of it has no answer; the first such is told in full."""
    failed = next((one for one in heard if one.failure), None)
    return Check(name, passed and failed is None, f"{what} ({failed.detail})"[:DETAIL_CHARS] if failed else what)


def _words(heard: Sequence[Heard]) -> str:
    return " ".join(str(one) for one in heard)


# ---- whether replies are decoded under the schema


def _schema(sitting: Sitting) -> tuple[Check, bool | None, bool]:
    """The check, whether the schema is enforced, and whether anybody is there to be asked more."""
    if sitting.backend.continuous:
        return Check("schema", True, "decodes nothing: its replies are computed"), None, True
    needed = sitting.profile.requires.structured_output == "enforced"
    shown: tuple[int | str, ...] = (0, BLANK) if sitting.profile.mode == "pairwise" else (0,)
    question = sitting.question(Asked(0, shown), schema.canary_schema())
    try:
        answer.matching(sitting.backend.ask(question, first_attempt(question)).text, question.schema)
    except Unanswered as error:
        is_there = error.failure not in NOBODY_THERE
        what = f"is not enforced: {error.failure}: {error.detail}" if is_there else f"{error.failure}: {error.detail}"
        return Check("schema", is_there and not needed, what[:DETAIL_CHARS]), False if is_there else None, is_there
    return Check("schema", True, "is enforced"), True, True


# ---- a critic that gives scores


def _scored(sitting: Sitting) -> list[Check]:
    """Good pictures first, each under its own prompt; the rest only if there was any answer."""
    limits = sitting.profile.exam
    good = sitting.ask(*(Asked(number, (number,)) for number in NUMBERS))
    passed = all(one.score is not None and one.score >= limits.good_at_least for one in good)
    first = _check("good", passed, f"scored {_words(good)}; {limits.good_at_least:g} or more wanted", good)
    if all(one.failure for one in good):
        return [first]
    wrong = sitting.ask(
        *(Asked(number, (BLANK,)) for number in NUMBERS[:2]), *(Asked(number, (OTHER[number],)) for number in NUMBERS)
    )
    last = NUMBERS[-2]
    (then,), (again,) = (sitting.ask(Asked(last, (last,))) for _ in range(2))  # with nothing else in flight
    return [
        first,
        _apart("blank", good[:2], wrong[:2], limits.apart_at_least),
        _apart("swapped", good, wrong[2:], limits.apart_at_least),
        _same("order", good[last], then, limits.repeat_within),
        _same("repeat", then, again, limits.repeat_within),
    ]


def _apart(name: str, good: Sequence[Heard], wrong: Sequence[Heard], wanted: float) -> Check:
    """Each wrong picture against the good one of its prompt. To say of grey that it cannot be judged is honest."""
    passed = all(
        bad.less_than(right) >= wanted or (name == "blank" and bad == Heard())
        for right, bad in zip(good, wrong, strict=True)
    )
    return _check(name, passed, f"scored {_words(wrong)} against {_words(good)}; {wanted:g} less wanted", wrong)


def _same(name: str, first: Heard, then: Heard, within: float) -> Check:
    passed = abs(then.less_than(first)) <= within
    return _check(name, passed, f"scored {first}, then {then}; {within:g} apart at most", (first, then))


# ---- a critic that chooses between two


def _chosen(sitting: Sitting) -> list[Check]:
    """The right picture is A and B in turn, against grey and against another prompt's; then the other way round."""
    greys = [_sides(number, BLANK, right_first=number % 2 == 0) for number in NUMBERS]
    blank = sitting.ask(*greys)
    first = _won("blank", greys, blank)
    if all(one.failure for one in blank):
        return [first]
    others = [_sides(number, OTHER[number], right_first=number % 2 == 1) for number in NUMBERS]
    swapped = sitting.ask(*others)
    mirrored = [Asked(one.prompt, one.pictures[::-1]) for one in (greys[0], others[0])]
    turned = [heard for one in mirrored for heard in sitting.ask(one)]  # with nothing else in flight
    (again,) = sitting.ask(mirrored[1])
    same = turned[1].winner == again.winner
    return [
        first,
        _won("swapped", others, swapped),
        _won("order", mirrored, turned),
        _check("repeat", same, f"chose {turned[1]}, then {again}", (turned[1], again)),
    ]


def _sides(number: int, other: int | str, *, right_first: bool) -> Asked:
    return Asked(number, (number, other) if right_first else (other, number))


def _won(name: str, asked: Sequence[Asked], heard: Sequence[Heard]) -> Check:
    right = ["A" if one.pictures[0] == one.prompt else "B" for one in asked]
    return _check(
        name, [one.winner for one in heard] == right, f"chose {_words(heard)}; {' '.join(right)} wanted", heard
    )
