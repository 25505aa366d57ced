"""Sharpens the autoencoder's decoder alone: the encoder stays as it is, and so do all latents.

The errors that change what a picture shows sit at edges, above all those of small objects: a small
star comes out as a disc. Errors near edges count more here, errors of low contrast count as much as
those of high contrast, and large objects, which are right already, are drawn less often.
"""

import random
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from runner.builtin import world
from runner.builtin.recipe import autoencoder, tensors
from runner.builtin.recipe.training import Plan, Training, backward, start

PLAN = Plan(
    num_steps=1200,
    batch_size=16,
    peak_lr=1.5e-3,
    seed=5,
    num_threads=1,
    weight_decay=1e-4,
    average=0.99,
    horizon=1500,
    cooldown=500,
)
CLUTTER_SHARE = 0.2
LATENT_NOISE = 0.06
EDGE_WEIGHT = 4.0


def make(folder: Path, autoencoder_folder: Path, seed: int) -> None:
    """Train the decoder further and write the whole autoencoder's folder (fp32)."""
    rng = start(PLAN, seed)
    model = autoencoder.load(autoencoder_folder)
    model.decoder.requires_grad_(True)
    training = Training(model, PLAN, rng, folder.with_suffix(".checkpoint"))
    training.run(lambda: backward(loss_of(model, draw_batch(rng, PLAN.batch_size))), "decoder")
    model.save_pretrained(folder)
    autoencoder.report(model.eval(), folder)


def draw_batch(rng: random.Random, batch_size: int) -> torch.Tensor:
    return tensors.from_images([draw_any(rng) for _ in range(batch_size)])


def draw_any(rng: random.Random) -> Any:
    if rng.random() < CLUTTER_SHARE:
        return world.clutter(rng)
    scene = world.sample_scene(rng)
    if scene.size == "large":
        scene = world.sample_scene(rng)
    return world.draw(scene, rng, colour_jitter=15)


def loss_of(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        latents = model.encode(pixels).latents
        weight = 1 + EDGE_WEIGHT * edges(pixels)
        contrast = pixels.std((2, 3)).mean(1)[:, None, None, None] + 0.15
    decoded = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
    error = (decoded - pixels) / contrast
    slopes = autoencoder.difference(error, -1) + autoencoder.difference(error, -2)
    loss: torch.Tensor = 0.3 * (error.abs() * weight).mean() + 0.2 * slopes + 0.1 * error.square().mean()
    return loss


def edges(pixels: torch.Tensor) -> torch.Tensor:
    """(n, 1, h, w) in 0..1: how near a pixel is to an edge, as a share of the picture's strongest one."""
    highest = functional.max_pool2d(pixels, 5, stride=1, padding=2)
    lowest = -functional.max_pool2d(-pixels, 5, stride=1, padding=2)
    span = (highest - lowest).amax(1, keepdim=True)
    return span / (span.amax((1, 2, 3), keepdim=True) + 0.05)
