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
from runner.contract.folder_files import INDEXES, is_packed, missing_of, read_config, read_settings, shapes_of
from runner.contract.headers import Broken
from runner.contract.layers import Layout, layout_of, table
from runner.contract.shown import shown
from runner.errors import Fault

BUILTIN = "builtin:"
UNET_WIDTHS = {96: "shapes", 768: "sd1", 1024: "sd2", 1280: "sdxl", 2048: "sdxl"}  # of the text that a UNet reads
UNET_PIPELINES = (
    "StableDiffusion",
    "LatentConsistency",
    "Shapes",
)  # other pipelines have UNets of families of their own
ANY_PIPELINE = ("DiffusionPipeline", "ModularPipeline")  # classes that say nothing of the family
NO_LAYERS = re.compile(  # settings that change no layer, or only the first and the last
    r"^(in|out)_channels$|sample_size|pos_embed|rope|axes|theta|eps|qk_norm|act|dropout|bias|scal|shift|max_size|freq|type_emb"
    r"|norm_num_groups|upcast|resnet_|center_input|padding|mode"
)
ENDS = ("in_channels", "out_channels")  # change the first and the last layer
OF_A_UNET = re.compile(r"attention_head_dim|num_attention_heads")  # how a UNet's attention is cut, not how wide it is


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
    quantised: tuple[str, ...] = ()  # components in fewer bits, whose layers their settings tell

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
    try:
        return _read_folder(path)
    except OSError as error:
        where = shown(Path(str(error.filename)).name, 80)
        raise Broken(f"names a file that cannot be read: {error.strerror or error} ({where})") from error


def _read_folder(path: Path) -> ModelFolder:
    index = _read_index(path)
    components = {
        name: entry for name, entry in index.items() if isinstance(entry, list) and len(entry) >= 2 and entry[0]
    }
    if not components.keys() & {"unet", "transformer"}:
        raise Broken("has a model_index.json that names no unet and no transformer")
    denoiser = "unet" if "unet" in components else "transformer"
    settings = read_settings(path, denoiser)
    class_name = str(settings.get("_class_name") or components[denoiser][1])
    pipeline = str(index.get("_class_name"))
    model, exact = _published(class_name, settings)
    shapes = dict(shapes_of(path, components))
    quantised = tuple(name for name in sorted(components) if is_packed(path, name, shapes))
    told = {name: shape for name, shape in shapes.items() if name.partition(".")[0] not in quantised}
    return ModelFolder(
        path=path,
        pipeline=pipeline,
        family=_family(pipeline, class_name, settings, model, exact),
        model=model.model if model else None,
        components={name: str(entry[1]) for name, entry in sorted(components.items())},
        shapes=shapes,
        tokenizers={name: path / name for name in sorted(components) if name.startswith("tokenizer")},
        layouts=dict(_layouts(path, components, told, denoiser, model, class_name)),
        missing=tuple(missing_of(path, components)),
        guessed=not exact and not any(name.startswith(f"{denoiser}.") for name in told),
        quantised=quantised,
    )


def _read_index(path: Path) -> dict[str, Any]:
    """The pipeline's own list of components; a denoiser's folder by itself counts as a pipeline of one."""
    found = next((name for name in INDEXES if (path / name).is_file()), None)
    if found or not (path / "config.json").is_file():
        return read_config(path / (found or INDEXES[0]))
    class_name = str(read_config(path / "config.json").get("_class_name"))
    part = "unet" if class_name.startswith("UNet") else "transformer"
    if not table().of_class(class_name):
        raise Broken(f"has no model_index.json, and its config.json is that of a {class_name}")
    return {"_class_name": None, part: ["diffusers", class_name]}


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


def _family(
    pipeline: str, class_name: str, settings: Mapping[str, Any], model: Layout | None, exact: bool
) -> str | None:
    """The family of a model folder, from its pipeline class, its denoiser's class and settings."""
    if class_name == "UNet2DConditionModel":
        width = settings.get("cross_attention_dim")
        known = UNET_WIDTHS.get(width) if isinstance(width, int) else None
        if pipeline.startswith(UNET_PIPELINES) or pipeline == "None":
            return known
        strange = pipeline in ANY_PIPELINE or not known_to_diffusers(pipeline)  # Kolors has the UNet of SDXL
        return None if strange and model and exact else "other"
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
    if natives == "ldm" and read_settings(path, denoiser).get("layers_per_block", 2) != 2:
        natives = "none"  # the original code's numbers count blocks of two layers
    for component in components:
        own = {
            n[len(component) + 1 : -7]: s
            for n, s in shapes.items()
            if n.startswith(f"{component}.") and n.endswith(".weight")
        }
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
        elif component.startswith("text_encoder") and (known := _published_encoder(read_settings(path, component))):
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
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
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


def _read_memory(path: Path) -> dict[str, str]:
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def other_digest(where: str, wanted: str, found: str) -> Fault:
    """Weights that are not those which a card expects."""
    what = f"is {wanted[:12]}...; the files have {found[:12]}..."
    return Fault("weights_altered", where, what, "Get the files again, or mend the card if they are the right ones")
