"""A question -> what a language model is sent: texts from the profile's templates, pictures as it will see them.

The order keeps the longest common beginning over the questions of a review, which servers keep in their prefix cache:
the system text (the same for every image of a profile), the examples, the image, and only then what differs by prompt.
It is one user message: chat templates treat a second one, or an assistant's, as talk that has happened. Of how an image
was made only its prompt is shown, as data, and so is a note of a past decision: Jinja in them is never run, and what
opens a control token gets a space (`< |im_end|>`), so that it stays a text. These are covered:
  any word       what begins with `<|`, `</` or `<_`, and one word that ends with `|>`; the bar may be wide
  in any case    what begins with `<start_of_` `<end_of_` `<im_` `<image` `<img` `<video` `<vision` `<audio` `<tool_`,
                 `<s>` `<bos>` `<eos>` `<pad>` `<unk>` `<mask>` `<think>` `<ref>` `<box>` `<quad>` `<sys>` `<unused7>`
  in capitals    `[INST]` `[IMG]` `[IMG_BREAK]` `[IMG_END]` `[SYSTEM_PROMPT]` `[AVAILABLE_TOOLS]` `[TOOL_...]` `[ARGS]`
                 `[CALL_ID]` `[THINK]` `[AUDIO]` `[BEGIN_AUDIO]`, and each with a `/`
Other words in brackets stay as they are: a trigger `<emblem>` does. It refuses a picture that does not decode. What it
does not know: who is asked, which tokens that model has, and what the answer means.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner import store
from runner.config.critic import CriticProfile, Shown
from runner.contract import templates
from runner.critic.question import Attempt, Example, Picture, Question, Unanswered

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
OPENS_CONTROL = re.compile(
    r"<(?=[|｜/_]|\w+[|｜]>"  # noqa: RUF001  # DeepSeek's bar is a wide one
    r"|(?i:(?:start|end)_of_|im_|image|img|video|vision|audio|tool_"
    r"|(?:s|bos|eos|pad|unk|mask|think|ref|box|quad|sys|unused\d+)>))"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|ARGS|CALL_ID|THINK|(?:BEGIN_)?AUDIO|IMG(?:_BREAK|_END)?)\])"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as it is sent: no metadata, at most as large as the profile says, and the digest of those bytes."""

    png: bytes = field(repr=False)
    digest: str
    width: int
    height: int


ImagePart = Callable[[Seen], dict[str, Any]]


# ---- texts


def system_text(profile: CriticProfile) -> str:
    """What is the same for every image of a profile, byte for byte."""
    names = ("rules", "criteria", "tags", "scale", "evidence")
    return templates.filled("critic.text.system", profile.text.system, profile.model_dump(include=set(names)))


def user_text(question: Question) -> str:
    """What is asked about this image: its prompt, whole and by sections."""
    sections = {name: _as_data(text) for name, text in question.prompt.sections.items()}
    words = {"prompt": _as_data(question.prompt.text), "sections": sections}
    return templates.filled("critic.text.user", question.profile.text.user, words)


def example_text(profile: CriticProfile, example: Example) -> str:
    """What stands beside the picture of a past decision."""
    words = {"prompt": _as_data(example.prompt), "decision": example.decision, "note": _as_data(example.note)}
    return templates.filled("critic.text.example", profile.text.example, words)


def _as_data(text: str) -> str:
    return OPENS_CONTROL.sub(r"\g<0> ", text)


# ---- pictures


@functools.lru_cache(maxsize=16)  # the examples of a review are the same for every image
def seen(picture: Picture, shown: Shown) -> Seen:
    """The picture as it is sent. Raises Unanswered(image_not_seen)."""
    from PIL import Image

    image = _decoded(picture.data)
    size = size_shown(image.size, shown)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    image.info.clear()
    png = io.BytesIO()
    image.save(png, format="png", compress_level=1)  # half the time of level 6, and it travels over loopback
    return Seen(png.getvalue(), store.digest(png.getvalue()), *size)


def size_shown(size: tuple[int, int], shown: Shown) -> tuple[int, int]:
    """Width and height at most `longest_side_px`, never larger than they are but for one multiple at least."""
    longest, unit = max(size), shown.multiple_of_px
    width, height = (side * min(shown.longest_side_px, longest) // longest for side in size)
    return max(unit, width - width % unit), max(unit, height - height % unit)


def _decoded(data: bytes) -> Image:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.convert("RGB")
    except Exception as error:  # a decoder answers hostile bytes with errors of nearly every kind
        raise Unanswered("image_not_seen", f"does not decode ({type(error).__name__})") from error


# ---- the whole request


def messages(question: Question) -> list[dict[str, Any]]:
    """The request in OpenAI's chat form; pictures are data URIs. Raises Unanswered(image_not_seen)."""
    return _messages(question, _data_uri)


def written(question: Question, attempt: Attempt) -> dict[str, Any]:
    """The request as it is kept: pictures by digest and size, the schema, and how it decodes. No clocks in it."""
    sampling = {name: getattr(attempt, name) for name in ("max_tokens", "seed", "temperature", "top_p", "thinking")}
    return {"messages": _messages(question, _by_digest), "schema": dict(question.schema), "sampling": sampling}


def request_digest(question: Question, attempt: Attempt) -> str:
    """The sha256 of `written`: two requests with the same digest were the same to the letter and the pixel."""
    return store.digest_of(written(question, attempt))


def _messages(question: Question, image_part: ImagePart) -> list[dict[str, Any]]:
    profile, parts = question.profile, list[dict[str, Any]]()
    for example in question.examples:
        parts += [image_part(seen(example.image, profile.shown)), _text_part(example_text(profile, example))]
    parts += [image_part(seen(picture, profile.shown)) for picture in question.images]
    parts.append(_text_part(user_text(question)))
    return [{"role": "system", "content": system_text(profile)}, {"role": "user", "content": parts}]


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _data_uri(picture: Seen) -> dict[str, Any]:
    uri = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    return {"type": "image_url", "image_url": {"url": uri}}


def _by_digest(picture: Seen) -> dict[str, Any]:
    return {"type": "image", "sha256": picture.digest, "width": picture.width, "height": picture.height}
