"""Model folders: what they are, from weights or from configs alone; what is missing; one digest over the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import builtin, store
from runner.contract.folders import files_digest, known_to_diffusers, locate, read_model_folder, weights_digest
from runner.contract.headers import Broken
from tests import fakes
from tests.contract import drawn

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SHAPES = builtin.package_dir() / "shapes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped base that a test may damage."""
    return Path(shutil.copytree(SHAPES, tmp_path / "base"))


def test_the_shipped_base_is_read_whole() -> None:
    base = read_model_folder(SHAPES)
    assert (base.pipeline, base.family, base.model) == ("StableDiffusionPipeline", "shapes", "shapes")
    assert (list(base.tokenizers), base.missing, base.guessed) == (["tokenizer"], (), False)
    assert set(base.components) == {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    assert base.layouts["unet"].expand() == drawn.layers("shapes")


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("model_index.json"), "^has no model_index.json$"),
        (write("model_index.json", "{"), "^has a model_index.json that cannot be read "),
        (write("model_index.json", "[" * 100_000), "^has a model_index.json that cannot be read "),
        (write("model_index.json", "[]"), "^has a model_index.json that is not a table$"),
        (write("model_index.json", "{}"), "^has a model_index.json that names no unet and no transformer$"),
        (write("model_index.json", '{"unet": []}'), "^has a model_index.json that names no unet and no transformer$"),
        (write("unet/config.json", "{"), "^has a unet/config.json that cannot be read "),
        (write("unet/diffusion_pytorch_model.safetensors", "torn"), "^has a unet/diff.*rs that has 4 bytes; a header"),
        (
            write("unet/diffusion_pytorch_model.safetensors", "torn or cut"),
            "^has a unet/diffusion_pytorch_model.safetensors that is a text without tensors: it begins with ",
        ),
    ],
)
def test_a_damaged_folder_says_what_is_wrong(folder: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(folder)
    with pytest.raises(Broken, match=reason):
        read_model_folder(folder)


def pipe(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def hole(name: str, num_bytes: int) -> Callable[[Path], object]:
    return lambda folder: os.truncate(folder / name, num_bytes)


def named(component: str) -> Callable[[Path], object]:
    index = json.dumps({"unet": ["diffusers", "UNet2DConditionModel"], component: ["diffusers", "Other"]})
    return write("model_index.json", index)


def dangling(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to("/nowhere/blob")


LONG = json.dumps({"weight_map": {"a": "x" * 300}})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (pipe("unet/a.safetensors.index.json"), r"^has an? unet/a.* that cannot be read \(is no regular file\)$"),
        (pipe("unet/config.json"), r"^has a unet/config.json that cannot be read \(is no regular file\)$"),
        (hole("unet/config.json", 1 << 30), r"^has a unet/config.json .* \(has more than 4000000 bytes\)$"),
        (named("x" * 300), r"^names a file that cannot be read: File name too long \(x+.*\)$"),
        (write("unet/a.safetensors.index.json", LONG), r"^names a file that cannot be read: File name too long \(x+"),
        (dangling("unet/b.safetensors"), "^has a unet/b.safetensors that cannot be read: No such file or directory$"),
    ],
)
def test_a_hostile_folder_is_neither_waited_for_nor_read_whole(
    folder: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(folder)
    with pytest.raises(Broken, match=reason):
        read_model_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_tokenizer_is_not_waited_for(folder: Path, name: str) -> None:
    pipe(f"tokenizer/{name}")(folder)
    found = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert [fault.code for fault in found] in (["tokenizer_unreadable"], [])


@pytest.mark.parametrize("end", [".fp16", "-1-of-2.fp16", ".fp16-1-of-2"])
def test_a_lone_variant_is_read_but_misses_for_a_run(folder: Path, end: str) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / f"diffusion_pytorch_model{end}.safetensors")
    base = read_model_folder(folder)
    assert base.missing == ("has only the fp16 variant of unet: rename the file or get the whole one",)
    assert base.layouts["unet"].expand() == drawn.layers("shapes")


@pytest.mark.parametrize(
    "ending",
    [".weight._data", ".qweight", ".weight:qdata", ".weight.absmax", ".weight.quant_state.bitsandbytes__nf4", None],
)
def test_the_layers_of_a_packed_component_are_told_by_its_settings(tmp_path: Path, ending: str | None) -> None:
    config: dict[str, Any] = {} if ending else {"quantization_config": {"quant_method": "some"}}
    folder = drawn.write_base(tmp_path / "base", "FLUX.1-dev", **config)
    packed: drawn.Tensors = {f"{name}{ending or '.weight'}": ("U8", (8, 1)) for name in drawn.layers("FLUX.1-dev")}
    drawn.write(folder / "transformer" / "diffusion_pytorch_model.safetensors", packed)
    base = read_model_folder(folder)
    assert (base.quantised, base.guessed, base.missing) == (("transformer",), False, ())
    assert base.layouts["transformer"].expand() == drawn.layers("FLUX.1-dev")


SHARDS = '{"weight_map": {"a": "x-2.safetensors", "b": "x-1.safetensors"}}'


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (
            remove("unet/diffusion_pytorch_model.safetensors"),
            "has no weights for unet (UNet2DConditionModel): no .safetensors file",
        ),
        (
            write("unet/x.safetensors.index.json", SHARDS),
            "has no weights for unet (UNet2DConditionModel): x-1.safetensors, x-2.safetensors",
        ),
        (
            remove("text_encoder/model.safetensors"),
            "has no weights for text_encoder (CLIPTextModel): no .safetensors file",
        ),
        (remove("unet/config.json"), "has no unet/config.json"),
        (remove("vae/config.json"), "has no vae/config.json"),
        (
            lambda folder: shutil.rmtree(folder / "scheduler"),
            "has no scheduler/, which its model_index.json names",
        ),
    ],
)
def test_a_folder_that_lacks_something_says_what(folder: Path, damage: Callable[[Path], object], missing: str) -> None:
    damage(folder)
    assert read_model_folder(folder).missing == (missing,)
    (fault,) = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert (fault.code, fault.where, fault.what) == ("base_missing", "base_model.path", f"{folder} {missing}")


def test_half_of_the_shards_are_no_smaller_model(tmp_path: Path) -> None:
    part = drawn.write_base(tmp_path / "base", "Z-Image", weights=True) / "transformer"
    halves = {
        name: "2.safetensors" if name.startswith("layers") else "1.safetensors" for name in drawn.layers("Z-Image")
    }
    first = {f"{name}.weight": ("F16", shape) for name, shape in drawn.layers("Z-Image", "^(?!layers)").items()}
    drawn.write(part / "diffusion_pytorch_model.safetensors", first).rename(part / "1.safetensors")
    (part / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": halves}))
    base = read_model_folder(tmp_path / "base")
    assert base.missing == ("has no weights for transformer (ZImageTransformer2DModel): 2.safetensors",)
    assert base.layouts["transformer"].expand() == drawn.layers("Z-Image")


# ---- from configs alone


@pytest.mark.parametrize("model", [name for name, layout in drawn.LAYOUTS.items() if layout.family in drawn.PIPELINES])
def test_a_published_model_is_known_by_its_settings(tmp_path: Path, model: str) -> None:
    base, layout = read_model_folder(drawn.write_base(tmp_path / "base", model)), drawn.LAYOUTS[model]
    assert (base.family, base.model, base.guessed) == (layout.family, model, False)
    assert base.layouts == {layout.part: layout}
    assert base.missing == (f"has no weights for {layout.part} ({layout.class_name}): no .safetensors file",)


def test_weights_tell_the_same_layers_as_settings(tmp_path: Path) -> None:
    encoders = {"text_encoder": "CLIP ViT-L", "text_encoder_2": "T5 v1.1 XXL"}
    bases = [
        read_model_folder(drawn.write_base(tmp_path / str(weights), "FLUX.1-schnell", encoders, weights=weights))
        for weights in (False, True)
    ]
    assert bases[0].layouts.keys() == bases[1].layouts.keys() == {"transformer", *encoders}
    for part in bases[0].layouts:
        assert bases[0].layouts[part].expand() == bases[1].layouts[part].expand()
    assert (bases[1].missing, bases[1].model) == ((), "FLUX.1-schnell")


@pytest.mark.parametrize(
    ("model", "changes", "found", "guessed"),
    [
        ("Stable Diffusion 1.5", {"sample_size": 64}, "Stable Diffusion 1.5", False),
        ("Stable Diffusion 1.5", {"sample_size": 64, "in_channels": 9}, "Stable Diffusion 1.5 inpainting", False),
        ("SDXL 1.0", {"sample_size": 128, "upcast_attention": None}, "SDXL 1.0", False),
        ("SDXL 1.0 refiner", {"sample_size": 128}, "SDXL 1.0 refiner", False),
        ("FLUX.1-dev", {"axes_dims_rope": [8, 60, 60]}, "FLUX.1-dev", False),
        ("Stable Diffusion 1.5", {"in_channels": 12}, "Stable Diffusion 1.5", True),
        ("FLUX.1-dev", {"in_channels": 128}, "FLUX.1-dev", True),
        ("FLUX.1-dev", {"num_layers": 8}, "FLUX.1-lite-8B", False),
        ("FLUX.1-dev", {"num_layers": 3}, None, True),
        ("Wan2.1-T2V-14B", {"num_layers": 12}, None, True),
    ],
)
def test_settings_that_are_nearly_published_are_a_guess(
    tmp_path: Path, model: str, changes: Mapping[str, Any], found: str | None, guessed: bool
) -> None:
    base = read_model_folder(drawn.write_base(tmp_path / "base", model, **changes))
    assert (base.model, base.guessed, base.family) == (found, guessed, drawn.LAYOUTS[model].family)


@pytest.mark.parametrize(
    ("pipeline", "unet", "family"),
    [
        ("StableDiffusionPipeline", {"cross_attention_dim": 96}, "shapes"),
        ("StableDiffusionPipeline", {"cross_attention_dim": 768}, "sd1"),
        ("StableDiffusionImg2ImgPipeline", {"cross_attention_dim": 1024}, "sd2"),
        ("StableDiffusionXLPipeline", {"cross_attention_dim": 2048}, "sdxl"),
        ("StableDiffusionPipeline", {"cross_attention_dim": [768]}, None),
        ("StableDiffusionPipeline", {}, None),
        ("DiffusionPipeline", drawn.LAYOUTS["SDXL 1.0"].config, None),
        ("MyOwnPipeline", drawn.LAYOUTS["SDXL 1.0"].config, None),
        ("MyOwnPipeline", {"cross_attention_dim": 2048}, "other"),
        ("KolorsPipeline", drawn.LAYOUTS["SDXL 1.0"].config, "other"),
        ("IFPipeline", drawn.LAYOUTS["Stable Diffusion 1.5"].config, "other"),
        ("AudioLDMPipeline", drawn.LAYOUTS["Stable Diffusion 1.5"].config, "other"),
        ("KolorsPipeline", {"cross_attention_dim": 2048}, "other"),
        ("KandinskyV22Pipeline", {"cross_attention_dim": 768}, "other"),
    ],
)
def test_a_unet_is_told_by_the_text_it_reads_and_its_pipeline(
    tmp_path: Path, pipeline: str, unet: Mapping[str, Any], family: str | None
) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **unet}))
    index = {"_class_name": pipeline, "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert read_model_folder(tmp_path).family == family


def test_the_folder_of_a_denoiser_counts_as_a_pipeline_of_one(tmp_path: Path) -> None:
    part = drawn.write_base(tmp_path / "base", "Z-Image", weights=True) / "transformer"
    base = read_model_folder(part)
    assert (base.pipeline, base.family, base.model, base.missing) == ("None", "z-image", "Z-Image", ())
    assert base.layouts["transformer"].expand() == drawn.layers("Z-Image")


def test_the_folder_of_another_part_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(Broken, match=r"^has no model_index.json, and its config.json is that of a AutoencoderKL$"):
        read_model_folder(tmp_path)


def test_a_text_encoder_within_a_larger_one_is_known_by_its_inner_settings(tmp_path: Path) -> None:
    folder = drawn.write_base(tmp_path / "base", "Qwen-Image", {"text_encoder": "Qwen2.5-VL 7B"})
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({"text_config": json.loads(config.read_bytes()), "vision_config": {}}))
    assert read_model_folder(folder).layouts["text_encoder"].model == "Qwen2.5-VL 7B"


def test_t5_and_umt5_are_told_apart(tmp_path: Path) -> None:
    folder = drawn.write_base(tmp_path / "base", "Wan2.1-T2V-14B", {"text_encoder": "UMT5 XXL"})
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_bytes()), "model_type": "umt5"}))
    assert read_model_folder(folder).layouts["text_encoder"].model == "UMT5 XXL"


# ---- refusals, places and digests


def test_a_damaged_base_is_refused_before_anything_loads(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    found = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert [(fault.code, fault.where) for fault in found] == [("base_missing", "base_model.path")]
    assert found[0].what == f"{folder} has a {WEIGHTS} that has 4 bytes; a header alone has more"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_cannot_be_read_is_refused(folder: Path, name: str) -> None:
    (folder / "tokenizer" / name).write_text("{", "utf-8")
    (fault,) = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert (fault.code, fault.where) == ("tokenizer_unreadable", str(folder / "tokenizer"))
    assert fault.fix.startswith("Save the tokenizer again with `save_pretrained` of a fast tokenizer")


def test_a_tokenizer_without_a_limit_is_refused(folder: Path) -> None:
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text("{}", "utf-8")
    (fault,) = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert (fault.code, fault.where) == ("tokenizer_unreadable", str(config))
    assert fault.fix


def test_a_built_in_model_a_path_and_a_home_are_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", str(tmp_path))
    (tmp_path / "m").mkdir()
    assert [locate("~/m"), locate("$MODELS/m"), locate(str(tmp_path / "m"))] == [tmp_path / "m"] * 3
    assert locate("builtin:shapes") == SHAPES
    assert [locate("builtin:nowhere"), locate("builtin:shapes/nowhere"), locate("nowhere")] == [None] * 3


def test_the_digest_of_a_folder_is_over_names_and_weights(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    (tmp_path / "config.json").write_text(json.dumps({}), "utf-8")
    one, two = store.digest(b"one"), store.digest(b"two")
    assert weights_digest(tmp_path) == store.digest(f"a/x.safetensors {one}\nb.safetensors {two}".encode())


def test_the_digest_of_all_files_leaves_out_only_the_readme(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_bytes(b"{}")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    (tmp_path / "README.md").write_bytes(b"read me")
    # printf 'a/config.json %s\nb.safetensors %s' "$(printf '{}'|sha256sum|cut -c-64)" "$(printf two|...)" | sha256sum
    assert files_digest(tmp_path) == "8dc321b99ee4af4a1c2455059bbe28e5cc8b76fc32da956c77723c6b8f7da6eb"


@pytest.mark.parametrize(
    ("name", "known"),
    [("StableDiffusionXLPipeline", True), ("EulerDiscreteScheduler", True), ("EulerScheduler", False), ("Flux", False)],
)
def test_a_class_is_known_when_the_installed_diffusers_exports_it(name: str, known: bool) -> None:
    assert known_to_diffusers(name) == known
