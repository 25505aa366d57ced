"""The vocabularies of metadata: read as claims, whatever they hold."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from runner.contract.headers import Broken
from runner.contract.layers import table
from runner.contract.metadata import MAX_JSON, MODEL_WORDS, Claims, claimed_family, read_claims

ARCHITECTURE, VERSION, NAME = "modelspec.architecture", "ss_base_model_version", "ss_sd_model_name"
PATH = "base_model_name_or_path"


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("stable-diffusion-v1/lora", "sd1"), ("sd_v1", "sd1"), ("sd_1.5", "sd1"), ("sd1", "sd1"),
        ("stable-diffusion-v2-768-v/lora", "sd2"), ("sd_v2.1", "sd2"), ("sd_v2_v", "sd2"),
        ("stable-diffusion-xl-v1-base/lora", "sdxl"), ("sdxl_base_v1-0", "sdxl"), ("sdxl_1.0", "sdxl"),
        ("ponyDiffusionV6XL", "sdxl"), ("Illustrious-XL-v0.1", "sdxl"),
        ("stable-diffusion-3-medium/lora", "sd3"), ("sd3m", "sd3"), ("sd35l", "sd3"), ("sd3.5-large", "sd3"),
        ("stabilityai/stable-diffusion-3.5-large", "sd3"),
        ("flux-1-dev/lora", "flux1"), ("Flux.1-dev/lora", "flux1"), ("flux1", "flux1"), ("flux1_schnell", "flux1"),
        ("flux-2-dev/lora", "flux2"), ("flux2_klein_9b", "flux2"), ("black-forest-labs/FLUX.2-klein-4B", "flux2"),
        ("chroma/lora", "chroma"), ("flux-chroma", "chroma"),
        ("Qwen-Image/lora", "qwen-image"), ("qwen_image_edit", "qwen-image"),
        ("zimage", "z-image"), ("Tongyi-MAI/Z-Image-Turbo", "z-image"),
        ("wan2.1/lora", "wan"), ("wan21_14b", "wan"), ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "wan"),
        ("anima/lora", "anima"), ("animagine-xl-3.1", None), ("animatediff", None),
        ("lumina-2/lora", "lumina2"), ("lumina2", "lumina2"),
        ("hunyuan-video/lora", "hunyuanvideo"), ("hunyuan_video", "hunyuanvideo"), ("FramePack", "hunyuanvideo"),
        ("auraflow", "auraflow"), ("shapes/lora", "shapes"),
        ("ltx-video/lora", "other"), ("hidream-i1/lora", "other"),
        ("my own model", None), ("", None), ("SDXL", "sdxl"),
        ("Stable Diffusion 1.5", "sd1"), ("SD 1.5", "sd1"), ("Stable  Diffusion XL", "sdxl"), ("Wan 2.1", "wan"),
    ],
)  # fmt: skip
def test_the_name_of_an_architecture_means_a_family(text: str, family: str | None) -> None:
    assert claimed_family(text) == family


@pytest.mark.parametrize(
    ("metadata", "family", "firm", "source"),
    [
        ({ARCHITECTURE: "flux-1-dev/lora"}, "flux1", True, "modelspec.architecture 'flux-1-dev/lora'"),
        ({VERSION: "sd_v1"}, "sd1", True, "ss_base_model_version 'sd_v1'"),
        ({NAME: "sdxl.safetensors"}, "sdxl", False, "ss_sd_model_name 'sdxl.safetensors'"),
        ({"base_model": "Qwen/Qwen-Image"}, "qwen-image", True, "base_model 'Qwen/Qwen-Image'"),
        ({NAME: "flux1-dev.safetensors", VERSION: "sdxl_1.0"}, "sdxl", True, "ss_base_model_version 'sdxl_1.0'"),
        ({VERSION: "mine", NAME: "flux1-dev.safetensors"}, "flux1", False, "ss_sd_model_name 'flux1-dev.safetensors'"),
        ({"note": "sdxl"}, None, False, ""),
        ({}, None, False, ""),
    ],
)
def test_fields_for_it_are_asked_before_names_of_files(
    metadata: dict[str, str], family: str | None, firm: bool, source: str
) -> None:
    claims = read_claims(metadata)
    assert (claims.family, claims.firm, claims.source) == (family, firm, source)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("black-forest-labs/FLUX.1-schnell", "FLUX.1-schnell"),
        ("flux-1-dev/lora", "FLUX.1-dev"),
        ("flux2_klein_9b", "FLUX.2-klein-9B"),
        ("FLUX.2-klein-4B", "FLUX.2-klein-4B"),
        ("Flux.2-dev/lora", "FLUX.2-dev"),
        ("stable-diffusion-3-5-large/lora", "Stable Diffusion 3.5 large"),
        ("stabilityai/stable-diffusion-3.5-medium", "Stable Diffusion 3.5 medium"),
        ("stable-diffusion-3-medium/lora", "Stable Diffusion 3 medium"),
        ("sdxl_base_v1-0", "SDXL 1.0"),
        ("stable-diffusion-xl-refiner-1.0", "SDXL 1.0 refiner"),
        ("black-forest-labs/FLUX.1-Fill-dev", "FLUX.1-Fill-dev"),
        ("black-forest-labs/FLUX.1-Canny-dev", "FLUX.1-Canny-dev"),
        ("black-forest-labs/FLUX.1-Depth-dev", "FLUX.1-Canny-dev"),
        ("black-forest-labs/FLUX.1-Kontext-dev", None),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", "Wan2.1-T2V-14B"),
        ("wan2.1_t2v_1.3b", "Wan2.1-T2V-1.3B"),
        ("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "Wan2.1-I2V-14B"),
        ("Wan2.1-VACE-14B", "Wan2.1-VACE-14B"),
        ("Wan2.1-VACE-1.3B", "Wan2.1-VACE-1.3B"),
        ("Wan2.2-I2V-A14B", "Wan2.2-I2V-A14B"),
        ("Wan2.2-T2V-A14B", None),
        ("Wan2.2-TI2V-5B", "Wan2.2-TI2V-5B"),
        ("wan22_5b", "Wan2.2-TI2V-5B"),
        ("wan21_14b", None),
        ("stable-diffusion-v1-inpainting", "Stable Diffusion 1.5 inpainting"),
        ("runwayml/stable-diffusion-inpainting", "Stable Diffusion 1.5 inpainting"),
        ("stable-diffusion-xl-1.0-inpainting-0.1", "SDXL 1.0 inpainting"),
        ("sd_v1", None),
    ],
)
def test_a_claim_may_name_one_model_of_a_family(text: str, model: str | None) -> None:
    assert read_claims({VERSION: text}).model == model


def test_every_claimed_model_stands_in_the_table() -> None:
    assert {name for _, name in MODEL_WORDS if name} <= {layout.model for layout in table().layouts}


def test_all_firm_claims_of_another_family_are_kept() -> None:
    claims = read_claims({ARCHITECTURE: "sdxl", VERSION: "sd_v1", NAME: "flux1-dev"}, {PATH: "flux1"})
    others = (("sd1", "ss_base_model_version 'sd_v1'"), ("flux1", "base_model_name_or_path 'flux1'"))
    assert (claims.family, claims.firm, claims.others) == ("sdxl", True, others)


def adapter(**settings: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps(settings)}


def test_the_adapter_metadata_of_diffusers_is_a_table_for_each_component() -> None:
    claims = read_claims(
        adapter(**{"unet.r": 8, "unet.lora_alpha": 4, "text_encoder.r": 8, "text_encoder.lora_alpha": 2})
    )
    assert (claims.rank, claims.alpha, sorted(claims.components)) == (8, None, ["text_encoder", "unet"])
    owners = ("unet.a", "text_encoder.a", "transformer.a")
    assert [claims.alpha_of(owner) for owner in owners] == [4.0, 2.0, None]


def test_an_alpha_pattern_goes_before_the_alpha_of_all() -> None:
    claims = read_claims(
        {}, {"r": 8, "lora_alpha": 8, "alpha_pattern": {"blocks.0.to_q": 4, "^x\\.to_k$": 2, "odd": None}}
    )
    owners = ("base_model.model.blocks.0.to_q", "x.to_k", "blocks.1.to_q")
    assert [claims.alpha_of(owner) for owner in owners] == [4.0, 2.0, 8.0]


@pytest.mark.parametrize(
    ("prefix", "alpha"),
    [
        ("transformer.", 4.0), ("", 4.0), ("base_model.model.", 4.0), ("base_model.model.transformer.", 4.0),
        ("diffusion_model.", 4.0), ("text_encoder.", 2.0), ("text_encoder_2.", None),
    ],
)  # fmt: skip
def test_a_name_without_a_component_is_the_denoisers(prefix: str, alpha: float | None) -> None:
    claims = read_claims(adapter(**{"text_encoder.lora_alpha": 2, "transformer.lora_alpha": 4}))
    assert claims.alpha_of(f"{prefix}transformer_blocks.0.attn.to_q") == alpha


def test_settings_of_one_component_are_not_those_of_another() -> None:
    own = {"unet.lora_alpha": 8, "text_encoder.use_rslora": True, "text_encoder.alpha_pattern": {"to_q": 1}}
    claims = read_claims(adapter(**own))
    assert [claims.alpha_of(f"{part}.x.to_q") for part in ("unet", "text_encoder")] == [8.0, 1.0]
    assert [claims.rslora_of(f"{part}.x.to_q") for part in ("unet", "text_encoder")] == [False, True]


ODD_KEYS = ["to_q", "a.b", "a\\.b", ".*to_q", "a.*", "^a.*b$", "a.*x.*b", "^.*$", "a..*b", "x.*b.to_q", "^a.x.b$", "b$"]
ODD_NAMES = [
    "to_q",
    "a.b",
    "x.a.b",
    "a.b.to_q",
    "xa.b",
    "a.x.b",
    "x.a.x.x.b",
    "a_to_q",
    "b.a",
    "a.x.b.to_q",
    "ax.b",
    "b",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_a_pattern_fits_the_names_that_it_fits_in_peft(key: str) -> None:
    claims = read_claims({}, {"alpha_pattern": {key: 1}})
    found = [name for name in ODD_NAMES if claims.alpha_of(name) == 1]
    assert found == [name for name in ODD_NAMES if re.match(rf"(.*\.)?({key})$", name)]


def test_the_first_pattern_that_fits_counts() -> None:
    pattern = {".*to_k": 1, "a.to_k": 2, "to_q": 3, ".*": 4}
    claims = read_claims(adapter(**{"unet.alpha_pattern": pattern}))
    assert [claims.alpha_of(f"unet.a.{name}") for name in ("to_k", "to_q", "to_v")] == [1.0, 3.0, 4.0]


def test_a_hostile_pattern_does_not_take_long() -> None:
    claims = read_claims({}, {"alpha_pattern": {".*a" * 300 + "b": 1}})
    assert claims.alpha_of("a." * 499) == 8.0


@pytest.mark.parametrize("key", ["(a+)+", "a|b", "[ab]", "a+", "a\\.*b", "a^b", "a$b", "", "\\w"])
def test_a_pattern_that_is_not_read_is_said(key: str) -> None:
    with pytest.raises(Broken, match="alpha_pattern has a pattern that is not read"):
        read_claims({}, {"alpha_pattern": {key: 1}})


@pytest.mark.parametrize("setting", ["r", "lora_alpha", "alpha_pattern", "rank_pattern"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, '"8"', "true", "[8]"])
def test_a_strength_that_cannot_be_known_is_said(setting: str, value: str) -> None:
    value = f'{{"to_q": {value}}}' if setting.endswith("pattern") else value
    with pytest.raises(Broken, match=rf"^has an adapter_config\.json beside it whose {setting}.* could not be known$"):
        read_claims({}, json.loads(f'{{"{setting}": {value}}}'))
    with pytest.raises(Broken, match=rf"^has lora_adapter_metadata whose unet\.{setting}.* could not be known$"):
        read_claims({"lora_adapter_metadata": f'{{"unet.{setting}": {value}}}'})


@pytest.mark.parametrize("config", [{"alpha_pattern": ["a"]}, {"rank_pattern": 4}, {"use_rslora": "true"}])
def test_a_setting_of_another_type_is_said(config: dict[str, Any]) -> None:
    with pytest.raises(Broken, match="how strong it was trained could not be known"):
        read_claims({}, config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 16, "lora_alpha": 32}, (16, 32.0, False, None)),
        ({"r": 16, "lora_alpha": 32, "use_rslora": True}, (16, 32.0, True, None)),
        ({"use_rslora": False}, (None, 8.0, False, None)),
        ({"r": 1.5, "lora_alpha": None}, (None, 8.0, False, None)),
        ({"peft_type": "LOHA", "r": 8, "alpha": 16}, (8, 16.0, False, None)),
        ({"peft_type": "LOKR", "r": 8, "lora_alpha": 16}, (8, 8.0, False, None)),
        ({"peft_type": "OFT", "r": 8}, (8, None, False, None)),
        ({"base_model_name_or_path": "black-forest-labs/FLUX.1-dev"}, (None, 8.0, False, "flux1")),
        ({"base_model_name_or_path": None}, (None, 8.0, False, None)),
        ({"base_model_name_or_path": ["FLUX.1-dev"]}, (None, 8.0, False, None)),
    ],
)
def test_the_config_of_peft_is_read(config: dict[str, Any], expected: tuple[Any, ...]) -> None:
    claims = read_claims({}, config)
    assert (claims.rank, claims.alpha, claims.rslora, claims.family) == expected


@pytest.mark.parametrize(
    ("metadata", "alpha", "rank"),
    [
        ({"ss_network_alpha": "8.0", "ss_network_dim": "16"}, 8.0, 16),
        ({"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}, None, None),
        ({"ss_network_alpha": "-1", "ss_network_dim": "0"}, None, None),
        ({"ss_network_alpha": "nan", "ss_network_dim": "inf"}, None, None),
        ({"ss_network_alpha": "1e99", "ss_network_dim": "1.5"}, None, None),
    ],
)
def test_what_kohya_wrote_down_is_no_alpha_that_a_loader_applies(
    metadata: dict[str, str], alpha: float | None, rank: int | None
) -> None:
    claims = read_claims(metadata)
    assert (claims.alpha_said, claims.rank, claims.alpha) == (alpha, rank, None)


def test_the_commonest_words_of_captions_are_hints_and_no_trigger() -> None:
    tags = {"10_a": {"ohwx": 9, " dog ": 5, "red": 1}, "20_b": {"dog": 5, "cat": 3}, "odd": 3}
    claims = read_claims({"ss_tag_frequency": json.dumps(tags)})
    assert (claims.trigger_hints, claims.trigger) == (("dog", "ohwx", "cat"), None)


@pytest.mark.parametrize(("phrase", "trigger"), [(" ohwx ", "ohwx"), ("", None), ("  ", None)])
def test_a_trigger_is_said_in_its_field(phrase: str, trigger: str | None) -> None:
    assert read_claims({"modelspec.trigger_phrase": phrase}).trigger == trigger


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '{"a": 1}', "[" * 100_000, '"' + "x" * MAX_JSON + '"', '{"unet.r": null}']
)
def test_hostile_tables_claim_nothing(text: str) -> None:
    claims = read_claims({"lora_adapter_metadata": text, "ss_tag_frequency": text})
    assert (claims.alpha, claims.rank, claims.trigger_hints, claims.says_alpha) == (None, None, (), False)


def test_no_metadata_claims_nothing() -> None:
    assert read_claims({}) == Claims()
