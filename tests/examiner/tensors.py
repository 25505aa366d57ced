"""Tensors as the examiner sees them: a name, a type, a shape; never a number.

It does not know what any name means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

Shape = tuple[int, ...]
Table = dict[str, Shape]
Tensors = dict[str, tuple[str, Shape]]
Maker = Callable[[], Tensors]  # made when the file is written, not when it is planned

DTYPE_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8, "F8_E4M3": 1, "U8": 1, "I32": 4}
SHARD_BYTES = 10_000_000_000  # save_pretrained cuts here


def fold(table: Table, rename: Callable[[str], str]) -> Table:
    """Rename; what falls on one name was fused there: the output widths add up."""
    made: Table = {}
    for name, shape in table.items():
        new = rename(name)
        made[new] = (made[new][0] + shape[0], *shape[1:]) if new in made else shape
    return made


def typed(table: Mapping[str, Shape], prefix: str = "", dtype: str = "F16") -> Tensors:
    """A table in one type; scalars are F32."""
    return {prefix + name: (dtype if shape else "F32", shape) for name, shape in table.items()}


def numbered(template: str, count: int, shapes: Mapping[str, Shape]) -> Tensors:
    """The same few tensors under numbered names."""
    return {template.format(num) + name: ("F16", shape) for num in range(count) for name, shape in shapes.items()}


def merged(*parts: Maker) -> Maker:
    """One file of several parts."""
    return lambda: {name: tensor for part in parts for name, tensor in part().items()}


def shards(table: Table, dtype: str) -> list[Table]:
    """A table cut where save_pretrained cuts."""
    made: list[Table] = [{}]
    size = 0
    for name, shape in table.items():
        num = DTYPE_BYTES[dtype] * math.prod(shape)
        if size + num > SHARD_BYTES and made[-1]:
            made.append({})
            size = 0
        made[-1][name] = shape
        size += num
    return made
