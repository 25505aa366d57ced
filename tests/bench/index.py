"""Questions to an index of 1,000,000 images in 50 runs, and bringing it up to date when one run of 2,000 changed.

The index is filled by the functions that fill it from journals. The peer of a question is SQL for the same rows and
their number as one would write it down, on the same file; ours also refuses unknown names and adds scores and tags.
The peer of bringing up to date reads every run again.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from runner import index, journal
from runner.index import answer, table
from tests import worlds
from tests.bench.timed import Row, in_pairs

NUM_RUNS, NUM_IMAGES, PER_PROMPT = 50, 20_000, 20
NUM_SMALL = 2_000
WORDS = (
    "a", "photo", "of", "small", "red", "dog", "beside", "wooden", "chair", "glass", "bottle", "green", "oil", "marble",
    "table", "light", "soft", "studio", "brushed", "steel", "kettle", "matte", "black", "handle", "paper", "lamp",
)  # fmt: skip
ALL = "FROM images i JOIN runs r ON r.id = i.run JOIN prompts p ON p.run = i.run AND p.place = i.prompt"
SCORED = f"{ALL} JOIN scores s ON s.image = i.id AND s.criterion = 'concept'"
BEST = "r.lora = 'lora-3' AND s.score >= 0.8"
NEWEST = "ORDER BY r.started DESC, r.run_id, p.place, i.id"
PER_RUN = "SELECT run, count(*), sum(status = 'complete'), sum(status = 'failed') FROM images GROUP BY run"


def measure(pairs: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        return [*_questions(Path(place) / index.INDEX, pairs), _refreshed(Path(place) / "outputs", pairs)]


def _questions(path: Path, pairs: int) -> Iterator[Row]:
    began = time.perf_counter()
    fill(path)
    filled = f"filled in {time.perf_counter() - began:.0f} s, {path.stat().st_size >> 20} MiB"
    with closing(table.connect(path)) as ours, closing(sqlite3.connect(path)) as peer:
        digest = peer.execute("SELECT digest FROM images WHERE id = 500000").fetchone()[0][:12]
        asked: dict[str, tuple[Callable[[], object], tuple[str, ...]]] = {
            "an image by 12 digits of its digest": (
                lambda: answer.places(ours, digest),
                (f"SELECT r.run_id, i.key {ALL} WHERE i.digest BETWEEN '{digest}' AND '{digest}g'",),
            ),
            "50 images of one run, and their number": (
                lambda: answer.find(ours, index.ImageQuery(run="run-25")),
                _both(ALL, "r.run_id = 'run-25'", NEWEST),
            ),
            "the 50 best of a LoRA over 0.8, and their number": (
                lambda: answer.find(
                    ours, index.ImageQuery(lora="lora-3", at_least=(("concept", 0.8),), sort="-concept")
                ),
                _both(SCORED, BEST, "ORDER BY s.score DESC"),
            ),
            "50 images by a text in 50,000 prompts, and their number": (
                lambda: answer.find(ours, index.ImageQuery(prompt="red dog beside")),
                _both(ALL, "p.text LIKE '%red dog beside%'", NEWEST),
            ),
            "counts of every run": (lambda: ours.execute("SELECT * FROM runs").fetchall(), (PER_RUN,)),
        }
        for name, (question, plain) in asked.items():
            row = in_pairs(
                f"{name} / plain SQL (ms)",
                partial(_ms, question),
                partial(_ms, partial(_plain, peer, plain)),
                pairs=pairs,
                goal="-",
            )
            yield Row(row.name, row.ours, row.peer, row.ratios, row.goal, filled)


def _both(tables: str, where: str, order: str) -> tuple[str, str]:
    return f"SELECT i.*, p.text {tables} WHERE {where} {order} LIMIT 50", f"SELECT count(*) {tables} WHERE {where}"


def _plain(db: sqlite3.Connection, statements: tuple[str, ...]) -> list[Any]:
    return [db.execute(text).fetchall() for text in statements]


def fill(path: Path) -> None:
    """An index of runs that never were."""
    chance = random.Random(0)
    with closing(table.connect(path)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        table.create(db)
        for run in range(1, NUM_RUNS + 1):
            with table.transaction(db):
                table.put_images(db, run, list(_prompts(chance)), _images(chance))
                table.put_run(db, run, _row(run))
        table.finish(db)


def _row(run: int) -> dict[str, Any]:
    counts = {"planned": NUM_IMAGES, "complete": NUM_IMAGES, "failed": 0}
    named = {"run_id": f"run-{run}", "status": "complete", "lora": f"lora-{run % 10}", "base": "shapes"}
    return {**counts, **named, "started": f"2026-01-01T00:00:{run:02d}.000+00:00", "signature": ""}


def _prompts(chance: random.Random) -> Iterator[dict[str, Any]]:
    for place in range(NUM_IMAGES // PER_PROMPT):
        text = " ".join(chance.choices(WORDS, k=14))
        yield {"key": f"p{place}", "id": f"p{place}", "text": f"{text} {place}", "triggered": True}


def _images(chance: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(NUM_IMAGES):
        prompt = f"p{number // PER_PROMPT}"
        yield {
            "key": f"{prompt}.{number % PER_PROMPT:03d}", "prompt_key": prompt, "seed": chance.getrandbits(32),
            "digest": chance.randbytes(32).hex(), "verdict": chance.randbytes(32).hex(), "width": 64, "height": 64,
            "status": "complete", "reason": None, "unscored": None, "advice": "accept", "quarantined": False,
            "verdict_key": None, "tags": ["blurred"] if number % 50 == 0 else [],
            "scores": {"concept": round(chance.random(), 6), "background": round(chance.random(), 6)},
        }  # fmt: skip


def _refreshed(outputs: Path, pairs: int) -> Row:
    folder = worlds.finished(outputs).folder
    for number in range(1, NUM_SMALL):
        shutil.copytree(folder, folder.with_name(f"{folder.name}-{number + 1}"))
    began = time.perf_counter()
    index.refresh(outputs)
    first = f"the first time {time.perf_counter() - began:.1f} s"

    def one_changed() -> float:
        os.utime(folder / journal.SEAL)
        return _ms(lambda: index.refresh(outputs)) / 1e3

    def every_one() -> float:
        return _ms(lambda: [journal.read_run(run) for run in folder.parent.iterdir()]) / 1e3

    row = in_pairs("refresh, 1 of 2,000 runs changed / reading all (s)", one_changed, every_one, pairs=pairs, goal="-")
    return Row(row.name, row.ours, row.peer, row.ratios, row.goal, first)


def _ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - began)
