"""Model folders in `from_pretrained` form, read without torch: configs, tensor tables, tokenizers.

It says what is there and what is missing; it never downloads. What it does not know: whether the weights are
any good.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import builtin, store
from runner.contract.headers import Broken, read_header
from runner.contract.layers import Layout, layout_of, table
from runner.contract.naming import plain_name

BUILTIN = "builtin:"
WITHOUT_WEIGHTS = (
    "Scheduler",
    "Tokenizer",
    "TokenizerFast",
    "TokenizersBackend",
    "Processor",
    "ProcessorPil",
    "FeatureExtractor",
)


INDEXES = ("model_index.json", "modular_model_index.json")
UNET_WIDTHS = {96: "shapes", 768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: "sdxl"}  # of the text that a UNet reads
UNET_PIPELINES = (
    "StableDiffusion",
    "LatentConsistency",
    "Shapes",
)  # other pipelines have UNets of families of their own
NO_LAYERS = re.compile(  # settings that change no layer, or only the first and the last
    r"^(in|out)_channels$|sample_size|pos_embed|rope|axes|theta|eps|qk_norm|act|dropout|bias|scal|shift|max_size|freq|type_emb"
    r"|norm_num_groups|upcast|resnet_|center_input|padding|mode"
)
ENDS = ("in_channels", "out_channels")  # change the first and the last layer
OF_A_UNET = re.compile(r"attention_head_dim|num_attention_heads")  # how a UNet's attention is cut, not how wide it is
PACKED = (".weight.absmax", ".weight.quant_map")  # of weights in four bits, whose shapes are not those of the layers


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A diffusers pipeline folder: its class, family, layers by name, and tokenizer folders."""

    path: Path
    pipeline: str
    family: str | None
    model: str | None  # the published model whose settings it has; fine-tunes have them too
    components: Mapping[str, str]  # name -> class, as its index says
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)  # `unet.conv_in.weight` -> shape; empty without weights
    tokenizers: Mapping[str, Path]
    layouts: Mapping[str, Layout] = field(repr=False)  # component -> its layers, from weights or from its settings
    missing: tuple[str, ...] = ()  # what it lacks to be loaded
    guessed: bool = False  # without weights, and its settings are only nearly those of a published model

    @property
    def denoiser(self) -> str:
        return "unet" if "unet" in self.components else "transformer"


def locate(path: str) -> Path | None:
    """The file or folder that a config value names: `builtin:NAME[/FILE]` or a path. None when it is not there."""
    if path.startswith(BUILTIN):
        name, _, rest = path.removeprefix(BUILTIN).partition("/")
        found = builtin.find_model(name)
        place = found / rest if found and rest else found
    else:
        place = Path(os.path.expandvars(path)).expanduser()
    return place if place is not None and os.path.lexists(place) else None


def read_model_folder(path: Path) -> ModelFolder:
    """Read what a pipeline folder is, from its configs and headers; what it lacks is in `missing`.

    Raises Broken when it is no pipeline folder at all, or a file of it is damaged.
    """
    index = _read_index(path)
    components = {
        name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) >= 2 and entry[0]
    }
    if not components.keys() & {"unet", "transformer"}:
        raise Broken("has a model_index.json that names no unet and no transformer")
    denoiser = "unet" if "unet" in components else "transformer"
    settings = _settings(path, denoiser)
    class_name = str(settings.get("_class_name") or components[denoiser][1])
    pipeline = str(index.get("_class_name"))
    model, exact = _published(class_name, settings)
    shapes = dict(_shapes(path, components))
    return ModelFolder(
        path=path,
        pipeline=pipeline,
        family=_family(pipeline, class_name, settings, model),
        model=model.model if model else None,
        components={name: str(entry[1]) for name, entry in sorted(components.items())},
        shapes=shapes,
        tokenizers={name: path / name for name in sorted(components) if name.startswith("tokenizer")},
        layouts=dict(_layouts(path, components, shapes, denoiser, model, class_name)),
        missing=tuple(_missing(path, components)),
        guessed=not exact and not _told_by_weights(shapes, denoiser),
    )


def _read_index(path: Path) -> dict[str, Any]:
    """The pipeline's own list of components; a denoiser's folder by itself counts as a pipeline of one."""
    found = next((name for name in INDEXES if (path / name).is_file()), None)
    if found or not (path / "config.json").is_file():
        return _read_json(path / (found or INDEXES[0]))
    class_name = str(_read_json(path / "config.json").get("_class_name"))
    part = "unet" if class_name.startswith("UNet") else "transformer"
    if not table().of_class(class_name):
        raise Broken(f"has no model_index.json, and its config.json is that of a {class_name}")
    return {"_class_name": None, part: ["diffusers", class_name]}


def _folder_of(path: Path, component: str) -> Path:
    return path / component if (path / component).is_dir() or (path / INDEXES[0]).is_file() else path


def _settings(path: Path, component: str) -> dict[str, Any]:
    config = _folder_of(path, component) / "config.json"
    return _read_json(config, f"{component}/config.json") if config.is_file() else {}


def _told_by_weights(shapes: Mapping[str, tuple[int, ...]], component: str) -> bool:
    """Whether a component's weights lie here with the shapes of its layers: not packed into four bits."""
    own = [name for name in shapes if name.startswith(f"{component}.")]
    return bool(own) and not any(name.endswith(PACKED) for name in own)


def _published(class_name: str, settings: Mapping[str, Any]) -> tuple[Layout | None, bool]:
    """The published model with these settings, and whether its first and last layers are those of the model too."""
    defaults = table().defaults.get(class_name, {})
    for level in ("every setting", "every layer", "the blocks"):
        for layout in table().of_class(class_name):
            asked = {n: v for n, v in layout.config.items() if level == "every setting" or _decisive(n, layout.part)}
            asked |= {n: v for n, v in layout.config.items() if level != "the blocks" and n in ENDS}
            if all(_same(settings.get(name, defaults.get(name)), value) for name, value in asked.items()):
                return layout, level != "the blocks"
    return None, False


def _decisive(name: str, part: str) -> bool:
    return not NO_LAYERS.search(name) and not (part == "unet" and OF_A_UNET.search(name))


def _same(one: Any, other: Any) -> bool:
    return (list(one) if isinstance(one, tuple) else one) == (list(other) if isinstance(other, tuple) else other)


def _family(pipeline: str, class_name: str, settings: Mapping[str, Any], model: Layout | None) -> str | None:
    """The family of a model folder, from its pipeline class, its denoiser's class and settings."""
    if class_name == "UNet2DConditionModel":
        width = settings.get("cross_attention_dim")
        known = UNET_WIDTHS.get(width) if isinstance(width, int) else None
        return known if pipeline.startswith(UNET_PIPELINES) or pipeline == "None" else "other"
    if class_name == "CosmosTransformer3DModel" and pipeline.startswith("Cosmos"):
        return "other"  # Anima's denoiser has the same layers
    families = {layout.family for layout in table().of_class(class_name)}
    return model.family if model else families.pop() if len(families) == 1 else None


def _layouts(
    path: Path,
    components: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    denoiser: str,
    model: Layout | None,
    class_name: str,
) -> Iterator[tuple[str, Layout]]:
    same_class = table().of_class(class_name)
    natives = same_class[0].natives if same_class else "none"
    if natives == "ldm" and _settings(path, denoiser).get("layers_per_block", 2) != 2:
        natives = "none"  # the original code's numbers count blocks of two layers
    for component in components:
        own = (
            {}
            if not _told_by_weights(shapes, component)
            else {
                n[len(component) + 1 : -7]: s
                for n, s in shapes.items()
                if n.startswith(f"{component}.") and n.endswith(".weight")
            }
        )
        if component == denoiser and natives == "anima":
            prefix = "text_conditioner."
            own |= {
                f"llm_adapter.{n[len(prefix) : -7]}": s
                for n, s in shapes.items()
                if n.startswith(prefix) and n.endswith(".weight")
            }
        if component == denoiser and (own or model):
            yield component, layout_of(own, denoiser, natives) if own else model  # type: ignore[misc]  # one of the two is there
        elif component.startswith("text_encoder") and own:
            yield component, layout_of(own, "text", "none")
        elif component.startswith("text_encoder") and (known := _published_encoder(_settings(path, component))):
            yield component, known


def _published_encoder(settings: Mapping[str, Any]) -> Layout | None:
    """The published text encoder with these widths and depth."""
    inner = settings.get("text_config") if isinstance(settings.get("text_config"), dict) else settings
    names = (("hidden_size", "d_model"), ("intermediate_size", "d_ff"), ("num_hidden_layers", "num_layers"))

    def sizes(config: Mapping[str, Any]) -> list[Any]:
        return [config.get(a, config.get(b)) for a, b in names]

    wanted = sizes(inner or {})
    umt5 = "umt5" in str(settings.get("model_type", "")).lower()
    for layout in table().layouts:
        if layout.part == "text" and sizes(layout.config) == wanted and layout.class_name.startswith("UMT5") == umt5:
            return layout
    return None


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


def _missing(path: Path, components: Mapping[str, Any]) -> Iterator[str]:
    """What a loader would miss: folders, configs and weights, every shard of them."""
    for component, entry in sorted(components.items()):
        folder, class_name = _folder_of(path, component), str(entry[1])
        if not folder.is_dir():
            yield f"has no {component}/, which its model_index.json names"
        elif not class_name.endswith(WITHOUT_WEIGHTS):
            if not (folder / "config.json").is_file():
                yield f"has no {component}/config.json"
            missing = _lost_shards(folder)
            if missing or not any(folder.glob("*.safetensors")):
                yield f"has no weights for {component} ({class_name}): {', '.join(missing) or 'no .safetensors file'}"


def _lost_shards(folder: Path) -> list[str]:
    shards = {name for file in folder.glob("*.safetensors.index.json") for name in _shard_names(file)}
    return sorted(name for name in shards if not (folder / name).is_file())


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
        folder = _folder_of(path, component)
        if _lost_shards(folder):
            continue  # half of the weights would make a smaller model of it; its settings tell all layers
        for file in sorted(folder.glob("*.safetensors")):
            for name, tensor in read_header(file).tensors.items():
                yield plain_name(f"{component}.{name}"), tensor.shape


def _read_json(path: Path, shown: str = "") -> dict[str, Any]:
    shown = shown or path.name
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise Broken(f"has no {shown}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Broken(f"has a {shown} that cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise Broken(f"has a {shown} that is not a table")
    return value
