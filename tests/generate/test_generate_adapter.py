"""A file's factors as changes of layers: LyCORIS's formulas written out, and diffusers' own converters as the judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runner.contract import binding
from runner.contract.adapters import pair
from runner.contract.binding import Bound
from runner.contract.families import LoraFile
from runner.contract.folders import ModelFolder
from runner.contract.headers import Tensor
from runner.contract.layers import Place
from runner.generate import adapter
from runner.generate.adapter import Change, Kronecker, Product, dense
from tests.contract import drawn
from tests.generate import loras

Shapes = Mapping[str, tuple[int, ...]]
Formula = Callable[[dict[str, Any]], Any]
OUT, IN, RANK = 24, 16, 2


def changes(tensors: dict[str, Any], place: Place, scaling: float = 1.0) -> list[Change]:
    """The changes of one module of the name `m`."""
    found, _ = pair({name: Tensor("F32", tuple(t.shape), 0, 0) for name, t in tensors.items()})
    module = found["m"]
    return adapter.changes(module, {r: tensors[n] for r, n in module.tensors.items()}, Bound("unet", place), scaling)


def at(kernel: tuple[int, ...] = (), rows: tuple[int, ...] = (OUT,), *, swapped: bool = False) -> Place:
    return Place(tuple(f"layer{n}" for n in range(len(rows))), rows, IN, kernel, swapped)


def drawn_tensors(shapes: Shapes) -> dict[str, Any]:
    return loras.numbers({f"m.{name}": ("F32", shape) for name, shape in shapes.items()})


# ---- algorithms: shapes of the factors, kernel of the layer, and LyCORIS's formula


def kron(one: Any, two: Any) -> Any:
    """lycoris/functional/lokr.py: make_kron"""
    import torch

    return torch.kron(one.reshape(*one.shape, *(1 for _ in two.shape[2:])), two.contiguous())


def tucker(core: Any, one: Any, two: Any) -> Any:
    """lycoris/functional/general.py: rebuild_tucker"""
    import torch

    return torch.einsum("i j ..., i p, j r -> p r ...", core, one, two)


LOHA = {"hada_w1_a": (OUT, RANK), "hada_w1_b": (RANK, IN), "hada_w2_a": (OUT, RANK), "hada_w2_b": (RANK, IN)}
FORMULAS: dict[str, tuple[Shapes, tuple[int, ...], Formula]] = {
    "lora": (
        {"lora_up.weight": (OUT, RANK), "lora_down.weight": (RANK, IN)}, (),
        lambda t: t["lora_up.weight"] @ t["lora_down.weight"],
    ),
    "lora-of-one-pixel": (
        {"lora_up.weight": (OUT, RANK, 1, 1), "lora_down.weight": (RANK, IN, 1, 1)}, (),
        lambda t: t["lora_up.weight"].flatten(1) @ t["lora_down.weight"].flatten(1),
    ),
    "locon": (
        {"lora_up.weight": (OUT, RANK, 1, 1), "lora_down.weight": (RANK, IN, 3, 3)}, (3, 3),
        lambda t: t["lora_up.weight"].flatten(1) @ t["lora_down.weight"].flatten(1),
    ),
    "locon-upside-down": (
        {"lora_up.weight": (OUT, RANK, 3, 3), "lora_down.weight": (RANK, IN, 1, 1)}, (3, 3),
        lambda t: (t["lora_down.weight"].flatten(1).T @ t["lora_up.weight"].flatten(2)).unflatten(-1, (3, 3)),
    ),
    "locon-tucker": (
        {"lora_up.weight": (OUT, RANK, 1, 1), "lora_down.weight": (RANK, IN, 1, 1),
         "lora_mid.weight": (RANK, RANK, 3, 3)}, (3, 3),
        lambda t: tucker(t["lora_mid.weight"], t["lora_up.weight"].flatten(1).T, t["lora_down.weight"].flatten(1)),
    ),
    "loha": (
        LOHA, (), lambda t: (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]),
    ),
    "loha-of-high-rank": (
        {n: tuple(5 if x == RANK else x for x in shape) for n, shape in LOHA.items()}, (),
        lambda t: (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]),
    ),
    "loha-convolution": (
        {**LOHA, "hada_w1_b": (RANK, IN * 9), "hada_w2_b": (RANK, IN * 9)}, (3, 3),
        lambda t: (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]),
    ),
    "loha-tucker": (
        {"hada_w1_a": (RANK, OUT), "hada_w1_b": (RANK, IN), "hada_w2_a": (RANK, OUT), "hada_w2_b": (RANK, IN),
         "hada_t1": (RANK, RANK, 3, 3), "hada_t2": (RANK, RANK, 3, 3)}, (3, 3),
        lambda t: tucker(t["hada_t1"], t["hada_w1_a"], t["hada_w1_b"])
        * tucker(t["hada_t2"], t["hada_w2_a"], t["hada_w2_b"]),
    ),
    "lokr": (
        {"lokr_w1": (4, 2), "lokr_w2": (6, 8)}, (), lambda t: kron(t["lokr_w1"], t["lokr_w2"]),
    ),
    "lokr-of-a-product": (
        {"lokr_w1": (4, 2), "lokr_w2_a": (6, RANK), "lokr_w2_b": (RANK, 8)}, (),
        lambda t: kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]),
    ),
    "lokr-of-two-products": (
        {"lokr_w1_a": (4, RANK), "lokr_w1_b": (RANK, 2), "lokr_w2_a": (6, RANK), "lokr_w2_b": (RANK, 8)}, (),
        lambda t: kron(t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w2_a"] @ t["lokr_w2_b"]),
    ),
    "lokr-convolution": (
        {"lokr_w1": (4, 2), "lokr_w2": (6, 8, 3, 3)}, (3, 3), lambda t: kron(t["lokr_w1"], t["lokr_w2"]),
    ),
    "lokr-convolution-of-a-product": (
        {"lokr_w1": (4, 2), "lokr_w2_a": (6, RANK), "lokr_w2_b": (RANK, 8 * 9)}, (3, 3),
        lambda t: kron(t["lokr_w1"], (t["lokr_w2_a"] @ t["lokr_w2_b"]).reshape(6, 8, 3, 3)),
    ),
    "lokr-tucker": (
        {"lokr_w1": (4, 2), "lokr_w2_a": (RANK, 6), "lokr_w2_b": (RANK, 8), "lokr_t2": (RANK, RANK, 3, 3)}, (3, 3),
        lambda t: kron(t["lokr_w1"], tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"])),
    ),
    "diff": ({"diff": (OUT, IN)}, (), lambda t: t["diff"]),
    "diff-convolution": ({"diff": (OUT, IN, 3, 3)}, (3, 3), lambda t: t["diff"]),
}  # fmt: skip
SPLITS = {"whole": (OUT,), "in-thirds": (8, 8, 8), "unequal": (5, 7, 12), "along-the-blocks": (6, 18)}


@pytest.mark.parametrize("rows", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("name", FORMULAS)
def test_every_algorithm_is_applied_as_lycoris_means_it(name: str, rows: tuple[int, ...]) -> None:
    import torch

    shapes, kernel, formula = FORMULAS[name]
    tensors = drawn_tensors(shapes)
    wanted = formula({n.removeprefix("m."): t for n, t in tensors.items()}).reshape(OUT, IN, *kernel)
    found = changes(tensors, at(kernel, rows), 0.5)
    assert [(change.layer, change.scaling) for change in found] == [(f"unet.layer{n}", 0.5) for n in range(len(rows))]
    for change, part in zip(found, wanted.split(rows), strict=True):
        assert change.factors.shape == tuple(part.shape)
        torch.testing.assert_close(dense(change.factors), part, **loras.CLOSE)


@pytest.mark.parametrize("name", ["lora", "loha", "lokr", "diff"])
def test_halves_that_diffusers_keeps_the_other_way_round_are_swapped(name: str) -> None:
    import torch

    shapes, kernel, formula = FORMULAS[name]
    tensors = drawn_tensors(shapes)
    shift, scale = formula({n.removeprefix("m."): t for n, t in tensors.items()}).chunk(2)
    (change,) = changes(tensors, at(kernel, swapped=True))
    torch.testing.assert_close(dense(change.factors), torch.cat([scale, shift]), **loras.CLOSE)


def test_no_factor_is_larger_than_it_must_be() -> None:
    """A LoKr of a large model is never written out; a LoHa is a LoRA as long as that is smaller than the matrix."""
    (lokr,) = changes(drawn_tensors({"lokr_w1": (16, 16), "lokr_w2": (192, 1)}), at(rows=(3072,)))
    (loha,) = changes(drawn_tensors(LOHA), at())
    (high,) = changes(drawn_tensors(FORMULAS["loha-of-high-rank"][0]), at())
    assert isinstance(lokr.factors, Kronecker) and lokr.factors.two.numel() == 192
    assert isinstance(loha.factors, Product) and loha.factors.down.shape == (RANK * RANK, IN)
    assert isinstance(high.factors, Kronecker) and high.factors.two.shape == (OUT, IN)


@pytest.mark.parametrize(
    ("norms", "of_inputs", "parts"),
    [((OUT,), False, (8, 16)), ((OUT, 1), False, (8, 16)), ((OUT, 1, 1, 1), False, (8, 16)), ((1, IN), True, (16, 16))],
)
def test_the_norms_of_dora_belong_to_rows_or_to_columns(
    norms: tuple[int, ...], of_inputs: bool, parts: tuple[int, ...]
) -> None:
    tensors = drawn_tensors({**FORMULAS["lora"][0], "dora_scale": norms})
    found = [change.magnitude for change in changes(tensors, at(rows=(8, 16)))]
    assert [norm and norm.of_inputs for norm in found] == [of_inputs] * 2
    assert [norm and len(norm.values) for norm in found] == [*parts]


@pytest.mark.parametrize(
    ("shapes", "place", "text"),
    [
        (
            {**FORMULAS["lora"][0], "dora_scale": (IN + 1,)},
            at(),
            "has 17 DoRA norms, the weight has 24 rows and 16 col",
        ),
        (FORMULAS["lokr"][0], at(rows=(OUT, OUT)), "its factors make a matrix of 24 outputs, the layers have 48"),
        (FORMULAS["lora"][0], at((3, 3)), "invalid for input of size"),
    ],
)
def test_factors_that_do_not_fit_are_refused(shapes: Shapes, place: Place, text: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=text):
        changes(drawn_tensors(shapes), place)


def test_whole_numbers_are_no_weights() -> None:
    import torch

    tensors = {n: t.to(torch.int8) for n, t in drawn_tensors(FORMULAS["lora"][0]).items()}
    with pytest.raises(ValueError, match=r"m\.lora_(down|up)\.weight is of torch\.int8, which holds no real numbers"):
        changes(tensors, at())


def test_eight_bit_floats_are_weights() -> None:
    import torch

    tensors = {n: t.to(torch.float8_e4m3fn) for n, t in drawn_tensors(FORMULAS["loha"][0]).items()}
    (change,) = changes(tensors, at())
    assert dense(change.factors).dtype == torch.float32


# ---- alpha


def scalings(lora: LoraFile, base: ModelFolder) -> dict[str, float]:
    found = adapter.read(lora, binding.bind(lora, base))
    return dict(sorted((change.layer, round(change.scaling, 6)) for changes in found for change in changes))


def two_layers(**settings: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """A rank-4 LoRA of a UNet layer and a text encoder layer, and diffusers' metadata for it."""
    layers = {
        "unet.conv_in": (320, 4, 3, 3),
        "unet.mid_block.attentions.0.proj_in": (1280, 1280, 1, 1),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": (3072, 768),
    }
    said = {name.replace("__", "."): value for name, value in settings.items()}
    return loras.numbers(drawn.lora(layers)), {"lora_adapter_metadata": json.dumps(said)}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, (1.0, 1.0, 1.0)),
        ({"unet__lora_alpha": 8, "text_encoder__lora_alpha": 8}, (2.0, 2.0, 2.0)),
        ({"unet__lora_alpha": 8, "text_encoder__lora_alpha": 2}, (0.5, 2.0, 2.0)),
        ({"unet__lora_alpha": 8}, (1.0, 2.0, 2.0)),
        ({"unet__lora_alpha": 8, "unet__use_rslora": True}, (1.0, 4.0, 4.0)),
        ({"unet__lora_alpha": 8, "unet__alpha_pattern": {"proj_in": 1}}, (1.0, 2.0, 0.25)),
        ({"unet__lora_alpha": 8, "unet__alpha_pattern": {"^unet\\.conv_in$": 2}}, (1.0, 0.5, 2.0)),
    ],
)
def test_alpha_in_the_metadata_is_applied_as_peft_means_it(
    tmp_path: Path, settings: dict[str, Any], wanted: tuple[float, ...]
) -> None:
    lora = loras.saved(tmp_path / "x.safetensors", *two_layers(**settings))
    found = scalings(lora, loras.published("Stable Diffusion 1.5"))
    assert tuple(found.values()) == wanted


def test_alpha_in_the_tensors_comes_first(tmp_path: Path) -> None:
    import torch

    tensors, metadata = two_layers(unet__lora_alpha=8)
    tensors["unet.conv_in.alpha"] = torch.tensor(1.0)
    lora = loras.saved(tmp_path / "x.safetensors", tensors, metadata)
    assert [*scalings(lora, loras.published("Stable Diffusion 1.5")).values()] == [1.0, 0.25, 2.0]


@pytest.mark.parametrize(
    ("name", "wanted"), [("lokr", 1.0), ("lokr-of-a-product", 0.25), ("loha", 0.25), ("diff", 1.0)]
)
def test_alpha_of_lycoris_counts_only_where_there_is_a_rank(tmp_path: Path, name: str, wanted: float) -> None:
    import torch

    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    shapes: dict[str, Shapes] = {
        "lokr": {"lokr_w1": (8, 8), "lokr_w2": (40, 40)},
        "lokr-of-a-product": {"lokr_w1": (8, 8), "lokr_w2_a": (40, 4), "lokr_w2_b": (4, 40)},
        "loha": {"hada_w1_a": (320, 4), "hada_w1_b": (4, 320), "hada_w2_a": (320, 4), "hada_w2_b": (4, 320)},
        "diff": {"diff": (320, 320)},
    }
    tensors = loras.numbers({f"{layer}.{part}": ("F32", shape) for part, shape in shapes[name].items()})
    lora = loras.saved(tmp_path / "x.safetensors", {**tensors, f"{layer}.alpha": torch.tensor(1.0)})
    assert [*scalings(lora, loras.published("Stable Diffusion 1.5")).values()] == [wanted]


def test_alpha_zero_is_refused(tmp_path: Path) -> None:
    import torch

    tensors, metadata = two_layers()
    lora = loras.saved(tmp_path / "x.safetensors", {**tensors, "unet.conv_in.alpha": torch.tensor(0.0)}, metadata)
    with pytest.raises(ValueError, match=r"unet\.conv_in has alpha 0: nothing of it would be applied"):
        scalings(lora, loras.published("Stable Diffusion 1.5"))


# ---- diffusers' own converters: the same change of every layer that they know


def answers(lora: LoraFile, base: ModelFolder) -> dict[str, Any]:
    """What each layer's change makes of one random input: two changes that agree on it are the same."""
    bound = binding.bind(lora, base)
    assert not (bound.unbound or bound.conflicts or bound.unloadable)
    found = [change for changes in adapter.read(lora, bound) for change in changes]
    return {change.layer: answer(change.factors) * change.scaling for change in found}


def answer(factors: adapter.Factors) -> Any:
    if isinstance(factors, Product):
        return factors.up @ (factors.down.flatten(1) @ probe(factors.shape))
    return kronecker_answer(factors.one, factors.two)[factors.first : factors.first + factors.num_rows]


def kronecker_answer(one: Any, two: Any) -> Any:
    """kron(one, two) times the random input, without writing the product down."""
    wide = probe((0, one.shape[1] * two.shape[1])).reshape(one.shape[1], two.shape[1])
    return (one @ wide @ two.T).flatten()


def probe(shape: tuple[int, ...]) -> Any:
    import torch

    return torch.randn(prod(shape[1:]), generator=torch.Generator().manual_seed(1))


def their_answers(state: dict[str, Any]) -> dict[str, Any]:
    """The same, of a state dict in PEFT's naming, alpha already in its weights."""
    found = {}
    for name, down in state.items():
        owner, half, _ = name.rpartition(".lora_A.weight")
        if half:
            found[owner] = answer(Product(down, state[f"{owner}.lora_B.weight"].flatten(1)))
    return found


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], wrong: str = "") -> None:
    """Every layer that they have is ours too, with the same change, but for the one that they get wrong."""
    import torch

    assert theirs.keys() <= ours.keys()
    assert len(theirs) > 5
    for name in theirs.keys() - {wrong}:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3)


KOHYA, PEFT = drawn.KOHYA, drawn.PEFT
FEW = r"^(?!.*\.([2-9]|\d\d)\.)"  # two blocks of every kind
BLOCKS = rf"{FEW}.*(blocks|layers|refiner)\."
NORM_OUT = "transformer.norm_out.linear"


@pytest.mark.parametrize(
    ("converter", "model", "original", "prefix", "halves", "pattern", "wrong"),
    [
        ("_convert_kohya_flux_lora_to_diffusers", "FLUX.1-dev", True, "lora_unet_", KOHYA, BLOCKS, ""),
        ("_convert_kohya_flux_lora_to_diffusers", "FLUX.1-dev", True, "diffusion_model.", KOHYA, BLOCKS, ""),
        ("_convert_fal_kontext_lora_to_diffusers", "FLUX.1-dev", True, "base_model.model.", PEFT,
         r"blocks\.|final_layer\.linear", ""),
        ("_convert_kohya_flux2_lora_to_diffusers", "FLUX.2-klein-4B", True, "lora_unet_", KOHYA, FEW, ""),
        # final_layer.adaLN_modulation: their converter of whole models swaps its halves, that of LoRA files does not
        ("_convert_non_diffusers_flux2_lora_to_diffusers", "FLUX.2-klein-4B", True, "diffusion_model.", PEFT,
         FEW, NORM_OUT),
        ("_convert_non_diffusers_z_image_lora_to_diffusers", "Z-Image", False, "diffusion_model.", PEFT, FEW, ""),
        ("_convert_non_diffusers_z_image_lora_to_diffusers", "Z-Image", False, "lora_unet_", KOHYA, FEW, ""),
        ("_convert_non_diffusers_z_image_lora_to_diffusers", "Z-Image", True, "lora_unet_", KOHYA, BLOCKS, ""),
        ("_convert_non_diffusers_qwen_lora_to_diffusers", "Qwen-Image", False, "diffusion_model.", KOHYA, FEW, ""),
        ("_convert_non_diffusers_qwen_lora_to_diffusers", "Qwen-Image", False, "lora_unet_", KOHYA, FEW, ""),
        ("_convert_non_diffusers_wan_lora_to_diffusers", "Wan2.1-T2V-14B", True, "diffusion_model.", PEFT,
         rf"{FEW}(?!patch)", ""),
        ("_convert_musubi_wan_lora_to_diffusers", "Wan2.1-T2V-14B", True, "lora_unet_", KOHYA, BLOCKS, ""),
        ("_convert_non_diffusers_lumina2_lora_to_diffusers", "Lumina-Image-2.0", True, "diffusion_model.", PEFT,
         BLOCKS, ""),
        ("_convert_non_diffusers_anima_lora_to_diffusers", "Anima", True, "diffusion_model.", PEFT,
         rf"{FEW}(?!llm)", ""),
    ],
)  # fmt: skip
def test_diffusers_converts_a_file_to_the_same_changes(
    tmp_path: Path,
    converter: str,
    model: str,
    original: bool,
    prefix: str,
    halves: drawn.Halves,
    pattern: str,
    wrong: str,
) -> None:
    from diffusers.loaders import lora_conversion_utils as theirs

    named = (drawn.originals if original else drawn.layers)(model, pattern)
    table = drawn.lora((drawn.flat if prefix == "lora_unet_" else drawn.prefixed)(prefix, named), halves, rank=1)
    tensors = loras.numbers(table)
    ours = answers(loras.saved(tmp_path / "x.safetensors", tensors), loras.published(model))
    assert_same(ours, their_answers(getattr(theirs, converter)(tensors)), wrong)


def test_diffusers_converts_the_processors_of_xlabs_to_the_same_changes(tmp_path: Path) -> None:
    from diffusers.loaders import lora_conversion_utils as theirs

    from runner.builtin.recipe.originals import XLABS
    from runner.contract.layers import find_places, split_name

    layout, halves = drawn.LAYOUTS["FLUX.1-dev"], drawn.Halves("down.weight", "up.weight")
    places = {n: find_places(layout, split_name(n))[0] for n in (p.replace("#", "17") for p in XLABS)}
    named = {name: (place.num_out, place.num_in) for name, place in places.items()}
    tensors = loras.numbers(drawn.lora(named, halves))
    ours = answers(loras.saved(tmp_path / "x.safetensors", tensors), loras.published("FLUX.1-dev"))
    found = their_answers(theirs._convert_xlabs_flux_lora_to_diffusers(tensors))
    assert found.keys() == ours.keys()
    assert_same(ours, found)


def test_diffusers_converts_kohyas_sdxl_to_the_same_changes(tmp_path: Path) -> None:
    """Original names of the UNet, both text encoders, an alpha for every layer."""
    from diffusers.loaders import lora_conversion_utils as theirs
    from diffusers.utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    texts = {"lora_te1_text_model_": "CLIP ViT-L", "lora_te2_text_model_": "OpenCLIP ViT-bigG"}
    named = drawn.flat("lora_unet_", drawn.originals("SDXL 1.0", r"^(?!.*_blocks\.[2-9])"))
    for prefix, encoder in texts.items():
        named |= drawn.flat(prefix, drawn.layers(encoder, r"layers\.[01]\."))
    tensors = loras.numbers(drawn.lora(named, KOHYA, rank=2))
    ours = answers(loras.saved(tmp_path / "x.safetensors", tensors), loras.published("SDXL 1.0"))
    mapped = theirs._maybe_map_sgm_blocks_to_diffusers(tensors, SimpleNamespace(layers_per_block=2))
    state, alphas = theirs._convert_non_diffusers_lora_to_diffusers(mapped)
    for name, alpha in alphas.items():
        stem = name.removesuffix(".alpha")
        state[stem if stem in state else f"{stem}.lora.down.weight"] *= alpha / 2
    text = {name: tensor for name, tensor in state.items() if name.startswith("text_encoder")}
    unet = convert_unet_state_dict_to_peft({name: state[name] for name in state.keys() - text.keys()})
    found = their_answers({**unet, **convert_state_dict_to_peft(convert_state_dict_to_diffusers(text))})
    found = {name.replace(".text_model.", "."): change for name, change in found.items()}
    assert found.keys() == ours.keys()
    assert_same(ours, found)


def test_diffusers_converts_a_lokr_to_the_same_changes(tmp_path: Path) -> None:
    """It fuses q, k and v of FLUX.2, because it cannot cut a Kronecker product; ours are cut by their rows."""
    import torch
    from diffusers.loaders import lora_conversion_utils as theirs

    shapes: drawn.Tensors = {}
    for n, (name, (num_out, num_in)) in enumerate(drawn.originals("FLUX.2-klein-4B", BLOCKS).items()):
        factors: Shapes = {"lokr_w1": (8, 16), "lokr_w2": (num_out // 8, num_in // 16)}
        if n % 2:
            factors = {"lokr_w1": (8, 16), "lokr_w2_a": (num_out // 8, 4), "lokr_w2_b": (4, num_in // 16), "alpha": ()}
        shapes |= {f"diffusion_model.{name}.{part}": ("F32", shape) for part, shape in factors.items()}
    tensors = loras.numbers(shapes)
    ours = answers(loras.saved(tmp_path / "x.safetensors", tensors), loras.published("FLUX.2-klein-4B"))
    state = theirs._convert_non_diffusers_flux2_lokr_to_diffusers(tensors)
    owners = {name.rpartition(".lokr_")[0] for name in state}
    for owner in owners:
        one, two = (state.get(f"{owner}.lokr_{w}") for w in ("w1", "w2"))
        two = state[f"{owner}.lokr_w2_a"] @ state[f"{owner}.lokr_w2_b"] if two is None else two
        block, _, last = owner.rpartition(".")
        fused = {"to_qkv": ("to_q", "to_k", "to_v"), "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}
        found = torch.cat([ours.pop(f"{block}.{layer}") for layer in fused.get(last, (last,))])
        torch.testing.assert_close(found, kronecker_answer(one, two), rtol=1e-3, atol=1e-3)
    assert not ours
