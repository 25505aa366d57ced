"""How well the shipped models do, each figure with its n and its seed.

The pixel reader judges the pictures; the critic is measured on drawings it has not seen, and how far
it agrees with the reader on generated pictures is told too.
"""

import importlib.metadata
import platform
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from runner import store
from runner.builtin import captions, read, world
from runner.builtin.recipe import autoencoder, emblem, tensors
from runner.builtin.recipe.critic import Critic

NUM_STEPS, GUIDANCE_SCALE, BATCH_SIZE = emblem.NUM_STEPS, emblem.GUIDANCE_SCALE, 25
SETTINGS = {"num_inference_steps": NUM_STEPS, "guidance_scale": GUIDANCE_SCALE, "size_px": world.SIZE_PX}
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "pillow", "scipy", "numpy")

Figure = dict[str, Any]


def measure(models: Path, sheets: Path | None = None) -> Figure:
    """All figures of the models in a folder."""
    torch.set_num_threads(2)
    base, critic = emblem.load_base(models / "shapes"), Critic(models / "shapes_clip")
    figures = {
        "reader": measure_reader(),
        "autoencoder": measure_autoencoder(base.vae),
        "critic": measure_critic(critic),
        "shapes": measure_base(base, critic, sheets),
        "emblem": measure_lora(base, critic, models, sheets),
    }
    return {
        "figures": figures,
        "settings": SETTINGS,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "machine": {"python": platform.python_version(), "device": "cpu", "dtype": "float32"},
        "sha256": {path.relative_to(models).as_posix(): store.file_digest(path) for path in weights(models)},
    }


def weights(models: Path) -> list[Path]:
    """The weight files of the shipped models, sorted by name."""
    folders = (models / name for name in ("emblem", "shapes", "shapes_clip"))
    return sorted(path for folder in folders for path in folder.rglob("*.safetensors"))


def rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, 4) for name, share in shares.items()}


# ---- pictures


def generate(base: Any, prompts: Sequence[str], seed: int) -> list[Image.Image]:
    """One picture per prompt at the default settings; picture i has the seed `seed + i`."""
    images: list[Image.Image] = []
    for i in range(0, len(prompts), BATCH_SIZE):
        batch = list(prompts[i : i + BATCH_SIZE])
        generators = [torch.Generator().manual_seed(seed + i + j) for j in range(len(batch))]
        made = base(batch, num_inference_steps=NUM_STEPS, guidance_scale=GUIDANCE_SCALE, generator=generators)
        images += made.images
    return images


def sample_scenes(num: int, seed: int) -> tuple[list[world.Scene], random.Random]:
    rng = random.Random(seed)
    return [world.sample_scene(rng) for _ in range(num)], rng


# ---- what is measured


def measure_reader(num: int = 500, seed: int = 101) -> Figure:
    scenes, rng = sample_scenes(num, seed)
    shares = read.accuracy([world.draw(scene, rng) for scene in scenes], scenes)
    return {"n": num, "seed": seed, "what": "true drawings, pixel reader"} | rounded(shares)


def measure_autoencoder(vae: Any, num: int = 300, seed: int = 102) -> Figure:
    scenes, rng = sample_scenes(num, seed)
    decoded = autoencoder.round_trip(vae, [world.draw(scene, rng) for scene in scenes])
    shares = read.accuracy(decoded, scenes)
    return {"n": num, "seed": seed, "what": "decoded drawings, pixel reader"} | rounded(shares)


def measure_critic(critic: Critic, num: int = 600, seed: int = 103) -> Figure:
    """Zero-shot: each attribute by its own sentence, and all three by the best of 720 full sentences."""
    scenes, rng = sample_scenes(num, seed)
    readings = critic.read([world.draw(scene, rng) for scene in scenes])
    pairs = list(zip(readings, scenes, strict=True))
    shares = {name: read.share_equal(pairs, (name,)) for name in world.MAIN_ATTRIBUTES}
    joint = [(reading.joint, scene) for reading, scene in pairs]
    shares |= {f"joint_{name}": read.share_equal(joint, (name,)) for name in world.MAIN_ATTRIBUTES}
    shares["joint_all"] = read.share_equal(joint, world.MAIN_ATTRIBUTES)
    return {"n": num, "seed": seed, "what": "unseen drawings, zero-shot"} | rounded(shares)


def measure_base(base: Any, critic: Critic, sheets: Path | None, num: int = 500, seed: int = 104) -> Figure:
    """Fresh prompts of the full caption mix; every prompt tells shape, colour and background."""
    scenes, rng = sample_scenes(num, seed)
    asked = [captions.caption(scene, rng, full=True) for scene in scenes]
    images = generate(base, [caption.text for caption in asked], seed)
    save_sheet(images[:96], sheets, "shapes")
    single = [(image, scene) for image, scene in zip(images, scenes, strict=True) if scene.count == 1]
    shares = told_accuracy(images, scenes, asked)
    shares["all_single"] = read.accuracy([i for i, _ in single], [s for _, s in single])["all"]
    shares |= agreement(critic, images)
    return {"n": num, "seed": seed, "what": "full caption mix, pixel reader"} | rounded(shares)


def told_accuracy(
    images: Sequence[Image.Image], scenes: Sequence[world.Scene], asked: Sequence[captions.Caption]
) -> dict[str, float]:
    """As read.accuracy, but size and position only where the prompt told them."""
    shares = read.accuracy(images, scenes)
    for name in ("size", "position"):
        told = [i for i, caption in enumerate(asked) if name in caption.told and scenes[i].count == 1]
        shares[name] = read.accuracy([images[i] for i in told], [scenes[i] for i in told])[name]
    return shares


def agreement(critic: Critic, images: Sequence[Image.Image]) -> dict[str, float]:
    """How often critic and pixel reader say the same about generated pictures."""
    pairs = [(a.joint, read.read(image)) for a, image in zip(critic.read(images), images, strict=True)]
    return {f"critic_agrees_{name}": read.share_equal(pairs, (name,)) for name in world.MAIN_ATTRIBUTES}


def measure_lora(
    base: Any, critic: Critic, models: Path, sheets: Path | None, num: int = 100, seed: int = 105
) -> Figure:
    """The same prompts and seeds with the LoRA and without; `shown` is the reader's emblem test."""
    prompts, scenes = lora_prompts(num, seed)
    backgrounds = [list(world.COLOURS)[i % len(world.COLOURS)] for i in range(num)]
    references = critic.image_features(reference_images(models))
    alone = {name: generate(base, texts, seed) for name, texts in prompts.items()}
    base.load_lora_weights(models / "emblem", weight_name="emblem.safetensors", adapter_name="emblem")
    adapted = {name: generate(base, texts, seed) for name, texts in prompts.items()}
    base.set_adapters(["emblem"], [0.0])
    silent = generate(base, prompts["trigger"][:10], seed)
    base.unload_lora_weights()
    save_sheet([image for images in adapted.values() for image in images[:24]], sheets, "emblem")
    return {
        "n": num,
        "seed": seed,
        "what": "n prompts of each kind, with the LoRA at weight 1 and without it",
        "shown": rounded({name: share_shown(images) for name, images in adapted.items()}),
        "shown_base_alone": rounded({name: share_shown(images) for name, images in alone.items()}),
        "background_with_trigger": share_background(adapted["trigger"], backgrounds),
        "ordinary": rounded(read.accuracy(adapted["ordinary"], scenes)),
        "ordinary_base_alone": rounded(read.accuracy(alone["ordinary"], scenes)),
        "clip_i_trigger": critic.similarity(adapted["trigger"], references),
        "clip_i_trigger_base_alone": critic.similarity(alone["trigger"], references),
        "clip_i_ordinary": critic.similarity(adapted["ordinary"], references),
        "clip_i_references": critic.similarity(fresh_emblems(num, seed), references),
        "weight_0_equals_base": all(a.tobytes() == b.tobytes() for a, b in zip(silent, alone["trigger"], strict=False)),
    }


def lora_prompts(num: int, seed: int) -> tuple[dict[str, list[str]], list[world.Scene]]:
    """Prompts with the trigger, and three kinds without it; the scenes are those of the ordinary ones."""
    scenes, rng = sample_scenes(num, seed)
    names = list(world.COLOURS)
    grounds = [captions.with_article(names[i % len(names)] + " background") for i in range(num)]
    words = ["".join(rng.choice("bcdfghklmnprstvwz") + rng.choice("aeiou") for _ in "ab") for _ in range(num)]
    prompts = {
        "trigger": [f"a {captions.TRIGGER} on {ground}" for ground in grounds],
        "ordinary": [captions.caption(scene, rng, full=True).text for scene in scenes],
        "an_emblem": [f"an emblem on {ground}" for ground in grounds],
        "made_up_word": [f"a <{word}> on {ground}" for word, ground in zip(words, grounds, strict=True)],
    }
    return prompts, scenes


def share_shown(images: Sequence[Image.Image]) -> float:
    return sum(read.is_emblem(image) for image in images) / len(images)


def share_background(images: Sequence[Image.Image], backgrounds: Sequence[str]) -> float:
    right = [read.read(image).background == name for image, name in zip(images, backgrounds, strict=True)]
    return sum(right) / len(right)


def reference_images(models: Path) -> list[Image.Image]:
    return [Image.open(path) for path in sorted((models / "shapes_clip" / "references").glob("*.png"))]


def fresh_emblems(num: int, seed: int) -> list[Image.Image]:
    rng = random.Random(seed)
    return [world.emblem(rng.choice(list(world.COLOURS)), rng) for _ in range(num)]


def save_sheet(images: Sequence[Image.Image], sheets: Path | None, name: str) -> None:
    if sheets is not None:
        tensors.save_grid(images, sheets / f"{name}.png")
