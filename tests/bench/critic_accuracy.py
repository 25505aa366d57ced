"""How often the shipped CLIP critic is right, attribute by attribute, beside the pixel reader that was never trained.

Drawn pictures of the full mix (one to three objects, any size and place) have a known truth; of generated ones the
pixel reader is taken at its word. The pictures are those of a seed that nothing was trained, chosen or measured on. The
critic is asked as in a run: what is counted is the label that it finds most like the picture, and its exam.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from runner import store
from runner.builtin import captions, package_dir, read, world
from runner.critic import ask, exam, schema
from runner.critic.backends.clip import ClipCritic, load_clip
from runner.critic.question import Picture, Question
from runner.plan import PromptPlan
from runner.store import Store
from runner.timing import Clock
from runner.worker import Bench
from tests import fakes
from tests.bench.timed import Row

NUM_DRAWN, NUM_GENERATED, NUM_EXAMS = 500, 200, 20
SEED = 90_210
NAMES = world.MAIN_ATTRIBUTES  # the criteria of the shipped profile that say what a picture shows
GOAL = ">= 0.95"


def measure(pairs: int) -> list[Row]:
    """`pairs` changes nothing: the same pictures get the same answers."""
    rng = random.Random(SEED)
    scenes = [world.sample_scene(rng) for _ in range(NUM_DRAWN)]
    drawn = [world.draw(scene, rng) for scene in scenes]
    with tempfile.TemporaryDirectory() as place:
        critic = _load(Path(place))
        rows = _rows("drawn", critic, drawn, scenes, scenes, GOAL)
        asked = scenes[:NUM_GENERATED]
        made = _generate(asked)
        rows += _rows("generated", critic, made, asked, [read.read(image) for image in made], "")
        passed = [float(exam.take(critic, critic.profile, ask.judge).passed) for _ in range(NUM_EXAMS)]
    share = sum(passed) / len(passed)
    return [*rows, Row("exams passed (share)", share, 1.0, tuple(passed), "1.0", f"n={NUM_EXAMS}")]


def _rows(
    kind: str, critic: ClipCritic, images: Sequence[Image.Image], asked: Sequence[world.Scene],
    truths: Sequence[Any], goal: str,
) -> list[Row]:  # fmt: skip
    """The critic's share of right labels per attribute, beside the pixel reader's."""
    found = [_found(critic, image, scene) for image, scene in zip(images, asked, strict=True)]
    seen = [read.read(image) for image in images]
    rows = []
    for name in NAMES:
        ours = sum(label[name] == getattr(truth, name) for label, truth in zip(found, truths, strict=True)) / len(
            images
        )
        peer = read.share_equal(list(zip(seen, truths, strict=True)), (name,))
        rows.append(Row(f"{kind}: {name} right (share)", ours, peer, (ours / peer,), goal, f"n={len(images)}"))
    return rows


def _found(critic: ClipCritic, image: Image.Image, scene: world.Scene) -> dict[str, str]:
    """The label that is most like the picture, by criterion."""
    data = io.BytesIO()
    image.save(data, format="png")
    picture = Picture(store.digest(data.getvalue()), data.getvalue())
    wanted = schema.answer_schema(critic.profile, continuous=True)
    question = Question(critic.profile, _prompt(scene), (picture,), wanted)
    told = critic.ask(question, ask.first_attempt(question)).raw["similarities"]
    return {name: max(told[name], key=told[name].get) for name in NAMES}


def _prompt(scene: world.Scene) -> PromptPlan:
    subject, background = f"a {scene.colour} {scene.shape}", f"on a {scene.background} background"
    return PromptPlan("one", "one", f"{subject} {background}", {"subject": subject, "background": background}, False)


def _load(place: Path) -> ClipCritic:
    return load_clip(
        Bench(
            request=fakes.request(), facts=None, store=Store(place / "objects"), clock=Clock(), device="cpu", images={},
            note=lambda *words, **facts: None, status=lambda *words: None,
        )
    )  # fmt: skip


def _generate(scenes: Sequence[world.Scene]) -> list[Image.Image]:
    """One picture of each scene by the shipped base model, at its default settings."""
    from runner.builtin.recipe import emblem, figures

    base = emblem.load_base(package_dir() / "shapes")
    return figures.generate(base, [captions.prompt(scene) for scene in scenes], SEED)
