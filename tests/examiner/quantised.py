"""Denoisers packed to eight and four bits, as tools save them: small weights beside their scales.

It does not know which model a table is of.
"""

from __future__ import annotations

import itertools
import math

from tests.examiner.tensors import Table, Tensors, typed


def scaled_fp8(table: Table) -> Tensors:
    """ComfyUI: a scale beside every matrix."""
    made: Tensors = {"scaled_fp8": ("F8_E4M3", (2,))}
    for name, shape in table.items():
        made[name] = ("F8_E4M3" if len(shape) == 2 else "F32", shape)
        if len(shape) == 2:
            made[name.removesuffix(".weight") + ".scale_weight"] = ("F32", (1,))
    return made


def nf4(table: Table, num_state: int, narrowest: int = 0) -> Tensors:
    """bitsandbytes: two weights a byte, in a column; matrices narrower than `narrowest` stay as they are."""
    made: Tensors = {}
    for name, shape in table.items():
        if len(shape) != 2 or not name.endswith(".weight") or min(shape) < narrowest:
            made[name] = ("BF16", shape)
            continue
        num = math.prod(shape)
        made |= {
            name: ("U8", (num // 2, 1)),
            name + ".absmax": ("U8", (num // 64,)),
            name + ".nested_absmax": ("F32", (max(1, num // 16384),)),
            name + ".quant_map": ("F32", (16,)),
            name + ".nested_quant_map": ("F32", (256,)),
            name + ".quant_state.bitsandbytes__nf4": ("U8", (num_state,)),
        }
    return made


def svdquant(table: Table) -> Tensors:
    """nunchaku: four-bit blocks with low-rank branches; no LoRA, though it says `lora_down`."""
    made = typed({name: shape for name, shape in table.items() if "blocks" not in name}, "", "BF16")
    for num, layer in itertools.product(range(19), ("qkv_proj", "out_proj", "mlp_fc1", "mlp_fc2", "qkv_proj_context")):
        base = f"transformer_blocks.{num}.{layer}."
        made |= {
            base + "qweight": ("U8", (9216, 1536)),
            base + "wscales": ("BF16", (48, 9216)),
            base + "lora_down": ("BF16", (3072, 32)),
            base + "lora_up": ("BF16", (9216, 32)),
            base + "smooth": ("BF16", (3072,)),
        }
    return made
