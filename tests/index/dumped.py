"""What an index holds, by names, so that two of them can be compared; and runs that ended in every way."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner import execute, gpu, index, journal
from runner.errors import Interrupted
from tests import fakes, worlds

GONE = {"pid": 2**22 - 3, "process_started": 1.0, "host": gpu.this_process("x", "y").host, "run_id": "x", "role": "y"}
KEY = {"base": "shapes", "dtype": "float32", "offload": "none", "width": 64, "height": 64, "batch": 2, "device": "cpu"}
ENDINGS: dict[str, fakes.Painter] = {
    "complete": fakes.Painter(),
    "incomplete": fakes.Painter(broken=frozenset({"on-blue.000"})),
    "failed": fakes.Painter(error=MemoryError("x"), error_at=1),
    "interrupted": fakes.Painter(error=Interrupted("SIGINT"), error_at=1),
}
BY_NAME = "SELECT r.run_id, i.key"
DUMP = {  # every table by names, not by the numbers that rows happen to have
    "runs": "SELECT * FROM runs",
    "prompts": "SELECT r.run_id, p.* FROM prompts p JOIN runs r ON r.id = p.run",
    "images": f"{BY_NAME}, i.* FROM images i JOIN runs r ON r.id = i.run",
    "scores": f"{BY_NAME}, t.* FROM scores t JOIN images i ON i.id = t.image JOIN runs r ON r.id = t.run",
    "tags": f"{BY_NAME}, t.tag FROM tags t JOIN images i ON i.id = t.image JOIN runs r ON r.id = i.run",
    "peaks": "SELECT r.run_id, p.* FROM peaks p JOIN runs r ON r.id = p.run",
    "imports": "SELECT * FROM imports",
    "tombstones": "SELECT * FROM tombstones",
    "ledger": "SELECT * FROM ledger",
}


def accepted(outputs: Path, seed: int) -> execute.Accepted:
    """The tiny request under another seed, without composing it again: the contract does not ask for the seed."""
    agreed = worlds.accept(outputs)
    request = agreed.request.model_copy(update={"seed": seed})
    return execute.accept(replace(agreed.contract, request=request), agreed.pins)


def finished(outputs: Path, seed: int) -> journal.Run:
    return journal.read_run(worlds.run(accepted(outputs, seed)).folder)


def opened(run: journal.Run, *events: journal.Event) -> journal.Run:
    """The run begun once more by a process that is gone."""
    log, _ = journal.open_log(run.folder, journal.manifest_digest(run.folder), list)
    log.append({"event": "started", "owner": GONE, "left": {}}, *events, {"event": "status", "status": "generating"})
    return run


def dump(outputs: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of the index by names; `id`, `run` and `image` are numbers of this file alone."""
    with closing(sqlite3.connect(outputs / index.INDEX)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        cursors = {name: db.execute(text) for name, text in DUMP.items()}
        return {name: sorted(map(_named, [cursor] * 10**6, cursor), key=repr) for name, cursor in cursors.items()}


def _named(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [column[0] for column in cursor.description]
    return tuple(value for name, value in zip(names, row, strict=True) if name not in ("id", "run", "image"))


def rebuilt(outputs: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What an index made from nothing holds."""
    (outputs / index.INDEX).unlink(missing_ok=True)
    index.rebuild(outputs)
    return dump(outputs)


def written(like: journal.Run, name: str, *, num_images: int, chance: random.Random) -> journal.Run:
    """A run as one like it would be written, with chance in the place of a device and a critic."""
    folder, request = like.folder.with_name(name), like.manifest["request"]
    texts = [f"a {chance.choice(WORDS)} on a {chance.choice(WORDS)} chair" for _ in range(num_images // 2)]
    prompts = [
        {"id": f"p{n}", "key": f"p{n}", "sections": {}, "text": t, "triggered": True} for n, t in enumerate(texts)
    ]
    keys = [f"p{n // 2}.{n % 2:03d}" for n in range(num_images)]
    images = [[key, n // 2, chance.randrange(8)] for n, key in enumerate(keys)]
    changed = {**request, "name": name, "lora": {**request["lora"], "id": chance.choice(("emblem", "ink"))}}
    folder.mkdir()
    digest = journal.write_manifest(folder, {**like.manifest, "request": changed, "prompts": prompts, "images": images})
    log, _ = journal.open_log(folder, digest, list)
    log.append({"event": "started", "owner": GONE, "left": {}}, *(e for key in keys for e in _events(key, chance)))
    log.append({"event": "ended", "status": "incomplete", "exit_code": 3, "failure": None, "timings": {}})
    return journal.read_run(folder)


WORDS = ("Red", "red", "BLUE", "Öl", "öl", "50%", "a_b", "tall")


def _events(key: str, chance: random.Random) -> Iterator[journal.Event]:
    """What became of an image: nothing, lost, made, judged, or judged without a score."""
    fate = chance.randrange(8)
    if fate == 1:
        yield {"event": "unmade", "key": f"image/{key}", "step": "s", "kind": "sampling", "reason": "is blank"}
    if fate > 1:
        yield {"event": "made", "key": f"image/{key}", "step": "s", "object": chance.randbytes(32).hex(), "bytes": 1}
    if fate > 2:
        scores = {name: chance.randrange(5) / 4 for name in ("concept", "background") if chance.random() < 0.9}
        facts: dict[str, Any] = {
            "scores": scores,
            "tags": chance.sample(("blurred", "cut"), chance.randrange(3)),
            "reason": None,
        }
        facts |= {"scores": {}, "reason": "timeout"} if fate == 3 else {"advice": chance.choice(("accept", "reject"))}
        yield {"event": "made", "key": f"verdict/{key}", "step": "s", "object": "v" * 64, "bytes": 1, "facts": facts}
