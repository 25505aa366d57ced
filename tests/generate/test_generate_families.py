"""A LoRA on the real pipeline of every family: loaded whole, proved, or ended before the first image."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import pytest

from runner import config, contract, execute, generate
from runner.builtin.recipe.originals import XLABS
from runner.config.tree import Generate, LoraCard, Request
from runner.contract import binding
from runner.contract.families import LoraFile
from runner.contract.layers import find_places, split_name
from runner.errors import Failed, Refused
from runner.generate import attach, proof
from runner.generate.pipeline import call_settings
from tests import tiny, worlds
from tests.contract import drawn
from tests.generate import loras

Tensors = dict[str, Any]
RANK = 3
SETTINGS = Generate(
    width=32, height=32, steps=4, guidance_scale=3.0, scheduler=None, images_per_prompt=1, batch_size=1,
    negative_prompt="",
)  # fmt: skip


def card(**values: Any) -> LoraCard:
    nothing: dict[str, Any] = dict.fromkeys(LoraCard.model_fields)
    return LoraCard(**{**nothing, "scale": 0.75, "scale_range": (-4.0, 4.0), **values})


@pytest.fixture
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test left in the pipeline of its family, or in FLUX.1's, is taken out."""
    yield
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    attach.detach(loras.pipeline(parameters.get("family", "flux1")))


def loaded(family: str, lora: LoraFile, pipe: Any = None) -> Any:
    """The tiny pipeline with a file in it."""
    pipe = pipe or loras.pipeline(family)
    bound = binding.bind(lora, loras.folder(family))
    assert bound.coverage == f"{len(lora.modules)}/{len(lora.modules)}", (bound.unbound, bound.conflicts)
    proof.bind(pipe, lora, bound)
    return pipe


def proved(family: str, lora: LoraFile, pipe: Any = None, **values: Any) -> dict[str, Any]:
    pipe = pipe or loras.pipeline(family)
    bound = binding.bind(lora, loras.folder(family))
    return proof.prove(pipe, lora, bound, card(**values), "a red dog", call_settings(type(pipe), SETTINGS, 1))


# ---- namings


def as_diffusers(family: str) -> tuple[Tensors, dict[str, Any]]:
    """A LoRA in diffusers' names, and what it adds to each layer."""
    tensors = loras.numbers(drawn.lora(loras.adaptable(family), rank=RANK))
    return tensors, {name: product(tensors, name, drawn.PEFT) for name in loras.adaptable(family)}


def as_kohya(family: str) -> tuple[Tensors, dict[str, Any]]:
    """The same in kohya's, with an alpha for each layer."""
    named = {loras.kohya(name): shape for name, shape in loras.adaptable(family).items()}
    tensors = loras.numbers(drawn.lora(named, drawn.KOHYA, rank=RANK))
    return tensors, {
        name: product(tensors, loras.kohya(name), drawn.KOHYA) * tensors[f"{loras.kohya(name)}.alpha"] / RANK
        for name in loras.adaptable(family)
    }


def as_original(family: str) -> tuple[Tensors, dict[str, Any]]:
    """The denoiser alone, in the names of its original repository: several layers are one there."""
    import torch

    base = loras.folder(family)
    shapes, named = base.layouts[base.denoiser].expand(), loras.original_names(base.layouts[base.denoiser])
    fused = {
        f"diffusion_model.{name}": (sum(shapes[layer][0] for layer in layers), *shapes[layers[0]][1:])
        for name, (layers, _) in named.items()
    }
    tensors = loras.numbers(drawn.lora(fused, rank=RANK))
    wanted: dict[str, Any] = {}
    for name, (layers, swapped) in named.items():
        whole = product(tensors, f"diffusion_model.{name}", drawn.PEFT)
        whole = torch.cat(whole.chunk(2)[::-1]) if swapped else whole
        parts = whole.split([shapes[layer][0] for layer in layers])
        wanted |= {f"{base.denoiser}.{layer}": part for layer, part in zip(layers, parts, strict=True)}
    return tensors, wanted


def product(tensors: Tensors, name: str, halves: drawn.Halves) -> Any:
    return tensors[f"{name}.{halves.up}"].flatten(1) @ tensors[f"{name}.{halves.down}"].flatten(1)


NAMINGS = {"diffusers": as_diffusers, "kohya": as_kohya, "original": as_original}
CASES = [
    (family, naming)
    for family in tiny.FAMILIES
    for naming in NAMINGS
    if naming != "original" or family not in ("sd1", "sdxl", "qwen-image")
]


@pytest.mark.parametrize(("family", "naming"), CASES)
@pytest.mark.usefixtures("clean")
def test_every_layer_of_every_family_gets_its_own_change(family: str, naming: str, tmp_path: Path) -> None:
    tensors, wanted = NAMINGS[naming](family)
    lora = loras.saved(tmp_path / "x.safetensors", tensors)
    layers = attach.layers(loaded(family, lora))
    assert layers.keys() == wanted.keys()
    assert len(wanted) > 15
    for name, layer in layers.items():
        loras.assert_adds(layer, wanted[name])
    facts = proved(family, lora)
    assert (facts["layers"], facts["scale"], facts["difference_at_zero"]) == (len(wanted), 0.75, 0.0)
    assert facts["difference"] > 1e-4


@pytest.mark.parametrize("family", ["sd3", "flux1", "flux2", "z-image"])
@pytest.mark.usefixtures("clean")
def test_every_layer_but_those_of_one_name_has_an_original_name(family: str) -> None:
    base = loras.folder(family)
    layout = base.layouts[base.denoiser]
    found = {layer for layers, _ in loras.original_names(layout).values() for layer in layers}
    keys = {split_name(layer).key for layer in layout.expand().keys() - found}
    assert keys <= {"context_embedder"} | {key for key in keys if family == "z-image"}


def as_processor(name: str) -> str:
    """The oldest names of all: `attn1.to_out.0` is `attn1.processor.to_out_lora`."""
    owner, _, layer = name.removesuffix(".0").rpartition(".")
    return f"{owner}.processor.{layer}_lora"


SPELLINGS: dict[str, tuple[Callable[[str], str], drawn.Halves]] = {
    "peft": (lambda name: f"base_model.model.{name}", drawn.PEFT),
    "peft-with-its-name": (lambda name: f"base_model.model.{name}", drawn.NAMED),
    "bare": (lambda name: name, drawn.NAMED),
    "comfy": (lambda name: f"diffusion_model.{name}", drawn.KOHYA),
    "old": (lambda name: f"unet.{name}", drawn.OLD),
    "processor": (as_processor, drawn.Halves("down.weight", "up.weight")),
    "processor-with-its-part": (lambda name: f"unet.{as_processor(name)}", drawn.Halves("down.weight", "up.weight")),
    "lycoris": (lambda name: f"lycoris_{name}".replace(".", "_"), drawn.KOHYA),
    "onetrainer": (lambda name: f"lora_transformer_{name}".replace(".", "_"), drawn.KOHYA),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", ["sd1", "flux1"])
@pytest.mark.usefixtures("clean")
def test_every_spelling_of_attention_layers_is_loaded(family: str, spelling: str, tmp_path: Path) -> None:
    spelled, halves = SPELLINGS[spelling]
    denoiser = loras.folder(family).denoiser
    named = {n.removeprefix(f"{denoiser}."): s for n, s in loras.adaptable(family).items() if n.startswith(denoiser)}
    named = {name: shape for name, shape in named.items() if re.search(r"attn\d?\.to_(q|out\.0)$", name)}
    tensors = loras.numbers(drawn.lora({spelled(n): s for n, s in named.items()}, halves, rank=RANK), alpha=RANK / 2)
    layers = attach.layers(loaded(family, loras.saved(tmp_path / "x.safetensors", tensors)))
    assert layers.keys() == {f"{denoiser}.{name}" for name in named}
    for name in named:
        strength = 0.5 if halves.alpha else 1.0
        loras.assert_adds(layers[f"{denoiser}.{name}"], product(tensors, spelled(name), halves) * strength)


@pytest.mark.usefixtures("clean")
def test_the_processors_of_xlabs_are_loaded(tmp_path: Path) -> None:
    names = [name.replace("#", number) for name in XLABS for number in "01"]
    layout = loras.folder("flux1").layouts["transformer"]
    places = {name: find_places(layout, split_name(name))[0] for name in names}
    table = {name: (place.num_out, place.num_in) for name, place in places.items()}
    lora = loras.saved(
        tmp_path / "x.safetensors", loras.numbers(drawn.lora(table, drawn.Halves("down.weight", "up.weight")))
    )
    assert len(attach.layers(loaded("flux1", lora))) == sum(len(place.layers) for place in places.values()) == 24
    assert proved("flux1", lora)["difference"] > 0


SOME = "attn.*to_q$|attention.*to_q$|attn2.*to_k$|proj_in$|conv1$|norm1.linear$|q_proj$|SelfAttention.q$"


KINDS = ("loha", "lokr", "diff", "dora")


def of_every_kind(family: str) -> Tensors:
    """A few layers of a pipeline, each adapted in another way than by a LoRA."""
    tables: drawn.Tensors = {}
    some = [(name, shape) for name, shape in loras.adaptable(family).items() if re.search(SOME, name)]
    for n, (name, (num_out, num_in, *kernel)) in enumerate(some):
        ones = tuple(1 for _ in kernel)
        factors: dict[str, dict[str, tuple[int, ...]]] = {
            "loha": {f"hada_w{w}_{half}": (num_out, 2) if half == "a" else (2, num_in * prod(kernel))
                     for w in (1, 2) for half in "ab"},
            "lokr": {"lokr_w1": (2, 2), "lokr_w2": (num_out // 2, num_in // 2, *kernel)},
            "diff": {"diff": (num_out, num_in, *kernel)},
            "dora": {"lora_up.weight": (num_out, 2, *ones), "lora_down.weight": (2, num_in, *kernel),
                     "dora_scale": (num_out, 1, *ones)},
        }  # fmt: skip
        for part, shape in factors[KINDS[n % len(KINDS)]].items():
            tables[f"{loras.kohya(name)}.{part}"] = ("F32", shape)
    return loras.numbers(tables)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.usefixtures("clean")
def test_every_kind_of_adapter_is_proved_on_every_family(family: str, tmp_path: Path) -> None:
    lora = loras.saved(tmp_path / "x.safetensors", of_every_kind(family))
    assert {module.algorithm for module in lora.modules.values()} == {"loha", "lokr", "diff", "lora"}
    loaded(family, lora)
    facts = proved(family, lora)
    assert facts["modules"] == len(lora.modules) > 3
    assert (facts["scale"], facts["difference_at_zero"]) == (0.75, 0.0)
    assert facts["difference"] > 0


def test_weights_that_are_fetched_layer_by_layer_are_proved_alike(tmp_path: Path) -> None:
    """As `runtime.offload=sequential` does it on a GPU: between two calls there is no weight in a layer."""
    import torch
    from accelerate import cpu_offload

    lora = loras.saved(tmp_path / "x.safetensors", of_every_kind("flux1"))
    wanted, pipe = proved("flux1", lora, loaded("flux1", lora, tiny.load("flux1"))), tiny.load("flux1")
    loaded("flux1", lora, pipe)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"), offload_buffers=True)
    assert {layer.lora_A[attach.ADAPTER].weight.device.type for layer in attach.layers(pipe).values()} == {"meta"}
    assert proved("flux1", lora, pipe) == wanted


# ---- what proof finds


@pytest.fixture
def attached(tmp_path: Path, clean: None) -> LoraFile:
    """A LoRA that is in the tiny FLUX.1 pipeline."""
    lora = loras.saved(tmp_path / "x.safetensors", as_kohya("flux1")[0])
    loaded("flux1", lora)
    return lora


def lose_a_layer(layers: dict[str, Any]) -> None:
    layers["transformer.x_embedder"].lora_A.pop(attach.ADAPTER)


def rescale_a_layer(layers: dict[str, Any]) -> None:
    layers["transformer.proj_out"].scaling[attach.ADAPTER] *= 1.01


def forget_alpha(layers: dict[str, Any]) -> None:
    for layer in layers.values():
        layer.lora_alpha[attach.ADAPTER] = layer.r[attach.ADAPTER]


def spoil_the_base(layers: dict[str, Any]) -> None:
    """A layer that adds something even where it is told to add nothing."""
    layer = layers["transformer.x_embedder"]
    layer.lora_variant[attach.ADAPTER] = type("Stubborn", (), {"forward": lambda *_, result, **more: result + 1.0})()


def fill_with_nan(layers: dict[str, Any]) -> None:
    layers["transformer.proj_out"].lora_B[attach.ADAPTER].weight.fill_(float("nan"))


def empty(layers: dict[str, Any]) -> None:
    for layer in layers.values():
        layer.lora_B[attach.ADAPTER].weight.zero_()


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lose_a_layer, r"adapts 76 layers and 1 were not loaded \(first transformer\.x_embedder\)"),
        (rescale_a_layer, r"has scale \d\.\d+ in transformer\.proj_out, configured is \d\.\d+"),
        (forget_alpha, r"has scale 0\.75 in text_encoder\S+, configured is 1\.25"),
        (spoil_the_base, r"does not switch off: at scale 0 a one-step picture differs from the base by \d"),
        (fill_with_nan, "makes a one-step picture with NaN or infinite values"),
        (empty, "changes nothing: a one-step picture with it equals the one without it"),
    ],
)
def test_what_is_wrong_after_loading_is_found_and_taken_out(
    attached: LoraFile, harm: Callable[[dict[str, Any]], None], text: str
) -> None:
    harm(attach.layers(loras.pipeline("flux1")))
    with pytest.raises(Failed, match=text) as failure:
        proved("flux1", attached)
    assert failure.value.faults[0].code == "lora_inert"
    assert attach.layers(loras.pipeline("flux1")) == {}


def test_a_layer_where_none_belongs_is_found(attached: LoraFile) -> None:
    pipe = loras.pipeline("flux1")
    bound = binding.bind(attached, loras.folder("flux1"))
    fewer = {owner: place for owner, place in bound.bound.items() if not owner.endswith("x_embedder")}
    wrong = binding.Binding(fewer, (), (), (), ())
    with pytest.raises(Failed, match=r"loaded 1 layers that it does not have \(first transformer\.x_embedder\)"):
        proof.prove(pipe, attached, wrong, card(), "a red dog", call_settings(type(pipe), SETTINGS, 1))


def test_the_strength_on_the_card_is_held_against_the_file(attached: LoraFile) -> None:
    with pytest.raises(Failed, match=r"is loaded with alpha/rank \S+ in lora_\w+; its card says 5$|its card says 5\."):
        proved("flux1", attached, rank=2, alpha=10)


@pytest.mark.parametrize("part", ["unbound", "conflicts", "unloadable"])
def test_what_was_accepted_without_a_place_is_not_left_out(part: str, tmp_path: Path) -> None:
    lora = loras.saved(tmp_path / "x.safetensors", as_diffusers("flux1")[0])
    whole: dict[str, Any] = {"bound": {}, "unbound": (), "conflicts": (), "unloadable": (), "unknown": ()}
    with pytest.raises(Failed, match=r"has \d modules and 1 cannot be loaded \(first this one\)"):
        proof.bind(loras.pipeline("flux1"), lora, binding.Binding(**{**whole, part: ("this one",)}))


def test_without_the_layers_of_the_base_nothing_is_loaded(tmp_path: Path) -> None:
    lora = loras.saved(tmp_path / "x.safetensors", as_diffusers("flux1")[0])
    with pytest.raises(Failed, match="cannot be loaded: the layers of the base were not here to place its modules"):
        proof.bind(loras.pipeline("flux1"), lora, None)


def test_a_file_that_changed_since_it_was_checked_does_not_load(tmp_path: Path) -> None:
    lora = loras.saved(tmp_path / "x.safetensors", as_diffusers("flux1")[0])
    bound = binding.bind(lora, loras.folder("flux1"))
    lora.path.write_bytes(b"something else")
    with pytest.raises(Failed, match=r"x\.safetensors does not load: "):
        proof.bind(loras.pipeline("flux1"), lora, bound)
    assert attach.layers(loras.pipeline("flux1")) == {}


# ---- the whole path, from a request to an image


@functools.cache
def request(family: str) -> Request:
    """One prompt and one step on the tiny pipeline of a family, with a LoRA that is not there yet."""
    base, name = loras.folder(family), family.removesuffix("-klein")
    overrides = (
        "+experiment=demo_base", "stages=[generate]", "critic=none", "mode=lora", "track=none",
        "runtime.num_threads=1", "runtime.channels_last=false", "base_model.id=tiny", f"base_model.family={name}",
        f"base_model.pipeline={base.pipeline}", f"base_model.path={base.path}", "lora.id=mine", "lora.base=tiny",
        f"lora.family={name}", "generate.width=32", "generate.height=32", "generate.steps=1",
        "prompt.required=[subject]", "prompt.items=[{id:dog,sections:{subject:a red dog}}]",
        "generate.images_per_prompt=1",
    )  # fmt: skip
    return config.parse_request(config.compose(overrides))


def attempt(place: Path, family: str, tensors: Tensors, told: str | None = None, **metadata: str) -> execute.Result:
    """A real run; `told` is the reason to go on where the contract cannot tell."""
    lora = loras.saved(place / "mine.safetensors", tensors, metadata)
    asked = request(family)
    mine = asked.lora.model_copy(update={"path": str(lora.path), "accept_unknown": told})
    agreed = contract.check(asked.model_copy(update={"lora": mine, "outputs": str(place / "outputs")}))
    return worlds.run(execute.accept(agreed, contract.pin(agreed)), generate=generate.work)


TOLD = "a tiny model has widths of its own"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_request_of_every_family_becomes_an_image(family: str, tmp_path: Path) -> None:
    naming = as_original if (family, "original") in CASES else as_kohya
    tensors, wanted = naming(family)
    result = attempt(tmp_path, family, tensors, TOLD)
    assert (result.status, result.failure, len(result.made)) == ("complete", None, 1)
    (noted,) = worlds.events(result.folder, "proved")
    assert (noted["layers"], noted["difference_at_zero"]) == (len(wanted), 0.0)
    assert noted["difference"] > 1e-4


FOREIGN = {"z-image": "flux1", "flux2": "sd3", "flux2-klein": "sd3", "flux1": "sdxl", "sd3": "z-image"}


def foreign(family: str) -> Tensors:
    """Another family's layers."""
    return as_diffusers(FOREIGN.get(family, "flux1"))[0]


def half_matching(family: str) -> Tensors:
    tensors = as_diffusers(family)[0]
    return {(n.replace(".lora", "x.lora") if k % 4 < 2 else n): t for k, (n, t) in enumerate(tensors.items())}


def mixed(family: str) -> Tensors:
    return {**foreign(family), **as_diffusers(family)[0]}


def untrained(family: str) -> Tensors:
    return {n: t * 0 if n.endswith("lora_B.weight") else t for n, t in as_diffusers(family)[0].items()}


def poisoned(family: str) -> Tensors:
    tensors = as_diffusers(family)[0]
    tensors[sorted(tensors)[7]][0, 0] = float("nan")
    return tensors


def without_halves(family: str) -> Tensors:
    tensors = as_diffusers(family)[0]
    return {name: tensors[name] for name in sorted(tensors)[3:]}


def of_other_widths(family: str) -> Tensors:
    import torch

    tensors = as_diffusers(family)[0]
    return {n: torch.cat([t, t], 1) if n.endswith("lora_A.weight") else t for n, t in tensors.items()}


HARMS = (foreign, half_matching, mixed, untrained, poisoned, without_halves, of_other_widths)


def assert_ended_without_an_image(place: Path, run: Callable[[], execute.Result]) -> None:
    try:
        result = run()
    except Refused:
        assert not (place / "outputs").exists()
        return
    assert (result.status, dict(result.made)) == ("failed", {})
    assert result.failure is not None
    assert result.failure.code in ("lora_inert", "load")


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_harmful_file_ends_before_the_first_image(
    family: str, harm: Callable[[str], Tensors], tmp_path: Path
) -> None:
    """Also where a person has said that he knows better."""
    assert_ended_without_an_image(tmp_path, lambda: attempt(tmp_path, family, harm(family), TOLD))


def of_many_ranks(family: str) -> tuple[Tensors, dict[str, str]]:
    layers = [*loras.adaptable(family).items()]
    few, many = dict(layers[::2]), dict(layers[1::2])
    return {**loras.numbers(drawn.lora(few, rank=2)), **loras.numbers(drawn.lora(many, rank=4))}, {}


def with_alpha_aside(family: str) -> tuple[Tensors, dict[str, str]]:
    return as_diffusers(family)[0], {"ss_network_alpha": "1.0", "ss_network_dim": str(RANK)}


@pytest.mark.parametrize("harm", [of_many_ranks, with_alpha_aside], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if name not in ("sd1", "sdxl")])
def test_a_file_of_unknown_strength_is_refused(
    family: str, harm: Callable[[str], tuple[Tensors, dict[str, str]]], tmp_path: Path
) -> None:
    tensors, metadata = harm(family)
    with pytest.raises(Refused, match=r"and no alpha: how strong|alpha 1 stands only in the metadata"):
        attempt(tmp_path, family, tensors, **metadata)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_file_that_lost_a_part_is_refused_by_its_own_words(family: str, tmp_path: Path) -> None:
    part = loras.folder(family).denoiser
    tensors = {name: tensor for name, tensor in as_diffusers(family)[0].items() if name.startswith(part)}
    said = json.dumps({f"{part}.r": RANK, "text_encoder.r": RANK})
    with pytest.raises(Refused, match="says in its metadata that text_encoder was trained, and has no tensor"):
        attempt(tmp_path, family, tensors, TOLD, lora_adapter_metadata=said)
