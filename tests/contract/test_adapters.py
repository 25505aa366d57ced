"""Tensors paired into modules: every way to write a LoRA, every algorithm, factors that do not belong together."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import pytest

from runner.contract.adapters import Module, Part, find_part, pair
from runner.contract.headers import Tensor

Shapes = Mapping[str, tuple[int, ...]]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("unet.a.lora_A.weight", ("unet.a", "down", "peft")),
        ("unet.a.lora_B.weight", ("unet.a", "up", "peft")),
        ("unet.a.lora_B.bias", ("unet.a", "up_bias", "peft")),
        ("a.lora_A.default.weight", ("a", "down", "peft")),
        ("a.lora_B.my_adapter.weight", ("a", "up", "peft")),
        ("a.lora_A", ("a", "down", "peft")),
        ("a.lora_magnitude_vector", ("a", "magnitude", "peft")),
        ("a.lora_magnitude_vector.weight", ("a", "magnitude", "peft")),
        ("a.lora_magnitude_vector.default", ("a", "magnitude", "peft")),
        ("a.lora_embedding_A.default", ("a", "down", "peft")),
        ("lora_unet_a.lora_down.weight", ("lora_unet_a", "down", "kohya")),
        ("lora_unet_a.lora_up.weight", ("lora_unet_a", "up", "kohya")),
        ("lora_unet_a.lora_mid.weight", ("lora_unet_a", "mid", "kohya")),
        ("lora_unet_a.alpha", ("lora_unet_a", "alpha", "kohya")),
        ("lora_unet_a.dora_scale", ("lora_unet_a", "magnitude", "kohya")),
        ("lora_unet_a.hada_w1_a", ("lora_unet_a", "w1_a", "lycoris")),
        ("lora_unet_a.hada_t2", ("lora_unet_a", "t2", "lycoris")),
        ("lora_unet_a.lokr_w2", ("lora_unet_a", "w2", "lycoris")),
        ("lora_unet_a.diff", ("lora_unet_a", "diff", "kohya")),
        ("lora_unet_a.diff_b", ("lora_unet_a", "diff_b", "kohya")),
        ("unet.a.to_q.lora.down.weight", ("unet.a.to_q", "down", "lora.down")),
        ("unet.a.to_q.lora_linear_layer.up.weight", ("unet.a.to_q", "up", "lora_linear_layer")),
        ("unet.attn1.processor.to_q_lora.down.weight", ("unet.attn1.to_q", "down", "processor")),
        ("unet.attn1.processor.to_out_lora.up.weight", ("unet.attn1.to_out.0", "up", "processor")),
        ("te.self_attn.to_k_lora.down.weight", ("te.self_attn.k_proj", "down", "processor")),
        ("double_blocks.0.processor.qkv_lora1.down.weight", ("double_blocks.0.processor.qkv_lora1", "down", "xlabs")),
        ("single_blocks.0.processor.proj_lora.up.weight", ("single_blocks.0.processor.proj_lora", "up", "xlabs")),
    ],
)
def test_a_tensor_is_told_by_its_name(name: str, part: tuple[str, str, str]) -> None:
    assert find_part(name) == Part(*part)


@pytest.mark.parametrize(
    "name",
    ["unet.conv_in.weight", "a.bias", "lora_A.weight", "alpha", "", "weight", "a.down.weight", "a.x_lora.down.weight",
     "down_blocks.0.weight", "a.lora_A.one.two.weight", "a.lora_C.weight", "image_proj.proj.weight"],
)  # fmt: skip
def test_an_ordinary_weight_is_part_of_no_adapter(name: str) -> None:
    assert find_part(name) is None


def modules(shapes: Shapes) -> tuple[dict[str, Module], list[str]]:
    return pair({name: Tensor("F32", shape, 0, 4 * prod(shape)) for name, shape in shapes.items()})


def module(shapes: Shapes) -> Module:
    """The one module that tensors of a layer `a` make."""
    found, rest = modules({f"a.{name}": shape for name, shape in shapes.items()})
    assert (list(found), rest) == (["a"], [])
    return found["a"]


LOHA = {"hada_w1_a": (5, 2), "hada_w1_b": (2, 3), "hada_w2_a": (5, 2), "hada_w2_b": (2, 3)}
TUCKER = {"hada_w1_a": (2, 5), "hada_w1_b": (2, 3), "hada_w2_a": (2, 5), "hada_w2_b": (2, 3),
          "hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)}  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "algorithm", "num_in", "num_out", "kernel", "rank"),
    [
        ({"lora_A.weight": (2, 3), "lora_B.weight": (5, 2)}, "lora", 3, 5, (), 2),
        ({"lora_A.weight": (2, 3, 3, 3), "lora_B.weight": (5, 2, 1, 1)}, "lora", 3, 5, (3, 3), 2),
        ({"lora_down.weight": (2, 3, 1, 1), "lora_up.weight": (5, 2, 3, 3)}, "lora", 3, 5, (3, 3), 2),
        ({"lora_down.weight": (2, 3, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (5, 2, 1, 1)},
         "lora", 3, 5, (3, 3), 2),
        ({"lora_A.weight": (2, 3, 1, 2, 2), "lora_B.weight": (5, 2, 1, 1, 1)}, "lora", 3, 5, (1, 2, 2), 2),
        (LOHA, "loha", 3, 5, (), 2),
        (TUCKER, "loha", 3, 5, (3, 3), 2),
        ({"lokr_w1": (2, 3), "lokr_w2": (4, 5)}, "lokr", 15, 8, (), None),
        ({"lokr_w1": (2, 3), "lokr_w2": (4, 5, 3, 3)}, "lokr", 15, 8, (3, 3), None),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (4, 7), "lokr_w2_b": (7, 5)}, "lokr", 15, 8, (), 7),
        ({"lokr_w1_a": (2, 6), "lokr_w1_b": (6, 3), "lokr_w2": (4, 5)}, "lokr", 15, 8, (), 6),
        ({"lokr_w1": (2, 3), "lokr_w2_a": (7, 4), "lokr_w2_b": (7, 5), "lokr_t2": (7, 7, 3, 3)},
         "lokr", 15, 8, (3, 3), 7),
        ({"diff": (5, 3, 3, 3)}, "diff", 3, 5, (3, 3), None),
        ({"diff": (5,)}, "diff", None, None, (), None),
        ({"diff_b": (5,)}, "diff", None, None, (), None),
        ({"oft_blocks": (4, 8, 8)}, "oft", None, None, (), None),
        ({"a1.weight": (2, 3)}, "glora", None, None, (), None),
        ({"on_input": ()}, "ia3", None, None, (), None),
    ],
)  # fmt: skip
def test_factors_make_a_module_with_widths_and_a_rank(
    shapes: Shapes, algorithm: str, num_in: int | None, num_out: int | None, kernel: tuple[int, ...], rank: int | None
) -> None:
    made = module(shapes)
    assert made[:5] == (algorithm, num_in, num_out, kernel, rank)
    assert (made.fault, set(made.tensors.values())) == ("", {f"a.{name}" for name in shapes})


@pytest.mark.parametrize(
    ("shapes", "fault"),
    [
        ({"lora_A.weight": (2, 3)}, "has no up (lora_B) half"),
        ({"lora_up.weight": (5, 2)}, "has no down (lora_A) half"),
        ({"lora_A.weight": ()}, "has no up (lora_B) half"),
        ({"lora_A.weight": (2, 3), "lora_B.weight": (5, 4)}, "has a down half of rank 2 and an up half of rank 4"),
        ({"lora_A.weight": (3,), "lora_B.weight": (5,)}, "has halves that are no matrices"),
        ({"lora_A.weight": (0, 3), "lora_B.weight": (5, 0)}, "has an empty tensor"),
        ({"alpha": ()}, "has no weights beside its alpha"),
        ({"hada_w1_a": (5, 2), "hada_w1_b": (2, 3)}, "has not all four factors"),
        ({**LOHA, "hada_w2_b": (2, 4)}, "has factors of different widths"),
        ({**LOHA, "hada_w1_a": (5, 3)}, "has factors of different widths"),
        ({**TUCKER, "hada_t2": (2, 2, 1, 1)}, "has factors of different widths"),
        ({"lokr_w1": (2, 3)}, "has not both factors"),
        ({"lokr_w1": (), "lokr_w2": ()}, "has not both factors"),
        ({"lora_A.one.weight": (2, 3), "lora_B.one.weight": (5, 2), "lora_A.two.weight": (2, 3)},
         "has one factor twice (two adapters in one file?)"),
    ],
)  # fmt: skip
def test_factors_that_do_not_belong_together_are_a_fault(shapes: Shapes, fault: str) -> None:
    assert module(shapes).fault == fault


@pytest.mark.parametrize(
    ("scale", "sound"),
    [((5, 1), True), ((5,), True), ((1, 3), True), ((1, 3, 1, 1), True), ((), False), ((4,), False), ((1, 5), False)],
)
def test_norms_of_dora_are_of_the_outputs_or_of_the_inputs(scale: tuple[int, ...], sound: bool) -> None:
    made = module({"lora_A.weight": (2, 3), "lora_B.weight": (5, 2), "dora_scale": scale})
    assert (made.dora, made.fault) == (True, "" if sound else "has norms (DoRA) of other widths")


def test_what_belongs_to_no_module_is_left_over() -> None:
    found, rest = modules({"a.lora_A.weight": (2, 3), "norm.weight": (3,), "a.lora_B.weight": (5, 2), "b.alpha": ()})
    assert (list(found), rest) == (["a", "b"], ["norm.weight"])


def test_a_style_is_that_of_the_halves_and_not_of_the_alpha() -> None:
    assert module({"alpha": (), "lora_A.weight": (2, 3), "lora_B.weight": (5, 2)}).style == "peft"
