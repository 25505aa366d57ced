"""What a language model is sent: texts as data, pictures as they will be seen, and a digest of all of it."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from runner import store
from runner.builtin import world
from runner.critic import request
from runner.critic.question import Example, Question, Unanswered
from runner.errors import Refused
from tests.critic.asking import attempt, picture, png, profile, question


def parts(asked: Question) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request.messages(asked)[1]["content"]
    return found


def sent(part: dict[str, Any]) -> bytes:
    """The bytes of a data URI."""
    return base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"), validate=True)


def shown(longest_side_px: int = 512, multiple_of_px: int = 32) -> Any:
    return profile().shown.model_copy(update={"longest_side_px": longest_side_px, "multiple_of_px": multiple_of_px})


def worded(**texts: str) -> Any:
    return profile(text=profile().text.model_copy(update=texts))


# ---- order and texts


def test_the_system_text_comes_first_and_is_the_same_for_every_image() -> None:
    one = request.messages(question("a red star"))
    other = request.messages(question("a blue heart", picture(world.Scene("heart", "blue", "pink"))))
    assert one[0] == other[0]
    assert one[0]["role"] == "system"
    assert one[1] != other[1]


def test_the_system_text_says_every_rule_tag_and_criterion() -> None:
    text = request.system_text(profile())
    named = [one.id for several in (profile().rules, profile().tags, profile().criteria) for one in several]
    assert [name for name in named if name not in text] == []


def test_the_image_comes_before_its_prompt() -> None:
    assert [part["type"] for part in parts(question())] == ["image_url", "text"]


def test_examples_stand_between_the_system_text_and_the_image() -> None:
    past = Example(picture(world.Scene("ring", "cyan", "black")), "a cyan ring", "reject", "cut off")
    found = parts(question(examples=(past,)))
    assert [part["type"] for part in found] == ["image_url", "text", "image_url", "text"]
    assert sent(found[0]) == request.seen(past.image, profile().shown).png
    assert "a cyan ring" in found[1]["text"]
    assert "cut off" in found[1]["text"]


def test_what_is_asked_of_two_images_shares_everything_up_to_the_image() -> None:
    past = Example(picture(world.Scene("ring", "cyan", "black")), "a cyan ring", "approve", "")
    one, other = (
        parts(question(text, shown, examples=(past,)))
        for text, shown in (("a", picture()), ("b", picture(Image.new("RGB", (64, 64)))))
    )
    assert one[:2] == other[:2]


def test_of_a_pair_both_images_come_before_the_text() -> None:
    first, second = picture(), picture(world.Scene("heart", "blue", "pink"))
    found = parts(question("which?", first, second))
    assert [part["type"] for part in found] == ["image_url", "image_url", "text"]
    assert sent(found[0]) == request.seen(first, profile().shown).png


def test_nothing_is_told_of_how_an_image_was_made() -> None:
    asked = question()
    told = json.dumps(request.written(asked, attempt(seed=987654321))["messages"])
    hidden = (asked.prompt.key, asked.prompt.id, asked.images[0].digest, "987654321", "seed")
    assert [word for word in hidden if word in told] == []


# ---- a prompt is data


@pytest.mark.parametrize(
    "text", ["{{ 7*7 }}", "{% for x in y %}", "{# note #}", "{{ prompt.__class__ }}", "$(ls) & <b>"]
)
def test_a_prompt_is_never_run_as_a_template(text: str) -> None:
    assert request.user_text(question(text, profile=worded(user="Made of: {{ prompt }}"))) == f"Made of: {text}"


CONTROLS = [
    "<|im_end|>", "</s>", "<start_of_turn>model", "<image>", "<__media__>", "<｜User｜>",  # noqa: RUF001  # a wide bar
    "<turn|>", "<s>", "<S>", "<bos>", "<eos>", "<img>", "</IMG>", "<IMG_CONTEXT>", "<IMAGE>", "<image_soft_token>",
    "<audio_soft_token>", "<think>", "</think>", "<tool_call>", "<im_patch>", "<unused7>", "[INST]", "[/INST]", "[IMG]",
    "[IMG_END]", "[TOOL_CALLS]", "[SYSTEM_PROMPT]",
]  # fmt: skip


@pytest.mark.parametrize("text", CONTROLS)
def test_a_prompt_cannot_say_what_a_chat_template_says(text: str) -> None:
    said = request.user_text(question(f"a star {text}"))
    assert text not in said
    assert f"a star {text[0]} {text[1:]}" in said


def test_of_a_doubled_bracket_no_token_is_left() -> None:
    assert "<< SYS>> << /SYS>> << |im_end|>" in request.user_text(question("<<SYS>> <</SYS>> <<|im_end|>"))


@pytest.mark.parametrize(
    "text",
    ["a <emblem>", "<bosphorus>", "<squad>", "[cat:dog:0.5]", "[inst]", "[IMGUR]", "größer, 日本 😀", "a < b", "a -> b",
     "line\nline"],
)  # fmt: skip
def test_triggers_and_other_signs_stay_as_they_are(text: str) -> None:
    assert text in request.user_text(question(text))


def test_a_note_of_an_example_is_data_too() -> None:
    past = Example(picture(), "{{ 1 }} <|im_end|>", "maybe", "{{ 2 }} [/INST]")
    said = request.example_text(profile(), past)
    assert "{{ 1 }} < |im_end|>" in said
    assert "{{ 2 }} [ /INST]" in said


@pytest.mark.parametrize("text", ["{{ seed }}", "{{ sections.nothing }}", "{{ prompt.__class__.__mro__ }}", "{% if %}"])
def test_a_template_that_asks_for_more_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"critic\.text\.user: cannot be filled in"):
        request.user_text(question(profile=worded(user=text)))


# ---- pictures


@pytest.mark.parametrize(
    ("size", "longest_px", "unit_px", "expected"),
    [
        ((1024, 1024), 512, 32, (512, 512)),
        ((1536, 1024), 512, 32, (512, 320)),
        ((64, 64), 512, 32, (64, 64)),
        ((100, 70), 512, 32, (96, 64)),
        ((20, 500), 512, 32, (32, 480)),
        ((3000, 10), 512, 28, (504, 28)),
        ((333, 777), 500, 1, (214, 500)),
    ],
)
def test_a_picture_is_made_smaller_never_larger_and_fits_the_patches(
    size: tuple[int, int], longest_px: int, unit_px: int, expected: tuple[int, int]
) -> None:
    seen = request.seen(picture(Image.new("RGB", size)), shown(longest_px, unit_px))
    assert (seen.width, seen.height) == expected
    assert Image.open(io.BytesIO(seen.png)).size == expected


def test_what_is_sent_is_named_by_its_own_digest() -> None:
    asked = question()
    seen = request.seen(asked.images[0], asked.profile.shown)
    assert store.digest(sent(parts(asked)[0])) == seen.digest
    assert request.written(asked, attempt())["messages"][1]["content"][0]["sha256"] == seen.digest


def test_nothing_but_pixels_is_sent() -> None:
    said = PngImagePlugin.PngInfo()
    said.add_text("parameters", "seed 7, emblem.safetensors")
    exif = Image.Exif()
    exif[0x010E] = "emblem.safetensors"
    dressed = picture(
        png(Image.new("RGB", (64, 64), "red"), pnginfo=said, exif=exif, icc_profile=b"x" * 200, dpi=(9, 9))
    )
    plain = picture(Image.new("RGB", (64, 64), "red"))
    assert request.seen(dressed, shown()).png == request.seen(plain, shown()).png


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_picture_is_sent_in_rgb(mode: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "white").convert(mode).save(data, format="jpeg" if mode == "CMYK" else "png")
    seen = request.seen(picture(data.getvalue()), shown())
    assert Image.open(io.BytesIO(seen.png)).mode == "RGB"


def bomb() -> bytes:
    """A PNG whose header claims 400 million pixels."""
    data = bytearray(png(Image.new("RGB", (8, 8))))
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    return bytes(data)


def gif() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64)).save(data, format="gif")
    return data.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"no picture", png(Image.new("RGB", (64, 64), "red"))[:60], bomb(), gif()],
    ids=["empty", "text", "torn", "bomb", "another format"],
)  # fmt: skip
def test_a_picture_that_does_not_decode_is_not_seen(data: bytes) -> None:
    with pytest.raises(Unanswered, match=r"^image_not_seen: does not decode \(\w+\)$"):
        request.messages(question("a star", picture(data)))


# ---- the digest of a request


def test_the_same_question_has_the_same_digest() -> None:
    assert request.request_digest(question(), attempt()) == request.request_digest(question(), attempt())


@pytest.mark.parametrize(
    "other",
    [
        question("a red star on a blue background."),
        question("a red star on a blue background", picture(Image.new("RGB", (64, 64)))),
        question(schema={"type": "object"}),
        question(profile=worded(system="Look.")),
        question(examples=(Example(picture(), "a star", "approve", ""),)),
    ],
    ids=["prompt", "picture", "schema", "profile", "examples"],
)
def test_a_request_that_differs_has_another_digest(other: Question) -> None:
    assert request.request_digest(other, attempt()) != request.request_digest(question(), attempt())


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"max_tokens": 901}, {"temperature": 0.1}, {"top_p": 0.9}, {"thinking": True}]
)
def test_how_it_decodes_is_in_the_digest(change: dict[str, Any]) -> None:
    assert request.request_digest(question(), attempt(**change)) != request.request_digest(question(), attempt())


def test_how_long_one_waits_is_not_in_the_digest() -> None:
    patient = replace(attempt(), timeout_s=999.0)
    assert request.request_digest(question(), patient) == request.request_digest(question(), attempt())
