"""What a PEFT layer does that is more than a plain LoRA: Kronecker products and DoRA.

A LoKr is applied factor by factor: written out it would be as large as the base. DoRA is a way from the base (scale 0)
to the trained weight (scale 1), as ComfyUI and LyCORIS mean it; with PEFT's own DoRA, scale 0 is not the base. How much
it multiplies each row or column by does not change while images are made, and is worked out once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.generate.adapter import Change, Factors, Kronecker, Magnitude, dense

Tensor = Any
TINY = 1e-12  # a row of zeros has no direction to scale


def gains(weights: Sequence[Tensor], changes: Sequence[Change]) -> list[Magnitude | None]:
    """By how much DoRA multiplies the rows, or columns, of the changed weights of one module; None without DoRA."""
    norms = [change.magnitude for change in changes]
    if norms[0] is None:
        return [None] * len(norms)
    of_inputs = norms[0].of_inputs
    squares = [_squares(weight, change, of_inputs) for weight, change in zip(weights, changes, strict=True)]
    if of_inputs:
        squares = [sum(squares)] * len(squares)  # a column runs through all layers that share the module's rows
    return [
        norm and norm._replace(values=norm.values.to(square) / square.sqrt().clamp_min(TINY))
        for norm, square in zip(norms, squares, strict=True)
    ]


def _squares(weight: Tensor, change: Change, of_inputs: bool) -> Tensor:
    """The squared norms of the rows, or columns, of one changed weight."""
    changed = weight.float() + change.scaling * dense(change.factors).to(weight.device)
    return (changed.transpose(0, 1) if of_inputs else changed).flatten(1).square().sum(1)


class Variant:
    """PEFT calls `forward` in the place of `result + up(down(x)) * scaling`."""

    def __init__(self, factors: Factors, gain: Magnitude | None, bias: Tensor | None) -> None:
        self._kronecker = isinstance(factors, Kronecker)
        self._pixels = (1,) * len(factors.shape[2:])  # of a convolution
        if isinstance(factors, Kronecker):
            self._columns = factors.one.shape[1]
            self._rows = slice(factors.first, factors.first + factors.num_rows)
        self._of_inputs = gain is not None and gain.of_inputs
        self._gain = None if gain is None else gain.values.reshape(-1, *self._pixels)
        self._bias = None if bias is None else bias.detach().reshape(-1, *self._pixels)

    def forward(self, layer: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The layer's output; `result` is the base's."""
        scaling = layer.scaling[active_adapter]
        down, up = layer.lora_A[active_adapter], layer.lora_B[active_adapter]
        if self._gain is None:
            return result + self._change(down, up, x) * scaling
        trained = layer.lora_alpha[active_adapter] / layer.r[active_adapter]
        self._gain = gain = self._gain.to(result)
        if self._of_inputs:
            base = self._without_bias(layer.base_layer((x * (gain - 1)).to(result.dtype)))
            change = base + self._change(down, up, x * gain.to(x)) * trained
        else:
            change = self._without_bias(result) * (gain - 1) + self._change(down, up, x) * gain * trained
        return result + change * (scaling / trained)

    def _without_bias(self, result: Tensor) -> Tensor:
        if self._bias is None:
            return result
        self._bias = self._bias.to(result)
        return result - self._bias

    def _change(self, down: Any, up: Any, x: Tensor) -> Tensor:
        """x times the change: of a Kronecker product, `down` is its second factor and `up` its first."""
        if not self._kronecker:
            return up(down(x))
        if not self._pixels:
            inner = down(x.unflatten(-1, (self._columns, -1)))
            return up(inner.transpose(-1, -2)).transpose(-1, -2).flatten(-2)[..., self._rows]
        inner = down(x.unflatten(1, (self._columns, -1)).flatten(0, 1)).unflatten(0, (-1, self._columns))
        return up(inner.movedim(1, -1)).movedim(-1, 1).flatten(1, 2)[:, self._rows]
