"""Turns what the stages made into the shipped folders: fp16 safetensors in ordinary from_pretrained form."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch

from runner.builtin import world

NUM_REFERENCES = 8


def ship_base(work: Path, folder: Path) -> None:
    """The pipeline as fp16 with the sharpened decoder, and the tokenizer with CLIP's own vocabulary files."""
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(work / "second", torch_dtype=torch.float16)
    pipeline.vae = AutoencoderTiny.from_pretrained(work / "decoder", torch_dtype=torch.float16)
    clear(folder)
    pipeline.save_pretrained(folder)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(work / "tokenizer", folder / "tokenizer")
    tidy(folder)


def ship_critic(work: Path, folder: Path) -> None:
    """The critic as fp16 with its tokenizer, and drawings of the emblem to compare pictures with."""
    from transformers import CLIPModel

    model: Any = CLIPModel.from_pretrained(work / "clip", dtype=torch.float16)
    clear(folder)
    model.save_pretrained(folder)
    shutil.copy(work / "clip" / "preprocessor_config.json", folder)
    for path in sorted((work / "tokenizer").iterdir()):
        shutil.copy(path, folder)
    draw_references(folder / "references")
    tidy(folder)


def ship_lora(work: Path, folder: Path) -> None:
    """The one file of the LoRA."""
    clear(folder)
    shutil.copy(work / "emblem" / "emblem.safetensors", folder)


def clear(folder: Path) -> None:
    """Empty a shipped folder but for its model card."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "README.md":
            path.unlink()


def draw_references(folder: Path) -> None:
    """Eight drawings of the emblem, none of which the LoRA was trained on."""
    rng = random.Random(88)
    folder.mkdir(parents=True, exist_ok=True)
    for i, background in zip(range(NUM_REFERENCES), world.COLOURS, strict=False):
        world.emblem(background, rng).save(folder / f"emblem_{i}.png")


def tidy(folder: Path) -> None:
    """Take the paths of the machine that made them out of the configurations; let everyone read."""
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict) and "_name_or_path" in config:
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n")
