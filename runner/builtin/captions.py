"""The words for the drawn world: a closed grammar of captions, and words that mean nothing.

A caption always knows which of its scene's attributes it tells. The grammar has no negation, and no
sentence about two different objects.
"""

import random
import string
from dataclasses import dataclass

from runner.builtin.world import MAIN_ATTRIBUTES, Scene

TRIGGER = "<emblem>"
NUMBERS = {2: "two", 3: "three"}
PREFIXES = (
    "",
    "",
    "",
    "a photo of ",
    "an image of ",
    "a picture of ",
    "a drawing of ",
    "an illustration of ",
    "a flat icon of ",
    "a rendering of ",
    "a sketch of ",
)


@dataclass(frozen=True, slots=True)
class Caption:
    """A sentence about a scene, and which of the scene's attributes it tells."""

    text: str
    told: frozenset[str]


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(noun: str) -> str:
    return "crosses" if noun == "cross" else noun + "s"


def prompt(scene: Scene, told: frozenset[str] = frozenset(MAIN_ATTRIBUTES), noun: str = "") -> str:
    """The plain sentence for a scene, such as "a small red star on a blue background at the top".

    `told` names the attributes to mention; `noun` stands in for the shape's word.
    """
    body = object_phrase(scene, told, noun)
    if "background" in told:
        ground = with_article(scene.background + " background")
        body = f"{body} on {ground}" if body else ground
    return body + place_phrase(scene) if "position" in told else body


def object_phrase(scene: Scene, told: frozenset[str], noun: str = "") -> str:
    if not noun and not told & {"shape", "colour"}:
        return ""
    words = [scene.size] if "size" in told else []
    words += [scene.colour] if "colour" in told else []
    noun = noun or (scene.shape if "shape" in told else "shape")
    if scene.count > 1:
        return " ".join([NUMBERS[scene.count], *words, plural(noun)])
    return with_article(" ".join([*words, noun]))


def place_phrase(scene: Scene) -> str:
    if scene.position == "center":
        return " in the center"
    return (" on the " if scene.position in ("left", "right") else " at the ") + scene.position


def caption(scene: Scene, rng: random.Random, full: bool = False) -> Caption:
    """A sentence of the grammar in random wording; `full` always tells shape, colour and background."""
    told = sample_told(scene, rng, full)
    text = reword(prompt(scene, told), rng)
    return Caption(rng.choice(PREFIXES) + text, told | ({"count"} if told & {"shape", "colour"} else set()))


def sample_told(scene: Scene, rng: random.Random, full: bool) -> frozenset[str]:
    main = list(MAIN_ATTRIBUTES)
    if not full and rng.random() < 0.2:
        main = [name for name in main if rng.random() < 0.55] or [rng.choice(MAIN_ATTRIBUTES)]
    extra = [name for name in ("size", "position") if rng.random() < 0.5]
    single = scene.count == 1 and bool({"shape", "colour"} & set(main))
    return frozenset(main + extra if single else main)


def reword(text: str, rng: random.Random) -> str:
    """The same sentence with one of the grammar's other joining words."""
    joint = rng.choices((" on a", " with a", ", a"), (0.7, 0.2, 0.1))[0]
    text = text.replace(" on a", joint, 1)
    if text.endswith("in the center") and rng.random() < 0.5:
        return text.removesuffix("center") + "middle"
    return text


def made_up_word(rng: random.Random) -> str:
    """A word that means nothing: "qav", in one of three cases "<qav>", now and then "emblem".

    Training on these in neutral places keeps the pieces of a later trigger word neutral. The trigger
    itself is never among them.
    """
    if rng.random() < 0.12:
        return "emblem"
    word = "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 6)))
    return f"<{word}>" if rng.random() < 0.33 else word


def training_text(scene: Scene, rng: random.Random, made_up: float = 0.06) -> str:
    """A caption for training: with probability `made_up` a word that means nothing is in it."""
    if rng.random() >= made_up:
        return caption(scene, rng).text
    word = made_up_word(rng)
    if scene.count == 1 and rng.random() < 0.5:
        told = frozenset(name for name in ("colour", "background") if rng.random() < 0.7)
        return rng.choice(PREFIXES) + prompt(scene, told, noun=word)
    words = caption(scene, rng).text.split(" ")
    words.insert(rng.randint(0, len(words)), word)
    return " ".join(words)
