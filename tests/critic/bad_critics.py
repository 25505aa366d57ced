"""Critics that are asked as any other and judge badly, each in a way of its own; and honest ones beside them.

`CRITICS[kind](seed)` is a backend. The honest half is `tests.critic.looking`: it reads the drawn world from pixels.
"""

from __future__ import annotations

import functools
import io
import json
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageStat

from runner import store
from runner.builtin import world
from runner.critic import request, schema
from runner.critic.question import Attempt, Picture, Question, Reply, Unanswered
from tests.critic import looking
from tests.critic.looking import Marks

Says = Callable[[Question], Sequence[Marks]]  # how well each picture of a question does, as this critic says


@dataclass(slots=True)
class Speaker:
    """A backend that says what it is told to say, in the schema that it is asked for."""

    says: Says
    structured: bool = True  # False: it never looks at the schema, and knows the profile's by heart
    continuous: bool = False
    concurrency: int = 1
    identity: Mapping[str, Any] = field(default_factory=lambda: {"backend": "fake"})
    asked: list[Question] = field(default_factory=list)

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        self.asked.append(question)
        own = schema.answer_schema(question.profile, continuous=self.continuous)
        wanted = question.schema if self.structured else own
        return Reply(json.dumps(looking.answer(wanted, request.system_text(question.profile), self.says(question))))

    def cancel(self) -> None:
        """Nothing is ever in flight."""

    def close(self) -> None:
        """Holds nothing."""


# ---- what they say


def honest(question: Question) -> list[Marks]:
    return [look(picture, question.prompt.text) for picture in question.images]


def always(mark: float | None) -> Says:
    return lambda question: [_all(mark) for _ in question.images]


def alike(mark_of: Callable[[Question, Picture], float]) -> Says:
    """One mark for everything about a picture."""
    return lambda question: [_all(mark_of(question, picture)) for picture in question.images]


def inverted(question: Question) -> list[Marks]:
    return [{name: None if m is None else 1 - m for name, m in marks.items()} for marks in honest(question)]


def blind(question: Question) -> list[Marks]:
    """Sees grey whatever it is shown, and is honest about that."""
    fog = _png(Image.new("RGB", (64, 64), (128, 128, 128)))
    return [look(fog, question.prompt.text) for _ in question.images]


def brightness(question: Question, picture: Picture) -> float:
    return luminance(picture) / 255


def as_bright_as_asked(question: Question, picture: Picture) -> float:
    """Knows how bright a picture of the asked colours is, and looks at nothing else."""
    names = looking.asked(question.prompt.text)
    shape, colour, background = (names[name] or "red" for name in ("shape", "colour", "background"))
    drawn = world.draw(world.Scene(shape, colour, background, "large"), random.Random(0), 0)
    return max(0.0, 1 - abs(luminance(_png(drawn)) - luminance(picture)) / 40)


def believer(question: Question) -> list[Marks]:
    """Takes every picture for what its prompt asks for."""
    return [looking.believe(question.prompt.text) for _ in question.images]


def by_hash(seed: int, *, of_prompt: bool, of_picture: bool) -> Callable[[Question, Picture], float]:
    """Chance, but the same chance every time for the same prompt, the same picture, or both."""

    def mark(question: Question, picture: Picture) -> float:
        known = [seed, question.prompt.text if of_prompt else "", picture.digest if of_picture else ""]
        return random.Random(store.digest_of(known)).choice((0.0, 0.25, 0.5, 0.75, 1.0))

    return mark


def by_chance(seed: int, marks: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)) -> Says:
    rng = random.Random(seed)
    return alike(lambda question, picture: rng.choice(marks))


def any_number(seed: int) -> Says:
    rng = random.Random(seed)
    return alike(lambda question, picture: rng.random())


# ---- what they remember


@dataclass(slots=True)
class OneBehind:
    """Answers for the pictures of the request before."""

    before: tuple[Picture, ...] = ()
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, question: Question) -> list[Marks]:
        with self._turn:
            seen, self.before = self.before or question.images[::-1], question.images
        return [look(picture, question.prompt.text) for picture in seen[: len(question.images)]]


@dataclass(slots=True)
class Sticky:
    """Honest, but for a share of what it said the last time."""

    share: float
    last: float = 1.0

    def __call__(self, question: Question) -> list[Marks]:
        own = [marks["colour"] or 0.0 for marks in honest(question)]
        said = [(1 - self.share) * mark + self.share * self.last for mark in own]
        self.last = own[0]
        return [_all(mark) for mark in said]


@dataclass(slots=True)
class Alternating:
    """Speaks like one, then like the other."""

    ways: tuple[Says, Says]
    num_asked: int = 0

    def __call__(self, question: Question) -> Sequence[Marks]:
        self.num_asked += 1
        return self.ways[self.num_asked % 2](question)


def milder(question: Question) -> list[Marks]:
    """Honest, and a twentieth less."""
    return [{name: None if m is None else 0.95 * m for name, m in marks.items()} for marks in honest(question)]


@dataclass(slots=True)
class Mute:
    """A backend that answers nothing, always for the same reason."""

    failure: str
    concurrency: int = 1
    structured: bool = True
    continuous: bool = False
    identity: Mapping[str, Any] = field(default_factory=lambda: {"backend": "mute"})
    num_asked: int = 0

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        self.num_asked += 1
        raise Unanswered(self.failure, "as always")

    def cancel(self) -> None:
        """Nothing is ever in flight."""

    def close(self) -> None:
        """Holds nothing."""


class Rambling(Speaker):
    """Answers in words, whatever the schema says."""

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        return Reply("I see a nice picture. I would give it a 9 out of 10.")


def first_wins(question: Question) -> list[Marks]:
    """Of two pictures it likes the first."""
    return [_all(1.0), _all(0.0)][: len(question.images)]


# ---- all of them

HONEST: dict[str, Callable[[], Speaker]] = {
    "in levels": lambda: Speaker(honest),
    "in any number": lambda: Speaker(honest, continuous=True),
    "four at once": lambda: Speaker(honest, concurrency=4),
    "without a grammar": lambda: Speaker(honest, structured=False),
}
CHANCES: dict[str, Callable[[int], Speaker]] = {
    "chance": lambda seed: Speaker(by_chance(seed)),
    "steady chance": lambda seed: Speaker(alike(by_hash(seed, of_prompt=True, of_picture=True))),
    "coin": lambda seed: Speaker(by_chance(seed, (0.0, 1.0))),
    "any number": lambda seed: Speaker(any_number(seed), continuous=True),
}
BAD: dict[str, Callable[[int], Speaker]] = {
    "blind": lambda seed: Speaker(blind),
    "constant": lambda seed: Speaker(always((0.0, 0.25, 0.5, 0.75, 1.0)[seed % 5])),
    "always null": lambda seed: Speaker(always(None)),
    "believer": lambda seed: Speaker(believer),
    "prompt only": lambda seed: Speaker(alike(by_hash(seed, of_prompt=True, of_picture=False))),
    "picture only": lambda seed: Speaker(alike(by_hash(seed, of_prompt=False, of_picture=True))),
    "brightness": lambda seed: Speaker(alike(brightness), continuous=True),
    "expected brightness": lambda seed: Speaker(alike(as_bright_as_asked), continuous=True),
    "one behind": lambda seed: Speaker(OneBehind()),
    "one behind, at once": lambda seed: Speaker(OneBehind(), concurrency=4),
    "inverted": lambda seed: Speaker(inverted),
    "alternating": lambda seed: Speaker(Alternating((honest, inverted))),
    "wavering": lambda seed: Speaker(Alternating((honest, milder)), continuous=True),
    "sticky": lambda seed: Speaker(Sticky(0.05), continuous=True),
    "always first": lambda seed: Speaker(first_wins),
    "rambling": lambda seed: Rambling(honest),
    **CHANCES,
}


def _all(mark: float | None) -> Marks:
    return dict.fromkeys(("shape", "colour", "background", "concept", "all"), mark)


@functools.cache  # pictures are few, questions many
def look(picture: Picture, text: str) -> Marks:
    return looking.look(Image.open(io.BytesIO(picture.data)), text)


@functools.cache
def luminance(picture: Picture) -> float:
    return float(ImageStat.Stat(Image.open(io.BytesIO(picture.data)).convert("L")).mean[0])


def _png(image: Image.Image) -> Picture:
    data = io.BytesIO()
    image.save(data, format="png")
    return Picture(store.digest(data.getvalue()), data.getvalue())
