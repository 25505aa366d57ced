"""A vision-language model in this process: it gets requests as its chat template wants them and replies under a schema.

It refuses a profile whose schema cannot be decoded under, a profile that wants reasoning of a model without a switch
for it, and a template that does not take a request's form: at once, and not at every image. What it does not know:
what the answer means.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.critic import CriticProfile, TransformersRuntime
from runner.contract.folders import locate
from runner.contract.machine import is_out_of_memory
from runner.critic import request, schema
from runner.critic.backends import checkpoint, decoding
from runner.critic.backends.checkpoint import Checkpoint
from runner.critic.question import Attempt, Question, Reply, Unanswered
from runner.errors import first_line
from runner.worker import Bench

SWITCH = "enable_thinking"  # what chat templates call it


@dataclass(slots=True)
class InProcessCritic:
    """A loaded model; one reply at a time."""

    loaded: Checkpoint | None = field(repr=False)  # None once it is closed
    context: int
    identity: Mapping[str, Any]
    continuous: bool = False
    structured: bool = True
    concurrency: int = 1
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)  # models keep notes of their last request
    _asked: list[threading.Event] = field(default_factory=list, repr=False)

    def ask(self, question: Question, attempt: Attempt) -> Reply:
        """One reply, decoded under the question's schema. Raises Unanswered."""
        cancelled = threading.Event()
        self._asked.append(cancelled)
        try:
            with self._turn:
                if self.loaded is None:
                    raise Unanswered("runtime_down", "the model was released")
                return self._reply(self.loaded, question, attempt, cancelled)
        finally:
            self._asked.remove(cancelled)

    def cancel(self) -> None:
        """Stop every reply that is under way, at its next token."""
        for cancelled in list(self._asked):
            cancelled.set()

    def close(self) -> None:
        """Let go of the model."""
        self.cancel()
        with self._turn:
            self.loaded = None

    def _reply(self, loaded: Checkpoint, question: Question, attempt: Attempt, cancelled: threading.Event) -> Reply:
        began_s = time.monotonic()
        decoder = decoding.begin(question.schema, attempt, loaded.vocabulary, cancelled, began_s)
        conversation = _conversation(request.messages(question))
        with _unanswered():
            inputs = _inputs(loaded, conversation, thinking=attempt.thinking)
            num_prompt = int(inputs["input_ids"].shape[1])
            self._check_room(num_prompt, attempt)
            ids = _generate(loaded.model, inputs, decoder, attempt)
        return decoder.reply(ids[num_prompt:], num_prompt)

    def _check_room(self, num_prompt: int, attempt: Attempt) -> None:
        if num_prompt + attempt.max_tokens > self.context:
            asked = f"{num_prompt} tokens of prompt and {attempt.max_tokens} of reply"
            raise Unanswered("bad_request", f"{asked} do not fit in critic_runtime.context={self.context}")


def load_transformers(bench: Bench) -> InProcessCritic:
    """Load the runtime's model folder and check it against the profile. Raises Failed(load)."""
    runtime, profile = bench.request.critic_runtime, bench.request.critic
    assert isinstance(runtime, TransformersRuntime) and profile is not None
    folder = locate(runtime.path or "")
    assert folder is not None, "the contract refuses a folder that is not there"
    with bench.clock.phase("load_critic"):
        loaded = checkpoint.load(folder, runtime, bench.device)
        _check_thinking(loaded, profile)
        _check_schemas(loaded, profile)
        with checkpoint.translated(folder):  # a template may know no system text, or no pictures
            _inputs(loaded, _sample_conversation(), thinking=profile.sampling.thinking)
        identity = checkpoint.identity(folder, loaded, runtime, bench.device)
    return InProcessCritic(loaded, runtime.context, identity)


def _check_thinking(loaded: Checkpoint, profile: CriticProfile) -> None:
    if profile.sampling.thinking and (SWITCH not in loaded.template or loaded.vocabulary.thought_ends is None):
        what = f"is true, and the chat template of the model has no {SWITCH}"
        raise checkpoint.unfit("setting_ignored", what, "Set it to false in the profile", "critic.sampling.thinking")


def _check_schemas(loaded: Checkpoint, profile: CriticProfile) -> None:
    for asked in (schema.answer_schema(profile), schema.canary_schema()):
        if reason := decoding.why_not(asked, loaded.vocabulary):
            what = f"{profile.profile} gives a schema that replies cannot be decoded under: {reason}"
            raise checkpoint.unfit("schema_unsupported", what, "Change what the message names", "critic")


# ---- asking


def _conversation(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The request's chat form as templates want it: content always a list, pictures decoded."""
    return [{"role": message["role"], "content": [_part(part) for part in _parts(message)]} for message in messages]


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(part: dict[str, Any]) -> dict[str, Any]:
    from PIL import Image

    if part["type"] != "image_url":
        return part
    png = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return {"type": "image", "image": Image.open(io.BytesIO(png)).convert("RGB")}


def _sample_conversation() -> list[dict[str, Any]]:
    """The form of a request without its content; no model reads it."""
    from PIL import Image

    image = {"type": "image", "image": Image.new("RGB", (64, 64))}
    text = {"type": "text", "text": "."}
    return [{"role": "system", "content": [text]}, {"role": "user", "content": [image, text]}]


def _inputs(loaded: Checkpoint, conversation: list[dict[str, Any]], *, thinking: bool) -> Any:
    """Token ids of shape (1, length), pixels, and what else the model takes. Control tokens in texts are plain text."""
    switch = {SWITCH: thinking} if SWITCH in loaded.template else {}
    return loaded.processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        sanitize_control_tokens=True, **switch,
    )  # fmt: skip


def _generate(model: Any, inputs: Any, decoder: decoding.Decoder, attempt: Attempt) -> list[int]:
    """All token ids, the prompt's first."""
    import torch
    from transformers import GenerationConfig

    with torch.inference_mode():
        output = model.generate(
            **inputs.to(model.device, dtype=model.dtype),
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=attempt.max_tokens),
            logits_processor=[decoder],
            stopping_criteria=[decoder.stop],
        )
    return list(output[0].tolist())


@contextlib.contextmanager
def _unanswered() -> Iterator[None]:
    """What the libraries raise on one request, as one of FAILURES. The text is kept in records: no addresses in it."""
    try:
        yield
    except Unanswered:
        raise
    except Exception as error:
        failure = "oom" if is_out_of_memory(error) else "server_error"
        raise Unanswered(failure, f"{type(error).__name__} in the model: {_plain(error)}") from error


def _plain(error: BaseException) -> str:
    return re.sub(r"0x[0-9a-fA-F]+|/[^\s:'\"]+", "...", first_line(error))[:120]
