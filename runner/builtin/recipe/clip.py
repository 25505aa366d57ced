"""The critic: a small CLIPModel trained on drawings and captions, whose text half also starts the base.

Colours alone would solve a random batch, so three batches in four are groups of captions equal in all
but the shape (hard negatives). A pair whose caption happens to be true of another picture is left out
of the negatives. Attribute heads on the picture's half help the first thousand steps and are thrown away.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from runner.builtin import captions, world
from runner.builtin.recipe import tensors, tokenizer
from runner.builtin.recipe.training import Plan, Training, backward, start

PLAN = Plan(num_steps=3000, batch_size=96, peak_lr=1.5e-3, seed=2, num_threads=1, weight_decay=0.05, average=0.99)
ATTRIBUTES: dict[str, tuple[Any, ...]] = {
    "shape": world.SHAPES,
    "colour": tuple(world.COLOURS),
    "background": tuple(world.COLOURS),
    "size": tuple(world.RADII_PX),
    "position": tuple(world.POSITIONS),
    "count": tuple(world.COUNT_WEIGHTS),
}
HEADS = ("shape", "size", "position", "count")


def make(folder: Path, tokenizer_folder: Path, seed: int) -> None:
    """Train the critic and write its folder (fp32), with its tokenizer and image processor."""
    rng = start(PLAN, seed)
    words = tokenizer.load(tokenizer_folder)
    model = build(words)
    width = model.config.vision_config.hidden_size
    heads = nn.ModuleDict({name: nn.Linear(width, len(ATTRIBUTES[name])) for name in HEADS})
    training = Training(nn.ModuleList([model, heads]), PLAN, rng, folder.with_suffix(".checkpoint"))
    ids = tokenizer.TokenIds(words)
    training.run(lambda: backward(loss_of(model, heads, ids, rng, training.step)), "clip")
    model.save_pretrained(folder)
    image_processor().save_pretrained(folder)


def build(words: Any) -> Any:
    from transformers import CLIPConfig, CLIPModel

    shared = {"num_attention_heads": 4, "hidden_act": "gelu", "projection_dim": 64}
    text = shared | {
        "vocab_size": len(words),
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 2,
        "max_position_embeddings": tokenizer.MAX_LENGTH,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = shared | {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 3,
        "image_size": world.SIZE_PX,
        "patch_size": 8,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def image_processor() -> Any:
    from transformers import CLIPImageProcessorPil

    side = world.SIZE_PX
    return CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def loss_of(model: Any, heads: Any, ids: Any, rng: random.Random, step: int) -> torch.Tensor:
    """The contrastive loss of a fresh batch, and half the loss of the attribute heads."""
    scenes = hard_scenes(rng) if step % 4 != 3 else [world.sample_scene(rng) for _ in range(PLAN.batch_size)]
    said = [captions.caption(scene, rng) for scene in scenes]
    pixels = roughen(tensors.from_images([world.draw(scene, rng, 16) for scene in scenes]), rng)
    tokens = trim(ids.of([caption.text for caption in said]), model.config.text_config.eos_token_id)
    seen = model.vision_model(pixel_values=pixels).pooler_output
    written = model.text_model(input_ids=tokens).pooler_output
    picture = functional.normalize(model.visual_projection(seen), dim=-1)
    text = functional.normalize(model.text_projection(written), dim=-1)
    logits = model.logit_scale.exp().clamp(max=50) * picture @ text.T
    codes = torch.tensor([code(scene) for scene in scenes])
    logits = logits.masked_fill(also_true(said, scenes, codes), -1e4)
    right = torch.arange(len(scenes))
    contrast = functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)
    names = list(ATTRIBUTES)
    named = [functional.cross_entropy(heads[n](seen), codes[:, names.index(n)]) for n in HEADS]
    return 0.5 * contrast + 0.5 * torch.stack(named).sum()


def hard_scenes(rng: random.Random) -> list[world.Scene]:
    """Groups of eight scenes that differ in nothing but the shape."""
    groups = (world.sample_scene(rng) for _ in range(PLAN.batch_size // len(world.SHAPES)))
    return [replace(scene, shape=shape) for scene in groups for shape in world.SHAPES]


def roughen(pixels: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Slight noise and brightness; one batch in three has soft edges, as an autoencoder makes them."""
    num_pictures = len(pixels)
    if rng.random() < 0.33:
        small = functional.avg_pool2d(pixels, 2)
        pixels = functional.interpolate(small, scale_factor=2.0, mode="bilinear")
    grain = torch.randn_like(pixels) * torch.rand(num_pictures, 1, 1, 1)
    return pixels + 0.03 * torch.randn(num_pictures, 1, 1, 1) + 0.04 * grain


def trim(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """The ids up to the longest caption's end: a causal text model does not see the padding anyway."""
    lengths = (tokens == end).int().argmax(1) + 1
    return tokens[:, : int(lengths.max())]


def code(scene: world.Scene) -> list[int]:
    return [values.index(getattr(scene, name)) for name, values in ATTRIBUTES.items()]


def also_true(said: list[captions.Caption], scenes: list[world.Scene], codes: torch.Tensor) -> torch.Tensor:
    """(picture, caption): true where a caption of another picture is true of this one too."""
    told = torch.tensor([[name in caption.told for name in ATTRIBUTES] for caption in said])
    agrees = (codes[:, None] == codes[None]) | ~told[None]
    mask: torch.Tensor = agrees.all(-1) & ~torch.eye(len(scenes), dtype=torch.bool)
    return mask
