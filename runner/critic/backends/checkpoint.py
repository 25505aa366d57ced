"""A folder with a vision-language model: loaded as it is or refused, and named by all that decides what it says.

It refuses weights with holes, pickled weights, a model or a processor that takes no images, code of a folder's own, a
context that the model does not have. The folder's own `generation_config.json` changes nothing but the tokens that end
a text: how a reply is sampled stands in the profile. What it does not know: what is asked.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import store
from runner.config.critic import TransformersRuntime
from runner.contract.folders import weights_digest
from runner.contract.machine import is_out_of_memory
from runner.critic.backends import decoding
from runner.critic.backends.decoding import Vocabulary
from runner.errors import Failed, Fault, first_line
from runner.worker import settle

WHERE = "critic_runtime.path"
GET_AGAIN = "Get its files again"
VISION = re.compile(r"(^|\.)(visual|vision_tower|vision_model|vision_encoder|vision_embed_tokens)\.")
SETTINGS = (".json", ".jinja", ".txt", ".model")  # endings of what decides, beside the weights, what a model says


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model with what turns requests into its inputs, and its tokens as a grammar sees them."""

    model: Any
    processor: Any
    vocabulary: Vocabulary

    @property
    def template(self) -> str:
        """The chat template, as its author wrote it; empty where there is none."""
        return str(self.processor.chat_template or self.processor.tokenizer.chat_template or "")


def load(folder: Path, runtime: TransformersRuntime, device: str) -> Checkpoint:
    """Read a folder onto a device. Raises Failed(load); out of memory passes through."""
    with translated(folder):
        model = _load_model(folder, runtime, device)
        processor = _load_processor(folder)
        vocabulary = decoding.read_vocabulary(processor.tokenizer, _ends(model, processor.tokenizer))
        _keep_own_sampling_out(model)
    return Checkpoint(model, processor, vocabulary)


def unfit(code: str, what: str, fix: str, where: str = WHERE) -> Failed:
    return Failed("load", Fault(code, where, what, fix))


@contextlib.contextmanager
def translated(folder: Path) -> Iterator[None]:
    """transformers, tokenizers, safetensors and jinja raise a dozen kinds when a folder is not what it should be."""
    try:
        yield
    except Failed:
        raise
    except ImportError as error:
        fix = "Install what it names, in the build that goes with your torch"
        raise unfit(
            "dependency_missing", f"{folder} needs what is not installed: {_first_cause(error)}", fix
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"{folder} does not load as a vision-language model: {first_line(error)}"
        raise unfit("load_failed", what, GET_AGAIN) from error


def _first_cause(error: BaseException) -> str:
    """What the innermost error says: transformers wraps a package that fails to import in words of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _load_model(folder: Path, runtime: TransformersRuntime, device: str) -> Any:
    import torch
    import transformers

    settle()
    transformers.utils.logging.disable_progress_bar()
    model, told = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, runtime.dtype), device_map=device, local_files_only=True, use_safetensors=True,
        trust_remote_code=False, output_loading_info=True,
    )  # fmt: skip
    if missing := sorted(told["missing_keys"]):  # filled with chance, and only a warning says so
        what = f"{folder} has no weights for {len(missing)} tensors (first {missing[0]})"
        raise unfit("weights_missing", what, GET_AGAIN)
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and runtime.context > most:
        what = f"is {runtime.context}, and {folder} knows {most} positions"
        raise unfit("out_of_bounds", what, f"Set it to {most} or less", "critic_runtime.context")
    return model.eval()


def _load_processor(folder: Path) -> Any:
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not hasattr(processor, "image_processor"):
        what = f"{folder} has a {type(processor).__name__} that takes no images"
        raise unfit("load_failed", what, "Choose a vision-language model with its preprocessor_config.json")
    return processor


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a reply, as the tokenizer and the model's settings name them."""
    named = (tokenizer.eos_token_id, model.generation_config.eos_token_id)
    return sorted({end for one in named for end in (one if isinstance(one, list) else [one]) if end is not None})


def _keep_own_sampling_out(model: Any) -> None:
    """`generate` fills whatever a request leaves open from here."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


# ---- what it is


def identity(folder: Path, loaded: Checkpoint, runtime: TransformersRuntime, device: str) -> dict[str, Any]:
    """All that decides what it says; no path, no time."""
    import llguidance
    import torch
    import transformers

    return {
        "backend": "transformers",
        "weights": weights_digest(folder),
        "settings": _settings_digest(folder),
        "chat_template": store.digest(loaded.template.encode()),
        "architecture": type(loaded.model).__name__,
        "image_processor": type(loaded.processor.image_processor).__name__,
        "attention": loaded.model.config._attn_implementation,
        "dtype": runtime.dtype,
        "vision_dtype": _vision_dtype(loaded.model),
        "quantization": _quantization(loaded.model),
        "context": runtime.context,
        "device": device.partition(":")[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "llguidance": llguidance.__version__,
    }


def _settings_digest(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in SETTINGS and path.is_file())
    return store.digest_of([[path.name, store.file_digest(path)] for path in files])


def _vision_dtype(model: Any) -> str | None:
    """The number format that most of the vision tower is kept in; None where no tower is recognised."""
    sizes: dict[str, int] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if VISION.search(name) and tensor.dim() > 1:
            kind = str(tensor.dtype).removeprefix("torch.")
            sizes[kind] = sizes.get(kind, 0) + tensor.numel()
    return max(sizes, key=lambda kind: sizes[kind], default=None)


def _quantization(model: Any) -> dict[str, Any] | None:
    """How the weights are packed, as config.json says; None for weights that are not."""
    own = getattr(model.config, "quantization_config", None)
    if own is None:
        return None
    table = dict(own) if isinstance(own, Mapping) else own.to_dict()
    whole = json.dumps(table, sort_keys=True, default=str).encode()
    return {"method": str(table.get("quant_method")), "bits": table.get("bits"), "sha256": store.digest(whole)}
