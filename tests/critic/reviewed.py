"""Runs that reviewed images, of a few lines each, and what people decided: no worker, no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import journal, ledger, store
from runner.critic.worth.review_sets import ReviewSet, Verdict
from runner.ledger.decided import Decision

OWNER = {"pid": 1, "process_started": 0.0, "host": "here", "run_id": "r", "role": "critic"}
CRITIC: dict[str, Any] = {
    "profile": "shapes", "version": 2, "mode": "pointwise", "scale": {"min": 0.0, "max": 1.0},
    "tags": [{"id": "wrong_shape"}, {"id": "wrong_colour"}], "retrieval": {"source": "none", "split": "train"},
}  # fmt: skip
REQUEST: dict[str, Any] = {
    "generate": {"width": 8, "height": 8}, "critic_runtime": {"id": "shapes_clip"}, "mode": "base", "seed": 0,
    "base_model": {"id": "shapes"}, "lora": {"id": None, "scale": 1.0}, "trigger": {"token": None, "mode": "forbidden"},
    "prompt": {"set": "p"}, "sweep": None,
}  # fmt: skip
PINS = {"profile": "a" * 64, "critic_files": "b" * 64, "base_sha256": "d" * 64, "lora_sha256": None}


def name_of(text: str) -> str:
    return store.digest(text.encode())


@dataclass(frozen=True)
class Said:
    """What a critic says of one image."""

    scores: Mapping[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    advice: str | None = None
    unscored: str | None = None  # `class: detail`

    def facts(self, digest: str) -> dict[str, Any]:
        status = "unscored" if self.unscored else "scored"
        told = {"scores": dict(self.scores), "tags": list(self.tags), "advice": self.advice, "reason": self.unscored}
        return {"image": digest, "status": status, **told}


def review_set(name: str, verdicts: Mapping[str, Said], **changes: Any) -> ReviewSet:
    """A review set without a run; images are named by any text."""
    told = {
        key: Verdict(key, said.scores, frozenset(said.tags), said.advice, said.unscored)
        for key, said in verdicts.items()
    }
    given = {"scale": (0.0, 1.0), "vocabulary": frozenset({"wrong_shape"}), "quarantined": frozenset(), **changes}
    return ReviewSet(name=name, critic={"profile": name, "version": 1}, verdicts=told, **given)


def run(
    outputs: Path, name: str, images: Mapping[str, Said | None], *, critic: Mapping[str, Any] | None = CRITIC,
    given: bool = False, passed: bool = True, ended: str | None = "complete",
) -> Path:  # fmt: skip
    """A run folder that made (or was given) an image of each text, and reviewed those that have something said."""
    keys = [f"p.{number:03d}" for number in range(len(images))]
    digests = dict(zip(keys, map(name_of, images), strict=True))
    prompts = [
        {"key": key, "id": "p", "text": f"a picture of {text}", "triggered": False, "sections": {}}
        for key, text in zip(keys, images, strict=True)
    ]
    shape: dict[str, Any] = {
        "run_id": name, "request": {**REQUEST, "name": name, "critic": critic and dict(critic)}, "prompts": prompts,
        "images": [[key, place, 0] for place, key in enumerate(keys)], "pins": PINS, "contract": {"digest": "c" * 64},
        "fallback": None, **({"given": {key: [digest] for key, digest in digests.items()}} if given else {}),
    }  # fmt: skip
    made = [] if given else [_made(f"image/{key}", digest) for key, digest in digests.items()]
    judged = [
        _made(f"verdict/{key}", name_of(f"{name} of {key}"), said.facts(digests[key]))
        for key, said in zip(keys, images.values(), strict=True)
        if said
    ]
    end: list[journal.Event] = [] if passed else [{"event": "exam", "passed": False}]
    end += [{"event": "ended", "status": ended}] if ended else []
    return written(outputs, name, shape, [{"event": "started", "owner": OWNER}, *made, *judged, *end])


def _made(key: str, digest: str, facts: Mapping[str, Any] | None = None) -> journal.Event:
    return {"event": "made", "key": key, "object": digest, "step": "s", "facts": dict(facts or {})}


def written(outputs: Path, name: str, shape: Mapping[str, Any], events: Sequence[journal.Event]) -> Path:
    folder = outputs / "runs" / name
    folder.mkdir(parents=True)
    manifest = {**{key: {} for key in journal.REQUIRED}, **shape}
    log, _ = journal.open_log(folder, journal.write_manifest(folder, manifest), list)
    log.append(*events)
    return folder


# ---- people


def decision(image: str, word: str, reviewer: str = "ada", note: str = "") -> Decision:
    return Decision(image, word, (), note, reviewer, "")


def decide(outputs: Path, *decisions: tuple[str, str | None], reviewer: str = "ada", **more: Any) -> None:
    """Words on images, by the text that is their bytes."""
    (outputs / ledger.DECISIONS).mkdir(parents=True, exist_ok=True)
    log, _ = journal.open_log(outputs / ledger.DECISIONS, "0" * 64, list)
    about = {"event": "decision", "tags": [], "note": "", "reviewer": reviewer, **more}
    log.append(*({**about, "image": name_of(text), "decision": word} for text, word in decisions))


def put(outputs: Path, texts: Iterable[str]) -> None:
    """Objects whose bytes are these texts."""
    objects = store.Store(outputs / "objects")
    for text in texts:
        objects.put(text.encode())
