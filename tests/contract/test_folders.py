"""Model folders: what is there, what is missing, and one digest over the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runner import builtin, store
from runner.contract.folders import files_digest, known_to_diffusers, locate, read_model_folder, weights_digest
from runner.contract.headers import Broken
from tests import fakes

SHAPES = builtin.package_dir() / "shapes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped base that a test may damage."""
    return Path(shutil.copytree(SHAPES, tmp_path / "base"))


def test_the_shipped_base_is_read_whole() -> None:
    base = read_model_folder(SHAPES)
    assert (base.pipeline, base.family, list(base.tokenizers)) == ("StableDiffusionPipeline", "shapes", ["tokenizer"])
    assert base.components == ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove("model_index.json"), "^has no model_index.json$"),
        (write("model_index.json", "{"), "^has a model_index.json that cannot be read "),
        (write("model_index.json", "[]"), "^has a model_index.json that is not a table$"),
        (write("model_index.json", '{"_class_name": "X", "unet": []}'), "model_index.json"),
        (write("unet/diffusion_pytorch_model.safetensors", "torn"), "^has 4 bytes; a header alone has more$"),
        (write("unet/diffusion_pytorch_model.safetensors", "torn or cut"), "^is truncated: its header should have "),
        (
            remove("unet/diffusion_pytorch_model.safetensors"),
            r"^has no weights for unet \(UNet2DConditionModel\): no \.safetensors file$",
        ),
        (
            write("unet/x.safetensors.index.json", '{"weight_map": {"a": "x-2.safetensors", "b": "x-1.safetensors"}}'),
            r"^has no weights for unet \(UNet2DConditionModel\): x-1\.safetensors, x-2\.safetensors$",
        ),
        (remove("text_encoder/model.safetensors"), r"^has no weights for text_encoder \(CLIPTextModel\): no "),
        (remove("unet/config.json"), "unet"),
        (remove("vae/config.json"), "vae"),
        (
            lambda folder: shutil.rmtree(folder / "scheduler"),
            r"^has no scheduler/, which its model_index\.json names$",
        ),
    ],
)
def test_a_damaged_folder_says_what_is_wrong(folder: Path, damage: Callable[[Path], object], reason: str) -> None:
    damage(folder)
    with pytest.raises(Broken, match=reason):
        read_model_folder(folder)


def test_a_damaged_base_is_refused_before_anything_loads(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"torn")
    found = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert [(fault.code, fault.where) for fault in found] == [("base_missing", "base_model.path")]
    assert found[0].what == f"{folder} has 4 bytes; a header alone has more"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_cannot_be_read_is_refused(folder: Path, name: str) -> None:
    (folder / "tokenizer" / name).write_text("{", "utf-8")
    (fault,) = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert (fault.code, fault.where) == ("tokenizer_unreadable", str(folder / "tokenizer"))
    assert fault.fix == "Save the tokenizer again with `save_pretrained` of a fast tokenizer"


def test_a_tokenizer_without_a_limit_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}", "utf-8")
    (fault,) = fakes.faults(fakes.request({"base_model.path": str(folder)}, "demo_base"))
    assert (fault.code, fault.where) == ("tokenizer_unreadable", str(folder / "tokenizer"))


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
