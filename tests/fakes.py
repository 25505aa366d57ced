"""Stand-ins for the world: small, real behaviour, no mocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner import journal, store
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome, Unmade


# ---- workers of the path, and a disk that lets go


def picture(text: str, seed: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A PNG that depends on text and seed alone, as a worker's must."""
    import hashlib
    import io

    from PIL import Image

    colour = hashlib.sha256(f"{text} {seed}".encode()).digest()[:3]
    image = Image.new("RGB", size, (colour[0], colour[1], colour[2]))
    image.putpixel((0, 0), (0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


@dataclass(slots=True)
class Painter:
    """A generate worker: remembers what it was asked for, and fails as told."""

    broken: frozenset[str] = frozenset()  # image keys that cannot be made
    error: BaseException | None = None
    error_at: int = 0  # the call that raises `error`
    size: tuple[int, int] = (64, 64)
    facts: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[Bench], None] = lambda bench: None
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, step: Step, bench: Bench) -> Outcome:
        self.before(bench)
        self.calls.append(tuple(image.key for image in step.images))
        bench.status("generating")
        with bench.clock.phase("sample"):
            if self.error is not None and len(self.calls) == self.error_at + 1:
                raise self.error
        pairs = list(zip(step.items, step.images, strict=True))
        made = [self._made(item, image) for item, image in pairs if image.key not in self.broken]
        lost = [Unmade(item, "sampling", "is blank") for item, image in pairs if image.key in self.broken]
        return Outcome(tuple(made), tuple(lost))

    def _made(self, item: str, image: ImagePlan) -> Made:
        data = picture(image.prompt.text, image.seed, self.size)
        return Made(item, data, {"seed": image.seed, "prompt": image.prompt.text, **self.facts})


@dataclass(slots=True)
class Judge:
    """A critique worker: one score for every image that was made; `unscored` names those it cannot score."""

    unscored: frozenset[str] = frozenset()
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, step: Step, bench: Bench) -> Outcome:
        self.calls.append(tuple(image.key for image in step.images))
        bench.status("reviewing")
        pairs = list(zip(step.items, step.images, strict=True))
        there = [(item, image) for item, image in pairs if f"image/{image.key}" in bench.images]
        gone = [item for item, image in pairs if f"image/{image.key}" not in bench.images]
        made = tuple(self._made(item, image, bench.images[f"image/{image.key}"]) for item, image in there)
        return Outcome(made, tuple(Unmade(item, "critic", "its image was not made") for item in gone))

    def _made(self, item: str, image: ImagePlan, digest: str) -> Made:
        lost = image.key in self.unscored
        reason, scores = ("image_not_seen: torn", {}) if lost else (None, {"concept": int(digest[:2], 16) / 255})
        facts = {"image": digest, "status": "unscored" if lost else "scored", "reason": reason, "scores": scores}
        return Made(item, f"verdict on {digest}".encode(), {**facts, "tags": [], "latency_s": 0.0})


class PowerCut(BaseException):
    """The process is gone: nothing of the program runs after this, as after kill -9."""


@dataclass(slots=True)
class Disk:
    """Counts durable writes; at write `cut_at` the power goes, before it or with half of the bytes written."""

    cut_at: int | None = None
    torn: bool = False
    error: Exception | None = None  # raised in place of a power cut: the program lives on
    num_writes: int = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Disk:
        whole_file, line = store.write_durably, journal.Journal._write

        def write_durably(path: Path, data: bytes) -> None:
            self._maybe_cut(path.parent / f".{path.name}.torn", data)
            whole_file(path, data)

        def write_line(log: journal.Journal, data: bytes) -> None:
            self._maybe_cut(log.path, data)
            line(log, data)

        monkeypatch.setattr(store, "write_durably", write_durably)
        monkeypatch.setattr(journal.Journal, "_write", write_line)
        return self

    def _maybe_cut(self, path: Path, data: bytes) -> None:
        self.num_writes += 1
        if self.num_writes != self.cut_at:
            return
        if self.torn:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data[: len(data) // 2])
        raise self.error or PowerCut(f"at write {self.num_writes}")
