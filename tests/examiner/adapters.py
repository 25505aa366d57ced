"""Adapters: one layer of a model -> the tensors a file holds for it (LoRA, LoHa, LoKr, DoRA, OFT, GLoRA ...).

Shapes follow peft, LyCORIS and ai-toolkit. It does not know a model, nor which adapters a trainer offers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.examiner.spellings import Spelling
from tests.examiner.tensors import Shape, Tensors


def lora(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    """Two factors, named as the spelling says."""
    ones = (1,) * (len(shape) - 2)
    return {
        f"{base}.{spelling.down}": ("F16", (rank, shape[1], *shape[2:])),
        f"{base}.{spelling.up}": ("F16", (shape[0], rank, *ones)),
    }


def _loha(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    inner = math.prod(shape[1:])
    return {
        f"{base}.hada_w{n}_{side}": ("F16", (shape[0], rank) if side == "a" else (rank, inner))
        for n in (1, 2)
        for side in "ab"
    }


def factor(dim: int, wanted: int) -> tuple[int, int]:
    """LyCORIS `factorization`: the two factors of a width, the smaller first."""
    if wanted > 0 and dim % wanted == 0:
        return min(wanted, dim // wanted), max(wanted, dim // wanted)
    best = max(n for n in range(1, math.isqrt(dim) + 1) if dim % n == 0 and (wanted < 0 or n <= wanted))
    return best, dim // best


def _lokr(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    (out_l, out_k), (in_m, in_n) = factor(shape[0], 8), factor(shape[1], 8)
    inner = in_n * math.prod(shape[2:])
    return {
        f"{base}.lokr_w1": ("F16", (out_l, in_m)),
        f"{base}.lokr_w2_a": ("F16", (out_k, rank)),
        f"{base}.lokr_w2_b": ("F16", (rank, inner)),
    }


def _lokr_full(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    (out_l, out_k), (in_m, in_n) = factor(shape[0], 4), factor(shape[1], 4)
    return {
        f"{base}.lokr_w1": ("F16", (out_l, in_m)),
        f"{base}.lokr_w2": ("F16", (out_k, in_n, *shape[2:])),
    }


def _lokr_both(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    (out_l, out_k), (in_m, in_n) = factor(shape[0], -1), factor(shape[1], -1)
    return {
        f"{base}.lokr_w1_a": ("F16", (out_l, rank)),
        f"{base}.lokr_w1_b": ("F16", (rank, in_m)),
        f"{base}.lokr_w2_a": ("F16", (out_k, rank)),
        f"{base}.lokr_w2_b": ("F16", (rank, in_n * math.prod(shape[2:]))),
    }


def _dora(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    scale = (1, shape[1], *(1,) * (len(shape) - 2))
    return {**lora(base, shape, rank, spelling), f"{base}.dora_scale": ("F16", scale)}


def _dora_out(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    scale = (shape[0], *(1,) * (len(shape) - 1))
    return {**lora(base, shape, rank, spelling), f"{base}.dora_scale": ("F16", scale)}


def _dora_peft(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    return {**lora(base, shape, rank, spelling), f"{base}.lora_magnitude_vector": ("F16", (shape[0],))}


def _dora_magnitude(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    return {**lora(base, shape, rank, spelling), f"{base}.magnitude": ("F16", (shape[0],))}  # ai-toolkit


def _lokr_dora(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    return {**_lokr_full(base, shape, rank, spelling), f"{base}.dora_scale": ("F16", (shape[0],))}


def _tucker(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    if len(shape) < 4 or shape[2] == 1:
        return lora(base, shape, rank, spelling)
    return {
        f"{base}.lora_down.weight": ("F16", (rank, shape[1], 1, 1)),
        f"{base}.lora_mid.weight": ("F16", (rank, rank, *shape[2:])),
        f"{base}.lora_up.weight": ("F16", (shape[0], rank, 1, 1)),
    }


def _diff(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    return {f"{base}.diff": ("F16", shape), f"{base}.diff_b": ("F16", (shape[0],))}


def lora_diff_b(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    """With the bias's difference, as ComfyUI extracts it."""
    return {**lora(base, shape, rank, spelling), f"{base}.diff_b": ("F16", (shape[0],))}


def lora_bias(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    """With a bias of its own: peft's `lora_bias`."""
    return {**lora(base, shape, rank, spelling), f"{base}.lora_B.bias": ("F16", (shape[0],))}


def _set_weight(base: str, shape: Shape, rank: int, spelling: Spelling) -> Tensors:
    return {**lora(base, shape, rank, spelling), f"{base}.set_weight": ("F16", shape)}


def _oft(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    return {f"{base}.oft_blocks": ("F16", (rank, shape[0] // rank, shape[0] // rank))}


def _glora(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    return {
        f"{base}.a1.weight": ("F16", (rank, shape[1])),
        f"{base}.a2.weight": ("F16", (shape[1], rank)),
        f"{base}.b1.weight": ("F16", (rank, shape[1])),
        f"{base}.b2.weight": ("F16", (shape[0], rank)),
    }


def _ia3(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    return {f"{base}.weight": ("F16", (shape[0], 1)), f"{base}.on_input": ("U8", ())}


def _boft(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    return {f"{base}.oft_blocks": ("F16", (2, shape[0] // rank, rank, rank))}


def _oft_peft(base: str, shape: Shape, rank: int, _: Spelling) -> Tensors:
    return {f"{base}.oft_R.weight": ("F16", (shape[1] // rank, rank * (rank - 1) // 2))}


ADAPTERS: dict[str, Callable[[str, Shape, int, Spelling], Tensors]] = {
    "lora": lora, "loha": _loha, "lokr": _lokr, "lokr_full": _lokr_full, "lokr_both": _lokr_both, "dora": _dora,
    "dora_out": _dora_out, "dora_peft": _dora_peft, "dora_magnitude": _dora_magnitude, "lokr_dora": _lokr_dora,
    "tucker": _tucker, "diff": _diff, "lora_diff_b": lora_diff_b,
    "lora_bias": lora_bias, "set_weight": _set_weight, "oft": _oft, "glora": _glora, "ia3": _ia3, "boft": _boft,
    "oft_peft": _oft_peft,
}  # fmt: skip
RANKLESS = ("lokr_full", "lokr_dora", "diff", "oft", "ia3", "boft", "oft_peft")
SHAPELESS = ("oft", "ia3", "boft", "oft_peft")  # the tensors do not give the layer's whole shape
