"""Shape tables of real models: the classes of diffusers and transformers, built on `meta` from the public configs.

A table is made when it is first asked for and kept in the system's temporary folder, under a name that follows from
the class, its config and the libraries' versions. Weights are never made, so any machine will do. It does not know
what a file of a model looks like beyond names and shapes.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.examiner.ldm import ldm_name, ldm_names
from tests.examiner.models import MODELS
from tests.examiner.parts import ENCODERS, NO_PROJECTION, PARTS, WRAPPED
from tests.examiner.renamings import original_name
from tests.examiner.tensors import Table, fold

LIBRARIES = ("diffusers", "transformers")


def _skeleton(module: Any) -> dict[str, Any]:
    import torch

    layers = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return {
        "params": {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()},
        "modules": [name for name, child in module.named_modules() if isinstance(child, layers)],
    }


def _build_model(cls: str, config: Mapping[str, Any]) -> dict[str, Any]:
    import diffusers
    import torch

    with torch.device("meta"):
        module = getattr(diffusers, cls)(**config)
    return {**_skeleton(module), "config": json.loads(module.to_json_string())}


def _build_encoder(key: str) -> dict[str, Any]:
    import torch
    import transformers

    name, config = ENCODERS[key]
    cls = getattr(transformers, name)
    with torch.device("meta"):
        module = cls(cls.config_class(**config))
    made = {**_skeleton(module), "config": json.loads(module.config.to_json_string())}
    made["params"].pop("encoder.embed_tokens.weight", None)  # tied: not in the files
    prefix, named = WRAPPED.get(key, ("", name))
    made["params"] = {prefix + param: shape for param, shape in made["params"].items()}
    made["modules"] = [prefix + module for module in made["modules"]]
    if key in NO_PROJECTION:
        made["params"].pop("text_projection.weight", None)
        made["modules"].remove("text_projection")
        named = "CLIPTextModel"
    made["config"]["architectures"] = [named]
    return made


def _part(key: str) -> tuple[str, dict[str, Any]]:
    return PARTS[key] if key in PARTS else (MODELS[key].cls, MODELS[key].config)


def _build(key: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoder = key.removeprefix("te:")
        return _build_encoder(encoder) if encoder in ENCODERS else _build_model(*_part(key))


def _source(key: str) -> tuple[Any, ...]:
    """Everything that a table follows from."""
    encoder = key.removeprefix("te:")
    if encoder in ENCODERS:
        return ENCODERS[encoder], WRAPPED.get(encoder), encoder in NO_PROJECTION
    return _part(key)


def _place(key: str) -> Path:
    versions = [version(library) for library in LIBRARIES]
    digest = hashlib.sha256(repr((versions, _source(key))).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / "runner-examiner" / f"{digest}.json"


@cache
def built(key: str) -> dict[str, Any]:
    """The parameters, layers and config of a model, a part, or (`te:...`) a text encoder; built once, then read."""
    place = _place(key)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(_build(key)))
        partial.rename(place)
    return json.loads(place.read_text())  # type: ignore[no-any-return]  # our own file


def weights(key: str) -> Table:
    """Linear and convolution layers -> weight shape."""
    made = built(key)
    return {name: tuple(made["params"][name + ".weight"]) for name in made["modules"]}


def params(key: str) -> Table:
    """Every parameter -> shape."""
    return {name: tuple(shape) for name, shape in built(key)["params"].items()}


def _renamer(name: str) -> Callable[[str], str] | None:
    model = MODELS[name]
    if model.rules == "ldm":
        prefixes = ldm_names(model.config if "block_out_channels" in model.config else built(name)["config"])
        return lambda param: ldm_name(prefixes, param)
    return (lambda param: original_name(model.rules, param)) if model.rules else None


@cache
def modules(name: str, layout: str) -> Table:
    """The denoiser's linear and convolution layers -> weight shape. Layout: diffusers or native."""
    table = weights(name)
    rename = _renamer(name)
    if layout == "native" and rename:
        folded = fold({module + ".weight": shape for module, shape in table.items()}, rename)
        table = {param.removesuffix(".weight"): shape for param, shape in folded.items()}
    if name == "anima" and layout == "native":
        table |= {"llm_adapter." + module: shape for module, shape in weights("anima:adapter").items()}
    return table


@cache
def parameters(name: str, layout: str) -> Table:
    """Everything a checkpoint of the denoiser holds."""
    rename = _renamer(name)
    table = params(name)
    table = fold(table, rename) if layout == "native" and rename else table
    if name == "anima" and layout == "native":
        table |= {"llm_adapter." + param: shape for param, shape in params("anima:adapter").items()}
    return table


@cache
def encoder_modules(key: str) -> Table:
    """A text encoder's linear layers, as transformers names them."""
    return {name: shape for name, shape in weights("te:" + key).items() if len(shape) == 2}


def encoder_parameters(key: str) -> Table:
    """Everything a text encoder's file holds."""
    return params("te:" + key)
