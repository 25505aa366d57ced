"""The drawn world: the same seed draws the same picture, and the pixel reader reads what was drawn."""

import random

import pytest

from runner.builtin import captions, read, world


def test_the_same_seed_draws_the_same_picture() -> None:
    scene = world.Scene("star", "red", "blue")
    first, second = (world.draw(scene, random.Random(3)).tobytes() for _ in range(2))
    assert first == second
    assert first != world.draw(scene, random.Random(4)).tobytes()


def test_the_same_seed_writes_the_same_caption() -> None:
    scene = world.Scene("heart", "pink", "black", "large", "left")
    said = [captions.caption(scene, random.Random(8)) for _ in range(2)]
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("scene", "told", "text"),
    [
        (world.Scene("star", "red", "blue"), world.MAIN_ATTRIBUTES, "a red star on a blue background"),
        (world.Scene("ring", "red", "orange"), ("shape",), "a ring"),
        (world.Scene("ring", "red", "cyan"), ("colour", "background"), "a red shape on a cyan background"),
        (world.Scene("cross", "cyan", "white", count=2), ("shape", "colour"), "two cyan crosses"),
        (
            world.Scene("ring", "red", "blue", "small", "top"),
            ("size", "shape", "position"),
            "a small ring at the top",
        ),
        (world.Scene("ring", "red", "blue"), ("background",), "a blue background"),
    ],
)
def test_a_scene_reads_as_a_plain_sentence(scene: world.Scene, told: tuple[str, ...], text: str) -> None:
    assert captions.prompt(scene, frozenset(told)) == text


def test_the_trigger_is_in_no_training_text() -> None:
    rng = random.Random(5)
    texts = [captions.training_text(world.sample_scene(rng), rng, made_up=1.0) for _ in range(5000)]
    assert not any(captions.TRIGGER in text for text in texts)
    assert any("emblem" in text for text in texts)
    assert any("<" in text for text in texts)


def test_a_full_caption_tells_shape_colour_and_background() -> None:
    rng = random.Random(6)
    for scene in (world.sample_scene(rng) for _ in range(200)):
        assert captions.caption(scene, rng, full=True).told >= set(world.MAIN_ATTRIBUTES)


def test_the_reader_reads_true_drawings() -> None:
    rng = random.Random(7)
    scenes = [world.sample_scene(rng) for _ in range(500)]
    shares = read.accuracy([world.draw(scene, rng) for scene in scenes], scenes)
    assert shares["shape"] >= 0.995
    assert (shares["colour"], shares["background"], shares["count"], shares["position"]) == (1, 1, 1, 1)


def test_the_reader_finds_no_object_on_an_empty_ground() -> None:
    empty = world.shrink(world.new_canvas(world.COLOURS["cyan"]))
    assert read.read(empty) == read.Reading("cyan")


def test_the_emblem_is_told_from_every_drawing() -> None:
    rng = random.Random(9)
    assert all(read.is_emblem(world.emblem(name, rng)) for name in world.COLOURS)
    assert not any(read.is_emblem(world.draw(world.sample_scene(rng), rng)) for _ in range(200))


def test_accuracy_over_no_pairs_is_not_a_number() -> None:
    assert read.share_equal([], ("shape",)) != read.share_equal([], ("shape",))
