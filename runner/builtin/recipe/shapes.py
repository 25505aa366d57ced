"""The base `shapes`: a Stable Diffusion pipeline small enough to ship, trained on drawings of the world.

The text encoder starts from the critic's text half, which already tells the shapes apart; starting it
from noise costs thousands of steps. UNet and text encoder then train together on cached latents to
predict v, with timesteps spread over the range, a tenth of the captions dropped (for guidance), and now and
then a word that means nothing, so that the pieces of a later LoRA's trigger stay neutral.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from runner.builtin import captions, world
from runner.builtin.recipe import autoencoder, tensors, tokenizer
from runner.builtin.recipe.halves import Halves
from runner.builtin.recipe.training import Plan, Training, start

PLAN = Plan(
    num_steps=6_800,
    batch_size=32,
    peak_lr=1.2e-3,
    seed=3,
    num_threads=1,
    fused=True,
    horizon=8_000,
    cooldown=1_700,
)
NUM_PICTURES = 32_000
DROPPED_CAPTIONS = 0.1
FOCUSED_FROM_STEP = 2_000


def make(folder: Path, work: Path, seed: int) -> None:
    """Train the base and write its pipeline folder (fp32)."""
    rng = start(PLAN, seed)
    vae, words = autoencoder.load(work / "autoencoder"), tokenizer.load(work / "tokenizer")
    scenes = [world.sample_scene(rng) for _ in range(NUM_PICTURES)]
    latents = remembered(folder.with_suffix(".latents"), lambda: encode_drawings(vae, scenes, rng), rng)
    unet, text_encoder = build_unet(), text_half(work / "clip")
    pipeline = assemble(unet, text_encoder, words, vae)
    module = nn.ModuleList([unet.train(), text_encoder.train()])
    training = Training(module, PLAN, rng, folder.with_suffix(".checkpoint"))
    halves, ids = Halves([unet, text_encoder]), tokenizer.TokenIds(words)

    def step() -> float:
        focused = training.step >= FOCUSED_FROM_STEP
        return descend(halves, pipeline.scheduler, latents, scenes, ids, rng, focused)

    training.run(step, "shapes")
    pipeline.save_pretrained(folder)


def build_unet() -> Any:
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(
        sample_size=world.SIZE_PX // 8,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=autoencoder.LATENT_CHANNELS,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=96,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return unet


def text_half(critic_folder: Path) -> Any:
    """A CLIPTextModel with the weights of the critic's text half."""
    from transformers import CLIPModel, CLIPTextModel

    critic = CLIPModel.from_pretrained(critic_folder, dtype=torch.float32)
    text_encoder = CLIPTextModel(critic.config.text_config)
    text_encoder.load_state_dict(critic.text_model.state_dict())
    return text_encoder


def scheduler() -> Any:
    """DDIM that predicts v, reaches zero signal at the last step, and counts from the trailing end."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def assemble(unet: Any, text_encoder: Any, words: Any, vae: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=words,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def remembered(path: Path, make_latents: Callable[[], torch.Tensor], rng: random.Random) -> torch.Tensor:
    """The latents of an earlier start of the same run, and the random state after them; or fresh ones."""
    if not path.exists():
        torch.save((make_latents(), rng.getstate()), path)
    latents, state = torch.load(path, weights_only=False)  # our own file: it holds a random state
    rng.setstate(state)
    return cast("torch.Tensor", latents)


def encode_drawings(vae: Any, scenes: list[world.Scene], rng: random.Random) -> torch.Tensor:
    """(n, 8, 8, 8) float16 latents of one drawing per scene."""
    parts = []
    for i in range(0, len(scenes), 100):
        pixels = tensors.from_images([world.draw(scene, rng) for scene in scenes[i : i + 100]])
        with torch.no_grad():
            parts.append(vae.encode(pixels).latents.half())
    return torch.cat(parts)


def descend(
    halves: Halves,
    noise_scheduler: Any,
    latents: torch.Tensor,
    scenes: list[world.Scene],
    ids: Any,
    rng: random.Random,
    focused: bool,
) -> float:
    """Leave the gradients of one fresh batch, half of it on each core; returns the loss."""
    chosen = [rng.randrange(len(scenes)) for _ in range(PLAN.batch_size)]
    tokens = ids.of([training_text(scenes[i], rng) for i in chosen])
    batch = noised(noise_scheduler, latents[chosen].float(), tokens, focused)
    return gradient_by_halves(halves, batch)


def gradient_by_halves(halves: Halves, batch: "Batch") -> float:
    """Leave the gradients of the v-prediction loss; returns the loss."""
    pairs = zip(halves.copies, batch.halves(), strict=True)
    return halves.gradient([partial(v_loss, unet, text_encoder, half) for (unet, text_encoder), half in pairs])


def training_text(scene: world.Scene, rng: random.Random) -> str:
    return "" if rng.random() < DROPPED_CAPTIONS else captions.training_text(scene, rng)


@dataclass(frozen=True, slots=True)
class Batch:
    """Noisy latents with their timesteps, the token ids of their captions, and the v to predict."""

    noisy: torch.Tensor
    steps: torch.Tensor
    tokens: torch.Tensor
    target: torch.Tensor

    def halves(self) -> list["Batch"]:
        middle = len(self.steps) // 2
        parts = [(t[:middle], t[middle:]) for t in (self.noisy, self.steps, self.tokens, self.target)]
        return [Batch(*(part[i] for part in parts)) for i in (0, 1)]


def noised(noise_scheduler: Any, latents: torch.Tensor, tokens: torch.Tensor, focused: bool = True) -> Batch:
    """A batch with fresh noise, at timesteps spread over it."""
    noise, steps = torch.randn_like(latents), spread_timesteps(len(latents), focused)
    noisy = noise_scheduler.add_noise(latents, noise, steps).contiguous(memory_format=torch.channels_last)
    return Batch(noisy, steps, tokens, noise_scheduler.get_velocity(latents, noise, steps))


def v_loss(unet: Any, text_encoder: Any, batch: Batch) -> torch.Tensor:
    """The mean squared error of the predicted v."""
    told = text_encoder(input_ids=batch.tokens)[0]
    predicted = unet(batch.noisy, batch.steps, told, return_dict=False)[0]
    return functional.mse_loss(predicted, batch.target)


def spread_timesteps(num: int, focused: bool = True, num_train_timesteps: int = 1000) -> torch.Tensor:
    """One timestep per item, spread over the range in random order.

    `focused` takes more of them from the middle and upper part, where a shape takes form, and few from
    the end that sampling in eight steps never visits.
    """
    share = (torch.randperm(num) + torch.rand(1)) / num
    if focused:
        share = (1 - (1 - share) ** (1 / 1.2)) ** (1 / 1.8)
    return (share * num_train_timesteps).long().clamp(0, num_train_timesteps - 1)
