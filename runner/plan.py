"""An accepted request -> an ordered list of steps with every image's key and seed. Pure; knows every stage.

A step's digest is over everything that changes its result (texts, seeds, batch shape, settings, digests of
the weights) and nothing that does not. What it does not know: how a step is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner import store
from runner.config.critic import OpenAIRuntime
from runner.config.tree import Request

FORMAT = "runner-manifest/1"
STEP_VERSIONS = {"generate": 1, "critique": 2}
SEED_BITS = 32
REVIEW_STEP = 64  # images of one review step: its shape changes no verdict, and what is done of it is kept
NO_ANSWER = ("id", "path", "projector", "sha256", "key_env", "concurrency", "server")  # of a critic's runtime


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
    """One image to be made or reviewed: its key inside the run, its prompt, its seed."""

    key: str
    prompt: PromptPlan
    seed: int
    given: tuple[str, ...] = ()  # digests of what is reviewed when another run made it: one image, or a pair


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


def make_plan(
    request: Request, prompts: Sequence[PromptPlan], pins: Mapping[str, Any], device: str,
    given: Sequence[ImagePlan] = (),
) -> Plan:  # fmt: skip
    """Expand a request. `pins` are the parties' digests; `device` is the kind the work will run on.

    `given` are the images of a finished run, to be reviewed as they are.
    """
    images = tuple(given) or tuple(
        ImagePlan(f"{prompt.key}.{number:03d}", prompt, seed)
        for prompt in prompts
        for number, seed in enumerate(image_seeds(request.seed, prompt, request.generate.images_per_prompt))
    )
    made_with = None if given else store.digest_of(_generate_settings(request, pins, device))
    settings = {"generate": made_with, "critique": store.digest_of(_critique_settings(request, pins, made_with))}
    sizes = {"generate": request.generate.batch_size, "critique": REVIEW_STEP}
    steps = tuple(
        _step(kind, str(settings[kind]), images[at : at + sizes[kind]])
        for kind in request.stages
        for at in range(0, len(images), sizes[kind])
    )
    return Plan(store.digest_of([[step.digest, step.items] for step in steps]), images, steps)


def _critique_settings(request: Request, pins: Mapping[str, Any], made_with: str | None) -> dict[str, Any]:
    """All that decides a verdict and is known beforehand; what a server says of itself is in the verdict."""
    runtime = request.critic_runtime
    values = runtime.model_dump(mode="json", exclude=set(NO_ANSWER)) if runtime else None
    server = runtime.server if isinstance(runtime, OpenAIRuntime) else None
    return {
        "made": made_with and [made_with, request.generate.batch_size],
        "profile": pins["profile"],
        "critic": pins["critic_files"],
        "runtime": values,
        "command": list(server.command) if server else None,
        "examples": pins.get("examples", []),
    }


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
    inputs = [[image.key, image.prompt.text, image.prompt.triggered, image.seed, *image.given] for image in images]
    sections = [dict(image.prompt.sections) for image in images] if kind == "critique" else []
    return Step(kind, store.digest_of([kind, STEP_VERSIONS[kind], settings, inputs, sections]), images)


def manifest(
    request: Request, plan: Plan, contract: Mapping[str, Any], pins: Mapping[str, Any], *,
    run_id: str, environment: Mapping[str, Any], fallback: str | None, tokens: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The immutable record of what a run is: written before any model loads, complete enough to run from."""
    prompts = {key: number for number, key in enumerate(dict.fromkeys(image.prompt.key for image in plan.images))}
    by_key = {image.prompt.key: image.prompt for image in plan.images}
    given = {image.key: list(image.given) for image in plan.images if image.given}
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
        **({"given": given} if given else {}),
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
