"""The generator: one planned batch of prompts and seeds becomes PNG images, through an ordinary pipeline.

Batches keep their planned shape, each image has a generator of its own, each distinct prompt is encoded
once. It refuses a LoRA that does not bind, NaN, blank images, and encoders that see other tokens than were
counted. What it does not know: where images are kept.
"""

from __future__ import annotations

from typing import Any

from runner.errors import Failed, Fault, first_line
from runner.generate.pipeline import Artist, load_artist
from runner.generate.png import encode_png, pixels
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome, Progress, Unmade

ROLE = "generator"
MIN_STANDARD_DEVIATION = 1.0  # of 255: a picture flatter than this is blank


def work(step: Step, bench: Bench) -> Outcome:
    """Sample one batch. Raises Failed(load | sampling | oom)."""
    artist: Artist = bench.model(ROLE, load_artist)
    bench.status("generating")
    timings = {name: bench.clock.total_s(name) for name in ("encode_prompt", "sample", "decode")}
    arrays = _sample(artist, step, bench)
    spent = {f"{name}_s": round(bench.clock.total_s(name) - before, 6) for name, before in timings.items()}
    made, unmade = [], []
    with bench.clock.phase("write"):
        for item, image, array in zip(step.items, step.images, arrays, strict=True):
            if reason := _unusable(array, bench):
                unmade.append(Unmade(item, "sampling", reason))
            else:
                data = encode_png(pixels(array), _provenance(image, bench))
                made.append(Made(item, data, _facts(image, bench, len(step.images), spent)))
    return Outcome(tuple(made), tuple(unmade))


def _sample(artist: Artist, step: Step, bench: Bench) -> Any:
    """Float images of a batch, shape (batch, height, width, 3), values 0 to 1."""
    import torch

    settings = bench.request.generate
    texts = [image.prompt.text for image in step.images]
    generators = [torch.Generator("cpu").manual_seed(image.seed) for image in step.images]

    def tell(pipe: Any, number: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        bench.progress(Progress("generating", "sample", number + 1, settings.steps))
        return tensors

    try:
        with bench.clock.phase("sample"), torch.inference_mode():
            output = artist(texts, generators, settings, on_step=tell)
    except torch.OutOfMemoryError as error:
        raise Failed("oom", _out_of_memory(error, step), item=step.items[0]) from error
    if len(output) != len(step.images):
        what = f"the pipeline returned {len(output)} images for {len(step.images)} prompts"
        raise Failed("sampling", Fault("sampling_failed", step.items[0], what, "Try another generate.scheduler"))
    return output


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


def _out_of_memory(error: BaseException, step: Step) -> Fault:
    what = f"ran out of memory for a batch of {len(step.images)} ({first_line(error)})"
    return Fault(
        "out_of_memory", "generate.batch_size", what, "Choose a smaller batch, size, dtype, or runtime.offload"
    )
