"""Questions, attempts and runtimes for tests of what is sent to a language model, and of what comes back."""

from __future__ import annotations

import io
import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from PIL import Image

from runner import store
from runner.builtin import world
from runner.config.critic import CriticProfile, OpenAIRuntime
from runner.critic import schema
from runner.critic.backends import openai
from runner.critic.question import Attempt, Picture, Question
from runner.plan import PromptPlan
from tests import fakes
from tests.critic import speaking

STAR = world.Scene("star", "red", "blue")
SENTENCE = "a red star on a blue background"


def profile(**changes: Any) -> CriticProfile:
    """The shipped profile, changed."""
    shipped = fakes.request().critic
    assert shipped is not None
    return shipped.model_copy(update=changes)


def png(image: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, format="png", **options)
    return data.getvalue()


def picture(shown: Image.Image | world.Scene | bytes = STAR) -> Picture:
    """A picture of the drawn world, of an image, or of bytes that may be none."""
    drawn = world.draw(shown, random.Random(1)) if isinstance(shown, world.Scene) else shown
    data = drawn if isinstance(drawn, bytes) else png(drawn)
    return Picture(store.digest(data), data)


def question(text: str = SENTENCE, *pictures: Picture, **changes: Any) -> Question:
    """The red star under a prompt, unless told otherwise."""
    judged: CriticProfile = changes.pop("profile", None) or profile()
    prompt = PromptPlan("prompt-key.with", "prompt-id", text, {"subject": text}, triggered=False)
    shown = pictures or (picture(),)
    return Question(judged, prompt, shown, **{"schema": schema.answer_schema(judged), **changes})


def attempt(**changes: Any) -> Attempt:
    plain = {"max_tokens": 900, "seed": 1, "temperature": 0.0, "top_p": 1.0, "thinking": False, "timeout_s": 30.0}
    return Attempt(**{**plain, **changes})


def runtime(**changes: Any) -> OpenAIRuntime:
    """A runtime of a server that is there already."""
    known: Mapping[str, Any] = {
        "id": "speaking", "backend": "openai", "url": "http://127.0.0.1:1", "model": "critic", "key_env": None,
        "path": None, "projector": None, "sha256": None, "family": None, "quantization": None, "concurrency": 10,
        "context": 4096, "max_images": 4, "thinking_switch": False, "stop_repeating": False, "server": None,
    }  # fmt: skip
    return OpenAIRuntime(**{**known, **changes})


def critic(url: str, *, key: str | None = None, **changes: Any) -> openai.OpenAICritic:
    """A client of the server at an address; to be closed."""
    return openai.load_openai(runtime(**changes), url=url, key=key, identity={"model": "critic"})


@contextmanager
def asking(
    mode: str = "honest", *, key: str | None = None, **settings: Any
) -> Iterator[tuple[openai.OpenAICritic, speaking.Speaking]]:
    """A server of a mode and a client of it; settings of the server by their names, of the runtime as `runtime_*`."""
    ours = {name.removeprefix("runtime_"): settings.pop(name) for name in [*settings] if name.startswith("runtime_")}
    with (
        speaking.listening(mode, key=key, **settings) as server,
        closing(critic(server.url, key=key, **ours)) as client,
    ):
        yield client, server


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port
