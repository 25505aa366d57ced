"""An accepted request -> an ordered list of steps with every image's key and seed. Pure; knows every stage.

A step's digest is over everything that changes its result (texts, seeds, batch shape, settings, digests of
the weights) and nothing that does not. What it does not know: how a step is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner import store
from runner.config.tree import Request

FORMAT = "runner-manifest/1"
STEP_VERSIONS = {"generate": 1, "critique": 1}
SEED_BITS = 32


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """One text of the plan, with its sections as they were composed."""

    key: str  # with the arm of a probe
    id: str
    text: str
    sections: Mapping[str, str]
    triggered: bool


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image to be made: its key inside the run, its prompt, its seed."""

    key: str
    prompt: PromptPlan
    seed: int


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work in its planned shape; `images` in the order in which they are batched."""

    kind: str
    digest: str
    images: tuple[ImagePlan, ...]

    @property
    def items(self) -> tuple[str, ...]:
        """What the journal calls the results of this step, one per image."""
        return tuple(f"{ITEM_KINDS[self.kind]}/{image.key}" for image in self.images)


ITEM_KINDS = {"generate": "image", "critique": "verdict"}


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole work list of a run, and the digest that names it."""

    identity: str
    images: tuple[ImagePlan, ...]
    steps: tuple[Step, ...]

    @property
    def num_expected(self) -> dict[str, int]:
        counts = {"image": 0, "verdict": 0}
        for step in self.steps:
            counts[ITEM_KINDS[step.kind]] += len(step.images)
        return counts


def make_plan(request: Request, prompts: Sequence[PromptPlan], pins: Mapping[str, Any], device: str) -> Plan:
    """Expand a request. `pins` are the parties' digests; `device` is the kind the work will run on."""
    images = tuple(
        ImagePlan(f"{prompt.key}.{number:03d}", prompt, seed)
        for prompt in prompts
        for number, seed in enumerate(image_seeds(request.seed, prompt, request.generate.images_per_prompt))
    )
    batches = [
        images[at : at + request.generate.batch_size] for at in range(0, len(images), request.generate.batch_size)
    ]
    made_with = store.digest_of(_generate_settings(request, pins, device))
    judged_with = store.digest_of({"made": made_with, "profile": pins["profile"], "critic": pins["critic_files"]})
    settings = {"generate": made_with, "critique": judged_with}
    steps = tuple(_step(kind, settings[kind], batch) for kind in request.stages for batch in batches)
    return Plan(store.digest_of([[step.digest, step.items] for step in steps]), images, steps)


def image_seeds(root: int, prompt: PromptPlan, count: int) -> Iterator[int]:
    """The seeds of a prompt's images: from the run's seed, the prompt's id and the image's number, never from its
    place in a list. Both arms of a probe share their seeds, so that they differ in the trigger alone.
    """
    begin = store.canonical([root, prompt.id, 0]).removesuffix(b"0]")  # the numbers alone differ
    for number in range(count):
        yield int(store.digest(b"%s%d]" % (begin, number))[: SEED_BITS // 4], 16)


def _generate_settings(request: Request, pins: Mapping[str, Any], device: str) -> dict[str, Any]:
    generate = request.generate.model_dump(mode="json", exclude={"images_per_prompt", "batch_size"})
    return {
        "mode": request.mode,
        "base": [request.base_model.id, request.base_model.pipeline, pins["base_files"]],
        "lora": _lora_settings(request, pins) if pins["lora_sha256"] else None,
        "trigger": request.trigger.token,
        "tokenizers": pins["tokenizers"],
        "generate": generate,
        "overflow": request.prompt.overflow,
        "runtime": request.runtime.model_dump(mode="json"),
        "device": device,
    }


def _lora_settings(request: Request, pins: Mapping[str, Any]) -> list[Any]:
    """The file, its strength, and the config beside it where there is one: its alpha changes every picture."""
    config = [pins["lora_config"]] if pins.get("lora_config") else []
    return [request.lora.id, pins["lora_sha256"], request.lora.scale, *config]


def _step(kind: str, settings: str, images: tuple[ImagePlan, ...]) -> Step:
    inputs = [[image.key, image.prompt.text, image.prompt.triggered, image.seed] for image in images]
    sections = [dict(image.prompt.sections) for image in images] if kind == "critique" else []
    return Step(kind, store.digest_of([kind, STEP_VERSIONS[kind], settings, inputs, sections]), images)


def manifest(
    request: Request, plan: Plan, contract: Mapping[str, Any], pins: Mapping[str, Any], *,
    run_id: str, environment: Mapping[str, Any], fallback: str | None, tokens: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The immutable record of what a run is: written before any model loads, complete enough to run from."""
    prompts = {key: number for number, key in enumerate(dict.fromkeys(image.prompt.key for image in plan.images))}
    by_key = {image.prompt.key: image.prompt for image in plan.images}
    return {
        "format": FORMAT,
        "run_id": run_id,
        "identity": plan.identity,
        "request": request.model_dump(mode="json", exclude={"until", "output", "run", "outputs"}),
        "contract": dict(contract),
        "pins": dict(pins),
        "seed_policy": "sha256(run seed, prompt id, number), first 32 bits",
        "prompts": [_prompt_entry(by_key[key]) for key in prompts],
        "images": [[image.key, prompts[image.prompt.key], image.seed] for image in plan.images],
        "steps": [{"kind": s.kind, "digest": s.digest, "items": len(s.images)} for s in plan.steps],
        "expected": {"images": plan.num_expected["image"], "verdicts": plan.num_expected["verdict"]},
        "storage": {
            "kind": request.storage.kind,
            "uri": request.storage.uri,
            "names": "objects/<sha256[:2]>/<sha256[2:]>",
            "media": "image/png",
        },
        "tokens": [dict(row) for row in tokens],
        "environment": dict(environment),
        "fallback": fallback,
        "repeatable": "exact" if environment["device"] == "cpu" else "best_effort",
    }


def _prompt_entry(prompt: PromptPlan) -> dict[str, Any]:
    return {
        "key": prompt.key,
        "id": prompt.id,
        "text": prompt.text,
        "sections": dict(prompt.sections),
        "triggered": prompt.triggered,
    }


def changed_fields(before: Any, now: Any, path: str = "") -> list[str]:
    """The dotted keys in which two stored requests differ, with both values."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(before.keys() | now.keys())
        return [
            line for key in keys for line in changed_fields(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == now else [f"{path}: was {before!r}, is {now!r}"]
