"""Small worlds for tests of the path and of what looks at it: accepted requests, finished runs, LoRA files.

With the fakes of `tests.fakes` nothing here imports torch; `door` runs a whole command line in this process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runner import builtin, config, contract, execute, journal
from runner.store import Store
from runner.timing import Clock
from runner.worker import Bench, Work
from tests import fakes

ROOT = fakes.ROOT
EMBLEM = builtin.package_dir() / "emblem" / "emblem.safetensors"
SHAPES = builtin.package_dir() / "shapes"
BACKGROUNDS = ("blue", "white", "green", "black", "pink", "purple", "yellow", "cyan")


def prompts(count: int, subject: str = "a {trigger}") -> str:
    """An override that asks for `count` prompts of two sections."""
    names = [BACKGROUNDS[n] if n < len(BACKGROUNDS) else f"blue{n}" for n in range(count)]
    items = (f'{{id:on-{name},sections:{{subject:"{subject}",background:"on a {name} background"}}}}' for name in names)
    return f"prompt.items=[{','.join(items)}]"


TINY = (  # 2 x 2 images on one thread
    "+experiment=demo", "track=none", "generate.steps=2", "generate.batch_size=2", "runtime.num_threads=1", prompts(2),
)  # fmt: skip


def accept(outputs: Path, *overrides: str, base: tuple[str, ...] = TINY) -> execute.Accepted:
    """A tiny demo request, accepted, that will write under `outputs`; composing is done once per request."""
    agreed, pins = _agreed((*base, *overrides))
    request = agreed.request.model_copy(update={"outputs": str(outputs)})
    return execute.accept(replace(agreed, request=request), pins)


@functools.cache
def _agreed(overrides: tuple[str, ...]) -> tuple[contract.Contract, contract.Pins]:
    agreed = contract.check(config.parse_request(config.compose((*overrides, "outputs=chosen-later"))))
    return agreed, contract.pin(agreed)


def run(accepted: execute.Accepted, **workers: Work) -> execute.Result:
    """One attempt at an accepted request, by fakes unless workers are given."""
    table: dict[str, Work] = {"generate": fakes.Painter(), "critique": fakes.Judge(), **workers}
    return execute.execute(accepted, table, Clock(), execute.Watch())


def finished(outputs: Path, *overrides: str) -> journal.Run:
    """A complete run made by fakes."""
    return journal.read_run(run(accept(outputs, *overrides)).folder)


def bench(accepted: execute.Accepted, **changes: Any) -> Bench:
    """A bench for a worker on its own; what it notes is lost unless `note` is given."""
    nothing: Callable[..., None] = lambda *words, **facts: None  # noqa: E731  # a value, used twice
    given = {"images": {}, "note": nothing, "status": nothing, "facts": accepted.contract, **changes}
    objects = Store(Path(accepted.request.outputs) / "objects")
    return Bench(request=accepted.request, store=objects, clock=Clock(), device=accepted.device, **given)


def folded(run_folder: Path) -> dict[str, Any]:
    """What a run came to, without what time and chance put into it."""
    items = journal.read_run(run_folder).state.items
    return {key: (item.made, item.object, item.step) for key, item in sorted(items.items())}


def events(run_folder: Path, kind: str) -> list[journal.Event]:
    return [event for event in journal.read_events(run_folder).events if event["event"] == kind]


def objects_of(outputs: Path) -> dict[str, bytes]:
    """Every object of an outputs folder by name."""
    files = (path for path in (outputs / "objects").glob("*/*") if not path.name.startswith("."))
    return {path.parent.name + path.name: path.read_bytes() for path in files}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder with inode, time of change and size."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns, p.stat().st_size) for p in files}


def open_door(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> fakes.Answer:
    """A command line in this process, as `python -m runner` would run it."""
    from runner.__main__ import main

    capsys.readouterr()
    try:
        code = main([*words])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    out, err = capsys.readouterr()
    return fakes.Answer(code, out, err)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "runner", *words]


def environment(place: Path) -> dict[str, str]:
    """The environment of a real process of ours: one thread, leases and outputs of its own."""
    own = {"RUNNER_LEASES": str(place / "leases"), "RUNNER_OUTPUTS": str(place / "outputs"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def process(place: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a real run; its talk is thrown away."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command(*words), cwd=ROOT, env=environment(place), stdout=quiet, stderr=quiet)


# ---- LoRA files made from the shipped one


def lora_file(
    path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], metadata: Mapping[str, str | None] | None = None
) -> Path:
    """The shipped LoRA with its tensors changed; a metadata value of None takes that entry out."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(EMBLEM, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        said = {**file.metadata(), **(metadata or {})}
    save_file(change(tensors), path, {name: text for name, text in said.items() if text is not None})
    return path


def model_folder(path: Path, index: Mapping[str, Any]) -> Path:
    """The shipped base under another `model_index.json`; its parts are links."""
    path.mkdir()
    for part in SHAPES.iterdir():
        if part.is_dir():
            (path / part.name).symlink_to(part)
    original = json.loads((SHAPES / "model_index.json").read_bytes())
    (path / "model_index.json").write_text(json.dumps({**original, **index}))
    return path
