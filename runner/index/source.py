"""What the index is made of: run folders and the ledger as they are now, read and shaped for its tables."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner import gpu, journal, ledger
from runner.errors import Corrupt

TAIL_BYTES = 4096
PART = 1_000
KEPT = ("scores", "tags", "reason", "advice", "key")  # of a worker's facts
# What reading and projecting a run raises that no run of ours has written.
NOT_OURS = (
    Corrupt, OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError,
    sqlite3.ProgrammingError, sqlite3.InterfaceError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sign:
    """By what a log is known to be unchanged; `last` is its last whole line."""

    text: str
    size: int
    last: dict[str, Any]


def is_run(folder: Path) -> bool:
    return (folder / journal.MANIFEST).exists()


def run_folders(outputs: Path) -> dict[str, Path]:
    """Every folder that holds a manifest, by run id; a run copied elsewhere is one by itself.

    A name that cannot be printed is no run's: ids are letters, digits, points and dashes.
    """
    if is_run(outputs):
        return {outputs.name: outputs}
    try:
        with os.scandir(outputs / "runs") as entries:
            names = sorted(entry.name for entry in entries if entry.name.isprintable())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    folders = {name: outputs / "runs" / name for name in names}
    return {name: folder for name, folder in folders.items() if is_run(folder)}


def sign_of(folder: Path) -> Sign:
    """Sizes and times of manifest, journal and seal, and the hash of the journal's last line. Taken before reading."""
    stamps = [_stamp(folder / name) for name in (journal.MANIFEST, journal.JOURNAL, journal.SEAL)]
    last = _last_line(folder / journal.JOURNAL)
    text = " ".join([*(f"{size}@{time}" for size, time in stamps), str(last.get("hash"))])
    return Sign(text, stamps[1][0], last)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return (-1, -1)
    return (facts.st_size, facts.st_mtime_ns)


def _last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a log, read from its end; empty when there is none that can be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            length = 0
            while True:
                length = min(size, max(TAIL_BYTES, 8 * length))
                file.seek(size - length)
                lines = file.read(length).rpartition(b"\n")[0].rsplit(b"\n", 1)
                if len(lines) == 2 or length == size:
                    value = json.loads(lines[-1])
                    return value if isinstance(value, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def run_row(run: journal.Run, images: Counter[str], sign: Sign) -> dict[str, Any]:
    """What a run is and came to, under the names of `status` where it has them."""
    request, pins, state = run.manifest["request"], run.manifest["pins"], run.state
    lora, critic = request["lora"], request["critic"]
    with_lora = pins["lora_sha256"] is not None
    status = "corrupt" if run.problem else run.status(gpu.alive)
    return {
        "run_id": run.id,
        "experiment": request["name"],
        "status": status,
        "exit_code": sign.last.get("exit_code") if state.ended else None,
        **{name: images[name] for name in ("planned", "complete", "failed", "verdicts", "unscored")},
        "phase": state.phase,
        "started": state.started,
        "ended": state.ended,
        "attempts": state.attempts,
        "mode": request["mode"],
        "base": request["base_model"]["id"],
        "base_sha256": pins["base_sha256"],
        "lora": lora["id"] if with_lora else None,
        "lora_sha256": pins["lora_sha256"],
        "lora_scale": lora["scale"] if with_lora else None,
        "trigger": request["trigger"]["token"],
        "trigger_mode": request["trigger"]["mode"],
        "critic": critic and critic["profile"],
        "critic_version": critic["version"] if critic and critic["profile"] else None,
        "prompt_set": request["prompt"]["set"],
        "seed": request["seed"],
        "fallback": run.manifest["fallback"],
        "manifest": journal.manifest_digest(run.folder),
        "contract": run.manifest["contract"]["digest"],
        "sweep": request["sweep"],
        "failure": state.failure,
        "not_repeatable": state.num_differing,
        "problem": run.problem,
        "journal_bytes": sign.size,
        "journal_hash": sign.last.get("hash"),
        "folded": state.status,
        "open": state.open and not run.problem,
        "owner": state.owner,
        "signature": sign.text,
    }


def corrupt_row(name: str, error: Exception) -> dict[str, Any]:
    """A run that cannot be read is a row too, so that it is seen; without a signature, so that it is tried again."""
    problem = error.faults[0].what if isinstance(error, Corrupt) else f"cannot be read ({error!r})"
    counts = dict.fromkeys(("planned", "complete", "failed"), 0)
    return {"run_id": name, "status": "corrupt", "problem": problem, "open": False, "signature": "", **counts}


def status_of_open(folded: str, owner: str, folder: Path) -> str:
    """What an open run is now: its owner, as JSON, lives or does not."""
    return folded if gpu.alive(folder, json.loads(owner)) else "crashed"


def ledger_of(outputs: Path) -> ledger.Ledger:
    """What the ledger says; one that cannot be read says nothing but that."""
    try:
        return ledger.read(outputs)
    except Corrupt as error:
        return ledger.Ledger(problem=error.faults[0].what)


def read(folder: Path) -> journal.Run:
    """A run without the facts that the index does not hold: it may have hundreds of thousands of items.

    Raises Corrupt when its manifest cannot be read.
    """
    chain = journal.Chain(folder)
    state, manifest = journal.fold(map(_trimmed, chain)), journal.read_manifest(folder)
    problem = chain.problem
    if problem is None and chain.genesis not in (None, journal.manifest_digest(folder)):
        problem = "the manifest is not the one that the journal began with"
    return journal.Run(folder, manifest, state, problem)


def _trimmed(event: journal.Event) -> journal.Event:
    facts = event.get("facts")
    return event if not facts else {**event, "facts": {name: facts[name] for name in KEPT if facts.get(name)}}


def images_of(run: journal.Run) -> Iterator[dict[str, Any]]:
    """The images of a run, a part at a time: a run may have hundreds of thousands. Of a pair both are named."""
    planned, given = run.manifest["images"], run.manifest.get("given", {})
    for at in range(0, len(planned), PART):
        for image in replace(run, manifest={**run.manifest, "images": planned[at : at + PART]}).images():
            yield {**image, "against": pair[1] if len(pair := given.get(image["key"], ())) > 1 else None}


def counted(images: Iterator[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """The images themselves, counted as they pass."""
    for image in images:
        counts["planned"] += 1
        counts[image["status"]] += image["status"] != "planned"
        counts["verdicts"] += bool(image["verdict"])
        counts["unscored"] += bool(image["verdict"] and image["unscored"])
        yield image
