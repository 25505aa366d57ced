"""The files of a model folder: configs, tensor tables, shards, and what a loader would miss of them.

What it does not know: which model it is; that is `folders`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.contract.headers import Broken, read_header
from runner.contract.json_file import read_json_file, with_article
from runner.contract.naming import plain_name

INDEXES = ("model_index.json", "modular_model_index.json")
WITHOUT_WEIGHTS = (
    "Scheduler",
    "Tokenizer",
    "TokenizerFast",
    "TokenizersBackend",
    "Processor",
    "ProcessorPil",
    "FeatureExtractor",
)
STEMS: Mapping[str, tuple[str, ...]] = {  # library -> the weight files that it opens when no variant is asked for
    "diffusers": ("diffusion_pytorch_model",),
    "transformers": ("model",),
}
ANY_STEM = ("diffusion_pytorch_model", "model")
PACKED = re.compile(  # of weights in fewer bits, whose shapes are not those of the layers
    r"\.weight\.(absmax|quant_map|quant_state\..+|_data|_scale)$"  # bitsandbytes, quanto
    r"|\.qweight$|\.weight_packed$|\.weight:\w+$|\._weight_qdata$"  # GPTQ, nunchaku; compressed-tensors; torchao
)


def folder_of(path: Path, component: str) -> Path:
    return path / component if (path / component).is_dir() or (path / INDEXES[0]).is_file() else path


def read_config(path: Path, named: str = "") -> dict[str, Any]:
    """A JSON table. Raises Broken; `named` is what its reason calls the file."""
    value = read_json_file(path, named=named)
    if not isinstance(value, dict):
        raise Broken(f"has {with_article(named or path.name)} that is not a table")
    return value


def read_settings(path: Path, component: str) -> dict[str, Any]:
    config = folder_of(path, component) / "config.json"
    if config.is_fifo() or config.is_file():
        return read_config(config, f"{component}/config.json")
    return {}


def shapes_of(path: Path, components: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """`unet.conv_in.weight` and its shape, of every component with weights."""
    for component in sorted(components):
        folder = folder_of(path, component)
        if _lost_shards(folder, component):
            continue  # half of the weights would make a smaller model of it; its settings tell all layers
        for file in sorted(folder.glob("*.safetensors")):
            try:
                tensors = read_header(file).tensors
            except Broken as broken:
                raise Broken(f"has {with_article(component)}/{file.name} that {broken}") from broken
            for name, tensor in tensors.items():
                yield plain_name(f"{component}.{name}"), tensor.shape


def is_packed(path: Path, component: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a component's weights are quantised, so that their shapes are not those of its layers."""
    if any(name.startswith(f"{component}.") and PACKED.search(name) for name in shapes):
        return True
    return bool(read_settings(path, component).get("quantization_config"))


def missing_of(path: Path, components: Mapping[str, Any]) -> Iterator[str]:
    """What a loader would miss: folders, configs and weights, every shard of them."""
    for component, entry in sorted(components.items()):
        folder, class_name = folder_of(path, component), str(entry[1])
        if not folder.is_dir():
            yield f"has no {component}/, which its model_index.json names"
        elif not class_name.endswith(WITHOUT_WEIGHTS):
            if not (folder / "config.json").is_file():
                yield f"has no {component}/config.json"
            yield from _missing_weights(folder, component, class_name, STEMS.get(str(entry[0]), ANY_STEM))


def _missing_weights(folder: Path, component: str, class_name: str, stems: tuple[str, ...]) -> Iterator[str]:
    names = [file.name for file in sorted(folder.glob("*.safetensors"))]
    lost = _lost_shards(folder, component)
    whole = [f"{stem}.safetensors{end}" for stem in stems for end in ("", ".index.json")]
    if lost or not names:
        yield f"has no weights for {component} ({class_name}): {', '.join(lost) or 'no .safetensors file'}"
    elif not any((folder / name).is_file() for name in whole):
        part = r"(?:-\d+-of-\d+)?"
        variants = [re.fullmatch(rf"(?:{'|'.join(stems)}){part}\.(\w+){part}\.safetensors", name) for name in names]
        if found := next((variant for variant in variants if variant), None):
            yield f"has only the {found[1]} variant of {component}: rename the file or get the whole one"
        else:
            yield f"has no weights for {component} ({class_name}): no {' or '.join(whole[::2])}"


def _lost_shards(folder: Path, component: str) -> list[str]:
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    shards = {name for file in indexes for name in _shard_names(file, f"{component}/{file.name}")}
    return sorted(name for name in shards if not (folder / name).is_file())


def _shard_names(index: Path, named: str) -> set[str]:
    table = read_config(index, named).get("weight_map", {})
    return {str(name) for name in table.values()} if isinstance(table, dict) else set()
