"""Changes in a pipeline: a layer does what its changed weight would do, at every scale, and no other is touched."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from runner.generate import attach
from runner.generate.adapter import Change, Kronecker, Magnitude, Product, dense
from tests.generate import loras

RANK = 2


def base(kind: str) -> Any:
    """A layer of 16 inputs and 24 outputs."""
    import torch

    kinds: dict[str, Callable[[], Any]] = {
        "linear": lambda: torch.nn.Linear(16, 24),
        "without-bias": lambda: torch.nn.Linear(16, 24, bias=False),
        "convolution": lambda: torch.nn.Conv2d(16, 24, 3, stride=2, padding=1),
        "dilated": lambda: torch.nn.Conv2d(16, 24, 3, padding=2, dilation=2, padding_mode="reflect"),
        "pixel": lambda: torch.nn.Conv2d(16, 24, 1),
        "over-time": lambda: torch.nn.Conv3d(16, 24, (1, 2, 2), stride=(1, 2, 2)),
        "one-dimension": lambda: torch.nn.Conv1d(16, 24, 3, padding=1),
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return kinds[kind]()


KINDS = ("linear", "without-bias", "convolution", "dilated", "pixel", "over-time", "one-dimension")


def factors(kind: str, algorithm: str) -> Any:
    """Factors of a change of such a layer."""
    import torch

    seed = torch.Generator().manual_seed(2)
    kernel = tuple(base(kind).weight.shape[2:])

    def random(*shape: int) -> Any:
        return torch.randn(shape, generator=seed) * 0.3

    made: dict[str, Callable[[], Any]] = {
        "product": lambda: Product(random(RANK, 16, *kernel), random(24, RANK)),
        "kronecker": lambda: Kronecker(random(4, 2), random(6, 8, *kernel), 0, 24),
        "cut-kronecker": lambda: Kronecker(random(5, 2), random(6, 8, *kernel), 4, 24),
        "whole": lambda: Kronecker(torch.ones(1, 1), random(24, 16, *kernel), 0, 24),
    }
    return made[algorithm]()


ALGORITHMS = ("product", "kronecker", "cut-kronecker", "whole")


def pipeline(**layers: Any) -> Any:
    """A pipeline whose UNet has these layers."""
    import torch

    return SimpleNamespace(components={"unet": torch.nn.ModuleDict(layers), "scheduler": object()})


def wrapped(layer: Any, change: Any, scaling: float = 0.5, magnitude: Magnitude | None = None) -> tuple[Any, Any]:
    """A pipeline and its one layer with a change in it."""
    pipe = pipeline(one=layer)
    attach.attach(pipe, ["unet.one"], [[Change("unet.one", change, scaling, magnitude)]])
    return pipe, pipe.components["unet"]["one"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_does_what_its_changed_weight_would_do(kind: str, algorithm: str) -> None:
    change = factors(kind, algorithm)
    pipe, layer = wrapped(base(kind), change)
    for scale in (1.0, -0.5, 2.0):
        attach.set_scale(pipe, scale)
        assert layer.scaling == {attach.ADAPTER: 0.5 * scale}
        loras.assert_adds(layer, dense(change) * 0.5 * scale)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_at_scale_zero_and_switched_off_a_layer_is_the_base_to_the_last_bit(kind: str, algorithm: str) -> None:
    pipe, layer = wrapped(base(kind), factors(kind, algorithm), magnitude=norms(kind, of_inputs=False))
    x = loras.inputs(layer.get_base_layer())
    wanted = loras.output(layer.get_base_layer(), x)
    assert not loras.output(layer, x).equal(wanted)
    attach.set_enabled(pipe, False)
    assert loras.output(layer, x).equal(wanted)
    attach.set_enabled(pipe, True)
    attach.set_scale(pipe, 0.0)
    assert loras.output(layer, x).equal(wanted)


# ---- DoRA


def norms(kind: str, *, of_inputs: bool) -> Magnitude:
    import torch

    seed = torch.Generator().manual_seed(4)
    return Magnitude(torch.rand(16 if of_inputs else 24, generator=seed) + 0.5, of_inputs)


def decomposed(weight: Any, magnitude: Magnitude) -> Any:
    """lycoris/modules: apply_weight_decompose, of a weight that is already changed."""
    by_inputs = weight.transpose(0, 1).flatten(1).norm(dim=1)
    by_outputs = weight.flatten(1).norm(dim=1)
    ones = [1] * (weight.dim() - 2)
    if magnitude.of_inputs:
        return weight * (magnitude.values / by_inputs).reshape(1, -1, *ones)
    return weight * (magnitude.values / by_outputs).reshape(-1, 1, *ones)


@pytest.mark.parametrize("of_inputs", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", KINDS)
def test_dora_is_a_way_from_the_base_to_the_trained_weight(kind: str, algorithm: str, of_inputs: bool) -> None:
    change, magnitude = factors(kind, algorithm), norms(kind, of_inputs=of_inputs)
    pipe, layer = wrapped(base(kind), change, magnitude=magnitude)
    weight = layer.get_base_layer().weight
    trained = decomposed(weight + 0.5 * dense(change), magnitude) - weight
    for scale in (1.0, 0.25):
        attach.set_scale(pipe, scale)
        loras.assert_adds(layer, trained * scale)


@pytest.mark.parametrize("of_inputs", [False, True], ids=["rows", "columns"])
def test_dora_of_a_fused_layer_is_cut_with_its_rows(of_inputs: bool) -> None:
    """A column's norm runs through all the layers."""
    import torch

    whole, change, magnitude = base("linear"), factors("linear", "product"), norms("linear", of_inputs=of_inputs)
    layers = {name: torch.nn.Linear(16, rows) for name, rows in (("q", 10), ("k", 14))}
    parts, pieces = whole.weight.split((10, 14)), change.up.split((10, 14))
    values = [magnitude] * 2 if of_inputs else [magnitude._replace(values=v) for v in magnitude.values.split((10, 14))]
    for layer, part in zip(layers.values(), parts, strict=True):
        layer.weight.data = part.detach().clone()
    changes = [
        Change(f"unet.{name}", Product(change.down, piece), 0.5, value)
        for name, piece, value in zip(layers, pieces, values, strict=True)
    ]
    pipe = pipeline(**layers)
    attach.attach(pipe, ["unet.q", "unet.k"], [changes])
    trained = decomposed(whole.weight + 0.5 * dense(change), magnitude) - whole.weight
    for name, part in zip(layers, trained.split((10, 14)), strict=True):
        loras.assert_adds(pipe.components["unet"][name], part)


def test_plain_dora_is_what_peft_makes_of_it() -> None:
    """At scale 1; at others PEFT's is no longer between the base and the trained weight."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    change, magnitude = factors("linear", "product"), norms("linear", of_inputs=False)
    _, ours = wrapped(base("linear"), change, magnitude=magnitude)
    model = torch.nn.ModuleDict({"one": base("linear")})
    config = LoraConfig(r=RANK, lora_alpha=RANK / 2, target_modules="one", use_dora=True)
    inject_adapter_in_model(config, model)
    theirs: Any = model["one"]
    theirs.lora_A["default"].weight.data = change.down
    theirs.lora_B["default"].weight.data = change.up
    theirs.lora_magnitude_vector["default"].weight.data = magnitude.values
    x = loras.inputs(base("linear"))
    torch.testing.assert_close(loras.output(ours, x), loras.output(theirs, x), **loras.CLOSE)


# ---- precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_factors_take_the_precision_of_their_layer(algorithm: str, dtype: str) -> None:
    import torch

    low, change = base("linear").to(getattr(torch, dtype)), factors("linear", algorithm)
    _, layer = wrapped(low, change, magnitude=norms("linear", of_inputs=True))
    assert {half[attach.ADAPTER].weight.dtype for half in (layer.lora_A, layer.lora_B)} == {low.weight.dtype}
    assert loras.output(layer, loras.inputs(low)).dtype == low.weight.dtype


def test_what_is_loaded_is_no_part_of_the_file() -> None:
    change = factors("linear", "product")
    _, layer = wrapped(base("linear"), change)
    change.down.zero_()
    change.up.zero_()
    assert layer.lora_A[attach.ADAPTER].weight.any() and layer.lora_B[attach.ADAPTER].weight.any()


def test_the_rank_and_alpha_of_the_file_are_those_of_the_layer() -> None:
    _, layer = wrapped(base("linear"), factors("linear", "product"), scaling=4.0)
    assert (layer.r, layer.lora_alpha, layer.scaling) == (
        {attach.ADAPTER: RANK},
        {attach.ADAPTER: 4.0 * RANK},
        {attach.ADAPTER: 4.0},
    )


# ---- which layers

LANGUAGE = ("model", "language_model")


def product(layer: str) -> list[Change]:
    return [Change(layer, factors("linear", "product"), 1.0, None)]


def test_a_name_is_never_taken_for_the_end_of_another() -> None:
    import torch

    inner = torch.nn.ModuleDict({"out": base("linear"), "xout": base("linear")})
    pipe = pipeline(out=base("linear"), block=inner, out_=base("linear"))
    attach.attach(pipe, ["unet.out"], [product("unet.out")])
    assert [*attach.layers(pipe)] == ["unet.out"]


def test_inner_names_of_text_encoders_need_not_be_known() -> None:
    import torch

    inner = torch.nn.ModuleDict({"encoder": torch.nn.ModuleDict({"fc1": base("linear")})})
    pipe = SimpleNamespace(components={"text_encoder": torch.nn.ModuleDict({"text_model": inner})})
    attach.attach(pipe, ["text_encoder.encoder.fc1"], [product("text_encoder.encoder.fc1")])
    assert [*attach.layers(pipe)] == ["text_encoder.encoder.fc1"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unet.nothing", "the pipeline has no unet.nothing"),
        ("vae.one", "the pipeline has no vae.one"),
        ("unet.words", "unet.words is a Embedding, which our loader does not adapt"),
        ("unet.grouped", "unet.grouped is a Conv2d of 2 groups, which our loader does not adapt"),
        ("unet.narrow", "unet.narrow is 24x8, the file's is 24x16"),
        ("text_encoder.layers.0", r"text_encoder\.layers\.0 may be model\.layers\.0 or language_model\.layers\.0"),
    ],
)
def test_a_layer_that_cannot_be_adapted_leaves_nothing_half_loaded(name: str, text: str) -> None:
    import torch

    pipe = pipeline(
        good=base("linear"), words=torch.nn.Embedding(24, 16), narrow=torch.nn.Linear(8, 24),
        grouped=torch.nn.Conv2d(16, 24, 1, groups=2),
    )  # fmt: skip
    twice = {part: torch.nn.ModuleDict({"layers": torch.nn.ModuleList([base("linear")])}) for part in LANGUAGE}
    pipe.components["text_encoder"] = torch.nn.ModuleDict(twice)
    before = {part: str(pipe.components[part]) for part in ("unet", "text_encoder")}
    with pytest.raises(ValueError, match=text):
        attach.attach(pipe, ["unet.good", name], [product("unet.good"), product(name)])
    assert {part: str(pipe.components[part]) for part in before} == before
    assert not hasattr(pipe.components["unet"], "peft_config")


def test_diffusers_and_we_switch_the_same_layers() -> None:
    """Its own words reach the components that it knows of; ours reach every text encoder."""
    import torch

    pipe, names = loras.pipeline("sd3"), [*loras.adaptable("sd3")]
    shapes: dict[str, list[Change]] = {"transformer": [], "text_encoder": [], "text_encoder_3": []}
    for name in names:
        part, shape = name.partition(".")[0], loras.adaptable("sd3")[name]
        if part in shapes and len(shape) == 2:
            half = Product(torch.ones(1, shape[1]), torch.ones(shape[0], 1))
            shapes[part].append(Change(name, half, 1.0, None))
    changes = [change for part in shapes.values() for change in part]
    before = str(pipe.components)
    attach.attach(pipe, [change.layer for change in changes], [[change] for change in changes])
    assert pipe.get_list_adapters() == {"transformer": [attach.ADAPTER], "text_encoder": [attach.ADAPTER]}
    pipe.set_adapters(attach.ADAPTER, 0.5)
    scales = {part: {attach.layers(pipe)[c.layer].scaling[attach.ADAPTER] for c in shapes[part]} for part in shapes}
    assert scales == {"transformer": {0.5}, "text_encoder": {0.5}, "text_encoder_3": {1.0}}
    attach.set_scale(pipe, 0.25)
    assert {layer.scaling[attach.ADAPTER] for layer in attach.layers(pipe).values()} == {0.25}
    pipe.disable_lora()
    assert {layer.disable_adapters for layer in attach.layers(pipe).values()} == {True, False}
    pipe.enable_lora()
    attach.set_enabled(pipe, False)
    assert [layer.active_adapters for layer in attach.layers(pipe).values()] == [[]] * len(changes)
    pipe.unload_lora_weights()
    assert {name.partition(".")[0] for name in attach.layers(pipe)} == {"text_encoder_3"}
    attach.detach(pipe)
    assert str(pipe.components) == before
