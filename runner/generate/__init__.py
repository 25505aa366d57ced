"""The generator: one planned batch of prompts and seeds becomes PNG images, through an ordinary pipeline.

Batches keep their planned shape, each image has a generator of its own, each distinct prompt is encoded
once. It refuses a LoRA that does not bind, NaN, blank images, and encoders that see other tokens than were
counted. What it does not know: where images are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.errors import Failed, Fault
from runner.generate import failures
from runner.generate.pipeline import Artist, load_artist
from runner.generate.png import encode_png, pixels
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome, Progress, Unmade

ROLE = "generator"
MIN_STANDARD_DEVIATION = 1.0  # of 255: a picture flatter than this is blank
IN_LATENTS = "has NaN or infinite values in its latents: damaged weights, or a runtime.dtype of too small a range"


def work(step: Step, bench: Bench) -> Outcome:
    """Sample one batch. Raises Failed(load | sampling | oom)."""
    artist: Artist = bench.model(ROLE, load_artist)
    bench.status("generating")
    timings = {name: bench.clock.total_s(name) for name in ("encode_prompt", "sample", "decode")}
    arrays, broken = _sample(artist, step, bench)
    spent = {f"{name}_s": round(bench.clock.total_s(name) - before, 6) for name, before in timings.items()}
    made, unmade = [], []
    with bench.clock.phase("write"):
        for item, image, array, is_broken in zip(step.items, step.images, arrays, broken, strict=True):
            if reason := IN_LATENTS if is_broken else _unusable(array, bench):
                unmade.append(Unmade(item, "sampling", reason))
            else:
                data = encode_png(pixels(array), _provenance(image, bench))
                made.append(Made(item, data, _facts(image, bench, len(step.images), spent)))
    return Outcome(tuple(made), tuple(unmade))


def _sample(artist: Artist, step: Step, bench: Bench) -> tuple[Any, list[bool]]:
    """Float images of a batch, shape (batch, height, width, 3), values 0 to 1; and whose latents were no numbers."""
    import torch

    settings = bench.request.generate
    texts = [image.prompt.text for image in step.images]
    generators = [torch.Generator("cpu").manual_seed(image.seed) for image in step.images]
    latents: list[Any] = []  # of the last step: no device is waited for before it

    def tell(pipe: Any, number: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        bench.progress(Progress("generating", "sample", number + 1, settings.steps))
        latents[:] = [tensors.get("latents")]
        return tensors

    translated = failures.while_sampling(bench.request, bench.device, step.items[0])
    with translated, bench.clock.phase("sample"), torch.inference_mode():
        output = artist(texts, generators, settings, on_step=tell)
        broken = _not_finite(latents, len(step.images))
    if len(output) != len(step.images):
        what = f"the pipeline returned {len(output)} images for {len(step.images)} prompts"
        raise Failed("sampling", Fault("sampling_failed", step.items[0], what, "Try another generate.scheduler"))
    return output, broken


def _not_finite(latents: Sequence[Any], batch: int) -> list[bool]:
    """For each image whether its last latents, where the pipeline told them, have NaN or infinite values."""
    import torch

    if not latents or latents[0] is None or len(latents[0]) != batch:
        return [False] * batch
    return [not bool(torch.isfinite(own).all()) for own in latents[0]]


def _unusable(array: Any, bench: Bench) -> str | None:
    """Why an image is no evidence of anything; None when it is one."""
    import numpy as np

    wanted = (bench.request.generate.height, bench.request.generate.width)
    if array.shape[:2] != wanted:
        return f"is {array.shape[1]}x{array.shape[0]}; the pipeline does not make {wanted[1]}x{wanted[0]}"
    if not np.isfinite(array).all():
        return "has NaN or infinite values"
    if (array.reshape(-1, array.shape[-1]) * 255).std(axis=0).max() < MIN_STANDARD_DEVIATION:
        return "is blank: one colour all over"
    return None


def _provenance(image: ImagePlan, bench: Bench) -> dict[str, Any]:
    """What made an image; the same for the same manifest, so that the same image has the same bytes."""
    request = bench.request
    lora = request.lora
    return {
        "mode": request.mode,
        "base_model": request.base_model.id,
        "lora": {"id": lora.id, "scale": lora.scale} if request.mode == "lora" else None,
        "trigger": request.trigger.token if image.prompt.triggered else None,
        "prompt": image.prompt.text,
        "negative_prompt": request.generate.negative_prompt,
        "seed": image.seed,
        "key": image.key,
        **request.generate.model_dump(mode="json", include={"width", "height", "steps", "guidance_scale", "scheduler"}),
    }


def _facts(image: ImagePlan, bench: Bench, batch: int, spent: dict[str, float]) -> dict[str, Any]:
    """What a journal line says of an image: its seed, its text, its size, and its share of the batch's time."""
    return {
        "seed": image.seed,
        "prompt": image.prompt.text,
        "width": bench.request.generate.width,
        "height": bench.request.generate.height,
        "batch": batch,
        "timing": {name: round(seconds / batch, 6) for name, seconds in spent.items()},
    }
