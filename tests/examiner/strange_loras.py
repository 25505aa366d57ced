"""LoRAs of what makes no image, or makes it another way: language models, Whisper, Stable Cascade, motion modules.

They are LoRAs all the same, of no family that the runner knows. It does not know a denoiser but Cascade's.
"""

from __future__ import annotations

import itertools

from tests.examiner.adapters import lora
from tests.examiner.kinds import Kind, Kinds
from tests.examiner.spellings import SPELLINGS
from tests.examiner.tables import encoder_modules, weights
from tests.examiner.tensors import Maker, Tensors

READERS = ("other", "hunyuanvideo", "flux2", "qwen-image", "z-image")  # these read text with language models


def strange_lora_kinds() -> Kinds:
    """Name -> file."""
    for name, key in (("llama", "llama3_8b"), ("qwen3", "qwen3_8b"), ("mistral", "mistral_24b")):
        yield f"lora/{name}_peft", Kind(("lora",), READERS, _llm_lora(key, "base_model.model.model."))
    yield "lora/whisper_peft", Kind(("lora",), ("other",), _whisper_lora)
    yield "lora/bert_peft", Kind(("lora",), ("other",), _bert_lora)
    yield "lora/cascade", Kind(("lora",), ("other",), _cascade_lora)
    yield "lora/animatediff_motion", Kind(("lora",), ("other", "sd1"), _motion_lora)


def _llm_lora(key: str, prefix: str) -> Maker:
    def made() -> Tensors:
        tensors: Tensors = {}
        for module, shape in encoder_modules(key).items():
            if module.endswith(("q_proj", "v_proj")):
                tensors |= lora(prefix + module.removeprefix("model."), shape, 8, SPELLINGS["peft"])
        return tensors

    return made


def _whisper_lora() -> Tensors:
    made: Tensors = {}
    for part, num, side in itertools.product(("encoder", "decoder"), range(32), ("q_proj", "v_proj")):
        base = f"base_model.model.model.{part}.layers.{num}.self_attn.{side}"
        made |= lora(base, (1280, 1280), 32, SPELLINGS["peft"])
    return made


def _cascade_lora() -> Tensors:
    """kohya's and ComfyUI's Stable Cascade: lora_prior_unet_."""
    made: Tensors = {}
    for name, shape in weights("cascade").items():
        if "attention" in name and len(shape) == 2:
            made |= lora("lora_prior_unet_" + name.replace(".", "_"), shape, 4, SPELLINGS["kohya"])
    return made


def _bert_lora() -> Tensors:
    made: Tensors = {}
    for num, side in itertools.product(range(12), ("query", "value")):
        made |= lora(
            f"base_model.model.bert.encoder.layer.{num}.attention.self.{side}", (768, 768), 8, SPELLINGS["peft"]
        )
    return made


def _motion_lora() -> Tensors:
    made: Tensors = {}
    for block, side, num in itertools.product(range(4), "qkv", range(2)):
        width = (320, 640, 1280, 1280)[block]
        module = f"down_blocks.{block}.motion_modules.{num}.temporal_transformer.transformer_blocks.0"
        base = f"{module}.attention_blocks.0.processor.to_{side}_lora."
        made |= {base + "down.weight": ("F16", (4, width)), base + "up.weight": ("F16", (width, 4))}
    return made
