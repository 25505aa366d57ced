"""What part of a model a file trains: picks of layers, by name and shape.

It does not know how a file spells a layer, nor what tensors stand for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

from tests.examiner.models import MODELS
from tests.examiner.tables import encoder_modules, modules
from tests.examiner.tensors import Shape

_MOD = re.compile(r"mod|norm|adaln|embed", re.I)
_ATTN = re.compile(r"attn|\battention\.")
_MLP = re.compile(r"\bff|mlp|feed_forward|ffn|linear[12]$|proj_out$")
_BLOCK = re.compile(r"(blocks?|layers|refiner|_block)\b.*\.")


def _blocks(name: str) -> bool:
    return bool(_BLOCK.search(name)) and not name.startswith(("distilled", "llm_adapter"))


def _attention(name: str) -> bool:
    return _blocks(name) and bool(_ATTN.search(name)) and not _MOD.search(name)


def _mlp(name: str) -> bool:
    return _blocks(name) and bool(_MLP.search(name)) and not _MOD.search(name)


def block_number(name: str) -> int:
    """The first number in a layer's name; -1 where there is none."""
    return int((re.search(r"\.(\d+)\.", name) or [0, -1])[1])


PICKS: dict[str, Callable[[str, Shape], bool]] = {
    "attn": lambda name, shape: _attention(name) and len(shape) == 2,
    "attn_mlp": lambda name, shape: (_attention(name) or _mlp(name)) and len(shape) == 2,
    "blocks": lambda name, shape: _blocks(name) and (len(shape) == 2 or name.endswith(("proj_in", "proj_out"))),
    "all": lambda name, shape: len(shape) == 2,
    "conv": lambda name, shape: True,
    "mlp": lambda name, shape: _mlp(name) and len(shape) == 2,
    "first5": lambda name, shape: (_attention(name) or _mlp(name)) and len(shape) == 2 and 0 <= block_number(name) < 5,
    "one": lambda name, shape: _attention(name) and len(shape) == 2 and block_number(name) == 1,
    "self": lambda name, shape: _attention(name) and ("attn1" in name or "self_attn" in name),
    "cross": lambda name, shape: _attention(name) and ("attn2" in name or "cross_attn" in name),
    "kv": lambda name, shape: _attention(name) and bool(re.search(r"[._](to_)?[kv](_proj)?$|kv$", name)),
    "qv": lambda name, shape: _attention(name) and bool(re.search(r"[._](to_)?[qv](_proj)?$", name)),
    "mod": lambda name, shape: _blocks(name) and bool(_MOD.search(name)) and len(shape) == 2,
    "ends": lambda name, shape: not _blocks(name) and len(shape) == 2,
    "double": lambda name, shape: _blocks(name) and "single" not in name and len(shape) == 2,
    "single": lambda name, shape: "single" in name and _blocks(name) and len(shape) == 2,
    "odd": lambda name, shape: (_attention(name) or _mlp(name)) and len(shape) == 2 and block_number(name) % 2 == 1,
    "last": lambda name, shape: (_attention(name) or _mlp(name)) and len(shape) == 2 and block_number(name) >= 18,
    "up0": lambda name, shape: (
        name.startswith(("up_blocks.0.attentions", "output_blocks.0.1", "output_blocks.1.1")) and len(shape) == 2
    ),
    "two": lambda name, shape: bool(re.search(r"single\w*\.(7|20)\.(proj_out|linear2)", name)),
    "adapter": lambda name, shape: name.startswith("llm_adapter") and len(shape) == 2,
}


class Slot(NamedTuple):
    """One adapted layer: part is `denoiser` or a text encoder's component name."""

    part: str
    module: str
    shape: Shape


@cache
def denoiser_slots(name: str, layout: str, pick: str) -> tuple[Slot, ...]:
    """The layers of the denoiser that a pick takes."""
    table = modules(name, layout)
    return tuple(Slot("denoiser", module, shape) for module, shape in table.items() if PICKS[pick](module, shape))


def encoder_slots(name: str, components: Iterable[str]) -> tuple[Slot, ...]:
    """The attention and MLP layers of text encoders, as trainers take them."""
    wanted = re.compile(r"attn|Attention|mlp|DenseReluDense")
    return tuple(
        Slot(component, module, shape)
        for component in components
        for module, shape in encoder_modules(MODELS[name].encoders[component]).items()
        if wanted.search(module) and "visual" not in module
    )
