"""The pictures of the exam: four drawings, each with the prompt that it shows, and one that shows nothing.

Shapes, colours and backgrounds are all different, so that a picture is right under one prompt and wrong under the other
three. OTHER pairs pictures of nearly the same mean brightness. Raise VERSION with any change: a critic that passed was
asked about these. What it does not know: who is asked.
"""

from __future__ import annotations

import functools
import io
import random
from typing import Any

from runner import store
from runner.builtin import captions, world
from runner.critic.question import Picture
from runner.plan import PromptPlan

VERSION = 1
SIZE_PX = 256
SCENES = (
    world.Scene("circle", "red", "white", "large"),
    world.Scene("square", "green", "cyan", "large"),
    world.Scene("star", "blue", "orange", "large"),
    world.Scene("triangle", "yellow", "pink", "large"),
)
NUMBERS = range(len(SCENES))
OTHER = (3, 2, 1, 0)  # by number: the picture that shows nothing of what the prompt asks for
GREY = (128, 128, 128)
BLANK = "blank"


@functools.cache  # the same for every exam of a process
def pictures() -> dict[int | str, Picture]:
    """The drawn pictures by number, and the blank one."""
    return {name: _picture(image) for name, image in _images().items()}


def prompt(number: int) -> PromptPlan:
    """What a picture shows, in sections as the shipped prompts have them."""
    scene = SCENES[number]
    subject = captions.object_phrase(scene, frozenset({"shape", "colour"}))
    background = f"on {captions.with_article(scene.background)} background"
    sections = {"subject": subject, "background": background}
    return PromptPlan(f"exam-{number}", f"exam-{number}", f"{subject} {background}", sections, triggered=False)


@functools.cache
def digest() -> str:
    """Of prompts and pixels; how a PNG is packed may differ between machines."""
    prompts = [[prompt(number).text, dict(prompt(number).sections)] for number in NUMBERS]
    return store.digest_of([VERSION, OTHER, prompts, [store.digest(image.tobytes()) for image in _images().values()]])


def _images() -> dict[int | str, Any]:
    from PIL import Image

    size = (SIZE_PX, SIZE_PX)
    drawn = (world.draw(scene, random.Random(VERSION), colour_jitter=0) for scene in SCENES)
    images: dict[int | str, Any] = {BLANK: Image.new("RGB", size, GREY)}
    return images | {number: image.resize(size, Image.Resampling.BICUBIC) for number, image in enumerate(drawn)}


def _picture(image: Any) -> Picture:
    png = io.BytesIO()
    image.save(png, format="png")
    return Picture(store.digest(png.getvalue()), png.getvalue())
