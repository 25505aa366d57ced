"""A question -> what a language model is sent: texts from the profile's templates, pictures as it will see them.

The order keeps the longest common beginning over the questions of a review, which servers keep in their prefix cache:
the system text (the same for every image of a profile), the examples, the image, and only then what differs by prompt.
It is one user message: chat templates treat a second one, or an assistant's, as talk that has happened. Of how an image
was made only its prompt is shown, as data: Jinja in it is never run, and what opens a control token of a chat template
(`<|im_end|>`, `</s>`, `<image>`) gets a space, so that it stays a text. It refuses a picture that does not decode. What
it does not know: who is asked, and what the answer means.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner import store
from runner.config.critic import CriticProfile, Shown
from runner.critic.question import Attempt, Example, Picture, Question, Unanswered
from runner.errors import Fault, Refused, first_line

if TYPE_CHECKING:
    from jinja2 import Template
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP")
OPENS_CONTROL = re.compile(r"<(?=[|｜/_]|(?:start|end)_of_|image|video)")  # noqa: RUF001  # DeepSeek's bar is a wide one


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
    return _render("critic.text.system", profile.text.system, profile.model_dump(include=set(names)))


def user_text(question: Question) -> str:
    """What is asked about this image: its prompt, whole and by sections."""
    sections = {name: _as_data(text) for name, text in question.prompt.sections.items()}
    words = {"prompt": _as_data(question.prompt.text), "sections": sections}
    return _render("critic.text.user", question.profile.text.user, words)


def example_text(profile: CriticProfile, example: Example) -> str:
    """What stands beside the picture of a past decision."""
    words = {"prompt": _as_data(example.prompt), "decision": example.decision, "note": _as_data(example.note)}
    return _render("critic.text.example", profile.text.example, words)


def _as_data(text: str) -> str:
    return OPENS_CONTROL.sub("< ", text)


def _render(where: str, source: str, words: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError

    try:
        return _template(source).render(words).strip()
    except (TemplateError, TypeError, ValueError) as error:
        what = f"the template cannot be filled in ({first_line(error)})"
        fix = "Use only the variables that conf/critic/text names, and only to write them out"
        raise Refused(Fault("bad_template", where, what, fix)) from error


@functools.lru_cache(maxsize=16)
def _template(source: str) -> Template:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    ).from_string(source)


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
