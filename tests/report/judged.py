"""Runs that were really reviewed, for those who look at verdicts: drawn pictures, the one path, a critic of few lines.

`run(outputs)` makes four images under two prompts; those in `wrong` show something else than was asked for, and the
critic says so with a finding that has a box. It is honest but for the replies that it is told to give or not to give.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner import config, contract, critic, execute, index, journal
from runner.builtin import world as drawn
from runner.critic import resident
from runner.critic.question import Attempt, Question, Reply, Unanswered
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome
from tests import worlds
from tests.critic import asking, bad_critics, speaking

BOX = [120, 80, 620, 710]
ITEMS = (
    '{id:on-blue,sections:{subject:"a red star",background:"on a blue background"}},'
    '{id:on-white,sections:{subject:"a green ring",background:"on a white background"}}'
)
BASE = (
    "+experiment=demo_base", "track=none", f"prompt.items=[{ITEMS}]", "generate.images_per_prompt=2",
    "generate.batch_size=2", "runtime.num_threads=1", "critic.budget.max_unscored_share=1",
)  # fmt: skip
WRONG = frozenset({"on-blue.001"})
USAGE = {"prompt_tokens": 700, "completion_tokens": 90}


@dataclass(frozen=True)
class Draw:
    """A generate worker that draws what its prompts ask for; of images in `wrong` the subject is another colour."""

    wrong: frozenset[str] = WRONG

    def __call__(self, step: Step, bench: Bench) -> Outcome:
        bench.status("generating")
        return Outcome(tuple(self._drawn(item, image) for item, image in zip(step.items, step.images, strict=True)))

    def _drawn(self, item: str, image: ImagePlan) -> Made:
        _, colour, shape = image.prompt.sections["subject"].split()
        colour = "yellow" if image.key in self.wrong else colour
        scene = drawn.Scene(shape, colour, image.prompt.sections["background"].split()[2], "large")
        return Made(item, asking.png(drawn.draw(scene, random.Random(image.seed))), {"seed": image.seed})


@dataclass
class Moody:
    """A backend that is honest; of what is no exam, the first questions fail or are answered as `script` says."""

    script: list[str | None] = field(default_factory=list)  # a class of failure, or a reply as text, or None
    identity: Mapping[str, Any] = field(default_factory=lambda: {"backend": "fake", "weights": "e" * 64})
    continuous: bool = False
    structured: bool = True
    concurrency: int = 1
    blind: bool = False

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        is_exam = question.prompt.id.startswith("exam-")
        told = self.script.pop(0) if self.script and not is_exam else None
        if told is not None and not told.startswith("{"):
            raise Unanswered(told, "as told")
        says = bad_critics.Speaker(bad_critics.blind if self.blind else bad_critics.honest)
        return Reply(told or _with_boxes(says.ask(question, attempt).text), usage=USAGE, first_token_s=0.05)

    def cancel(self) -> None: ...

    def close(self) -> None: ...


def _with_boxes(text: str) -> str:
    value = json.loads(text)
    for found in value.get("evidence", ()):
        found["box"] = BOX
    return json.dumps(value)


@contextmanager
def answered_by(*backends: Moody) -> Iterator[None]:
    """What is loaded in place of the CLIP critic: the first, then the next; an honest one when there are no more."""
    left = list(backends)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resident.IN_PROCESS, "clip", lambda bench: left.pop(0) if left else Moody())
        yield


def run(
    outputs: Path, *words: str, backend: Moody | None = None, wrong: frozenset[str] = WRONG,
    base: tuple[str, ...] = BASE,
) -> execute.Result:  # fmt: skip
    """One attempt at the tiny request, or at the one that `words` make of it."""
    with answered_by(*([backend] if backend else [])):
        return worlds.run(worlds.accept(outputs, *words, base=base), generate=Draw(wrong), critique=critic.work)


def again(outputs: Path, source: journal.Run, *words: str, backend: Moody | None = None) -> journal.Run:
    """The images of a finished run reviewed once more."""
    asked = (f"critique.images_of={source.id}", "track=none", f"outputs={outputs}", *words)
    values = contract.take_parties(config.compose(("+experiment=rereview", *asked)))
    agreed = contract.check(config.parse_request(values))
    with answered_by(*([backend] if backend else [])):
        result = worlds.run(execute.accept(agreed, contract.pin(agreed)), critique=critic.work)
    return journal.read_run(result.folder)


SHAPES = ("critic=shapes", "critic_runtime=shapes_clip")


def pairs(outputs: Path, a: journal.Run, b: journal.Run) -> journal.Run:
    """Two runs compared by a server, image by image."""
    words = ("critic=pair", "critic_runtime=external", "critic_runtime.model=critic", f"critique.against={b.id}")
    with speaking.serve() as url:
        return again(outputs, a, *words, "critic_runtime.key_env=null", f"critic_runtime.url={url}")


def quarantined(outputs: Path) -> journal.Run:
    """A run that stopped after three verdicts, and whose critic failed its exam when it went on."""
    few = ("critic.budget.max_in_a_row=1", "name=stopped", "seed=9")
    run(outputs, *few, backend=Moody([None, None, "refused"]))
    return finished(outputs, *few, backend=Moody(blind=True))


def finished(outputs: Path, *words: str, **more: Any) -> journal.Run:
    return journal.read_run(run(outputs, *words, **more).folder)


@dataclass(frozen=True)
class World:
    """An outputs folder with runs of every kind; who wants to change something copies it."""

    outputs: Path
    first: journal.Run  # of four images one asked about twice, one of another colour than asked, one declined
    again: journal.Run  # the same images once more: three verdicts are taken over, one is asked for
    other: journal.Run  # the same prompts and seeds, another image wrong
    pairs: journal.Run  # first against other
    stopped: journal.Run  # three verdicts that are quarantined, and an image without one


@functools.cache
def world(home: Path) -> World:
    """Made once below a folder, for all tests of a session."""
    outputs = home / "judged"
    first = finished(outputs, backend=Moody(["timeout", None, None, "refused"]))
    index.refresh(outputs)
    other = finished(outputs, "name=other", "generate.steps=3", wrong=frozenset({"on-white.000"}))
    made = World(
        outputs, first, again(outputs, first, *SHAPES), other, pairs(outputs, first, other), quarantined(outputs)
    )
    index.refresh(outputs)
    return made


def verdict_of(outputs: Path, run: journal.Run, key: str) -> dict[str, Any]:
    """The record of the verdict on an image."""
    digest = run.state.items[f"verdict/{key}"].object
    assert digest is not None
    record: dict[str, Any] = json.loads((outputs / "objects" / digest[:2] / digest[2:]).read_bytes())
    return record
