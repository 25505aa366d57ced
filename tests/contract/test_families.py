"""What a LoRA file is: every family in every naming, what cannot be decided, and what speaks for and against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner import builtin
from runner.contract.families import effective, inspect_lora
from runner.contract.headers import Broken
from tests import fakes
from tests.contract import drawn
from tests.contract.drawn import KOHYA, NAMED, OLD, PEFT, Layers, Tensors

FIRST = {layout.family: name for name, layout in reversed(drawn.LAYOUTS.items()) if layout.family != "other"}
UNETS = ("sd1", "sd2", "sdxl", "shapes")
WITH_ALPHA = ("kohya", "kohya-original", "onetrainer", "lycoris")
FLUX, SD1, SDXL = "FLUX.1-dev", "Stable Diffusion 1.5", "SDXL 1.0"


def denoiser(model: str, pattern: str = "") -> Tensors:
    """A LoRA on the layers of a denoiser, in the naming of diffusers."""
    return drawn.NAMINGS["diffusers"](model, pattern)


def encoder(component: str, model: str, pattern: str = "self_attn|SelfAttention") -> Tensors:
    return drawn.lora(drawn.prefixed(f"{component}.", drawn.layers(model, pattern)))


# ---- every family in every naming


@pytest.mark.parametrize("naming", drawn.NAMINGS)
@pytest.mark.parametrize("family", FIRST)
def test_a_family_is_told_in_every_naming(tmp_path: Path, family: str, naming: str) -> None:
    model = FIRST[family]
    lora = drawn.inspected(tmp_path, drawn.NAMINGS[naming](model, ""))
    assert (lora.kind, lora.family, lora.families, lora.algorithm) == ("lora", family, (family,), "lora")
    assert model in lora.models
    original = "kohya-ldm" if family in UNETS and family != "shapes" else "kohya"  # shapes has no original names
    assert lora.format == (original if naming == "kohya-original" else naming)
    assert (lora.rank, lora.ranks()) == (4, {4: len(lora.modules)})
    assert (lora.alpha, lora.scaling) == ((2.0, 0.5) if naming in WITH_ALPHA else (None, 1.0))
    assert (lora.text_encoders, lora.flags, lora.claimed_family) == ((), (), None)


@pytest.mark.parametrize("model", [name for name in drawn.LAYOUTS if name not in FIRST.values()])
def test_every_published_model_is_among_those_of_its_whole_lora(tmp_path: Path, model: str) -> None:
    lora = drawn.inspected(tmp_path, denoiser(model))
    assert (lora.family, model in lora.models) == (drawn.LAYOUTS[model].family, True)


def test_the_processors_of_xlabs_are_flux(tmp_path: Path) -> None:
    rows = {"qkv_lora1": 9216, "qkv_lora2": 9216, "proj_lora1": 3072, "proj_lora2": 3072}
    named = {f"double_blocks.{n}.processor.{part}": (out, 3072) for n in range(19) for part, out in rows.items()}
    lora = drawn.inspected(tmp_path, drawn.lora(named, drawn.Halves("down.weight", "up.weight"), rank=16))
    assert (lora.format, lora.rank, lora.families) == ("xlabs", 16, ("flux1",))


def test_attention_processors_of_old_diffusers_are_a_naming(tmp_path: Path) -> None:
    layers = drawn.prefixed("unet.", drawn.layers(SD1, r"attn2\.to_"))
    plain = {name.replace(".to_", ".processor.to_").removesuffix(".0"): shape for name, shape in layers.items()}
    named = {f"{name}_lora": shape for name, shape in plain.items()}
    lora = drawn.inspected(tmp_path, drawn.lora(named, drawn.Halves("down.weight", "up.weight")))
    assert (lora.format, lora.family, set(lora.modules)) == ("attn-processor", "sd1", set(layers))


def test_two_namings_in_one_file_are_mixed(tmp_path: Path) -> None:
    tensors = drawn.lora(drawn.prefixed("unet.", drawn.layers(SDXL, "attn2.to_k"))) | encoder("te", "CLIP ViT-L")
    both = tensors | drawn.lora(drawn.flat("lora_unet_", drawn.layers(SDXL, "attn2.to_v")), KOHYA)
    assert (drawn.inspected(tmp_path, tensors).format, drawn.inspected(tmp_path, both).format) == ("diffusers", "mixed")


def test_the_shipped_lora_is_what_its_card_says() -> None:
    lora = inspect_lora(builtin.package_dir() / "emblem" / "emblem.safetensors")
    card = fakes.request().lora
    assert (lora.kind, lora.family, lora.rank, lora.alpha) == ("lora", card.family, card.rank, card.alpha)
    assert (lora.trigger, lora.text_encoders, lora.flags) == (card.trigger, ("text_encoder",), ())
    assert json.dumps(dict(lora.metadata))


# ---- what cannot be decided, and what decides it


@pytest.mark.parametrize(
    ("model", "pattern", "families"),
    [
        (SD1, r"attn1\.", ("sd1", "sd2")),
        ("Stable Diffusion 2.1", r"attn1\.|\.ff\.|resnets", ("sd1", "sd2")),
        (FLUX, "attn", ("chroma", "flux1")),
        ("Chroma1-HD", r"attn|\.ff", ("chroma", "flux1")),
        (FLUX, r"transformer_blocks\.[0-3]\.attn", ("chroma", "flux1", "hunyuanvideo", "other")),
        (
            FLUX,
            r"^transformer_blocks\.[0-4]\.attn",
            ("chroma", "flux1", "flux2", "hunyuanvideo", "other", "qwen-image"),
        ),
    ],
)
def test_a_set_of_families_is_answered_where_the_tensors_do_not_decide(
    tmp_path: Path, model: str, pattern: str, families: tuple[str, ...]
) -> None:
    lora = drawn.inspected(tmp_path, denoiser(model, pattern))
    assert (lora.family, lora.families) == (None, families)
    assert f"the tensors fit {', '.join(families)} and cannot decide between them" in lora.evidence
    assert model in lora.models


def test_the_number_of_blocks_is_evidence(tmp_path: Path) -> None:
    flux, video = (
        drawn.inspected(tmp_path, denoiser(model, "^(single_)?transformer_blocks.*attn"))
        for model in (FLUX, "HunyuanVideo")
    )
    assert "hunyuanvideo" not in flux.families
    assert any(
        "it adapts every block of FLUX.1-dev" in line and "and not of the others" in line for line in flux.evidence
    )
    assert video.family == "hunyuanvideo"


@pytest.mark.parametrize(
    ("tensors", "family"),
    [
        (denoiser(SD1, r"attn1\.") | encoder("text_encoder", "CLIP ViT-L"), "sd1"),
        (denoiser(SD1, r"attn1\.") | encoder("text_encoder", "OpenCLIP ViT-H"), "sd2"),
        (denoiser(FLUX, "attn") | encoder("text_encoder", "CLIP ViT-L"), "flux1"),
    ],
    ids=["sd1", "sd2", "flux1"],
)
def test_the_widths_of_a_text_encoder_are_evidence(tmp_path: Path, tensors: Tensors, family: str) -> None:
    lora = drawn.inspected(tmp_path, tensors)
    assert (lora.family, lora.text_encoders) == (family, ("text_encoder",))
    assert any(line.startswith("its text encoder modules are those of ") and family in line for line in lora.evidence)


@pytest.mark.parametrize(
    ("tensors", "families"),
    [
        (encoder("text_encoder", "CLIP ViT-L"), ("flux1", "hunyuanvideo", "sd1", "sd3", "sdxl")),
        (encoder("text_encoder_2", "OpenCLIP ViT-bigG"), ("sd3", "sdxl")),
        (encoder("text_encoder", "OpenCLIP ViT-H"), ("sd2",)),
        (encoder("text_encoder", "Gemma 2 2B"), ("lumina2",)),
        (encoder("text_encoder", "Qwen2.5-VL 7B"), ("qwen-image",)),
    ],
    ids=["clip-l", "clip-g", "clip-h", "gemma", "qwen"],
)
def test_a_file_of_text_encoders_fits_the_families_that_have_them(
    tmp_path: Path, tensors: Tensors, families: tuple[str, ...]
) -> None:
    lora = drawn.inspected(tmp_path, tensors)
    assert (lora.family, lora.families) == (families[0] if len(families) == 1 else None, families)
    assert lora.evidence[0] == f"only text encoders are adapted, as {', '.join(families)} have them"


def test_a_language_model_that_nobody_calls_a_text_encoder_is_another_family(tmp_path: Path) -> None:
    layers = drawn.prefixed("base_model.model.model.", drawn.layers("Llama 3 8B", "[qv]_proj"))
    lora = drawn.inspected(tmp_path, drawn.lora(layers))
    assert (lora.family, lora.text_encoders) == ("other", ())
    assert lora.evidence[0].endswith("of a language model, and no name says that it is one of a pipeline")


# ---- claims


CHROMA, FLUX_DEV = {"modelspec.architecture": "chroma/lora"}, {"modelspec.architecture": "flux-1-dev/lora"}
SDXL_BASE = {"ss_base_model_version": "sdxl_base_v1-0"}


@pytest.mark.parametrize(("claim", "family"), [(CHROMA, "chroma"), (FLUX_DEV, "flux1"), ({}, None)])
def test_a_claim_chooses_among_the_families_that_fit(
    tmp_path: Path, claim: Mapping[str, str], family: str | None
) -> None:
    lora = drawn.inspected(tmp_path, denoiser(FLUX, "attn"), claim)
    assert (lora.family, lora.families, lora.flags) == (family, ("chroma", "flux1"), ())
    assert not family or f"of chroma, flux1 the metadata says {family}" in lora.evidence
    fitting = {drawn.LAYOUTS[model].family for model in lora.models}
    assert fitting == ({family} if family else {"chroma", "flux1"})


@pytest.mark.parametrize(
    ("pattern", "claim", "family", "flag"),
    [
        (
            "",
            CHROMA,
            "flux1",
            "metadata says chroma (modelspec.architecture 'chroma/lora'), the tensors say flux1: they disagree",
        ),
        (
            "attn",
            SDXL_BASE,
            None,
            "metadata says sdxl (ss_base_model_version 'sdxl_base_v1-0'), the tensors say chroma, flux1: they disagree",
        ),
        (
            "",
            {"modelspec.architecture": "flux-1-dev", "base_model": "SD 1.5"},
            "flux1",
            "metadata says sd1 (base_model 'SD 1.5'), the tensors say flux1: they disagree",
        ),
        (
            "attn",
            {"modelspec.architecture": "chroma", "base_model": "FLUX.1-dev"},
            "chroma",
            "metadata says chroma (modelspec.architecture 'chroma') and flux1 (base_model 'FLUX.1-dev'): they disagree",
        ),
        ("", {"ss_sd_model_name": "sdxl.safetensors"}, "flux1", None),
        ("", FLUX_DEV, "flux1", None),
    ],
)
def test_a_claim_never_overrules_the_tensors(
    tmp_path: Path, pattern: str, claim: Mapping[str, str], family: str | None, flag: str | None
) -> None:
    lora = drawn.inspected(tmp_path, denoiser(FLUX, pattern), claim)
    assert (lora.family, lora.flags) == (family, (flag,) if flag else ())
    assert not flag or flag in lora.evidence


def test_a_file_says_its_trigger_and_its_base(tmp_path: Path) -> None:
    told = {"modelspec.trigger_phrase": "<emblem>", "runner.base_sha256": "a" * 64}
    lora = drawn.inspected(tmp_path, denoiser(SD1, "attn2"), told)
    assert (lora.trigger, lora.claims.base_sha256, dict(lora.metadata)) == ("<emblem>", "a" * 64, told)


# ---- files that are no whole LoRA of one model


def some(tensors: Tensors, num: int) -> Tensors:
    return dict([*tensors.items()][:num])


def test_a_file_of_two_models_has_no_family(tmp_path: Path) -> None:
    lora = drawn.inspected(tmp_path, some(denoiser(SD1, "attn2"), 64) | denoiser("FLUX.2-klein-4B", "single"))
    assert (lora.family, lora.models) == (None, ())
    assert "and others belong to another model or have other widths" in lora.evidence[0]


def test_a_module_of_another_model_does_not_hide_the_family_of_all_others(tmp_path: Path) -> None:
    odd = drawn.lora({"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (320, 768)})
    lora = drawn.inspected(tmp_path, denoiser(SDXL, "attn2") | odd)
    assert (lora.family, lora.models) == ("sdxl", ())
    assert lora.evidence[0].startswith("280/281 modules fit SDXL 1.0, and others ")


def test_layers_that_nobody_knows_do_not_hide_the_family_of_the_others(tmp_path: Path) -> None:
    odd = drawn.lora({"transformer.my_own.layer": (64, 64)})
    lora = drawn.inspected(tmp_path, denoiser(FLUX, "norm") | odd)
    assert lora.family == "flux1"
    assert "the rest no name that we know" in lora.evidence[0]


@pytest.mark.parametrize(
    ("named", "families", "evidence"),
    [
        (
            {"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj": (64, 64)},
            ("flux2",),
            "layer names of flux2, with widths of no model we know",
        ),
        (
            {"transformer.double_stream_modulation_img.linear": (64, 64)},
            ("flux2",),
            "layer names of flux2, with widths of no model we know",
        ),
        ({"unet.my_own.layer": (64, 64)}, (), "1 modules, none with a name that we know"),
    ],
)
def test_names_without_known_widths_are_evidence_and_no_answer(
    tmp_path: Path, named: Layers, families: tuple[str, ...], evidence: str
) -> None:
    lora = drawn.inspected(tmp_path, drawn.lora(named))
    assert (lora.family, lora.families, lora.models) == (None, families, ())
    assert lora.evidence[0] == evidence


def test_a_file_without_a_lora_layer_is_unknown(tmp_path: Path) -> None:
    lora = drawn.inspected(tmp_path, {"vae.x": ("U8", (1,))})
    assert (lora.kind, lora.family, lora.format, lora.algorithm) == ("unknown", None, "unknown", "none")
    assert (lora.rank, lora.scaling, lora.modules, lora.evidence[0]) == (
        None,
        None,
        {},
        "1 tensors; nothing tells the family",
    )


# ---- text encoders


@pytest.mark.parametrize(
    ("model", "prefixes", "encoders", "components"),
    [
        (SD1, ("lora_te_text_model_",), ("CLIP ViT-L",), ("text_encoder",)),
        (
            SDXL,
            ("lora_te1_text_model_", "lora_te2_text_model_"),
            ("CLIP ViT-L", "OpenCLIP ViT-bigG"),
            ("text_encoder", "text_encoder_2"),
        ),
        (SDXL, ("lora_te2_text_model_",), ("OpenCLIP ViT-bigG",), ("text_encoder_2",)),
        (
            FLUX,
            ("lora_te1_text_model_", "lora_te3_"),
            ("CLIP ViT-L", "T5 v1.1 XXL"),
            ("text_encoder", "text_encoder_2"),
        ),
        (
            "Stable Diffusion 3 medium",
            ("lora_te1_", "lora_te2_", "lora_te3_"),
            ("CLIP ViT-L", "OpenCLIP ViT-bigG", "T5 v1.1 XXL"),
            ("text_encoder", "text_encoder_2", "text_encoder_3"),
        ),
    ],
)
def test_the_text_encoders_of_kohya_are_named_as_the_family_has_them(
    tmp_path: Path, model: str, prefixes: tuple[str, ...], encoders: tuple[str, ...], components: tuple[str, ...]
) -> None:
    tensors = drawn.lora(drawn.flat("lora_unet_", drawn.layers(model)), KOHYA)
    for prefix, name in zip(prefixes, encoders, strict=True):
        tensors |= drawn.lora(drawn.flat(prefix, drawn.layers(name, "self_attn|SelfAttention")), KOHYA)
    lora = drawn.inspected(tmp_path, tensors)
    assert (lora.family, lora.text_encoders, lora.format) == (drawn.LAYOUTS[model].family, components, "kohya")


# ---- rank, alpha and what a loader must know


def test_ranks_that_differ_are_counted(tmp_path: Path) -> None:
    tensors = denoiser(SD1, "attn2.to_k") | drawn.lora(drawn.prefixed("unet.", drawn.layers(SD1, "attn2.to_v")), rank=8)
    lora = drawn.inspected(tmp_path, tensors)
    assert (lora.rank, lora.ranks(), lora.scaling) == (None, {4: 16, 8: 16}, 1.0)


@pytest.mark.parametrize(("scalar", "alpha", "scaling"), [(4.0, 4.0, 1.0), (1.0, 1.0, 0.25), (16.0, 16.0, 4.0)])
def test_alpha_over_rank_is_the_scaling(tmp_path: Path, scalar: float, alpha: float, scaling: float) -> None:
    tensors = drawn.NAMINGS["kohya"](SD1, "attn2")
    lora = drawn.inspected(tmp_path, tensors, scalar=scalar)
    assert (lora.alpha, lora.scaling) == (alpha, scaling)


def test_an_alpha_that_is_no_number_damages_its_modules(tmp_path: Path) -> None:
    lora = drawn.inspected(tmp_path, drawn.NAMINGS["kohya"](SD1, "attn2.to_k"), scalar=float("nan"))
    assert (lora.alpha, lora.family) == (None, "sd1")
    assert lora.flags[0].startswith("16 modules are damaged: lora_unet_")
    assert lora.flags[0].endswith(" has an alpha that is no finite number")


@pytest.mark.parametrize(
    ("adapter", "alpha"),
    [
        ('{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 8}', 8.0),
        ('{"unet.lora_alpha": 8, "text_encoder.lora_alpha": 4}', None),
        ('{"unet.lora_alpha": null}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_alpha_is_read_from_the_adapter_metadata(tmp_path: Path, adapter: str, alpha: float | None) -> None:
    lora = drawn.inspected(tmp_path, denoiser(SD1, "attn2"), {"lora_adapter_metadata": adapter})
    assert lora.alpha == alpha


@pytest.mark.parametrize("adapter", ['{"unet.r": NaN}', '{"unet.lora_alpha": "eight"}', '{"unet.lora_alpha": true}'])
def test_a_strength_in_the_metadata_that_is_no_number_is_broken(tmp_path: Path, adapter: str) -> None:
    with pytest.raises(Broken, match=r"^has lora_adapter_metadata whose unet\."):
        drawn.inspected(tmp_path, denoiser(SD1, "attn2"), {"lora_adapter_metadata": adapter})


@pytest.mark.parametrize(
    "metadata", [{"ss_network_dim": "8"}, {"lora_adapter_metadata": '{"unet.r": 8, "unet.lora_alpha": 8}'}]
)
def test_a_rank_that_the_tensors_do_not_have_is_flagged(tmp_path: Path, metadata: dict[str, str]) -> None:
    lora = drawn.inspected(tmp_path, denoiser(SD1, "attn2"), metadata)
    assert lora.flags == ("metadata says rank 8, the tensors have rank 4: they disagree",)


@pytest.mark.parametrize(("alpha", "flags"), [("1", 1), ("4", 0)])
def test_an_alpha_in_words_is_compared_with_the_rank_of_the_tensors(tmp_path: Path, alpha: str, flags: int) -> None:
    lora = drawn.inspected(tmp_path, denoiser(SD1, "attn2"), {"ss_network_alpha": alpha})
    assert len(lora.flags) == flags


def test_alpha_zero_damages_its_modules(tmp_path: Path) -> None:
    fault = "has alpha 0: it would change nothing"
    lora = drawn.inspected(tmp_path, drawn.NAMINGS["kohya"](SD1, "attn2.to_k"), scalar=0.0)
    assert {module.fault for module in lora.modules.values()} == {fault}
    told = {"lora_adapter_metadata": '{"unet.lora_alpha": 0}'}
    lora = drawn.inspected(tmp_path, denoiser(SD1, "attn2.to_k"), told)
    assert {module.fault for module in lora.modules.values()} == {fault}


@pytest.mark.parametrize("alpha", [-8.0, 1e30])
def test_an_alpha_that_no_trainer_means_is_flagged(tmp_path: Path, alpha: float) -> None:
    told = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": alpha})}
    kohya = drawn.inspected(tmp_path, drawn.NAMINGS["kohya"](SD1, "attn2.to_k"), scalar=alpha)
    for lora in (kohya, drawn.inspected(tmp_path, denoiser(SD1, "attn2.to_k"), told)):
        assert lora.flags[0].startswith("16 modules have an alpha that no trainer means (first ")


@pytest.mark.parametrize(("dtype", "fault"), [("U8", "has weights of type U8"), ("F8_E4M3", ""), ("F64", "")])
def test_halves_that_hold_no_real_numbers_are_damaged(tmp_path: Path, dtype: str, fault: str) -> None:
    tensors: Tensors = {name: (dtype, shape) for name, (_, shape) in denoiser(SD1, "attn2.to_k").items()}
    lora = drawn.inspected(tmp_path, tensors)
    assert {module.fault for module in lora.modules.values()} == {fault}


def test_an_alpha_that_no_loader_applies_is_flagged(tmp_path: Path) -> None:
    lora = drawn.inspected(tmp_path, denoiser(SD1, "attn2"), {"ss_network_alpha": "1", "ss_network_dim": "4"})
    flag = "alpha 1 stands only in the metadata (ss_network_alpha), which no loader applies"
    assert (lora.flags, lora.scaling) == ((flag,), 1.0)


@pytest.mark.parametrize(
    ("parts", "algorithm", "rank"),
    [
        ({"hada_w1_a": "o6", "hada_w1_b": "6i", "hada_w2_a": "o6", "hada_w2_b": "6i"}, "loha", 6),
        ({"lokr_w1": "88", "lokr_w2": "OI"}, "lokr", None),
        ({"lokr_w1": "88", "lokr_w2_a": "O5", "lokr_w2_b": "5I"}, "lokr", 5),
        ({"diff": "oi"}, "diff", None),
        ({"lora_down.weight": "7i", "lora_up.weight": "o7", "dora_scale": "o1"}, "lora+dora", 7),
        ({"lora_A.weight": "7i", "lora_B.weight": "o7", "lora_magnitude_vector": "o"}, "lora+dora", 7),
        ({"oft_blocks": "8OO"}, "oft", None),
        ({"a1.weight": "4i", "a2.weight": "i4", "b1.weight": "4i", "b2.weight": "o4"}, "glora", None),
    ],
)
def test_the_other_algorithms_are_told(
    tmp_path: Path, parts: Mapping[str, str], algorithm: str, rank: int | None
) -> None:
    """`o` and `i` are the outputs and inputs of a layer, `O` and `I` an eighth of them."""
    tensors: Tensors = {}
    for name, (out, into) in drawn.flat("lora_unet_", drawn.layers(SDXL, "attn2.to_[kv]")).items():
        sizes = {"o": out, "i": into, "O": out // 8, "I": into // 8}
        for part, letters in parts.items():
            tensors[f"{name}.{part}"] = ("F16", tuple(sizes.get(x) or int(x) for x in letters))
    lora = drawn.inspected(tmp_path, tensors)
    assert (lora.kind, lora.algorithm, lora.rank, lora.family) == ("lora", algorithm, rank, "sdxl")


def test_full_differences_beside_lora_halves_leave_the_algorithm(tmp_path: Path) -> None:
    norms: Tensors = {"unet.conv_norm_out.diff": ("F16", (320,)), "unet.conv_norm_out.diff_b": ("F16", (320,))}
    lora = drawn.inspected(tmp_path, denoiser(SDXL, "attn2.to_k") | norms)
    assert (lora.algorithm, lora.rank, lora.modules["unet.conv_norm_out"].algorithm) == ("lora", 4, "diff")


def test_two_algorithms_in_one_file_are_mixed(tmp_path: Path) -> None:
    owner = "unet.mid_block.attentions.0.proj_in"
    lokr: Tensors = {f"{owner}.lokr_w1": ("F16", (8, 8)), f"{owner}.lokr_w2": ("F16", (160, 160))}
    assert drawn.inspected(tmp_path, denoiser(SDXL, "attn2.to_k") | lokr).algorithm == "mixed"


@pytest.mark.parametrize(
    ("halves", "lost", "fault"),
    [
        (PEFT, "lora_B.weight", "has no up (lora_B) half"),
        (NAMED, "lora_A.default.weight", "has no down (lora_A) half"),
        (KOHYA, "lora_up.weight", "has no up (lora_B) half"),
        (OLD, "lora.down.weight", "has no down (lora_A) half"),
    ],
)
def test_a_module_with_one_half_is_damaged_and_said_so(
    tmp_path: Path, halves: drawn.Halves, lost: str, fault: str
) -> None:
    tensors = drawn.lora(drawn.prefixed("unet.", drawn.layers(SDXL, "attn2.to_k")), halves)
    owner = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    del tensors[f"{owner}.{lost}"]
    lora = drawn.inspected(tmp_path, tensors)
    assert (lora.family, lora.modules[owner].fault) == ("sdxl", fault)
    assert lora.flags == (f"1 modules are damaged: {owner} {fault}",)


def test_halves_of_two_ranks_are_damaged(tmp_path: Path) -> None:
    tensors = denoiser(SDXL, "mid_block.*attn2.to_k")
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    lora = drawn.inspected(tmp_path, {**tensors, f"{name}.lora_B.weight": ("F16", (1280, 5))})
    assert lora.modules[name].fault == "has a down half of rank 4 and an up half of rank 5"


# ---- PEFT folders


def adapter(folder: Path, tensors: Tensors, config: object, name: str = "adapter_model.safetensors") -> Path:
    folder.mkdir()
    drawn.write(folder / name, tensors)
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config), "utf-8")
    return folder


BARE = drawn.NAMINGS["peft"](FLUX, "attn")


def test_a_folder_of_peft_is_read_with_its_config(tmp_path: Path) -> None:
    config = {
        "r": 4,
        "lora_alpha": 8,
        "base_model_name_or_path": "black-forest-labs/FLUX.1-schnell",
        "peft_type": "LORA",
    }
    folder = adapter(tmp_path / "a", BARE, config)
    for lora in (inspect_lora(folder), inspect_lora(folder / "adapter_model.safetensors")):
        assert (lora.format, lora.family, lora.claims.model) == ("peft", "flux1", "FLUX.1-schnell")
        assert (lora.rank, lora.alpha, lora.scaling, lora.path.parent) == (4, 8.0, 2.0, folder)


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"transformer_blocks.0.attn.to_q": 4}}, None),
        ({"lora_alpha": 4}, 1.0),
        ({}, 2.0),  # PEFT's default is 8
    ],
)
def test_the_config_of_peft_decides_the_scaling(tmp_path: Path, config: object, scaling: float | None) -> None:
    assert inspect_lora(adapter(tmp_path / "a", BARE, config)).scaling == scaling


@pytest.mark.parametrize(
    ("config", "fault"), [("{", "cannot be read"), ("[" * 100_000, "cannot be read"), ("[]", "is not a table")]
)
def test_a_config_that_cannot_be_read_would_lose_the_alpha(tmp_path: Path, config: str, fault: str) -> None:
    with pytest.raises(Broken, match=f"^has an adapter_config.json beside it that {fault}"):
        inspect_lora(adapter(tmp_path / "a", BARE, config))


def test_an_alpha_pattern_gives_single_modules_their_own_scaling(tmp_path: Path) -> None:
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"single_transformer_blocks.0.attn.to_q": 4}}
    lora = inspect_lora(adapter(tmp_path / "a", BARE, config))
    prefix = "base_model.model.single_transformer_blocks"
    owners = [f"{prefix}.{n}.attn.to_q" for n in (0, 1)]
    assert [effective(lora.modules[owner], lora.claims, owner) for owner in owners] == [1.0, 2.0]


def test_a_config_beside_another_file_is_not_its_own(tmp_path: Path) -> None:
    adapter(tmp_path / "a", BARE, {"lora_alpha": 8})
    assert inspect_lora(drawn.write(tmp_path / "a" / "mine.safetensors", BARE)).alpha is None


@pytest.mark.parametrize("names", [(), ("a.safetensors", "b.safetensors")])
def test_a_folder_that_does_not_say_which_file_is_broken(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        drawn.write(tmp_path / name, some(BARE, 2))
    with pytest.raises(Broken, match=rf"^is a folder with {len(names)} \.safetensors files and none of adapter_model"):
        inspect_lora(tmp_path)
