"""The table of layers: names without their numbers, original names, and diffusers' own converters as the judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from runner.contract import layers
from runner.contract.layers import Place, filled, find_places, layout_of, published, split_name
from runner.contract.naming import plain_name
from tests.contract import drawn

OURS = [name for name, layout in drawn.LAYOUTS.items() if layout.family not in ("other", "shapes")]
FUSED = [name for name in OURS if drawn.LAYOUTS[name].natives != "none"]
SAME_NAMES = {  # layers that have one name, here and in the original repository
    "qwen-image": "",
    "z-image": r"feed_forward|adaLN_modulation\.0$|^t_embedder|^cap_embedder",
    "wan": "patch_embedding$",
    "anima": r"^llm_adapter\.",
    "lumina2": "^x_embedder$",
    "hunyuanvideo": "^clean_x_embedder|^image_projection",
    "chroma": r"^distilled_guidance_layer\.(in|out)_proj$",
    "sd3": "^context_embedder$",
}


# ---- names


@pytest.mark.parametrize(
    ("name", "key", "numbers"),
    [
        ("down_blocks.1.resnets.0.conv1", "down_blocks_#_resnets_#_conv1", (1, 0)),
        ("down_blocks_1_resnets_0_conv1", "down_blocks_#_resnets_#_conv1", (1, 0)),
        ("transformer_blocks.12.attn.to_out.0", "transformer_blocks_#_attn_to_out_0", (12,)),
        ("double_blocks_7_img_mlp_0", "double_blocks_#_img_mlp_0", (7,)),
        ("layers.3.attention.qkv", "layers_#_attention_qkv", (3,)),
        ("noise_refiner.1.feed_forward.w1", "noise_refiner_#_feed_forward_w1", (1,)),
        ("middle_block.1.transformer_blocks.4.ff.net.2", "middle_block_1_transformer_blocks_#_ff_net_2", (4,)),
        ("input_blocks.4.0.in_layers.2", "input_blocks_#_0_in_layers_2", (4,)),
        ("output_blocks_5_0_emb_layers_1", "output_blocks_#_0_emb_layers_1", (5,)),
        ("encoder.block.3.layer.0.SelfAttention.q", "encoder_block_#_layer_0_SelfAttention_q", (3,)),
        ("x_embedder", "x_embedder", ()),
        ("blocks.2x", "blocks_2x", ()),
        ("", "", ()),
        ("blocks.99999999999999999999.q", "blocks_#_q", (999999999,)),
    ],
)
def test_a_name_is_its_key_and_its_block_numbers(name: str, key: str, numbers: tuple[int, ...]) -> None:
    assert split_name(name) == (key, numbers)


def test_a_pattern_is_filled_with_as_many_numbers_as_it_has_places() -> None:
    assert filled("a.#.b.#", (1, 12)) == "a.1.b.12"
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        filled("a.#", (1, 2))


@pytest.mark.parametrize("model", [*drawn.LAYOUTS, *drawn.ENCODERS])
def test_every_layer_is_found_by_its_dotted_and_by_its_flattened_name(model: str) -> None:
    layout = drawn.LAYOUTS.get(model) or drawn.ENCODERS[model]
    for name, shape in layout.expand().items():
        for written in (name, name.replace(".", "_")):
            found = [place for place in find_places(layout, split_name(written)) if place.layers == (name,)]
            assert found[0] == Place((name,), shape[:1], shape[1], shape[2:], False), written


# ---- the table


def test_the_table_knows_every_family_and_a_model_of_it() -> None:
    families = {layout.family for layout in drawn.LAYOUTS.values()}
    assert families == {
        "sd1", "sd2", "sdxl", "shapes", "sd3", "flux1", "flux2", "chroma", "qwen-image", "z-image", "wan", "anima",
        "lumina2", "hunyuanvideo", "auraflow", "other",
    }  # fmt: skip
    assert {family for layout in drawn.ENCODERS.values() for family in layout.uses} < families


@pytest.mark.parametrize(
    ("model", "layer", "shape"),
    [
        ("Stable Diffusion 1.5", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", (320, 768)),
        ("SDXL 1.0", "mid_block.attentions.0.transformer_blocks.9.attn2.to_k", (1280, 2048)),
        ("SDXL 1.0", "conv_in", (320, 4, 3, 3)),
        ("FLUX.1-dev", "transformer_blocks.18.ff.net.0.proj", (12288, 3072)),
        ("FLUX.2-dev", "single_transformer_blocks.47.attn.to_qkv_mlp_proj", (55296, 6144)),
        ("Stable Diffusion 3.5 large", "transformer_blocks.37.norm1_context.linear", (4864, 2432)),
        ("Wan2.1-T2V-14B", "blocks.39.ffn.net.2", (5120, 13824)),
        ("Lumina-Image-2.0", "layers.25.attn.to_k", (768, 2304)),
        ("T5 v1.1 XXL", "encoder.block.23.layer.1.DenseReluDense.wo", (4096, 10240)),
    ],
)
def test_a_layer_of_a_published_model_has_its_widths(model: str, layer: str, shape: tuple[int, ...]) -> None:
    assert drawn.layers(model)[layer] == shape


def test_the_places_of_a_name_are_those_of_every_model_that_has_it() -> None:
    found = published(split_name("single_blocks.37.linear1"))
    assert {(place.layout.model, place.num_out, place.num_in) for place in found} >= {
        ("FLUX.1-dev", 21504, 3072),
        ("Chroma1-HD", 21504, 3072),
        ("FLUX.2-dev", 55296, 6144),
    }
    assert published(split_name("no.such.layer")) == ()


def test_a_layout_from_weights_is_the_one_of_the_table() -> None:
    layout = drawn.LAYOUTS["Z-Image"]
    read = layout_of({**layout.expand(), "norm": (3,)}, "transformer", layout.natives)
    assert read.expand() == layout.expand()
    name = split_name("layers.29.attention.qkv")
    assert find_places(read, name) == find_places(layout, name) != ()


@pytest.mark.slow
def test_the_shipped_table_is_what_its_recipe_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.builtin.recipe import layers as recipe

    monkeypatch.setattr(recipe, "TABLE", tmp_path / "layers.json")
    recipe.main()
    assert (tmp_path / "layers.json").read_bytes() == layers.TABLE.read_bytes()


# ---- original names


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("input_blocks.0.0", "conv_in"),
        ("input_blocks.1.0.in_layers.2", "down_blocks.0.resnets.0.conv1"),
        ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("input_blocks.4.0.skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("input_blocks.5.1.proj_out", "down_blocks.1.attentions.1.proj_out"),
        ("input_blocks.4.1.transformer_blocks.1.ff.net.2", "down_blocks.1.attentions.0.transformer_blocks.1.ff.net.2"),
        ("middle_block.0.out_layers.3", "mid_block.resnets.0.conv2"),
        ("middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
        ("middle_block.2.emb_layers.1", "mid_block.resnets.1.time_emb_proj"),
        ("output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks.8.0.in_layers.2", "up_blocks.2.resnets.2.conv1"),
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("out.2", "conv_out"),
    ],
)  # fmt: skip
def test_the_blocks_of_the_original_unets_are_counted_through(name: str, layer: str) -> None:
    for written in (name, name.replace(".", "_")):
        (place,) = find_places(drawn.LAYOUTS["SDXL 1.0"], split_name(written))
        assert place.layers == (layer,)


@pytest.mark.parametrize(
    "name",
    [
        "input_blocks.0.0.in_layers.2", "input_blocks.0.1.proj_in", "input_blocks.1.1.proj_in", "input_blocks.2.0.op",
        "input_blocks.9.0.in_layers.2", "input_blocks.1.0", "output_blocks.1.2.conv", "output_blocks.8.2.conv",
        "output_blocks.9.0.in_layers.2", "middle_block.3.in_layers.2",
    ],
)  # fmt: skip
def test_a_block_that_the_original_unet_has_not_has_no_place(name: str) -> None:
    assert find_places(drawn.LAYOUTS["SDXL 1.0"], split_name(name)) == ()


@pytest.mark.parametrize("model", OURS)
def test_every_layer_has_an_original_name(model: str) -> None:
    places, family = drawn.places(model), drawn.LAYOUTS[model].family
    assert {layer for place in places.values() for layer in place.layers} == set(drawn.layers(model))
    same = {name for name, place in places.items() if place.layers == (name,)}
    assert same == set(drawn.layers(model, SAME_NAMES.get(family, "(?!)")))


def test_only_two_halves_are_swapped() -> None:
    layout = drawn.LAYOUTS["Stable Diffusion 3 medium"]
    swapped = [name for name, place in drawn.places(layout.model).items() if place.swapped]
    assert swapped == ["joint_blocks.23.context_block.adaLN_modulation.1", "final_layer.adaLN_modulation.1"]


# ---- diffusers' converters of whole models: one number for every row, to see where it goes


def tagged(model: str) -> dict[str, Any]:
    """The original weights of a model, one column wide, with a number of its own in every row."""
    import torch

    rows = {name: place.num_out for name, place in drawn.places(model).items()}
    return {
        f"{name}.weight": (torch.arange(num) + 1_000_000 * n)[:, None] for n, (name, num) in enumerate(rows.items())
    }


def as_the_table_says(places: Iterable[tuple[str, Place]], weights: dict[str, Any], ending: str) -> dict[str, Any]:
    """Layer -> its rows."""
    import torch

    found: dict[str, Any] = {}
    for name, place in places:
        whole = weights[name + ending]
        whole = torch.cat(whole.chunk(2)[::-1]) if place.swapped else whole
        found |= zip(place.layers, whole.split(place.rows), strict=True)
    return found


class Checkpoint(dict[str, Any]):
    """Weights that a converter takes out; what it asks for beside them (biases, norms) is made up and remembered."""

    def __init__(self, weights: dict[str, Any]) -> None:
        super().__init__(weights)
        self.rows = {name: len(weight) for name, weight in weights.items()}
        self.made_up: list[str] = []

    def pop(self, name: str, *default: Any) -> Any:
        import torch

        if name in self:
            return super().pop(name)
        self.made_up.append(name)
        return torch.zeros(self.rows.get(name.replace(".bias", ".weight"), 6))


def converted(model: str, weights: Checkpoint) -> dict[str, Any]:
    from diffusers.loaders import single_file_utils as theirs

    converters: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "sd3": theirs.convert_sd3_transformer_checkpoint_to_diffusers,
        "flux1": theirs.convert_flux_transformer_checkpoint_to_diffusers,
        "chroma": theirs.convert_chroma_transformer_checkpoint_to_diffusers,
        "flux2": theirs.convert_flux2_transformer_checkpoint_to_diffusers,
        "wan": theirs.convert_wan_transformer_to_diffusers,
        "hunyuanvideo": theirs.convert_hunyuan_video_transformer_to_diffusers,
        "lumina2": theirs.convert_lumina2_to_diffusers,
        "z-image": theirs.convert_z_image_transformer_checkpoint_to_diffusers,
        "auraflow": theirs.convert_auraflow_transformer_checkpoint_to_diffusers,
        "anima": theirs.convert_cosmos_transformer_checkpoint_to_diffusers,
        "ldm": lambda weights: converted_unet(weights, model),
    }
    return converters[drawn.LAYOUTS[model].natives](weights)


def converted_unet(weights: dict[str, Any], model: str) -> dict[str, Any]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    biases = {name.replace(".weight", ".bias"): weight[:, 0] for name, weight in weights.items()}
    whole = {f"model.diffusion_model.{name}": weight for name, weight in {**weights, **biases}.items()}
    found = convert_ldm_unet_checkpoint(whole, {**drawn.LAYOUTS[model].config, "layers_per_block": 2})
    return dict(found)


@pytest.mark.parametrize("model", [*FUSED, "Cosmos-Predict2-14B"])
def test_diffusers_sends_every_row_of_an_original_checkpoint_where_the_table_does(model: str) -> None:
    weights = {name: weight for name, weight in tagged(model).items() if not name.startswith("llm_adapter.")}
    places = [(name, place) for name, place in drawn.places(model).items() if f"{name}.weight" in weights]
    wanted = as_the_table_says(places, weights, ".weight")
    checkpoint = Checkpoint(weights)
    found = {
        name: weight for name, weight in converted(model, checkpoint).items() if weight is not None and weight.ndim == 2
    }
    assert found.keys() == {f"{layer}.weight" for layer in wanted}
    assert not [layer for layer in wanted if not wanted[layer].equal(found[f"{layer}.weight"])]
    unknown = {name for name in checkpoint.made_up if name.endswith(".weight")}
    assert unknown <= {"norm_final.weight"}, "the converter knows weights that the table does not"


# ---- diffusers' converters of LoRA files


def lora_rows(
    model: str, prefix: str, halves: drawn.Halves, pattern: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A LoRA in original names with a number for every row of its up halves, and where the table sends them."""
    import torch

    from runner.contract.adapters import Module
    from runner.contract.naming import locate

    layout, tensors, owners = drawn.LAYOUTS[model], {}, []
    for n, (name, shape) in enumerate(drawn.originals(model, pattern).items()):
        owner = prefix + (name.replace(".", "_") if halves.alpha else name)
        tensors[f"{owner}.{halves.up}"] = (torch.arange(shape[0]) + 1_000_000.0 * n)[:, None]
        tensors[f"{owner}.{halves.down}"] = torch.full((1, 2), float(n))
        module = Module("lora", shape[1], shape[0], (), 1, {})
        owners.append((owner, find_places(layout, locate(owner, module).name)[0]))
    wanted = as_the_table_says(owners, tensors, f".{halves.up}")
    return {**tensors, **{f"{owner}.alpha": torch.tensor(1.0) for owner, _ in owners if halves.alpha}}, wanted


def ups(state: dict[str, Any]) -> dict[str, Any]:
    """The up halves of a LoRA by the layer in its component."""
    from runner.contract.adapters import find_part

    parts = {name: find_part(name) for name in state}
    return {part.owner.partition(".")[2]: state[name] for name, part in parts.items() if part and part.role == "up"}


PEFT, KOHYA = drawn.PEFT, drawn.KOHYA
BLOCKS = "blocks"


@pytest.mark.parametrize(
    ("converter", "model", "prefix", "halves", "pattern"),
    [
        ("_convert_non_diffusers_anima_lora_to_diffusers", "Anima", "diffusion_model.", PEFT, ""),
        ("_convert_kohya_flux_lora_to_diffusers", "FLUX.1-dev", "lora_unet_", KOHYA, BLOCKS),
        ("_convert_kohya_flux2_lora_to_diffusers", "FLUX.2-dev", "lora_unet_", KOHYA, BLOCKS),
        ("_convert_kohya_flux2_lora_to_diffusers", "FLUX.2-klein-4B", "lora_unet_", KOHYA, BLOCKS),
        ("_convert_non_diffusers_flux2_lora_to_diffusers", "FLUX.2-dev", "diffusion_model.", PEFT, BLOCKS),
        ("_convert_non_diffusers_flux2_lora_to_diffusers", "FLUX.2-klein-9B", "diffusion_model.", PEFT, BLOCKS),
        ("_convert_non_diffusers_wan_lora_to_diffusers", "Wan2.1-T2V-14B", "diffusion_model.", PEFT, "^(?!patch)"),
        ("_convert_non_diffusers_wan_lora_to_diffusers", "Wan2.1-I2V-14B", "diffusion_model.", PEFT, "^(?!patch)"),
        ("_convert_musubi_wan_lora_to_diffusers", "Wan2.1-T2V-14B", "lora_unet_", KOHYA, BLOCKS),
    ],
)
def test_diffusers_sends_every_row_of_a_lora_where_the_table_does(
    converter: str, model: str, prefix: str, halves: drawn.Halves, pattern: str
) -> None:
    from diffusers.loaders import lora_conversion_utils as theirs

    state, wanted = lora_rows(model, prefix, halves, pattern)
    found = ups(getattr(theirs, converter)(state))
    assert found.keys() == {layer.removeprefix("llm_adapter.") for layer in wanted}
    assert all(wanted[layer].equal(found[layer.removeprefix("llm_adapter.")]) for layer in wanted)


def test_diffusers_sends_the_original_names_of_sdxl_where_the_table_does() -> None:
    from types import SimpleNamespace

    from diffusers.loaders import lora_conversion_utils as theirs

    state, wanted = lora_rows("SDXL 1.0", "lora_unet_", KOHYA)
    mapped = theirs._maybe_map_sgm_blocks_to_diffusers(state, SimpleNamespace(layers_per_block=2))
    found = ups(theirs._convert_non_diffusers_lora_to_diffusers(mapped)[0])
    assert found.keys() == wanted.keys()
    assert all(wanted[layer].equal(found[layer]) for layer in wanted)


def test_diffusers_sends_the_processors_of_xlabs_where_the_table_does() -> None:
    import torch
    from diffusers.loaders import lora_conversion_utils as theirs

    from runner.builtin.recipe.originals import XLABS

    layout, tensors, places = drawn.LAYOUTS["FLUX.1-dev"], {}, []
    for n, pattern in enumerate(XLABS):
        name = pattern.replace("#", "17")
        place = find_places(layout, split_name(name))[0]
        places.append((name, place))
        tensors[f"{name}.up.weight"] = (torch.arange(place.num_out) + 1_000_000 * n)[:, None]
        tensors[f"{name}.down.weight"] = torch.zeros(1, 2)
    wanted = as_the_table_says(places, tensors, ".up.weight")
    found = ups(theirs._convert_xlabs_flux_lora_to_diffusers(tensors))
    assert found.keys() == wanted.keys()
    assert all(wanted[layer].equal(found[layer]) for layer in wanted)


def test_the_wrappers_inside_text_encoders_are_taken_off_a_plain_name() -> None:
    assert plain_name("text_encoder.text_model.encoder.layers.0.mlp.fc1") == "text_encoder.encoder.layers.0.mlp.fc1"
    assert plain_name("text_encoder_2.model.layers.0.mlp") == "text_encoder_2.layers.0.mlp"
    assert plain_name("unet.text_model.x") == "unet.text_model.x"
    assert plain_name("conv_in") == "conv_in"
