"""The tiny pipelines are what they claim: real, small, the same each time, and alive in every layer."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from runner.contract.folders import read_model_folder
from tests import tiny

MAX_BYTES = 2_000_000
IDLE = {  # the last joint block's text is thrown away
    "sd3": ["transformer_blocks.1.attn.add_q_proj"],
    "qwen-image": [
        f"transformer_blocks.1.{name}"
        for name in ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    ],
}


def drawn(pipe: Any, text: str) -> Any:
    """A two-step picture of 32 pixels, as floats."""
    import torch

    seed = [torch.Generator().manual_seed(0)]
    size: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np"}
    return pipe(prompt=[text], generator=seed, **size).images


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.NEEDS_TORCHVISION])
def test_a_tiny_pipeline_draws_what_depends_on_its_prompt(family: str) -> None:
    if family in tiny.NEEDS_TORCHVISION:
        pytest.importorskip("torchvision", reason="transformers has PixtralProcessor only beside torchvision")
    pipe = tiny.pipeline(family)
    first, other, again = (drawn(pipe, text) for text in ("a red dog", "a wooden chair", "a red dog"))
    assert first.shape == (1, 32, 32, 3)
    assert first.std() > 0.05
    assert abs(first - other).max() > 0.02
    assert (first == again).all()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_tiny_pipeline_is_a_model_folder_of_its_class(family: str) -> None:
    read = read_model_folder(tiny.folder(family))
    assert read.pipeline == type(tiny.pipeline(family)).__name__
    assert read.tokenizers
    assert sum(path.stat().st_size for path in read.path.rglob("*") if path.is_file()) < MAX_BYTES


@pytest.mark.parametrize("family", ["sd3", "flux2"])
def test_a_tiny_pipeline_has_the_same_bytes_each_time(family: str, tmp_path: Path) -> None:
    assert contents(tiny.build(family, tmp_path / "again")) == contents(tiny.folder(family))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_layer_of_a_tiny_denoiser_counts(family: str) -> None:
    """A LoRA on any of them has an effect; only what the last joint block does with the text goes nowhere."""
    import torch

    pipe = tiny.load(family)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    seen: list[Any] = []
    denoiser.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.enable_grad():
        call = inspect.unwrap(type(pipe).__call__)  # without its no_grad
        call(pipe, prompt="a red dog", height=32, width=32, num_inference_steps=1, output_type="latent")
        output = seen[0][0] if isinstance(seen[0], list) else seen[0]
        output.square().sum().backward()
    layers = {name: layer for name, layer in denoiser.named_modules() if isinstance(layer, torch.nn.Linear)}
    idle = {name for name, layer in layers.items() if layer.weight.grad is None or not bool(layer.weight.grad.any())}
    assert len(layers) > 20
    assert idle == set(IDLE.get(family, ()))
