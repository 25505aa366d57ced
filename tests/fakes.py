"""Small stand-ins for the world: requests, LoRA files, clocks, workers, and the door called in this process."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner import builtin, config, contract, journal, store
from runner.config import Request
from runner.contract.folders import read_model_folder
from runner.errors import Fault, Refused
from runner.plan import ImagePlan, Step
from runner.worker import Bench, Made, Outcome, Unmade

ROOT = Path(__file__).resolve().parent.parent
Widths = Mapping[str, tuple[int, int]]  # layer name -> width in, width out


# ---- requests


@functools.cache
def _composed(words: tuple[str, ...]) -> str:
    return json.dumps(config.compose(config.parse_command([*words]).overrides))


def composed(experiment: str = "demo", *words: str) -> dict[str, Any]:
    """The plain values of an experiment and more words of a command line; each command is composed once."""
    values: dict[str, Any] = json.loads(_composed((f"+experiment={experiment}", *words)))
    return values


def request(changes: Mapping[str, Any] | None = None, experiment: str = "demo", *words: str) -> Request:
    """A shipped experiment with dotted keys changed: `request({"lora.scale": 0.5})`."""
    values = composed(experiment, *words)
    for path, value in (changes or {}).items():
        *parents, leaf = path.split(".")
        functools.reduce(lambda place, name: place[name], parents, values)[leaf] = value
    return config.parse_request(values)


def faults(asked: Request) -> list[Fault]:
    """What the contract says against a request; nothing when it is accepted."""
    try:
        contract.pin(contract.check(asked))
    except Refused as refusal:
        return list(refusal.faults)
    return []


def said(asked: Request) -> list[str]:
    """The same faults as a person reads them."""
    return [str(fault) for fault in faults(asked)]


# ---- files


def layers_of_shapes(*endings: str) -> dict[str, tuple[int, int]]:
    """Layers of the shipped base by the end of their name, with their widths."""
    shapes = read_model_folder(builtin.package_dir() / "shapes").shapes
    names = {name.removesuffix(".weight"): shape for name, shape in shapes.items()}
    return {name: (shape[1], shape[0]) for name, shape in names.items() if name.endswith(endings)}


def write_lora(
    path: Path, layers: Widths, *, rank: int = 8, metadata: Mapping[str, str] | None = None,
    down: str = "lora_A.weight", up: str = "lora_B.weight", alpha: float | None = None,
) -> Path:  # fmt: skip
    """A LoRA file of zeros with the given layers, in the naming of diffusers unless told otherwise."""
    from safetensors.numpy import save_file

    tensors: dict[str, Any] = {}
    for name, (num_in, num_out) in layers.items():
        tensors[f"{name}.{down}"] = np.zeros((rank, num_in), np.float32)
        tensors[f"{name}.{up}"] = np.zeros((num_out, rank), np.float32)
        if alpha is not None:
            tensors[f"{name}.alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path, metadata=dict(metadata or {}))
    return path


def write_safetensors(path: Path, table: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A safetensors file as it should not be: any header, any claimed header length, any data."""
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


# ---- time


class StandingClock:
    """Seconds that pass only when told to: `clock.passes(2)`; call it to read it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


# ---- the door


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command line gave back."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> dict[str, Any]:
        """The one JSON line that ends standard output."""
        value: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return value


@dataclass(frozen=True, slots=True)
class Door:
    """`runner.__main__.main` in this process, writing below `outputs` if it writes at all."""

    outputs: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> Answer:
        from runner.__main__ import main

        code = main([*words, f"outputs={self.outputs}"])
        shown = self.capsys.readouterr()
        return Answer(code, shown.out, shown.err)


def python(*words: str, cwd: Path | None = None, **environment: str) -> Answer:
    """A real Python process on this code, with one thread."""
    home = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd, env=home, check=False)
    return Answer(done.returncode, done.stdout, done.stderr)


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
    salt: str = ""  # other pictures for the same seeds, as from a device that is not exact
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # more facts, by image key
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
        data = picture(image.prompt.text + self.salt, image.seed, self.size)
        return Made(item, data, {"seed": image.seed, "prompt": image.prompt.text, **self.facts.get(image.key, {})})


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
        return Made(item, store.canonical(facts), {**facts, "tags": [], "latency_s": 0.0})


class PowerCut(BaseException):
    """The process is gone: nothing of the program runs after this, as after kill -9."""


@dataclass(slots=True)
class Disk:
    """Counts durable writes; at write `cut_at` the power goes, before it or with a part of the bytes written."""

    cut_at: int | None = None
    torn: bool = False
    error: Exception | None = None  # raised in place of a power cut: the program lives on
    num_writes: int = 0
    _gone: bool = False

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
        if self._gone:
            raise PowerCut("a process that is gone writes nothing")
        if self.num_writes != self.cut_at:
            return
        if self.torn:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data[: len(data) * 2 // 3])
        self._gone = self.error is None
        raise self.error or PowerCut(f"at write {self.num_writes}")
