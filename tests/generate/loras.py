"""LoRA files with real numbers in them, bases to put them on, and what a changed layer must do.

What it does not know: how the loader works; a layer is asked for its output.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.builtin.recipe.originals import ORIGINALS
from runner.contract.families import LoraFile, inspect_lora
from runner.contract.folders import ModelFolder, read_model_folder
from runner.contract.layers import Layout, filled
from runner.contract.naming import plain_name
from tests import tiny
from tests.contract import drawn

Tensors = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def saved(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> LoraFile:
    """What the inspector says of a file with these tensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, dict(metadata or {}))
    return inspect_lora(path)


def numbers(table: drawn.Tensors, *, alpha: float = 0.0) -> Tensors:
    """Random values for a table of shapes; scalars are `alpha`, or from 1 to 5 by their place in the table."""
    import torch

    seed = torch.Generator().manual_seed(len(table))

    def value(n: int, shape: tuple[int, ...]) -> Any:
        return torch.randn(shape, generator=seed) * 0.3 if shape else torch.tensor(alpha or 1.0 + n % 5)

    return {name: value(n, shape) for n, (name, (_, shape)) in enumerate(table.items())}


def published(model: str) -> ModelFolder:
    """A base that is nothing but the layers of a published model."""
    layout = drawn.LAYOUTS[model]
    encoders = (encoder for encoder in drawn.ENCODERS.values() if layout.family in encoder.uses)
    parts = {layout.part: layout, **{encoder.uses[layout.family]: encoder for encoder in encoders}}
    classes = {name: part.class_name for name, part in parts.items()}
    return ModelFolder(Path(), "", layout.family, model, classes, {}, {}, parts)


# ---- tiny pipelines


@functools.cache
def folder(family: str) -> ModelFolder:
    return read_model_folder(tiny.folder(family))


def pipeline(family: str) -> Any:
    """The tiny pipeline, loaded once; a test leaves it as it was."""
    return tiny.pipeline(family)


@functools.cache
def adaptable(family: str) -> Shapes:
    """Every linear layer and convolution of denoiser and text encoders, of these two blocks of every kind."""
    import torch

    pipe, found = pipeline(family), {}
    for part, layout in folder(family).layouts.items():
        modules = {plain_name(f"{part}.{name}"): module for name, module in getattr(pipe, part).named_modules()}
        for name, shape in layout.expand().items():
            if isinstance(modules.get(f"{part}.{name}"), torch.nn.Linear | torch.nn.Conv2d):
                found[f"{part}.{name}"] = shape
    return {name: shape for name, shape in found.items() if not re.search(r"\.lm_head$|\.layers\.([2-9]|\d\d)\.", name)}


def original_names(layout: Layout) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Name in the original repository -> the layers that its rows are cut into, and whether halves are swapped."""
    found = {}
    for pattern, rule in ORIGINALS.get(layout.natives, {}).items():
        targets = [target.removeprefix("~") for target in ([rule] if isinstance(rule, str) else rule)]
        for index, (rows, columns, *_) in layout.at(targets[0].replace(".", "_")).items():
            layers = tuple(filled(target, index) for target in targets)
            swapped = "~" in str(rule) and rows == 2 * columns
            if ".processor." not in pattern and set(layers) <= layout.expand().keys():
                found[filled(pattern, index)] = (layers, swapped)
    return found


# ---- what a layer does


def output(layer: Any, x: Any) -> Any:
    import torch

    with torch.inference_mode():
        return layer(x)


def inputs(base: Any) -> Any:
    """Something to put into a layer: a batch of two."""
    import torch

    seed = torch.Generator().manual_seed(3)
    kernel = base.weight.shape[2:]
    shape = (2, base.weight.shape[1], *(7 for _ in kernel)) if kernel else (2, 3, base.weight.shape[1])
    return torch.randn(shape, generator=seed).to(base.weight.dtype)


def changed(base: Any, weight: Any, x: Any) -> Any:
    """What the layer would give with another weight."""
    import torch

    with torch.inference_mode():
        return torch.func.functional_call(base, {"weight": weight.reshape(base.weight.shape)}, (x,))


def assert_adds(layer: Any, change: Any) -> None:
    """The wrapped layer does what its base would do with this added to its weight."""
    import torch

    base = layer.get_base_layer()
    x = inputs(base)
    wanted = changed(base, base.weight + change.reshape(base.weight.shape), x)
    torch.testing.assert_close(output(layer, x), wanted, **CLOSE)


def kohya(name: str) -> str:
    """A layer of a pipeline as kohya's trainers write it."""
    part, _, rest = name.partition(".")
    if not part.startswith("text_encoder"):
        return f"lora_unet_{rest}".replace(".", "_")
    number = part.removeprefix("text_encoder").removeprefix("_") or "1"
    inner = "text_model." if re.match(r"encoder\.layers\.\d", rest) else ""
    return f"lora_te{number}_{inner}{rest}".replace(".", "_")
