"""What a file adapts: its tensors paired into modules, whatever their naming.

Two halves of a LoRA, four factors of a LoHa, two to four of a LoKr, or a whole difference make one module with a
name, widths, a rank and an alpha. What it does not know: which model the module belongs to; that is `identity`.
Sources: peft (LoraModel), kohya-ss/sd-scripts (networks/lora.py), KohakuBlueleaf/LyCORIS (lycoris/modules),
diffusers (loaders/lora_conversion_utils.py), XLabs-AI/x-flux.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import NamedTuple

from runner.contract.headers import Tensor

ENDINGS = {  # last part of a tensor's name -> what it is
    "alpha": "alpha", "dora_scale": "magnitude", "magnitude": "magnitude", "lora_magnitude_vector": "magnitude",
    "lora_A": "down", "lora_B": "up", "lora_down": "down", "lora_up": "up", "lora_mid": "mid",
    "lora_embedding_A": "down", "lora_embedding_B": "up",
    "diff": "diff", "diff_b": "diff_b", "w_norm": "diff_norm", "b_norm": "diff_b", "set_weight": "diff_norm",
    "reshape_weight": "extra", "on_input": "ia3",
    "hada_w1_a": "w1_a", "hada_w1_b": "w1_b", "hada_w2_a": "w2_a", "hada_w2_b": "w2_b", "hada_t1": "t1",
    "hada_t2": "t2", "lokr_w1": "w1", "lokr_w1_a": "w1_a", "lokr_w1_b": "w1_b", "lokr_w2": "w2",
    "lokr_w2_a": "w2_a", "lokr_w2_b": "w2_b", "lokr_t2": "t2",
    "oft_blocks": "oft", "oft_diag": "oft", "oft_R": "oft", "oft_r": "oft", "boft_R": "oft", "boft_s": "oft",
    "a1": "glora", "a2": "glora", "b1": "glora", "b2": "glora",
}  # fmt: skip
HALVES = {  # those that stand before `.weight` too, as modules of their own
    name: ENDINGS[name]
    for name in (
        "lora_A", "lora_B", "lora_down", "lora_up", "lora_mid", "lora_embedding_A", "lora_embedding_B",
        "lora_magnitude_vector", "a1", "a2", "b1", "b2", "oft_R", "oft_r", "boft_R", "boft_s",
    )
}  # fmt: skip
PROCESSOR = re.compile(r"^(?P<owner>.*?)\.?processor\.(?P<layer>\w+?)_lora(?P<number>\d?)$")
PROCESSOR_LAYERS = {"to_out": "to_out.0"}
OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


class Part(NamedTuple):
    """One tensor of a module: whose it is, which factor, and how it was written."""

    owner: str
    role: str
    style: str  # peft | kohya | lora.down | lora_linear_layer | processor | xlabs | lycoris


class Module(NamedTuple):
    """One adapted layer: widths in and out (None where a factor does not tell), rank, and its tensors by role."""

    algorithm: str  # lora | loha | lokr | diff | oft | glora | incomplete
    num_in: int | None
    num_out: int | None
    kernel: tuple[int, ...]
    rank: int | None  # None: a whole matrix
    tensors: Mapping[str, str]  # role -> name in the file
    style: str = "peft"
    fault: str = ""  # why its factors do not belong together
    alpha: float | None = None

    @property
    def dora(self) -> bool:
        return "magnitude" in self.tensors


@lru_cache(maxsize=1 << 16)  # names repeat from file to file
def find_part(name: str) -> Part | None:
    """What a tensor is for an adapter; None when it is an ordinary weight."""
    owner, _, last = name.rpartition(".")
    if last in ENDINGS and owner:
        style = "lycoris" if last.startswith(("hada", "lokr", "oft")) else "kohya"
        if last in HALVES:
            style = _style(last)
        return Part(owner, ENDINGS[last], style)
    if last not in ("weight", "bias"):
        return _named_adapter(owner, last)
    owner, _, half = owner.rpartition(".")
    if half in HALVES and owner:
        role = HALVES[half]
        return Part(owner, role if last == "weight" else f"{role}_bias", _style(half))
    if half in ("down", "up"):
        return _old(owner, half)
    owner2, _, before = owner.rpartition(".")
    if before in HALVES and owner2:  # `lora_A.default.weight`
        return Part(owner2, HALVES[before] if last == "weight" else f"{HALVES[before]}_bias", "peft")
    return None


def _style(half: str) -> str:
    return "kohya" if half in ("lora_down", "lora_up", "lora_mid") else "peft"


def _named_adapter(owner: str, last: str) -> Part | None:
    """`lora_magnitude_vector.default`, `lora_embedding_A.default`: peft's parameters under an adapter's name."""
    before, _, half = owner.rpartition(".")
    return Part(before, HALVES[half], "peft") if half in HALVES and before else None


def _old(owner: str, half: str) -> Part | None:
    """Halves as diffusers wrote them before PEFT: `to_q.lora.down`, `processor.to_q_lora.down`."""
    before, _, last = owner.rpartition(".")
    if last in ("lora", "lora_linear_layer") and before:
        return Part(before, half, last if last == "lora_linear_layer" else "lora.down")
    if not last.endswith(("_lora", "_lora1", "_lora2")):
        return None
    found = PROCESSOR.match(owner)
    if found and found["layer"] in ("qkv", "proj"):
        return Part(owner, half, "xlabs")
    if found:
        layer = PROCESSOR_LAYERS.get(found["layer"], found["layer"])
        return Part(f"{found['owner']}.{layer}".lstrip("."), half, "processor")
    inner = OLD_TEXT.get(last.removesuffix("_lora"))  # text encoders: `self_attn.to_q_lora.down`
    return Part(f"{before}.{inner}", half, "processor") if inner else None


def pair(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Module], list[str]]:
    """Modules by the name of the layer they adapt, and the tensors that belong to none."""
    parts: dict[str, dict[str, str]] = {}
    styles: dict[str, str] = {}
    rest: list[str] = []
    doubled: set[str] = set()
    for name in tensors:
        part = find_part(name)
        if part is None:
            rest.append(name)
            continue
        roles = parts.setdefault(part.owner, {})
        doubled |= {part.owner} if part.role in roles and part.role in ("down", "up") else set()
        roles[part.role] = name
        if part.role not in ("alpha", "magnitude"):
            styles[part.owner] = part.style
    modules = {}
    for owner, roles in parts.items():
        shapes = {role: tensors[name].shape for role, name in roles.items()}
        module = _module(roles, shapes, styles.get(owner, "kohya"))
        modules[owner] = module._replace(fault=module.fault or _odd(shapes, owner in doubled))
    return modules, rest


def _odd(shapes: Mapping[str, tuple[int, ...]], doubled: bool) -> str:
    if doubled:
        return "has one factor twice (two adapters in one file?)"
    return "has an empty tensor" if any(0 in shape for shape in shapes.values()) else ""


def _module(roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], style: str) -> Module:
    if "down" in roles or "up" in roles:
        return _lora(roles, shapes, style)
    if "w1_a" in roles or "w1" in roles or "w2" in roles or "w2_a" in roles:
        return _loha(roles, shapes) if any(".hada_" in name for name in roles.values()) else _lokr(roles, shapes)
    if "diff" in roles and len(shapes["diff"]) >= 2:
        out, into, *kernel = shapes["diff"]
        return Module("diff", into, out, tuple(kernel), None, roles, style)
    if roles.keys() & {"diff", "diff_b", "diff_norm"}:
        return Module("diff", None, None, (), None, roles, style)
    kind = next((name for name in ("oft", "glora", "ia3") if name in roles), "incomplete")
    return Module(
        kind, None, None, (), None, roles, style, "" if kind != "incomplete" else "has no weights beside its alpha"
    )


def _lora(roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]], style: str) -> Module:
    if "down" not in roles or "up" not in roles:
        lost = "up (lora_B)" if "up" not in roles else "down (lora_A)"
        there = shapes["down" if "down" in roles else "up"]
        num_in = there[1] if "down" in roles and len(there) > 1 else None
        num_out = there[0] if "up" in roles and there else None
        return Module("lora", num_in, num_out, (), None, roles, style, f"has no {lost} half")
    down, up = shapes["down"], shapes["up"]
    if len(down) < 2 or len(up) < 2:
        return Module("lora", None, None, (), None, roles, style, "has halves that are no matrices")
    kernel = shapes["mid"][2:] if "mid" in shapes else down[2:]
    fault = "" if up[1] == down[0] else f"has a down half of rank {down[0]} and an up half of rank {up[1]}"
    if not fault and "magnitude" in roles and not _norms_fit(shapes["magnitude"], down[1], up[0]):
        fault = "has norms (DoRA) of other widths"
    if len(up) > 2 and up[2:] != (1,) * len(up[2:]) and down[2:] == (1,) * len(down[2:]):
        kernel = up[2:]
    return Module("lora", down[1], up[0], kernel, down[0], roles, style, fault)


def _norms_fit(shape: tuple[int, ...], num_in: int, num_out: int) -> bool:
    """DoRA's norms: one for each output, or (LyCORIS without `wd_on_output`) one for each input."""
    of_outputs = shape[:1] == (num_out,) and prod(shape) == num_out
    return of_outputs or (shape[:2] == (1, num_in) and prod(shape) == num_in)


def _loha(roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Module:
    factors = [shapes.get(role) for role in ("w1_a", "w1_b", "w2_a", "w2_b")]
    if any(shape is None or len(shape) != 2 for shape in factors):
        return Module("loha", None, None, (), None, roles, "lycoris", "has not all four factors")
    (a, b), (c, d), (e, f), (g, h) = (shape for shape in factors if shape is not None)
    if "t1" in shapes and "t2" in shapes:  # Tucker: the rank comes first in both factors
        fault = (
            "" if (a, c, b, d) == (e, g, f, h) and shapes["t1"] == shapes["t2"] else "has factors of different widths"
        )
        return Module("loha", d, b, shapes["t1"][2:], a, roles, "lycoris", fault)
    fault = "" if b == c and f == g and a == e and d == h else "has factors of different widths"
    return Module("loha", d, a, (), b, roles, "lycoris", fault)


def _lokr(roles: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Module:
    one, two = _kronecker(shapes, "w1"), _kronecker(shapes, "w2")
    if one is None or two is None:
        return Module("lokr", None, None, (), None, roles, "lycoris", "has not both factors")
    rank = two[2] or one[2]
    return Module("lokr", one[1] * two[1], one[0] * two[0], two[3], rank, roles, "lycoris")


def _kronecker(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, int, int | None, tuple[int, ...]] | None:
    """One factor of a LoKr: rows, columns, rank if it is a product of two, kernel."""
    if whole := shapes.get(name):
        return (whole[0], whole[1], None, whole[2:]) if len(whole) >= 2 else None
    a, b, t = shapes.get(f"{name}_a"), shapes.get(f"{name}_b"), shapes.get("t2")
    if not a or not b or len(a) != 2 or len(b) < 2:
        return None
    if t and name == "w2":
        return a[1], b[1], a[0], t[2:]
    return a[0], b[1], a[1], b[2:]
