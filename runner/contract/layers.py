"""The table of layers: every module that a LoRA could adapt, with its widths, per published model.

Made from the real class definitions by `python -m runner.builtin.recipe.layers`; kept in `layers.json`. A name
is looked up by its *key*: block numbers become `#`, dots become `_`, so that `unet.mid_block...` and kohya's
`lora_unet_mid_block_...` meet. Names of the original repositories (`double_blocks.0.img_attn.qkv`) are in the
table as what they become in diffusers: one layer, or several whose rows they hold one after another.
What it does not know: files.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

TABLE = Path(__file__).with_name("layers.json")
BLOCK = re.compile(
    r"((?<!middle_)(?:blocks|refiner|attentions|resnets|block|(?<!in_)(?<!out_)(?<!emb_)layers))[._](\d+)(?=[._]|$)"
)
MAX_REMEMBERED = 1 << 16  # names repeat from file to file; a hostile file cannot fill the memory
Shape = tuple[int, ...]
Index = tuple[int, ...]


class Name(NamedTuple):
    """A layer's name with its block numbers taken out: `down_blocks_#_resnets_#_conv1` and (0, 1)."""

    key: str
    at: Index


def split_name(name: str) -> Name:
    """The key and the block numbers of a layer's name, dotted or flattened."""
    index: list[int] = []

    def take(found: re.Match[str]) -> str:
        index.append(int(found[2][:9]))
        return f"{found[1]}_#"

    key = BLOCK.sub(take, name) if "_" in name or "." in name else name
    return Name(key.replace(".", "_"), tuple(index))


def filled(pattern: str, index: Index) -> str:
    """A dotted pattern with its block numbers put back."""
    parts = pattern.split("#")
    return parts[0] + "".join(f"{number}{part}" for number, part in zip(index, parts[1:], strict=True))


class Native(NamedTuple):
    """What a name of an original repository becomes: layers whose rows follow one another, and how blocks count."""

    targets: tuple[str, ...]  # dotted diffusers patterns
    counting: str  # one of COUNTS
    swapped: bool  # halves of the rows (scale and shift) stand the other way round in diffusers


NOWHERE: Index = (-1,)
COUNTS: Mapping[
    str, Callable[[Index], Index]
] = {  # of the original Stable Diffusion code: one running number over all blocks
    "same": lambda index: index,
    "at_0": lambda index: (0, *index),
    "at_1": lambda index: (1, *index),
    "ldm_first": lambda index: () if index == (0,) else NOWHERE,
    "ldm_in": lambda index: (*divmod(index[0] - 1, 3), *index[1:]),
    "ldm_out": lambda index: (*divmod(index[0], 3), *index[1:]),
    "ldm_down": lambda index: (index[0] // 3 - 1,) if index[0] % 3 == 0 else NOWHERE,
    "ldm_up": lambda index: (index[0] // 3,) if index[0] % 3 == 2 else NOWHERE,
}


@dataclass(frozen=True, slots=True, eq=False)  # one object a model: compared by identity
class Layout:
    """The layers of one published model's denoiser or text encoder."""

    model: str
    family: str  # of a text encoder: empty
    part: str  # unet | transformer | text
    class_name: str
    config: Mapping[str, Any]  # what of its config.json decides the layers
    uses: Mapping[str, str]  # of a text encoder: family -> the component it is there
    natives: str  # name of its table of original names
    twin: bool  # layer for layer a far more common model, but for a few layers
    patterns: Mapping[str, str]  # key -> dotted pattern
    _groups: Mapping[str, Any] = field(repr=False)  # key -> [[shape, block numbers], ...] as in the file
    _known: dict[str, dict[Index, Shape]] = field(repr=False, default_factory=dict)
    found: dict[Name, tuple[Place, ...]] = field(repr=False, default_factory=dict)  # names asked for before

    def at(self, key: str) -> dict[Index, Shape]:
        """Block numbers -> shape of the weight, for one key; empty when the model has none of it."""
        if key not in self._known:
            groups = self._groups.get(key, ())
            self._known[key] = {index: tuple(shape) for shape, ranges in groups for index in _indexes(ranges)}
        return self._known[key]

    def expand(self) -> dict[str, Shape]:
        """Every layer by its full name."""
        return {filled(pattern, i): s for key, pattern in self.patterns.items() for i, s in self.at(key).items()}


@dataclass(frozen=True, slots=True)
class Table:
    """Every published model that we know, the original names, and which models know a key."""

    layouts: tuple[Layout, ...]
    natives: Mapping[str, Mapping[str, tuple[Native, ...]]]  # table -> key -> what it may become
    knowing: Mapping[str, tuple[Layout, ...]]  # key, original or not -> models
    defaults: Mapping[
        str, Mapping[str, Any]
    ]  # class -> settings that decide its layers, where a config leaves them out

    def of_class(self, class_name: str) -> list[Layout]:
        return [layout for layout in self.layouts if layout.class_name == class_name]


class Place(NamedTuple):
    """Where a file's module goes in a model: layers whose rows follow one another."""

    layers: tuple[str, ...]
    rows: tuple[int, ...]  # outputs of each layer
    num_in: int
    kernel: Shape
    swapped: bool

    @property
    def num_out(self) -> int:
        return sum(self.rows)


def find_places(layout: Layout, name: Name) -> tuple[Place, ...]:
    """Every place in a model that a module's name may mean; none when the model has no such layer."""
    if name not in layout.found:
        if len(layout.found) >= MAX_REMEMBERED:
            layout.found.clear()
        layout.found[name] = tuple(_places(layout, name))
    return layout.found[name]


def _places(layout: Layout, name: Name) -> Iterator[Place]:
    if shape := layout.at(name.key).get(name.at):
        yield Place((filled(layout.patterns[name.key], name.at),), shape[:1], shape[1], shape[2:], False)
    for native in table().natives[layout.natives].get(name.key, ()):
        index = COUNTS[native.counting](name.at)
        keys = [pattern.replace(".", "_") for pattern in native.targets]
        shapes = [layout.at(key).get(index) for key in keys]
        whole = [shape for shape in shapes if shape]
        if len(whole) == len(shapes):
            names = tuple(filled(pattern, index) for pattern in native.targets)
            rows = tuple(shape[0] for shape in whole)
            swapped = native.swapped and sum(rows) == 2 * whole[0][1]  # no more than the two halves stand there
            yield Place(names, rows, whole[0][1], whole[0][2:], swapped)


class Widths(NamedTuple):
    """A place of a published model by its widths alone."""

    layout: Layout
    num_out: int
    num_in: int
    kernel: Shape


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def published(name: Name) -> tuple[Widths, ...]:
    """Every place of that name in the published models."""
    found = []
    for layout in table().knowing.get(name.key, ()):
        found += [Widths(layout, p.num_out, p.num_in, p.kernel) for p in _places(layout, name)]
    return tuple(found)


def layout_of(shapes: Mapping[str, Shape], part: str, natives: str) -> Layout:
    """The layout of a model that lies here, from the shapes of its weights by full name (without `.weight`)."""
    at: dict[str, dict[Index, Shape]] = {}
    patterns: dict[str, str] = {}
    for full, shape in shapes.items():
        if len(shape) >= 2:
            name = split_name(full)
            at.setdefault(name.key, {})[name.at] = shape
            patterns[name.key] = BLOCK.sub(lambda found: found[0][: -len(found[2])] + "#", full)
    known: dict[str, list[Any]] = {key: [] for key in patterns}
    return Layout("", "", part, "", {}, {}, natives, False, patterns, known, at)


@functools.cache
def table() -> Table:
    """The table as it is shipped."""
    raw = json.loads(TABLE.read_bytes())
    natives = {
        name: {key: tuple(Native(tuple(t), c, s) for t, c, s in entries) for key, entries in keys.items()}
        for name, keys in raw["natives"].items()
    }
    layouts = tuple(_layout(entry) for entry in raw["layouts"])
    knowing: dict[str, list[Layout]] = {}
    for layout in layouts:
        for key in layout.patterns.keys() | natives[layout.natives].keys():
            knowing.setdefault(key, []).append(layout)
    return Table(layouts, natives, {key: tuple(models) for key, models in knowing.items()}, raw["defaults"])


def _layout(entry: Mapping[str, Any]) -> Layout:
    patterns = {pattern.replace(".", "_"): pattern for pattern in entry["layers"]}
    groups = {key: entry["layers"][pattern] for key, pattern in patterns.items()}
    rest = {
        name: entry[name] for name in ("model", "family", "part", "class_name", "config", "uses", "natives", "twin")
    }
    return Layout(**rest, patterns=patterns, _groups=groups)


def _indexes(ranges: list[Any]) -> Iterator[Index]:
    """`[]` is the one place of a name without blocks; `[0, 18]` is a range, `[[0, 0, 1], ...]` are block numbers."""
    if not ranges:
        yield ()
    elif isinstance(ranges[0], int):
        yield from ((number,) for number in range(ranges[0], ranges[1] + 1))
    else:
        yield from (tuple(index) for index in ranges)
