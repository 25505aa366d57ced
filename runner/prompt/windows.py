"""How each pipeline uses each of its tokenizers: how many tokens count, and what is written around a prompt.

A table of facts, one row per pipeline class, read from diffusers 0.42.1; beside each row stands the function that says
so, and a test compares what is written here with the installed pipelines. A pipeline that is not in the table is taken
to give its text as it is to each tokenizer, cut at the tokenizer's own `model_max_length`. What it does not know: a
call with other arguments than a pipeline's defaults; ours passes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

FLUX2_SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
QWEN_IMAGE_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
QWEN_IMAGE_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
LUMINA2_BEFORE = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts. <Prompt Start> "
)


@dataclass(frozen=True, slots=True)
class Written:
    """Words of the pipeline's own around the prompt; the tokenizer adds its special tokens to the whole."""

    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """The prompt as a user's message in the tokenizer folder's chat template."""

    answer_begun: bool  # add_generation_prompt
    system: str | None = None
    parts: bool = False  # a message's content is a list of `{type: text, text: ...}`, as processors want it
    variables: Mapping[str, Any] = field(default_factory=dict)

    def messages(self, text: str) -> list[dict[str, Any]]:
        said = [("system", self.system)] if self.system is not None else []
        return [
            {"role": role, "content": [{"type": "text", "text": words}] if self.parts else words}
            for role, words in (*said, ("user", text))
        ]


Template = Written | Chat
AS_IT_IS = Written()


@dataclass(frozen=True, slots=True)
class Window:
    """How a pipeline uses one tokenizer. Limits count every token, the template's and the special ones included."""

    limit: int | None = None  # tokens that reach the picture; None for the tokenizer's model_max_length
    encoded: int | None = None  # tokens that reach the encoder, where the pipeline throws some away behind it
    template: Template = AS_IT_IS
    negative: Template | None = None  # where a negative prompt is written otherwise
    clean: Callable[[str], str] | None = None  # what the pipeline does to a text before all this


NO_WINDOW = Window()


def window(pipeline: str, tokenizer: str) -> Window:
    """How a pipeline class uses the tokenizer of that name."""
    return WINDOWS.get(pipeline, {}).get(tokenizer, NO_WINDOW)


def _without_image_marks(text: str) -> str:
    """format_input of pipeline_flux2."""
    return text.replace("[IMG]", "")


def _unescaped(text: str) -> str:
    """prompt_clean of pipeline_wan, without ftfy, which mends broken encodings where it is installed."""
    from html import unescape

    return " ".join(unescape(unescape(text)).split())


QWEN3_CHAT = Chat(answer_begun=True, variables={"enable_thinking": False})
CLIP = NO_WINDOW  # tokenizer.model_max_length, 77
KLEIN = {"tokenizer": Window(512, template=QWEN3_CHAT)}  # Flux2KleinPipeline._get_qwen3_prompt_embeds

WINDOWS: Mapping[str, Mapping[str, Window]] = {
    "StableDiffusionPipeline": {"tokenizer": CLIP},  # encode_prompt
    "StableDiffusionXLPipeline": {"tokenizer": CLIP, "tokenizer_2": CLIP},  # encode_prompt
    "StableDiffusion3Pipeline": {  # _get_clip_prompt_embeds, _get_t5_prompt_embeds; __call__: max_sequence_length=256
        "tokenizer": CLIP, "tokenizer_2": CLIP, "tokenizer_3": Window(256),
    },
    "FluxPipeline": {"tokenizer": CLIP, "tokenizer_2": Window(512)},  # _get_clip_..., _get_t5_prompt_embeds
    "Flux2Pipeline": {  # _get_mistral_3_small_prompt_embeds, format_input
        "tokenizer": Window(
            512, template=Chat(answer_begun=False, system=FLUX2_SYSTEM, parts=True), clean=_without_image_marks
        ),
    },
    "Flux2KleinPipeline": KLEIN,
    "Flux2KleinKVPipeline": KLEIN,
    # _get_qwen_prompt_embeds cuts at 1024 + 34 and drops the first 34, the system message; encode_prompt then keeps
    # max_sequence_length of the rest, which __call__ sets to 512.
    "QwenImagePipeline": {
        "tokenizer": Window(34 + 512, encoded=34 + 1024, template=Written(QWEN_IMAGE_BEFORE, QWEN_IMAGE_AFTER)),
    },
    "ZImagePipeline": {  # _encode_prompt
        "tokenizer": Window(512, template=Chat(answer_begun=True, variables={"enable_thinking": True})),
    },
    "ChromaPipeline": {"tokenizer": Window(512)},  # _get_t5_prompt_embeds
    "Lumina2Pipeline": {"tokenizer": Window(256, template=Written(LUMINA2_BEFORE), negative=AS_IT_IS)},  # encode_prompt
    "AuraFlowPipeline": {"tokenizer": Window(256)},  # encode_prompt
    "WanPipeline": {"tokenizer": Window(512, clean=_unescaped)},  # _get_t5_prompt_embeds, __call__
}  # fmt: skip
