"""What the critic of each mode of `tests.critic.speaking` says, before it is put into one body or many chunks."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

    from tests.critic import looking
    from tests.critic.speaking import Speaking

PNG_URI = re.compile(r"data:image/[a-z]+;base64,(.*)", re.DOTALL)


def _reply_text(speaking: Speaking, mode: str, body: Mapping[str, Any]) -> str:
    """What the critic of this mode says to a request. Raises ValueError for a picture that it cannot see."""
    if mode in ("prose", "loop"):
        return "It is a nice picture. " * (1 if mode == "prose" else 500)
    if mode == "wrong_keys":
        return json.dumps({"score": 1.0, "verdict": "accept"})
    if mode == "fenced":
        return '```json\n{"score": 8, "comment": "nice"}\n```'
    from tests.critic import looking  # half a second: not for those who never look

    system, parts = body["messages"][0]["content"], body["messages"][-1]["content"]
    text = [part["text"] for part in parts if part["type"] == "text"][-1]
    images = [_image(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {"type": "object"})
    if mode == "swapped":
        images = speaking.before(images)
    found = _marks(mode, images[-looking.num_images(schema) :], text)
    return json.dumps(looking.answer(schema, system, found))


def _marks(mode: str, images: Sequence[Image], text: str) -> list[looking.Marks]:
    from tests.critic import looking

    if mode == "constant":
        return [looking.always(0.5) for _ in images]
    return [looking.believe(text) if mode == "blind" else looking.look(image, text) for image in images]


def _image(url: str) -> Image:
    from PIL import Image

    found = PNG_URI.fullmatch(url)
    if found is None:
        raise ValueError("The URL must be a data URI.")
    return Image.open(io.BytesIO(base64.b64decode(found[1], validate=True))).convert("RGB")


def _pieces(text: str) -> list[str]:
    """A text in tokens of four characters."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def _usage(speaking: Speaking, body: Mapping[str, Any], num_pieces: int) -> dict[str, Any]:
    """Tokens, those of the longest beginning shared with the request before among them."""
    texts = [json.dumps(asked["messages"]) for asked in speaking.asked[-2:]]
    cached = len(os.path.commonprefix(texts)) if len(texts) > 1 else 0  # noqa: RUF071  # texts, not paths
    prompt = len(_pieces(json.dumps(body["messages"])))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": num_pieces,
        "total_tokens": prompt + num_pieces,
        "prompt_tokens_details": {"cached_tokens": cached // 4},
    }


@dataclass(frozen=True, slots=True)
class Said:
    """A whole reply before it is put into one body or many chunks."""

    pieces: Sequence[str]
    finish: str
    usage: Mapping[str, Any]
    field: str = "content"


def said(speaking: Speaking, mode: str, body: Mapping[str, Any]) -> Said:
    if mode in ("thinking", "silent", "refusal", "filtered"):
        text = "" if mode in ("silent", "filtered") else "I had rather not say what this is."
        where = {"thinking": "reasoning", "refusal": "refusal"}.get(mode, "content")
        finish = "content_filter" if mode == "filtered" else "stop"
        return Said(_pieces(text), finish, _usage(speaking, body, len(_pieces(text))), where)
    pieces = _pieces(_reply_text(speaking, mode, body))
    most = len(pieces) // 2 if mode == "truncate" else body.get("max_tokens", len(pieces))
    stopped = mode == "loop" and "repetition_detection" in body
    finish = "repetition" if stopped else "length" if len(pieces) > most else "stop"
    kept = pieces[: 20 if stopped else most]
    return Said(kept, finish, _usage(speaking, body, len(kept)))
