"""Does a LoRA file fit a base: yes, no, or nothing tells; for the near misses of every family, module by module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from runner.contract.binding import CANNOT_TELL, NO, YES, Fit, bind, fit
from runner.contract.families import LoraFile
from runner.contract.folders import ModelFolder, read_model_folder
from tests.contract import drawn
from tests.contract.drawn import Tensors

SD3, SD35, SD35L = "Stable Diffusion 3 medium", "Stable Diffusion 3.5 medium", "Stable Diffusion 3.5 large"
FLUX, SCHNELL, FILL, CHROMA = "FLUX.1-dev", "FLUX.1-schnell", "FLUX.1-Fill-dev", "Chroma1-HD"
DEV2, KLEIN4, KLEIN9 = "FLUX.2-dev", "FLUX.2-klein-4B", "FLUX.2-klein-9B"
T2V, I2V, SMALL, FIVE, VACE = (
    "Wan2.1-T2V-14B", "Wan2.1-I2V-14B", "Wan2.1-T2V-1.3B", "Wan2.2-TI2V-5B", "Wan2.1-VACE-14B",
)  # fmt: skip
SD1, SD2, SDXL, REFINER, INPAINT = (
    "Stable Diffusion 1.5", "Stable Diffusion 2.1", "SDXL 1.0", "SDXL 1.0 refiner", "SDXL 1.0 inpainting",
)  # fmt: skip
FIRST = {layout.family: name for name, layout in reversed(drawn.LAYOUTS.items()) if layout.family in drawn.PIPELINES}
ENCODERS = {
    SD1: {"text_encoder": "CLIP ViT-L"},
    SDXL: {"text_encoder": "CLIP ViT-L", "text_encoder_2": "OpenCLIP ViT-bigG"},
    FLUX: {"text_encoder": "CLIP ViT-L", "text_encoder_2": "T5 v1.1 XXL"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelFolder]:
    """A published model as a folder of configs, or with its weights; each is written once."""

    @functools.cache
    def read(model: str, weights: bool = False) -> ModelFolder:
        folder = tmp_path_factory.mktemp("base") / "model"
        return read_model_folder(drawn.write_base(folder, model, ENCODERS.get(model), weights=weights))

    return read


def on(tmp_path: Path, model: str, pattern: str = "", metadata: Mapping[str, str] | None = None) -> LoraFile:
    """A LoRA of a model."""
    return drawn.inspected(tmp_path, drawn.NAMINGS["diffusers"](model, pattern), metadata)


# ---- every family on its own base


@pytest.mark.parametrize("naming", ["diffusers", "native", "kohya-original"])
@pytest.mark.parametrize("family", FIRST)
def test_a_lora_of_every_layer_fits_its_own_base(
    tmp_path: Path, base: Callable[..., ModelFolder], family: str, naming: str
) -> None:
    lora = drawn.inspected(tmp_path, drawn.NAMINGS[naming](FIRST[family], ""))
    found = fit(lora, base(FIRST[family]))
    num = len(lora.modules)
    assert (found.answer, found.code, found.reason) == (YES, "", f"{num}/{num} modules have their place")
    layers = [layer for bound in found.binding.bound.values() for layer in bound.layers]
    assert len(layers) == len(set(layers)) == len(drawn.layers(FIRST[family]))


def test_a_fused_module_is_bound_to_the_layers_whose_rows_it_holds(
    tmp_path: Path, base: Callable[..., ModelFolder]
) -> None:
    lora = drawn.inspected(tmp_path, drawn.NAMINGS["native"](FLUX, ""))
    bound = bind(lora, base(FLUX)).bound["diffusion_model.single_blocks.7.linear1"]
    block = "transformer.single_transformer_blocks.7"
    assert bound.layers == (*(f"{block}.attn.to_{n}" for n in "qkv"), f"{block}.proj_mlp")
    assert (bound.place.rows, bound.place.num_in) == ((3072, 3072, 3072, 12288), 3072)


def test_the_text_conditioner_of_anima_is_a_component_of_its_own(
    tmp_path: Path, base: Callable[..., ModelFolder]
) -> None:
    bound = bind(drawn.inspected(tmp_path, drawn.NAMINGS["native"]("Anima", "")), base("Anima")).bound
    layer = bound["diffusion_model.llm_adapter.blocks.0.mlp.0"].layers
    assert layer == ("text_conditioner.blocks.0.mlp.0",)


# ---- near misses


CLAIM = {
    "schnell": {"modelspec.architecture": "flux-1-schnell/lora"},
    "dev": {"modelspec.architecture": "flux-1-dev/lora"},
    "chroma": {"modelspec.architecture": "chroma/lora"},
    "sdxl": {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"},
    "": {},
}


@pytest.mark.parametrize("weights", [False, True], ids=["configs", "weights"])
@pytest.mark.parametrize(
    ("model", "pattern", "claim", "target", "answer", "code", "reason", "coverage"),
    [
        (SD3, "attn", "", SD3, YES, "", "191/191 modules have their place", "191/191"),
        (SD3, "attn", "", SD35, CANNOT_TELL, "cannot_tell", f"nothing that tells it from one for {SD3}", "191/191"),
        (SD3, "", "", SD35, NO, "shape_conflict", "13 of 341 modules have other widths", "328/341"),
        (SD35, "attn", "", SD3, NO, "lora_inert", "52 of 243 modules have no place in the base", "191/243"),
        (SD35, "", "", SD3, NO, "shape_conflict", "file 13824x1536, base 9216x1536", "328/393"),
        (SD35L, "attn", "", SD35, NO, "shape_conflict", "file 2432x2432, base 1536x1536", "0/303"),
        (DEV2, "blocks", "", DEV2, YES, "", "192/192 modules have their place", "192/192"),
        (DEV2, "blocks", "", KLEIN4, NO, "shape_conflict", "file 6144x6144, base 3072x3072", "0/192"),
        (KLEIN4, "blocks", "", KLEIN9, NO, "shape_conflict", "file 3072x3072, base 4096x4096", "0/100"),
        (KLEIN9, "blocks", "", DEV2, NO, "shape_conflict", "file 4096x4096, base 6144x6144", "0/144"),
        (FLUX, "", "", FLUX, YES, "", "504/504 modules have their place", "504/504"),
        (FLUX, "attn", "", FLUX, CANNOT_TELL, "cannot_tell", "its tensors fit chroma as well", "266/266"),
        (FLUX, "attn", "dev", FLUX, YES, "", "266/266 modules have their place", "266/266"),
        (FLUX, "attn", "schnell", FLUX, CANNOT_TELL, "cannot_tell", f"says that it was made for {SCHNELL}", "266/266"),
        (FLUX, "attn", "dev", SCHNELL, CANNOT_TELL, "cannot_tell", f"says that it was made for {FLUX}", "266/266"),
        (FLUX, "", "", SCHNELL, NO, "lora_inert", "2 of 504 modules have no place in the base", "502/504"),
        (FLUX, "", "", FILL, NO, "shape_conflict", "file 3072x64, base 3072x384", "503/504"),
        (FLUX, "attn", "", CHROMA, CANNOT_TELL, "cannot_tell", "its tensors fit flux1 as well", "266/266"),
        (FLUX, "attn", "dev", CHROMA, NO, "family_mismatch", "is for flux1, the base is chroma", "266/266"),
        (FLUX, "attn", "chroma", CHROMA, YES, "", "266/266 modules have their place", "266/266"),
        (FLUX, "", "", CHROMA, NO, "family_mismatch", "is for flux1, the base is chroma", "421/504"),
        (FLUX, "attn", "", "HunyuanVideo", NO, "family_mismatch", "fits chroma, flux1, the base is", "266/266"),
        ("HunyuanVideo", "attn", "", FLUX, NO, "family_mismatch", "is for hunyuanvideo, the base is", "266/288"),
        (SDXL, "attn", "", SDXL, YES, "", "560/560 modules have their place", "560/560"),
        (SDXL, "attn", "", REFINER, NO, "shape_conflict", "file 640x640, base 768x768", "0/560"),
        (REFINER, "attn", "", SDXL, NO, "shape_conflict", "file 768x768, base 640x640", "0/352"),
        (SDXL, "attn", "", INPAINT, CANNOT_TELL, "cannot_tell", f"tells it from one for {SDXL}", "560/560"),
        (SDXL, "attn", "", SD1, NO, "family_mismatch", "is for sdxl, the base is sd1", "30/560"),
        (SD1, "attn", "", SD2, NO, "family_mismatch", "is for sd1, the base is sd2", "96/128"),
        (SD1, r"attn1\.", "", SD2, CANNOT_TELL, "cannot_tell", "its tensors fit sd1 as well", "64/64"),
        (SD1, "attn", "sdxl", SD1, CANNOT_TELL, "cannot_tell", "the tensors say sd1: they disagree", "128/128"),
        (T2V, "attn1", "", T2V, YES, "", "160/160 modules have their place", "160/160"),
        (T2V, "attn1", "", I2V, CANNOT_TELL, "cannot_tell", f"nothing that tells it from one for {T2V}", "160/160"),
        (T2V, "attn1", "", SMALL, NO, "shape_conflict", "file 5120x5120, base 1536x1536", "0/160"),
        (SMALL, "attn1", "", T2V, NO, "shape_conflict", "file 1536x1536, base 5120x5120", "0/120"),
        (FIVE, "attn1", "", SMALL, NO, "shape_conflict", "file 3072x3072, base 1536x1536", "0/120"),
        (I2V, "attn", "", T2V, NO, "lora_inert", "have no place in the base", "320/400"),
        (VACE, "attn1", "", T2V, NO, "lora_inert", "32 of 192 modules have no place in the base", "160/192"),
    ],
)  # fmt: skip
def test_a_near_miss(
    tmp_path: Path, base: Callable[..., ModelFolder], weights: bool, model: str, pattern: str, claim: str,
    target: str, answer: str, code: str, reason: str, coverage: str,
) -> None:  # fmt: skip
    found = fit(on(tmp_path, model, pattern, CLAIM[claim]), base(target, weights))
    assert (found.answer, found.code, found.binding.coverage) == (answer, code, coverage)
    assert reason in found.reason


# ---- what a person's card says where the file cannot tell


@pytest.mark.parametrize(
    ("family", "model", "target", "answer"),
    [
        ("flux1", FLUX, FLUX, YES),
        ("flux1", SCHNELL, FLUX, CANNOT_TELL),
        ("flux1", SCHNELL, SCHNELL, YES),
        ("flux1", None, SCHNELL, CANNOT_TELL),
        ("chroma", None, CHROMA, YES),
        ("flux1", None, CHROMA, NO),
    ],
)
def test_a_card_narrows_what_the_file_cannot_tell(
    tmp_path: Path, base: Callable[..., ModelFolder], family: str, model: str | None, target: str, answer: str
) -> None:
    assert fit(on(tmp_path, FLUX, "attn"), base(target), family=family, model=model).answer == answer


@pytest.mark.parametrize(
    ("model", "pattern", "target", "code"),
    [(FLUX, "", CHROMA, "family_mismatch"), (SDXL, "attn", REFINER, "shape_conflict")],
)
def test_a_card_never_overrules_the_tensors(
    tmp_path: Path, base: Callable[..., ModelFolder], model: str, pattern: str, target: str, code: str
) -> None:
    own = base(target)
    found = fit(on(tmp_path, model, pattern), own, family=None, model=own.model)
    assert (found.answer, found.code) == (NO, code)


# ---- single modules


OWNER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def sdxl(tmp_path: Path, base: Callable[..., ModelFolder], more: Tensors) -> Fit:
    """Attention of SDXL and something beside it, on SDXL."""
    return fit(drawn.inspected(tmp_path, drawn.NAMINGS["diffusers"](SDXL, "attn2.to_[kv]") | more), base(SDXL))


@pytest.mark.parametrize(
    ("more", "answer", "code", "reason"),
    [
        (drawn.lora({"unet.conv_in": (320, 4, 3, 3)}), YES, "", "141/141 modules have their place"),
        (drawn.lora({"unet.conv_in": (320, 4, 1, 1)}), NO, "shape_conflict",
         "1 of 141 modules have other widths than the base (first unet.conv_in: file 320x4x1x1, base 320x4x3x3)"),
        (drawn.lora({"unet.conv_in": (320, 5, 3, 3)}), NO, "shape_conflict", "file 320x5x3x3, base 320x4x3x3"),
        (drawn.lora({"unet.my_own": (3, 3)}), NO, "lora_inert",
         "1 of 141 modules have no place in the base (first unet.my_own)"),
        (drawn.lora({f"lora_{OWNER.replace('.', '_')}": (1280, 2048)}), NO, "shape_conflict",
         f"(first lora_{OWNER.replace('.', '_')}: adapts a layer that {OWNER} adapts too)"),
        ({f"{OWNER}.lora_B.weight": ("F16", (1280, 5))}, NO, "lora_inert",
         f"has 1 damaged modules (first {OWNER}: has a down half of rank 4 and an up half of rank 5)"),
        ({"unet.conv_in.lora_A.weight": ("F16", (4, 4, 3, 3))}, NO, "lora_inert", "has no up (lora_B) half"),
        ({"unet.conv_in.oft_blocks": ("F16", (4, 8, 8))}, None, "lora_unloadable",
         "1 of 141 modules cannot be applied as they are written (first unet.conv_in: oft is not applied"),
        ({"unet.conv_norm_out.diff_b": ("F16", (320,))}, CANNOT_TELL, "lora_unloadable", "it changes a norm or a bias"),
        ({f"{OWNER}.lora_B.bias": ("F16", (1280,))}, None, "lora_unloadable", "changes more than a weight (up_bias)"),
        ({f"{OWNER}.dora_scale": ("F16", (1, 2048))}, YES, "", "140/140 modules have their place"),
        ({f"{OWNER}.dora_scale": ("F16", (1280, 1))}, YES, "", "140/140 modules have their place"),
        ({"bundle_emb.a": ("F16", (4, 768))}, CANNOT_TELL, "cannot_tell",
         "1 tensors belong to no LoRA layer and are not applied (first bundle_emb.a)"),
    ],
)  # fmt: skip
def test_one_module_decides(
    tmp_path: Path, base: Callable[..., ModelFolder], more: Tensors, answer: str | None, code: str | None, reason: str
) -> None:
    found = sdxl(tmp_path, base, more)
    assert reason in found.reason
    assert found.answer == answer if answer else found.answer != YES
    assert code is None or found.code == code


def test_a_convolution_of_one_pixel_is_a_matrix(tmp_path: Path, base: Callable[..., ModelFolder]) -> None:
    layers = drawn.layers(SD1, "proj_in$")
    flat = drawn.lora({f"unet.{name}": shape[:2] for name, shape in layers.items()})
    lora = drawn.inspected(tmp_path, flat | drawn.NAMINGS["diffusers"](SD1, "attn2"))
    assert fit(lora, base(SD1)).answer == YES


def test_a_file_that_is_no_lora_says_what_it_is(tmp_path: Path, base: Callable[..., ModelFolder]) -> None:
    weights: Tensors = {f"{name}.weight": ("F16", shape) for name, shape in drawn.layers(SDXL).items()}
    found = fit(drawn.inspected(tmp_path, weights), base(SDXL))
    assert (found.answer, found.code, found.reason) == (NO, "lora_inert", "is no LoRA but a checkpoint")


# ---- text encoders, and bases that are not whole


@pytest.mark.parametrize(
    ("model", "component", "encoder", "answer"),
    [
        (SDXL, "text_encoder", "CLIP ViT-L", YES),
        (SDXL, "text_encoder_2", "OpenCLIP ViT-bigG", YES),
        (FLUX, "text_encoder_2", "T5 v1.1 XXL", YES),
        (SD1, "text_encoder", "CLIP ViT-L", YES),
        (T2V, "text_encoder", "UMT5 XXL", CANNOT_TELL),
    ],
)
def test_text_encoders_bind_to_their_component(
    tmp_path: Path, base: Callable[..., ModelFolder], model: str, component: str, encoder: str, answer: str
) -> None:
    text = drawn.lora(drawn.prefixed(f"{component}.", drawn.layers(encoder, "self_attn|SelfAttention")))
    found = fit(drawn.inspected(tmp_path, drawn.NAMINGS["diffusers"](model, "") | text), base(model))
    assert found.answer == answer
    bound = {part.component for owner, part in found.binding.bound.items() if owner.startswith("text_encoder")}
    assert bound == ({component} if answer == YES else set())
    assert answer == YES or "modules for text_encoder, whose layers are not here to compare" in found.reason


@pytest.mark.parametrize(
    ("model", "pattern", "answer", "reason"),
    [
        (FLUX, "blocks", YES, "494/494 modules have their place"),
        (FLUX, "", CANNOT_TELL, "embedder.linear_1, outside of the blocks, where the base is not quite FLUX.1-dev"),
        (FILL, "", CANNOT_TELL, "the base's weights are not here to compare them with"),
    ],
)  # fmt: skip
def test_settings_that_are_only_nearly_published_tell_the_blocks_alone(
    tmp_path: Path, model: str, pattern: str, answer: str, reason: str
) -> None:
    near = read_model_folder(drawn.write_base(tmp_path / "base", FLUX, in_channels=128, out_channels=16))
    found = fit(on(tmp_path, model, pattern), near)
    assert (near.guessed, found.answer) == (True, answer)
    assert reason in found.reason


def test_a_base_of_no_known_settings_has_no_layers_to_compare(tmp_path: Path) -> None:
    strange = read_model_folder(drawn.write_base(tmp_path / "base", FLUX, num_layers=3))
    found = fit(on(tmp_path, FLUX), strange)
    assert (found.answer, found.binding.coverage, found.binding.unknown) == (CANNOT_TELL, "0/504", ("transformer",))
