"""What a person reads and chooses from: every file of `conf/` composes and says what it is.

The templates for real models are tried as far as they go without weights: what they ask for when nothing is there,
and that the contract answers with the base's configs and tokenizers alone.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.config import Request
from runner.contract import machine
from runner.contract.layers import Layout, split_name, table
from tests import fakes, tiny
from tests.fakes import Door

CONF = fakes.ROOT / "conf"
UNTYPED = ("experiment", "hydra", "local")
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OF_A_RUN = ["rereview"]  # takes its parties from the run that it names
WHOLE = [name for name in EXPERIMENTS if name not in OF_A_RUN]
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in UNTYPED)
OPTIONS = [[f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))] for group in GROUPS]
ROWS = [tuple(filter(None, row)) for row in zip_longest(*OPTIONS)]  # one option of each group at a time
FILES = [path.relative_to(CONF) for path in sorted(CONF.rglob("*.yaml")) if "local" not in path.parts]

TEMPLATES = [name for name in EXPERIMENTS if name.endswith("_lora")]
VIDEO = ["hunyuanvideo_lora", "wan_lora"]
WITHOUT_TEMPLATE = {"shapes", "other", "anima"}  # diffusers has Anima as a modular pipeline only
WITHOUT_WEIGHTS = {  # template -> the published model, and the tiny pipeline whose tokenizers stand in for its own
    "sd1_lora": ("Stable Diffusion 1.5", "sd1"),
    "sd2_lora": ("Stable Diffusion 2.1", "sd1"),
    "sdxl_lora": ("SDXL 1.0", "sdxl"),
    "sd3_lora": ("Stable Diffusion 3.5 medium", "sd3"),
    "flux1_lora": ("FLUX.1-dev", "flux1"),
    "flux2_lora": ("FLUX.2-dev", "flux2"),
    "flux2_klein_lora": ("FLUX.2-klein-4B", "flux2-klein"),
    "qwen_image_lora": ("Qwen-Image", "qwen-image"),
    "z_image_lora": ("Z-Image", "z-image"),
    "chroma_lora": ("Chroma1-HD", "flux1"),
    "lumina2_lora": ("Lumina-Image-2.0", "z-image"),
    "auraflow_lora": ("AuraFlow v0.3", "flux1"),
    "wan_lora": ("Wan2.1-T2V-14B", "flux1"),
    "hunyuanvideo_lora": ("HunyuanVideo", "flux1"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_experiment_composes_into_a_typed_request(name: str) -> None:
    assert fakes.request({}, name).name == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_begins_with_its_command_and_that_composes(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text("utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    python, dash_m, runner, *words = shlex.split(lines[1].removeprefix("# "))
    assert [python, dash_m, runner, words[0]] == ["python", "-m", "runner", f"+experiment={name}"]
    assert fakes.composed(name, *words[1:])["name"] == name


@pytest.mark.parametrize("words", ROWS, ids=" ".join)
def test_every_option_of_every_group_composes_with_the_demo(words: tuple[str, ...]) -> None:
    assert fakes.request({}, "demo", *words).name == "demo"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_begins_with_what_it_is(file: Path) -> None:
    lines = [line for line in (CONF / file).read_text("utf-8").splitlines() if line != "# @package _global_"]
    assert lines[0].startswith("# ") and len(lines[0]) > 10


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] != "hydra"], ids=str)
def test_no_file_of_ours_names_code(file: Path) -> None:
    assert "_target_" not in yaml.safe_dump(yaml.safe_load((CONF / file).read_bytes()))


def test_the_experiment_is_named_on_the_command_line_only() -> None:
    groups = yaml.safe_load((CONF / "config.yaml").read_bytes())["defaults"]
    assert not [entry for entry in groups if "experiment" in str(entry)]


def test_the_mode_and_the_base_model_have_no_default() -> None:
    values = yaml.safe_load((CONF / "config.yaml").read_bytes())
    assert values["mode"] == "???"
    assert {"base_model": "???"} in values["defaults"]


# ---- templates for real models: what they say


def test_every_family_has_a_template() -> None:
    known = {layout.family for layout in table().layouts if layout.part != "text"} - WITHOUT_TEMPLATE
    assert {fakes.request({}, name).base_model.family for name in TEMPLATES} == known


@pytest.mark.parametrize("name", TEMPLATES)
def test_base_lora_trigger_and_prompts_of_a_template_agree(name: str) -> None:
    asked = fakes.request({}, name)
    assert (asked.lora.family, asked.lora.base) == (asked.base_model.family, asked.base_model.id)
    assert asked.trigger.token == asked.lora.trigger
    assert all("{trigger}" in str(item) for item in asked.prompt.items or ())


@pytest.mark.parametrize("group", ["base_model", "lora"])
def test_a_card_has_the_name_of_its_file(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        assert yaml.safe_load(file.read_bytes())["id"] == (None if file.stem == "none" else file.stem)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_base_card_has_the_commands_that_get_it(name: str) -> None:
    card = fakes.request({}, name).base_model
    text = (CONF / "base_model" / f"{card.id}.yaml").read_text("utf-8")
    assert re.fullmatch("[0-9a-f]{40}", str(card.revision))
    assert f"hf download {card.repository} --revision {card.revision} --local-dir {card.path}\n" in text
    assert 'until=contract alone, add --include "*.json" --include "*.txt" --include "*.jinja" --include "*.m' in text


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in VIDEO])
def test_a_pipeline_takes_what_its_template_sets(name: str) -> None:
    import inspect

    import diffusers

    from runner.generate.pipeline import call_settings

    asked = fakes.request({}, name)
    pipeline = getattr(diffusers, asked.base_model.pipeline)
    taken = inspect.signature(pipeline.__call__).parameters
    assert call_settings(pipeline, asked.generate, 1).keys() <= taken.keys()
    assert "negative_prompt" in taken or not asked.base_model.negative_prompt


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in VIDEO])
def test_a_negative_prompt_that_a_template_would_ignore_is_refused(name: str) -> None:
    reads = fakes.request({}, name).base_model.negative_prompt
    said = "\n".join(fakes.said(fakes.request({"generate.negative_prompt": "x", "generate.guidance_scale": 1.0}, name)))
    why = "'x' would be ignored at guidance_scale 1. Set" if reads else "takes no negative prompt. Set"
    assert why in said


# ---- templates for real models: what they ask for


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_asks_for_its_base_and_its_lora_and_nothing_else(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(machine, "device_there", lambda device, index: True)
    asked = fakes.request({}, name, f"local.models={tmp_path}")
    base = asked.base_model
    answer = door(f"+experiment={name}", "until=contract", f"local.models={tmp_path}")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        "refused:",
        f"- base_model.path: {base.path} is not there. Get it with `hf download {base.repository} "
        f"--revision {base.revision} --local-dir {base.path}`, or set base_model.path.",
        f"- lora.path: {asked.lora.path} is not there. Set lora.path to the .safetensors file, or the PEFT folder.",
    ]


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has the device")
def test_a_missing_device_is_one_fault_and_not_two() -> None:
    faults = fakes.faults(fakes.request({}, "flux1_lora"))  # its offload is not ignored, it has no device yet
    assert [fault.code for fault in faults] == ["device_missing", "base_missing", "lora_missing"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_configs_and_tokenizers_alone_pass_the_contract(door: Door, tmp_path: Path, name: str) -> None:
    answer = door(*_words(name, tmp_path), "until=contract", "output=json")
    assert (answer.code, answer.line["faults"]) == (0, [])
    findings = {row["question"]: row for row in answer.line["contract"]["findings"]}
    assert findings["base files"]["answer"] == "cannot tell"
    assert "enough for the contract, not for a run: has no weights for " in findings["base files"]["evidence"]
    assert {findings[each]["answer"] for each in ("base family", "LoRA family", "binding")} == {"agrees"}
    assert answer.line["contract"]["parties"]["base_model"]["sha256"] is None
    assert answer.line["tokens"] and all(row["trigger_survives"] for row in answer.line["tokens"])


@pytest.mark.parametrize("name", ["sd1_lora", "flux2_lora"])
def test_configs_and_tokenizers_alone_are_not_enough_for_a_run(door: Door, tmp_path: Path, name: str) -> None:
    answer = door(*_words(name, tmp_path), "output=json")
    [fault] = answer.line["faults"]
    assert (answer.code, fault["code"]) == (2, "base_missing")
    assert "has no weights for" in fault["what"] and fault["fix"].startswith("Get it with `hf download ")
    assert not door.outputs.exists()


@pytest.mark.parametrize("name", VIDEO)
def test_a_pipeline_that_makes_videos_is_refused_for_a_run(name: str) -> None:
    asked = fakes.request({"until": "plan"}, name)
    what = f"base_model.pipeline: {asked.base_model.pipeline} makes videos; this runner makes images. "
    fix = "Choose a base_model that makes images, or check LoRA and prompts alone with until=contract."
    assert fakes.said(asked)[0] == what + fix


def _words(name: str, folder: Path) -> list[str]:
    """A template's command line on the processor, with a base without weights and a LoRA that fits it."""
    model, stand_in = WITHOUT_WEIGHTS[name]
    layout = next(each for each in table().layouts if each.model == model and each.part != "text")
    base = _without_weights(folder / "base", fakes.request({}, name), layout, tiny.folder(stand_in))
    of_weights = {"runner.base_sha256": "a" * 64}  # which nobody can compare yet
    lora = fakes.write_lora(folder / "lora.safetensors", _attention(layout), rank=2, metadata=of_weights)
    prompt = ["prompt.items=['a {trigger} on a table']", "prompt.budget.mode=explore"]  # tiny tokenizers know few words
    more = [f"base_model.path={base}", f"lora.path={lora}", "lora.rank=2", "lora.alpha=null"]
    return [f"+experiment={name}", *more, "hardware=cpu", "runtime=float32", *prompt]


def _without_weights(folder: Path, asked: Request, layout: Layout, tiny_folder: Path) -> Path:
    """A base as it is without its weights: the tiny one's other files, and the published denoiser's settings."""
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    index = json.loads((folder / "model_index.json").read_bytes())
    if index["_class_name"] != asked.base_model.pipeline:  # a stand-in: one tokenizer, one text encoder
        kept: dict[str, Any] = {part: index[part] for part in ("tokenizer", "text_encoder", "vae")}
        index = {**kept, layout.part: ["diffusers", layout.class_name]}
        index["_class_name"] = asked.base_model.pipeline
        (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    (folder / layout.part).mkdir(exist_ok=True)
    settings = {"_class_name": layout.class_name, **layout.config}
    (folder / layout.part / "config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def _attention(layout: Layout) -> dict[str, tuple[int, int]]:
    """The first attention layer of each name in a published denoiser, with its widths in and out."""
    first: dict[str, tuple[str, tuple[int, ...]]] = {}
    for full, shape in layout.expand().items():
        if "att" in full and len(shape) == 2:
            first.setdefault(split_name(full).key, (full, shape))
    return {f"{layout.part}.{full}": (shape[1], shape[0]) for full, shape in first.values()}
