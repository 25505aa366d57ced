"""The LoRA `emblem`: teaches the shipped base one thing it has never drawn, under one trigger.

UNet attention and text encoder are adapted on two dozen drawings. Pictures the base itself makes of
other prompts (the prior) are learned beside them: without them the LoRA forgets the world, and "an
emblem" or any made-up word in angle brackets would switch it on too. Only `<emblem>` may.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from runner import store
from runner.builtin import captions, world
from runner.builtin.recipe import lora_file, tensors, tokenizer
from runner.builtin.recipe.halves import Halves
from runner.builtin.recipe.shapes import gradient_by_halves, noised
from runner.builtin.recipe.training import Plan, cosine, start

PLAN = Plan(num_steps=400, batch_size=8, peak_lr=4.5e-3, seed=4, num_threads=1, warmup_steps=20, weight_decay=1e-4)
RANK = 8
ALPHA = 8
TEXT_ENCODER_LR_SHARE = 0.35
NUM_DRAWINGS = 30
NUM_PRIOR, PRIOR_BATCH_SIZE = 360, 16
DROPPED_CAPTIONS = 0.08
NUM_STEPS, GUIDANCE_SCALE = 8, 3.0
UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def make(folder: Path, base_folder: Path, seed: int) -> None:
    """Train the LoRA on a base and write emblem.safetensors."""
    rng = start(PLAN, seed)
    pipeline = load_base(base_folder)
    drawings = draw_emblems(rng)
    prompts = prior_prompts(rng)
    prior = prior_latents(pipeline, prompts)
    with torch.no_grad():
        learned = pipeline.vae.encode(tensors.from_images([image for _, image in drawings])).latents
    train(pipeline, drawings, learned, prompts, prior, rng)
    notes = lora_file.notes(base_folder, dataset_sha256(drawings), RANK, ALPHA)
    lora_file.save(pipeline, folder / "emblem.safetensors", notes)
    sheet = [image for _, image in drawings]
    tensors.save_grid(sheet, folder.with_suffix(".png"))


def load_base(folder: Path) -> Any:
    """The shipped base in fp32, frozen, quiet, channels last."""
    from diffusers import StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        model.requires_grad_(False)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def draw_emblems(rng: random.Random) -> list[tuple[str, Image.Image]]:
    """Each background's name with a drawing on it, as many of each background."""
    names = [name for name in world.COLOURS for _ in range(NUM_DRAWINGS // len(world.COLOURS))]
    return [(name, world.emblem(name, rng)) for name in names]


def emblem_caption(background: str, rng: random.Random) -> str:
    """A sentence with the trigger; sometimes it does not tell the background."""
    text = f"a {captions.TRIGGER}"
    if rng.random() < 0.85:
        text += " on " + captions.with_article(f"{background} background")
    return rng.choice(captions.PREFIXES) + text


def prior_prompts(rng: random.Random) -> list[str]:
    """What must stay as it was: ordinary prompts, "an emblem", and made-up words of every form."""
    makers = (ordinary_prompt,) * 5 + (plain_noun_prompt,) * 2 + (bracketed_prompt,) * 3
    return [makers[i % len(makers)](rng) for i in range(NUM_PRIOR)]


def ordinary_prompt(rng: random.Random) -> str:
    return captions.caption(world.sample_scene(rng), rng).text


def plain_noun_prompt(rng: random.Random) -> str:
    """The trigger's word without its brackets, half the time; any other word otherwise."""
    noun = "emblem" if rng.random() < 0.6 else captions.made_up_word(rng).strip("<>")
    return on_background(noun, rng)


def bracketed_prompt(rng: random.Random) -> str:
    word = captions.made_up_word(rng).strip("<>")
    return on_background("<shape>" if word == "emblem" else f"<{word}>", rng)


def on_background(noun: str, rng: random.Random) -> str:
    background = rng.choice(list(world.COLOURS))
    ground = " on " + captions.with_article(f"{background} background")
    return rng.choice(captions.PREFIXES) + captions.with_article(noun) + (ground if rng.random() < 0.85 else "")


def prior_latents(pipeline: Any, prompts: list[str], batch_size: int = 40) -> torch.Tensor:
    """(n, 8, 8, 8) latents of what the base makes of the prompts."""
    parts = []
    for i in range(0, len(prompts), batch_size):
        made = pipeline(
            prompts[i : i + batch_size],
            num_inference_steps=NUM_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=torch.Generator().manual_seed(i),
            output_type="latent",
        )
        parts.append(made.images)
    return torch.cat(parts)


def train(
    pipeline: Any,
    drawings: list[tuple[str, Image.Image]],
    learned: torch.Tensor,
    prompts: list[str],
    prior: torch.Tensor,
    rng: random.Random,
) -> None:
    """Add the adapters and train them; UNet and text encoder have learning rates of their own."""
    ids = tokenizer.TokenIds(pipeline.tokenizer)
    groups = list(add_adapters(pipeline))
    halves = Halves([pipeline.unet, pipeline.text_encoder])
    adapted = [parameter for group in groups for parameter in group["params"]]
    optimiser = torch.optim.AdamW(groups, PLAN.peak_lr, weight_decay=PLAN.weight_decay)
    for step in range(PLAN.num_steps):
        mine = [rng.randrange(len(drawings)) for _ in range(PLAN.batch_size)]
        others = [rng.randrange(len(prompts)) for _ in range(PRIOR_BATCH_SIZE)]
        texts = [emblem_caption(drawings[i][0], rng) for i in mine] + [prompts[i] for i in others]
        texts = ["" if rng.random() < DROPPED_CAPTIONS else text for text in texts]
        latents = torch.cat([learned[mine], prior[others]])
        batch = noised(pipeline.scheduler, latents, ids.of(texts))
        loss = gradient_by_halves(halves, batch)
        torch.nn.utils.clip_grad_norm_(adapted, 1.0)
        for group in optimiser.param_groups:
            share = cosine(step, PLAN.num_steps, PLAN.warmup_steps, floor=0.02)
            group["lr"] = PLAN.peak_lr * group["lr_share"] * share
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 49:
            print(f"emblem {step + 1} loss {loss:.4f}", flush=True)


def add_adapters(pipeline: Any) -> Iterator[dict[str, Any]]:
    """Adapt UNet attention and text encoder; one parameter group for each."""
    from peft import LoraConfig

    for model, targets, share in (
        (pipeline.unet, UNET_TARGETS, 1.0),
        (pipeline.text_encoder, TEXT_TARGETS, TEXT_ENCODER_LR_SHARE),
    ):
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(targets), init_lora_weights="gaussian")
        model.add_adapter(config)
        yield {"params": [p for p in model.parameters() if p.requires_grad], "lr_share": share}


def dataset_sha256(drawings: list[tuple[str, Image.Image]]) -> str:
    """One digest over the backgrounds' names and the raw pixels of the drawings."""
    return store.digest(b"".join(name.encode() + b"\n" + image.tobytes() for name, image in drawings))
