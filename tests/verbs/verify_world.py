"""An outputs folder with everything in it that `verify` looks at, made once and copied for each manipulation."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import journal
from runner.store import Store
from runner.verbs import verify as verifying
from tests import worlds
from tests.verbs import small_runs

Told = tuple[str, str, str | None, str | None]  # kind, name, expected, found


@dataclass(frozen=True)
class World:
    """An outputs folder with two runs, an import, a deleted object, a decision, an exported gallery and a note."""

    outputs: Path
    one: str  # run ids
    two: str
    images: tuple[str, ...]  # of run one
    others: tuple[str, ...]  # of run two
    imported: str
    deleted: str

    def path(self, digest: str) -> Path:
        return Store(self.outputs / "objects").path(digest)

    def run(self, name: str, run: str = "") -> Path:
        return self.outputs / "runs" / (run or self.one) / name

    def data(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def objects_of(self, run: str) -> set[str]:
        return {item.object for item in journal.read_run(self.run("", run)).state.items.values() if item.object}

    def lines(self) -> list[bytes]:
        return self.run("journal.jsonl").read_bytes().splitlines(keepends=True)

    def write_lines(self, lines: list[bytes]) -> None:
        self.run("journal.jsonl").write_bytes(b"".join(lines))

    def verify(self, run: str | None = None) -> list[Told]:
        facts = verifying.verify(self.outputs, run)
        assert facts["ok"] == (not facts["problems"])
        return told(facts)


def told(facts: dict[str, Any]) -> list[Told]:
    return sorted((p["kind"], p["name"], p["expected"], p["found"]) for p in facts["problems"])


def place(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest[2:]}"


def make_world(outputs: Path) -> World:
    one, two = worlds.finished(outputs), worlds.finished(outputs, "seed=3")
    for run in (one, two):
        (run.folder / "report.html").write_text("<p>derived</p>")
    objects = Store(outputs / "objects")
    imported, deleted = objects.put(b"from outside"), objects.put(b"deleted, and still there")
    facts = {"records": ["ledger"], "reason": "a test"}
    small_runs.tell(outputs, {"event": "imported", "object": imported, "bytes": 12})
    small_runs.tell(outputs, {"event": "imported", "object": deleted, "bytes": 24})
    small_runs.tell(outputs, {"event": "tombstoned", "object": deleted, **facts})
    images = [tuple(image["digest"] for image in run.images()) for run in (one, two)]
    (outputs / "decisions").mkdir()
    log, _ = journal.open_log(outputs / "decisions", "0" * 64, list)
    log.append({"event": "decided", "image": images[0][0], "decision": "approve"})
    gallery = outputs / "exports" / one.id
    gallery.mkdir(parents=True)
    (gallery / "a.png").write_bytes(objects.get(images[0][1]))
    (gallery / "derived.json").write_text(json.dumps({"files": {"a.png": images[0][1]}}))
    (outputs / "notes.txt").write_text("mine")
    return World(outputs, one.id, two.id, images[0], images[1], imported, deleted)


def copied(original: World, outputs: Path) -> World:
    shutil.copytree(original.outputs, outputs, symlinks=True)
    return World(outputs, *(getattr(original, name) for name in list(World.__dataclass_fields__)[1:]))
