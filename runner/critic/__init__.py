"""The critic: images of one batch become verdicts under a versioned profile.

It answers with scores inside the scale, with the evidence for each, or with `unscored` and the reason; never
with a guess or a 0 in place of one. Advisory only: nothing here can write a human decision. What it does not
know: which LoRA or seed made an image.
"""

from __future__ import annotations

import io
import time
from typing import Any

from runner import store
from runner.critic.clip import ClipCritic, load_clip
from runner.critic.verdict import Verdict, validated
from runner.errors import Corrupt
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome, Progress, Unmade

ROLE = "critic"
BACKENDS = {"clip": load_clip}


def work(step: Step, bench: Bench) -> Outcome:
    """Review one batch; an image that was not made has no verdict. Raises Failed(load | critic)."""
    backend = bench.request.critic.backend
    assert backend is not None
    critic: ClipCritic = bench.model(ROLE, BACKENDS[backend])
    bench.status("reviewing")
    made: list[Made] = []
    unmade: list[Unmade] = []
    with bench.clock.phase("review"):
        for item, image in zip(step.items, step.images, strict=True):
            digest = bench.images.get(f"image/{image.key}")
            if digest is None:
                unmade.append(Unmade(item, "critic", "its image was not made"))
                continue
            try:
                made.append(_review(item, image, digest, critic, bench))
            except (
                Corrupt
            ) as error:  # no verdict on a picture that is not itself: it will be made again, and judged then
                unmade.append(Unmade(item, "storage", f"its image {error.faults[0].what}"))
            bench.progress(Progress("reviewing", "review", len(made), len(step.images)))
    return Outcome(tuple(made), tuple(unmade))


def _review(item: str, image: ImagePlan, digest: str, critic: ClipCritic, bench: Bench) -> Made:
    began = time.perf_counter()
    verdict = _verdict(image, digest, critic, bench)
    record = store.canonical(verdict.model_dump(mode="json"))
    facts = {
        "image": digest,
        "status": verdict.status,
        "reason": verdict.reason,
        "scores": {name: score.score for name, score in verdict.criteria.items()},
        "tags": list(verdict.tags),
        "latency_s": round(time.perf_counter() - began, 6),
    }
    return Made(item, record, facts)


def _verdict(image: ImagePlan, digest: str, critic: ClipCritic, bench: Bench) -> Verdict:
    profile = bench.request.critic
    common = {
        "image": digest,
        "prompt": image.prompt.text,
        "profile": {"id": profile.profile, "version": profile.version, "digest": critic.profile_digest},
        "model": critic.identity,
    }
    try:
        criteria, raw = critic.judge(_open(bench.store.get(digest)), image.prompt)
    except (OSError, ValueError) as error:  # the text may hold an address; a verdict's bytes must not
        reason = f"image_not_seen: does not decode ({type(error).__name__})"
        return Verdict(**common, status="unscored", reason=reason, criteria={}, tags=(), raw={})
    tags = tuple(dict.fromkeys(tag for score in criteria.values() for tag in score.tags))
    return validated(common, criteria, tags, raw, profile)


def _open(data: bytes) -> Any:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


__all__ = ["work"]
