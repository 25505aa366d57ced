"""The tensors of a LoRA file as exact changes of the base's layers: what the contract counted is what is loaded.

The contract has said from the headers which layers each module of a file goes to (`binding`). Here its factors are
read, and become for each layer a product (LoRA; LoHa, which is a LoRA of rank r * r) or a Kronecker product (LoKr; a
whole difference is one with the matrix [[1]]). Nothing is approximated; alpha / rank stays a number beside the factors,
as PEFT keeps it. It refuses factors that do not fit together. What it does not know: pipelines; that is `attach`.
Formulas: KohakuBlueleaf/LyCORIS (lycoris/modules: locon, loha, lokr, full), peft (LoRA, DoRA).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from runner.contract.adapters import Module
from runner.contract.binding import Binding, Bound
from runner.contract.families import LoraFile, effective
from runner.contract.layers import Place

Tensor = Any  # torch is imported by the functions that need it
Tensors = Mapping[str, Tensor]


class Product(NamedTuple):
    """A change `up @ down` of a layer's weight."""

    down: Tensor  # (rank, in, *kernel)
    up: Tensor  # (out, rank)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])


class Kronecker(NamedTuple):
    """A change `kron(one, two)`, of whose rows the layer has `num_rows` from `first` on."""

    one: Tensor  # (l, m)
    two: Tensor  # (k, n, *kernel)
    first: int
    num_rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.num_rows, self.one.shape[1] * self.two.shape[1], *self.two.shape[2:])


Factors = Product | Kronecker


class Magnitude(NamedTuple):
    """DoRA's norms of the changed weight: of each output's row, or of each input's column."""

    values: Tensor  # (out,) or (in,)
    of_inputs: bool


class Change(NamedTuple):
    """What one layer gets: `scaling` times the factors, and norms where the file has them."""

    layer: str  # component and layer, as the contract names it
    factors: Factors
    scaling: float
    magnitude: Magnitude | None


def read(lora: LoraFile, binding: Binding) -> Iterator[list[Change]]:
    """The changes of one module of the file after the other; only one module's tensors are held at a time.

    Raises ValueError, and what safetensors raises, when the file does not hold what its header promised.
    """
    from safetensors import safe_open

    for owner, module in lora.modules.items():
        if effective(module, lora.claims, owner) == 0:
            raise ValueError(f"{owner} has alpha 0: nothing of it would be applied")
    with safe_open(lora.path, framework="pt") as file:
        for owner, bound in binding.bound.items():
            module = lora.modules[owner]
            tensors = {role: file.get_tensor(name) for role, name in module.tensors.items() if role != "alpha"}
            scaling = effective(module, lora.claims, owner)
            yield changes(module, tensors, bound, scaling)


def changes(module: Module, tensors: Tensors, bound: Bound, scaling: float) -> list[Change]:
    """A module's factors, its rows shared out among the layers of its place."""
    place = bound.place
    whole = _reshaped(_factors(module, tensors), place)
    magnitude = _magnitude(tensors["magnitude"], whole.shape) if "magnitude" in tensors else None
    if place.swapped:
        whole, magnitude = _swapped(whole), _swapped_magnitude(magnitude)
    found, begin = [], 0
    for layer, num_rows in zip(bound.layers, place.rows, strict=True):
        end = begin + num_rows
        found.append(Change(layer, _rows(whole, begin, end), scaling, _rows_of(magnitude, begin, end)))
        begin = end
    return found


def dense(factors: Factors) -> Tensor:
    """The change as one float32 matrix, of the shape of the layer's weight."""
    if isinstance(factors, Product):
        return (factors.up.float() @ factors.down.float().flatten(1)).reshape(factors.shape)
    one, two = factors.one.float(), factors.two.float()
    (rows, columns), (inner_rows, inner_columns, *kernel) = one.shape, two.shape
    blocks = one.reshape(rows, 1, columns, 1, 1) * two.reshape(1, inner_rows, 1, inner_columns, -1)
    whole = blocks.reshape(rows * inner_rows, columns * inner_columns, *kernel)
    return whole[factors.first : factors.first + factors.num_rows]


# ---- algorithms


def _factors(module: Module, tensors: Tensors) -> Factors:
    make = {"lora": _lora, "loha": _loha, "lokr": _lokr, "diff": _diff}
    for role, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{module.tensors[role]} is of {tensor.dtype}, which holds no real numbers")
    return make[module.algorithm](tensors)


def _lora(tensors: Tensors) -> Factors:
    import torch

    down, up = tensors["down"], tensors["up"]
    if "mid" in tensors:  # Tucker: a convolution of the ranks between two of one pixel
        down = torch.einsum("ij...,jr->ir...", tensors["mid"].float(), down.float().flatten(1))
    if prod(up.shape[2:]) > 1:
        return _whole(torch.einsum("or...,ri->oi...", up.float(), down.float().flatten(1)))
    return Product(down, up.flatten(1))


def _loha(tensors: Tensors) -> Factors:
    """Two products multiplied value by value: a product of rank r * r, where that is less than the matrix itself."""
    import torch

    one_up, one_down, two_up, two_down = (tensors[role].float() for role in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if "t1" in tensors:  # Tucker: the rank comes first in both factors
        tucker = "ij...,jr,ip->pr..."
        one = torch.einsum(tucker, tensors["t1"].float(), one_down, one_up)
        return _whole(one * torch.einsum(tucker, tensors["t2"].float(), two_down, two_up))
    rank, (num_out, num_in) = one_up.shape[1], (one_up.shape[0], one_down.shape[1])
    if rank * rank >= min(num_out, num_in):
        return _whole((one_up @ one_down) * (two_up @ two_down))
    up = (one_up[:, :, None] * two_up[:, None, :]).flatten(1)
    down = (one_down[:, None, :] * two_down[None, :, :]).flatten(0, 1)
    return Product(down, up)


def _lokr(tensors: Tensors) -> Factors:
    """Both factors are small once they are multiplied out; their Kronecker product is never written down."""
    import torch

    one = tensors["w1"] if "w1" in tensors else tensors["w1_a"].float() @ tensors["w1_b"].float()
    if "w2" in tensors:
        two = tensors["w2"]
    elif "t2" in tensors:
        two = torch.einsum("ij...,jr,ip->pr...", *(tensors[role].float() for role in ("t2", "w2_b", "w2_a")))
    else:
        two = (tensors["w2_a"].float() @ tensors["w2_b"].float().flatten(1)).unflatten(1, tensors["w2_b"].shape[1:])
    return Kronecker(one, two, 0, one.shape[0] * two.shape[0])


def _diff(tensors: Tensors) -> Factors:
    return _whole(tensors["diff"])


def _whole(matrix: Tensor) -> Kronecker:
    return Kronecker(matrix.new_ones(1, 1), matrix, 0, matrix.shape[0])


# ---- shapes


def _reshaped(factors: Factors, place: Place) -> Factors:
    """With the kernel of the place: files write convolutions flattened, and those of one pixel as matrices."""
    if isinstance(factors, Product):
        factors = factors._replace(down=factors.down.reshape(-1, place.num_in, *place.kernel))
    else:
        factors = factors._replace(two=factors.two.reshape(factors.two.shape[0], -1, *place.kernel))
    if factors.shape[0] != place.num_out:
        raise ValueError(f"its factors make a matrix of {factors.shape[0]} outputs, the layers have {place.num_out}")
    return factors


def _rows(factors: Factors, begin: int, end: int) -> Factors:
    if isinstance(factors, Product):
        return factors._replace(up=factors.up[begin:end])
    size = factors.two.shape[0]
    top, bottom = begin // size, -(-end // size)
    first = begin - top * size
    if bottom - top == 1:  # all inside one block
        return Kronecker(factors.one[top:bottom], factors.two[first : first + end - begin], 0, end - begin)
    return Kronecker(factors.one[top:bottom], factors.two, first, end - begin)


def _swapped(factors: Factors) -> Factors:
    if isinstance(factors, Product):
        return factors._replace(up=_halves_swapped(factors.up))
    return _whole(_halves_swapped(dense(factors)))


def _halves_swapped(rows: Tensor) -> Tensor:
    import torch

    return torch.cat(rows.chunk(2)[::-1])


def _magnitude(values: Tensor, shape: tuple[int, ...]) -> Magnitude:
    """Norms by row as (out,) or (out, 1), norms by column as (1, in), each perhaps with a kernel of ones."""
    of_inputs = values.dim() > 1 and values.shape[0] == 1 and values.shape[1] != 1
    wanted = shape[1] if of_inputs else shape[0]
    if values.numel() != wanted:
        raise ValueError(f"it has {values.numel()} DoRA norms, the weight has {shape[0]} rows and {shape[1]} columns")
    return Magnitude(values.flatten().float(), of_inputs)


def _rows_of(magnitude: Magnitude | None, begin: int, end: int) -> Magnitude | None:
    if magnitude is None or magnitude.of_inputs:
        return magnitude
    return magnitude._replace(values=magnitude.values[begin:end])


def _swapped_magnitude(magnitude: Magnitude | None) -> Magnitude | None:
    if magnitude is None or magnitude.of_inputs:
        return magnitude
    return magnitude._replace(values=_halves_swapped(magnitude.values))
