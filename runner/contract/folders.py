"""Model folders in `from_pretrained` form, read without torch: configs, tensor tables, tokenizers.

It says what is there and what is missing; it never downloads. What it does not know: whether the weights are
any good.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import builtin, store
from runner.contract.families import pipeline_family, plain_name
from runner.contract.headers import Broken, read_header

BUILTIN = "builtin:"
WITHOUT_WEIGHTS = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "ProcessorPil", "FeatureExtractor")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A diffusers pipeline folder: its class, family, layers by name, and tokenizer folders."""

    path: Path
    pipeline: str
    family: str | None
    components: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)  # `unet.conv_in.weight` -> shape
    tokenizers: Mapping[str, Path]


def locate(path: str) -> Path | None:
    """The file or folder that a config value names: `builtin:NAME[/FILE]` or a path. None when it is not there."""
    if path.startswith(BUILTIN):
        name, _, rest = path.removeprefix(BUILTIN).partition("/")
        found = builtin.find_model(name)
        place = found / rest if found and rest else found
    else:
        place = Path(os.path.expandvars(path)).expanduser()
    return place if place is not None and place.exists() else None


def read_model_folder(path: Path) -> ModelFolder:
    """Read what a pipeline folder is. Raises Broken when it has no sound `model_index.json` or weights."""
    index = _read_json(path / "model_index.json")
    components = {
        name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2 and entry[0]
    }
    pipeline = str(index.get("_class_name"))
    if not components.keys() & {"unet", "transformer"}:
        raise Broken("has a model_index.json that names no unet and no transformer")
    _check_complete(path, components)
    denoiser = "unet" if "unet" in components else "transformer"
    config = path / denoiser / "config.json"
    return ModelFolder(
        path=path,
        pipeline=pipeline,
        family=pipeline_family(pipeline, _read_json(config) if config.is_file() else {}),
        components=tuple(sorted(components)),
        shapes=dict(_shapes(path, components)),
        tokenizers={name: path / name for name in sorted(components) if name.startswith("tokenizer")},
    )


def known_to_diffusers(name: str) -> bool:
    """Whether the installed diffusers exports a class of this name; read from its `__init__`, not imported."""
    found = importlib.util.find_spec("diffusers")
    if found is None or found.origin is None:
        return True  # not for us to say
    return f'"{name}"' in Path(found.origin).read_text("utf-8")


def weights_digest(folder: Path) -> str:
    """One digest over the weight files of a folder: their relative names and sha256, sorted."""
    files = sorted(folder.rglob("*.safetensors"))
    lines = [f"{file.relative_to(folder).as_posix()} {file_digest_cached(file)}" for file in files]
    return store.digest("\n".join(lines).encode())


def files_digest(folder: Path) -> str:
    """One digest over everything in a folder that decides what it does: weights, configs, vocabularies, pictures."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
    lines = [f"{file.relative_to(folder).as_posix()} {file_digest_cached(file)}" for file in files]
    return store.digest("\n".join(lines).encode())


def file_digest_cached(path: Path) -> str:
    """The sha256 of a large file, remembered by place, size and time of change (base models run to 60 GB)."""
    info = path.stat()
    if info.st_size < 64 * store.CHUNK_BYTES:
        return store.file_digest(path)
    memory = builtin.cache_dir() / "digests.json"
    known = _read_memory(memory)
    key = f"{path.resolve()}|{info.st_size}|{info.st_mtime_ns}|{info.st_ino}"
    if key not in known:
        known[key] = store.file_digest(path)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            store.write_durably(memory, store.canonical(known))
    return known[key]


def _check_complete(path: Path, components: Mapping[str, Any]) -> None:
    """Every component that is a model has its config and its weights, every shard of them. Raises Broken."""
    for component, (_, class_name) in sorted(components.items()):
        folder = path / component
        if not folder.is_dir():
            raise Broken(f"has no {component}/, which its model_index.json names")
        if class_name.endswith(WITHOUT_WEIGHTS):
            continue
        _read_json(folder / "config.json", f"{component}/config.json")
        shards = {name for file in folder.glob("*.safetensors.index.json") for name in _shard_names(file)}
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing or not any(folder.glob("*.safetensors")):
            raise Broken(
                f"has no weights for {component} ({class_name}): {', '.join(missing) or 'no .safetensors file'}"
            )


def _shard_names(index: Path) -> set[str]:
    table = _read_json(index).get("weight_map", {})
    return {str(name) for name in table.values()} if isinstance(table, dict) else set()


def _read_memory(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _shapes(path: Path, components: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for component in sorted(components):
        for file in sorted((path / component).glob("*.safetensors")):
            for name, tensor in read_header(file).tensors.items():
                yield plain_name(f"{component}.{name}"), tensor.shape


def _read_json(path: Path, shown: str = "") -> dict[str, Any]:
    shown = shown or path.name
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Broken(f"has no {shown}") from error
    except (OSError, ValueError) as error:
        raise Broken(f"has a {shown} that cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise Broken(f"has a {shown} that is not a table")
    return value
