"""The autoencoder: an AutoencoderTiny that turns 64x64 pixels into 8x8 latents of 8 channels.

It learns from drawings of the world and from free clutter, with three losses on the pixels: the
absolute error, the same weighed so that low contrast counts as much as high, and the error of the
gradients, which keeps corners sharp. Latents are pulled to mean 0 and variance 1 and decoded with
noise on them, so that the diffusion model's small errors stay small in the picture.
"""

import random
from pathlib import Path
from typing import Any

import torch

from runner.builtin import read, world
from runner.builtin.recipe import tensors
from runner.builtin.recipe.training import Plan, Training, backward, start

PLAN = Plan(num_steps=3600, batch_size=16, peak_lr=2e-3, seed=1, num_threads=1, weight_decay=1e-4, average=0.99)
WIDTH = 32
LATENT_CHANNELS = 8
CLUTTER_SHARE = 0.3
LATENT_NOISE = 0.07


def make(folder: Path, seed: int) -> None:
    """Train the autoencoder and write its folder (fp32)."""
    rng = start(PLAN, seed)
    model = build()
    training = Training(model, PLAN, rng, folder.with_suffix(".checkpoint"))
    training.run(lambda: backward(loss_of(model, draw_batch(rng, PLAN.batch_size))), "autoencoder")
    model.save_pretrained(folder)
    report(model.eval(), folder)


def build() -> Any:
    from diffusers import AutoencoderTiny

    model = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(0, 1, 2, 3),
        num_decoder_blocks=(3, 2, 1, 1),
        latent_channels=LATENT_CHANNELS,
        latent_magnitude=3,
    )
    last = model.decoder.layers[-1]
    with torch.no_grad():  # start from grey pictures, not from noise
        last.weight.mul_(0.3)
        last.bias.fill_(0.5)
    return model.to(memory_format=torch.channels_last)


def load(folder: Path) -> Any:
    from diffusers import AutoencoderTiny

    model = AutoencoderTiny.from_pretrained(folder, torch_dtype=torch.float32)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def draw_batch(rng: random.Random, batch_size: int) -> torch.Tensor:
    return tensors.from_images([draw_any(rng) for _ in range(batch_size)])


def draw_any(rng: random.Random) -> Any:
    if rng.random() < CLUTTER_SHARE:
        return world.clutter(rng)
    return world.draw(world.sample_scene(rng), rng, colour_jitter=20)


def loss_of(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    latents = model.encode(pixels).latents
    decoded = model.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
    error = decoded - pixels
    contrast = pixels.std((2, 3)).mean(1)[:, None, None, None]
    loss: torch.Tensor = (
        0.5 * error.abs().mean()
        + 0.4 * (error.abs() / (contrast + 0.15)).mean()
        + 0.5 * (difference(error, -1) + difference(error, -2))
        + error.square().mean()
        + 0.02 * irregularity(latents)
    )
    return loss


def difference(error: torch.Tensor, dim: int) -> torch.Tensor:
    return error.diff(dim=dim).abs().mean()


def irregularity(latents: torch.Tensor) -> torch.Tensor:
    """How far the latents are from mean 0 and variance 1 per channel, and beyond the magnitude of 3."""
    mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
    return mean.square().mean() + (variance - 1).abs().mean() + torch.relu(latents.abs() - 2.7).square().mean()


def round_trip(model: Any, images: list[Any], batch_size: int = 50) -> list[Any]:
    """What the pictures look like after encoding and decoding."""
    decoded: list[Any] = []
    for i in range(0, len(images), batch_size):
        pixels = tensors.from_images(images[i : i + batch_size])
        with torch.no_grad():
            decoded += tensors.to_images(model.decode(model.encode(pixels).latents).sample)
    return decoded


def report(model: Any, folder: Path) -> None:
    """Print how the pixel reader reads round-tripped drawings, and save a sheet to look at."""
    rng = random.Random(77)
    scenes = [world.sample_scene(rng) for _ in range(300)]
    images = [world.draw(scene, rng) for scene in scenes]
    print(read.accuracy(round_trip(model, images), scenes), flush=True)
    shown = images[:24] + [world.clutter(rng) for _ in range(12)]
    shown += [world.emblem(name, rng) for name in world.COLOURS]
    tensors.save_grid(shown + round_trip(model, shown), folder.with_suffix(".png"))
