"""Questions to the index: which images, where is one, which runs, and how much memory something took.

Text is searched by LIKE over the prompts, each of which is stored once in a run: with a million different ones it
takes a third of a second, and a full-text index would cost half as long again to write as all the rest.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.errors import Fault, Refused, choose
from runner.index import fresh, table
from runner.index.query import ADVICE, NONE, STATUSES, ImageQuery, counting, listing

PEAK_WAIT_S = 0.005
PART = 500  # images whose scores and tags are looked up at once
HIDDEN = ("folded", "open", "owner", "signature")


@dataclass(frozen=True, slots=True)
class Found:
    """How many images there are, and the first of them."""

    total: int
    images: list[dict[str, Any]]


def find_images(outputs: Path, query: ImageQuery) -> Found:
    """The images of a query. Raises Refused for a run, experiment, LoRA, base, tag or criterion that nothing has."""
    return fresh.ask(outputs, lambda db, changed: find(db, query))


def where_is(outputs: Path, digest_prefix: str) -> list[tuple[str, str]]:
    """Run id and key of every image of a run whose digest begins so."""
    return fresh.ask(outputs, lambda db, changed: places(db, digest_prefix))


def judged(outputs: Path, digest_prefix: str) -> list[tuple[str, str]]:
    """Run id and key of every verdict on an image whose digest begins so; of a pair either image counts."""
    return fresh.ask(outputs, lambda db, changed: judgements(db, digest_prefix))


def verdicts(outputs: Path, digest_prefix: str) -> list[tuple[str, str, str]]:
    """Run id, key and digest of every verdict that stands in a run and whose own digest begins so.

    It reads all images: asked by a person, about one verdict.
    """
    found = (
        "SELECT r.run_id, i.key, i.verdict FROM images i JOIN runs r ON r.id = i.run"
        " WHERE i.verdict >= ? AND i.verdict < ? ORDER BY r.started, r.run_id, i.id"
    )
    rows = fresh.ask(outputs, lambda db, changed: db.execute(found, _beginning(digest_prefix)).fetchall())
    return [(row[0], row[1], row[2]) for row in rows]


def runs(outputs: Path) -> list[dict[str, Any]]:
    """Every run, oldest first, under the names of `status` where it has them."""
    names = [name for name in table.RUN_COLUMNS if name not in HIDDEN]
    every = f"SELECT {', '.join(names)} FROM runs WHERE id <> ? ORDER BY coalesce(started, ''), run_id"
    rows = fresh.ask(outputs, lambda db, changed: [dict(row) for row in db.execute(every, [table.IMPORTS])])
    return [{**row, "failure": json.loads(row["failure"])} for row in rows]


def peak_mib(outputs: Path, key: Mapping[str, Any], role: str) -> int | None:
    """The largest memory measured for exactly this base, dtype, size, batch, device and role; None when not known.

    It asks the index as it stands, which takes some milliseconds.
    """
    same = " AND ".join(f"{name} = ?" for name in (*table.PEAK_KEY, "role"))
    try:
        with closing(table.connect_to_read(outputs / fresh.INDEX, PEAK_WAIT_S)) as db:
            if not table.whole(db):
                return None
            words = [*(key.get(name) for name in table.PEAK_KEY), role]
            (peak,) = db.execute(f"SELECT max(peak_mib) FROM peaks WHERE {same}", words).fetchone()
    except (sqlite3.Error, OSError):
        return None
    return None if peak is None else int(peak)


def verdicts_by_key(outputs: Path) -> Callable[[str], str | None]:
    """A way to look up the verdict that was given for a question before: its digest by the question's key.

    It asks the index as it stands; without one it knows nothing.
    """
    path = outputs / fresh.INDEX
    known = "SELECT verdict FROM images WHERE verdict_key = ? ORDER BY id DESC LIMIT 1"
    try:
        db = table.connect_to_read(path, PEAK_WAIT_S) if path.exists() else None
        if db is None or not table.whole(db):
            return lambda key: None
    except sqlite3.Error:
        return lambda key: None

    def look_up(key: str) -> str | None:
        try:
            row = db.execute(known, [key]).fetchone()
        except sqlite3.Error:
            return None
        return str(row[0]) if row else None

    return look_up


def find(db: sqlite3.Connection, query: ImageQuery) -> Found:
    """The images of a query in an index as it stands."""
    _refuse_unknown(db, query)
    db.create_function("fold", 1, lambda text: text and text.casefold(), deterministic=True)
    total = int(db.execute(*counting(query)).fetchone()[0])
    rows: list[sqlite3.Row] = []
    for text, values in listing(query, total):
        room = -1 if query.limit is None else query.limit - len(rows)
        rows += db.execute(f"{text} LIMIT ?", [*values, room]).fetchall() if room else []
    parts = (rows[at : at + PART] for at in range(0, len(rows), PART))
    return Found(total, [image for part in parts for image in _whole(db, part)])


def places(db: sqlite3.Connection, digest_prefix: str) -> list[tuple[str, str]]:
    """Where a digest is, in an index as it stands."""
    found = (
        "SELECT r.run_id, i.key FROM images i JOIN runs r ON r.id = i.run"
        " WHERE i.digest >= ? AND i.digest < ? AND r.id <> ? ORDER BY r.run_id, i.id"
    )
    rows = db.execute(found, [*_beginning(digest_prefix), table.IMPORTS])
    return [(row[0], row[1]) for row in rows]


def judgements(db: sqlite3.Connection, digest_prefix: str) -> list[tuple[str, str]]:
    """Where an image was judged, in an index as it stands; the oldest run first."""
    sides = " UNION ".join(
        f"SELECT id, run, key FROM images WHERE {side} >= ? AND {side} < ? AND verdict IS NOT NULL"
        for side in ("digest", "against")
    )
    found = f"SELECT r.run_id, i.key FROM ({sides}) i JOIN runs r ON r.id = i.run ORDER BY r.started, r.run_id, i.id"
    return [(row[0], row[1]) for row in db.execute(found, 2 * _beginning(digest_prefix))]


def _beginning(digest_prefix: str) -> list[str]:
    """The first digest that begins so, and what comes after the last."""
    return [digest_prefix, digest_prefix + "g"]


def _whole(db: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> list[dict[str, Any]]:
    """Images with their scores, their tags, and whether they came from outside or are deleted."""
    images = {row["id"]: {**dict(row), "scores": {}, "tags": []} for row in rows}
    for row in _of_these(db, "SELECT image, criterion, score FROM scores WHERE image IN", images):
        images[row["image"]]["scores"][row["criterion"]] = row["score"]
    for row in _of_these(db, "SELECT image, tag FROM tags WHERE image IN", images):
        images[row["image"]]["tags"].append(row["tag"])
    digests = {image["digest"] for image in images.values()}
    tombstones = _of_these(db, "SELECT digest, record, reason FROM tombstones WHERE digest IN", digests)
    deleted = {(row["digest"], row["record"]): row["reason"] or "no reason given" for row in tombstones}
    return [_shown(image, deleted) for image in images.values()]


def _of_these(db: sqlite3.Connection, select: str, keys: Any) -> list[sqlite3.Row]:
    return db.execute(f"{select} ({', '.join('?' * len(keys))})", list(keys)).fetchall()


def _shown(image: dict[str, Any], deleted: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    imported = image["run_id"] is None
    record = "ledger" if imported else f"runs/{image['run_id']}"
    more = {"imported": imported, "deleted": deleted.get((image["digest"], record))}
    more["quarantined"] = bool(image["quarantined"])
    return {name: value for name, value in image.items() if name != "id"} | more


def _refuse_unknown(db: sqlite3.Connection, query: ImageQuery) -> None:
    """A name that nothing has is a mistake in typing, not a question without an answer."""
    lora = None if query.lora == NONE else query.lora
    of_runs = {"--run": ("run_id", query.run), "--experiment": ("experiment", query.experiment)}
    of_runs |= {"--base": ("base", query.base), "--lora": ("lora", lora)}
    asked = [(option, "runs", column, value) for option, (column, value) in of_runs.items()]
    asked += [("--tag", "tags", "tag", query.tag), ("--sort", "scores", "criterion", query.sorted_by)]
    asked += [("--min or --max", "scores", "criterion", name) for name in query.bounded]
    for option, of, column, value in asked:
        if value is None or db.execute(f"SELECT 1 FROM {of} WHERE {column} = ? LIMIT 1", [value]).fetchone():
            continue
        known = [*_distinct(db, of, column), *([NONE] if column == "lora" else [])]
        raise Refused(Fault("unknown_name", option, f"no image has {column} {value!r}", choose(value, known)))
    if query.status not in (None, *STATUSES):
        what = f"no image has status {query.status!r}"
        raise Refused(Fault("unknown_name", "--status", what, choose(str(query.status), STATUSES)))
    if query.advice not in (None, *ADVICE):
        what = f"no critic advises {query.advice!r}"
        raise Refused(Fault("unknown_name", "--advice", what, choose(str(query.advice), ADVICE)))


def _distinct(db: sqlite3.Connection, of: str, column: str) -> list[str]:
    """Every value of a column, each found by one step into its index."""
    after = f"(SELECT min({column}) FROM {of} WHERE {column} > value)"
    walk = f"SELECT min({column}) FROM {of} UNION ALL SELECT {after} FROM walk WHERE value IS NOT NULL"
    every = f"WITH RECURSIVE walk (value) AS ({walk}) SELECT value FROM walk WHERE value IS NOT NULL"
    return [row[0] for row in db.execute(every)]
