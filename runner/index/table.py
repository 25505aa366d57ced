"""The tables: their form, what goes into them, and which file is one of ours."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

VERSION = 4  # raised when the tables change: an index of another version is made again
APPLICATION = 0x72756E69  # SQLite's mark of whose file it is
BUSY_S = 30.0
CACHE_KIB = 64 << 10
PART = 1_000  # images written at once
IMPORTS = 0  # the id of the row under which images from outside stand: they belong to no run

RUN_COLUMNS = (
    "run_id", "experiment", "status", "exit_code", "planned", "complete", "failed", "verdicts", "unscored", "phase",
    "started", "ended", "attempts", "mode", "base", "base_sha256", "lora", "lora_sha256", "lora_scale", "trigger",
    "trigger_mode", "critic", "critic_version", "prompt_set", "seed", "fallback", "manifest", "contract", "sweep",
    "failure", "not_repeatable", "problem", "journal_bytes", "journal_hash",
    "folded", "open", "owner", "signature",
)  # fmt: skip
JSON_COLUMNS = ("failure", "owner")

# Numbers by which tables are joined have a type: without it SQLite would convert them, and use no index.
TABLES = f"""
CREATE TABLE runs (id INTEGER PRIMARY KEY, {", ".join(RUN_COLUMNS)});
CREATE TABLE prompts (
    run INTEGER, place INTEGER, key TEXT, prompt_id TEXT, text TEXT, triggered INTEGER, PRIMARY KEY (run, place)
) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY, run INTEGER, prompt INTEGER, key TEXT, digest TEXT, seed INTEGER, width INTEGER,
    height INTEGER, status TEXT, reason TEXT, verdict TEXT, unscored TEXT, verdict_key TEXT,
    advice TEXT, quarantined INTEGER, against TEXT
);
CREATE TABLE scores (
    image INTEGER, criterion TEXT, score REAL, run INTEGER, PRIMARY KEY (image, criterion)
) WITHOUT ROWID;
CREATE TABLE tags (tag TEXT, image INTEGER, PRIMARY KEY (tag, image)) WITHOUT ROWID;
CREATE TABLE peaks (
    run INTEGER, base TEXT, dtype TEXT, offload TEXT, width INTEGER, height INTEGER, batch INTEGER, device TEXT,
    role TEXT, peak_mib INTEGER, at TEXT
);
CREATE TABLE imports (
    digest TEXT PRIMARY KEY, name TEXT, source TEXT, license TEXT, note TEXT, prompt TEXT, media_type TEXT,
    bytes INTEGER, width INTEGER, height INTEGER, user TEXT, at TEXT
) WITHOUT ROWID;
CREATE TABLE tombstones (digest TEXT, record TEXT, reason TEXT, at TEXT, PRIMARY KEY (digest, record)) WITHOUT ROWID;
CREATE TABLE ledger (signature TEXT, problem TEXT);
"""
# `run` stands in scores once more, so that counting over a few runs reads one narrow index and no image.
INDICES = """
CREATE UNIQUE INDEX runs_by_name ON runs (run_id);
CREATE INDEX runs_by_time ON runs (started DESC, run_id);
CREATE INDEX images_by_digest ON images (digest);
CREATE INDEX images_by_run ON images (run, prompt);
CREATE INDEX images_by_seed ON images (seed);
CREATE INDEX images_by_other ON images (against) WHERE against IS NOT NULL;
CREATE INDEX images_by_verdict_key ON images (verdict_key) WHERE verdict_key IS NOT NULL;
CREATE INDEX images_not_complete ON images (status) WHERE status <> 'complete';
CREATE INDEX scores_by_value ON scores (criterion, score, run);
CREATE INDEX scores_by_run ON scores (criterion, run, score);
CREATE INDEX tags_by_image ON tags (image);
CREATE INDEX peaks_by_key ON peaks (base, dtype, offload, width, height, batch, device, role);
CREATE INDEX peaks_by_run ON peaks (run);
"""
PEAK_KEY = ("base", "dtype", "offload", "width", "height", "batch", "device")
FROM_LEDGER = ("name", "source", "license", "note", "prompt", "media_type", "bytes", "width", "height", "user", "at")

_PUT_RUN = f"INSERT INTO runs (id, {', '.join(RUN_COLUMNS)}) VALUES ({', '.join('?' * (1 + len(RUN_COLUMNS)))})"
_PUT_IMAGE = f"INSERT INTO images VALUES ({', '.join('?' * 16)})"

Row = Mapping[str, Any]


def connect(path: Path | str) -> sqlite3.Connection:
    """Open a database for writing, in autocommit: transactions are ours."""
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute("PRAGMA automatic_index = OFF")  # it would read a whole table where the first rows are enough
    db.row_factory = sqlite3.Row
    return db


def connect_to_read(path: Path, timeout_s: float = BUSY_S) -> sqlite3.Connection:
    """Open a database that is there, and change nothing in it."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=timeout_s, isolation_level=None, uri=True)
    db.row_factory = sqlite3.Row
    return db


def create(db: sqlite3.Connection) -> None:
    """Empty tables; the indices come when they are filled, which is several times faster."""
    db.executescript(TABLES)


def finish(db: sqlite3.Connection) -> None:
    """Indices, and the marks by which the file is known as a whole index of this version."""
    db.executescript(f"{INDICES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};")


def whole(db: sqlite3.Connection) -> bool:
    """Whether this is an index of ours, of this version. Raises sqlite3.DatabaseError when it is no database."""
    marks = [db.execute(f"PRAGMA {mark}").fetchone()[0] for mark in ("application_id", "user_version")]
    return marks == [APPLICATION, VERSION]


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:  # SQLite itself rolls back on a full disk
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def next_run(db: sqlite3.Connection) -> int:
    """The number under which a new run goes in."""
    return int(db.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()[0]) + 1


def put_run(db: sqlite3.Connection, run: int, row: Row, peaks: Iterable[Row] = ()) -> None:
    """Add what a run is and came to; its images go in with `put_images`."""
    values = [json.dumps(row.get(name)) if name in JSON_COLUMNS else row.get(name) for name in RUN_COLUMNS]
    db.execute(_PUT_RUN, [run, *values])
    lines = [(run, *(p["key"].get(name) for name in PEAK_KEY), p["role"], p["peak_mib"], p["at"]) for p in peaks]
    db.executemany(f"INSERT INTO peaks VALUES ({', '.join('?' * 11)})", lines)


def put_images(db: sqlite3.Connection, run: int, prompts: Sequence[Row], images: Iterable[Row]) -> None:
    """Add the prompts of a run as its manifest has them, and its images as `Run.images` tells them.

    Of a critic that failed an exam since, scores and tags stay in the journal alone: no question is answered by them.
    """
    texts = ((run, place, p["key"], p["id"], p["text"], p["triggered"]) for place, p in enumerate(prompts))
    db.executemany("INSERT INTO prompts VALUES (?, ?, ?, ?, ?, ?)", texts)
    places = {prompt["key"]: place for place, prompt in enumerate(prompts)}
    number = db.execute("SELECT coalesce(max(id), 0) FROM images").fetchone()[0] + 1
    rest = iter(images)
    while part := list(islice(rest, PART)):
        numbered = list(enumerate(part, number))
        db.executemany(_PUT_IMAGE, [_image(n, run, places[image["prompt_key"]], image) for n, image in numbered])
        counted = [(n, image) for n, image in numbered if not image["quarantined"]]
        scores = [(n, name, float(score), run) for n, image in counted for name, score in image["scores"].items()]
        db.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", scores)
        tags = [(tag, n) for n, image in counted for tag in image["tags"]]
        db.executemany("INSERT OR IGNORE INTO tags VALUES (?, ?)", tags)
        number += len(part)


def _image(number: int, run: int, place: int, image: Row) -> tuple[Any, ...]:
    return (
        number, run, place, image["key"], image["digest"], image["seed"], image["width"], image["height"],
        image["status"], image["reason"], image["verdict"], image["unscored"],
        None if image["quarantined"] or image["unscored"] else image["verdict_key"],
        None if image["quarantined"] else image["advice"], image["quarantined"], image.get("against"),
    )  # fmt: skip


def remove_run(db: sqlite3.Connection, run: int) -> None:
    """Take a run out with all that belongs to it."""
    for table in ("scores", "tags"):
        db.execute(f"DELETE FROM {table} WHERE image IN (SELECT id FROM images WHERE run = ?)", [run])
    for table, column in (("images", "run"), ("prompts", "run"), ("peaks", "run"), ("runs", "id")):
        db.execute(f"DELETE FROM {table} WHERE {column} = ?", [run])


def put_ledger(
    db: sqlite3.Connection,
    imports: Mapping[str, Row],
    tombstones: Mapping[str, Row],
    signature: str,
    problem: str | None,
) -> None:
    """Put what came in from outside and what was deleted in the place of what stood there before."""
    remove_run(db, IMPORTS)
    for table in ("imports", "tombstones", "ledger"):
        db.execute(f"DELETE FROM {table}")
    lines = [(digest, *(event.get(name) for name in FROM_LEDGER)) for digest, event in imports.items()]
    db.executemany(f"INSERT INTO imports VALUES ({', '.join('?' * (1 + len(FROM_LEDGER)))})", lines)
    deleted = [(d, record, e.get("reason"), e.get("at")) for d, e in tombstones.items() for record in e["records"]]
    db.executemany("INSERT INTO tombstones VALUES (?, ?, ?, ?)", deleted)
    db.execute("INSERT INTO ledger VALUES (?, ?)", [signature, problem])
    if imports:
        db.execute("INSERT INTO runs (id, status) VALUES (?, 'imported')", [IMPORTS])
        prompts = [{"key": d, "id": None, "text": e.get("prompt"), "triggered": None} for d, e in imports.items()]
        put_images(db, IMPORTS, prompts, [_imported(digest, event) for digest, event in imports.items()])


def _imported(digest: str, event: Row) -> dict[str, Any]:
    return {
        "key": event.get("name"), "digest": digest, "prompt_key": digest, "seed": None, "width": event.get("width"),
        "height": event.get("height"), "status": "imported", "reason": None, "verdict": None, "unscored": None,
        "quarantined": False, "verdict_key": None, "advice": None, "scores": {}, "tags": [],
    }  # fmt: skip
