"""`export`: folders for people, made from the truth and marked as such.

A derived folder holds `DERIVED.txt` for a person and `derived.json` for a program. It can be deleted and made again;
moving or editing files in it changes nothing. It refuses a folder that has something in it and no mark of ours, one
with the mark of another run, and one inside the truth itself. Files that it did not write are left alone.
What it does not know: what a person did with the files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import journal, ledger, store
from runner.contract.shown import shown
from runner.errors import Corrupt, Failed, Fault, Refused
from runner.verbs import records
from runner.verbs.status import find_run

MARK, RECORD, PAGE = "DERIVED.txt", "derived.json", "index.html"
COMMAND = "runner export gallery"
TEMPLATE = Path(__file__).with_name("gallery.html.j2")
TRUTH = ("objects", "runs", "ledger", "decisions", "datasets")
DELETED = "was deleted"
NOT_IN_NAMES = re.compile(r"[^\w.-]")
OUR_NAME = re.compile(r"[\w.-]+-[0-9a-f]{8}\.png")
MAX_RECORD_BYTES = 256 << 20


def gallery(outputs: Path, run: str, to: Path | None) -> dict[str, Any]:
    """Write one PNG an image of a run, and a page. `ok` is false when some images could not be written.

    Raises Refused for a folder that is not ours, Corrupt when the run cannot be read, Failed(storage).
    """
    records.refuse_missing(outputs)
    read = journal.read_run(find_run(outputs, run))
    if read.problem is not None:
        fix = "Nothing was written. `python -m runner verify --all` says more"
        raise Corrupt(Fault("journal_altered", read.id, read.problem, fix))
    folder = (to or outputs / "exports" / read.id).absolute()
    _refuse_truth(outputs, folder)
    before = _own_files(folder, read.id)
    known = ledger.read(outputs)
    ledger.refuse_broken(outputs, known)
    rows, missing = _wanted(read, known)
    try:
        _begin(folder, read.id, rows, before)
        missing += list(_write_images(folder, store.open_store(outputs, None), rows))
        lost = {row["digest"] for row in missing}
        there = [row for row in rows if row["digest"] not in lost]
        store.write_durably(folder / PAGE, _page(read.id, there).encode())
        store.write_durably(folder / RECORD, _record(read.id, there))
    except OSError as error:
        fix = "Free space or mend the permissions of that folder, then export again"
        raise Failed("storage", Fault("storage_failed", str(folder), f"cannot be written ({error})", fix)) from error
    ok = not any(row["reason"] != DELETED for row in missing)
    return {"ok": ok, "of": read.id, "to": str(folder), "files": len(there), "missing": missing}


def text(value: Mapping[str, Any]) -> str:
    """For a person: where it is, and what is not in it."""
    lines = [f"{row['key']}: {row['reason']}" for row in value["missing"]]
    return "\n".join([*lines, f"{value['files']} images of {value['of']}: {value['to']}/{PAGE}"])


def _wanted(run: journal.Run, known: ledger.Ledger) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The images of a run with their file names, and those that are deleted."""
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for image in run.images():
        if image["status"] != "complete":
            continue
        if known.deletes(image["digest"], records.record_of(run.folder)):
            missing.append({"key": image["key"], "digest": image["digest"], "reason": DELETED})
        else:
            rows.append({**image, "file": _file_name(image)})
    return rows, missing


def _file_name(image: Mapping[str, Any]) -> str:
    return f"{NOT_IN_NAMES.sub('_', image['key'])}-{image['digest'][:8]}.png"


def _begin(folder: Path, run_id: str, rows: list[dict[str, Any]], before: set[str]) -> None:
    """Mark the folder before anything else is in it, and take out what an earlier export put there."""
    folder.mkdir(parents=True, exist_ok=True)
    stale = before - {row["file"] for row in rows}
    store.write_durably(folder / RECORD, _record(run_id, rows, also=tuple(stale), whole=False))
    words = (
        f"Derived from run {run_id} by `{COMMAND}`.\n"
        "Moving or editing files here changes nothing. Delete this folder and export again.\n"
    )
    store.write_durably(folder / MARK, words.encode())
    for name in sorted(stale):
        (folder / name).unlink(missing_ok=True)


def _write_images(folder: Path, objects: store.Objects, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Write images as they are stored; yields those whose bytes are gone or are others."""
    for row in rows:
        (folder / row["file"]).unlink(missing_ok=True)  # it may have become a link
        try:
            (folder / row["file"]).write_bytes(objects.get(row["digest"]))
        except Corrupt as error:
            yield {"key": row["key"], "digest": row["digest"], "reason": error.faults[0].what}


def _page(run_id: str, rows: list[dict[str, Any]]) -> str:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8")).render(run_id=run_id, rows=rows)


def _record(run_id: str, rows: list[dict[str, Any]], also: Sequence[str] = (), whole: bool = True) -> bytes:
    files = {row["file"]: row["digest"] for row in rows} | dict.fromkeys(also)
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return store.canonical({"derived_by": COMMAND, "of": run_id, "made_at": made_at, "files": files, "whole": whole})


def _own_files(folder: Path, run_id: str) -> set[str]:
    """The images that an earlier export of this run put into a folder. Raises Refused when it is not ours."""
    try:
        inside = [path.name for path in folder.iterdir() if not path.name.startswith(f".{RECORD}.")]  # of a dead export
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise Refused(_foreign(folder, f"cannot be read ({error.strerror})")) from error
    if not inside:
        return set()
    record = _read_record(folder)
    if record is None:
        raise Refused(_foreign(folder, f"has {len(inside)} things in it that no export wrote"))
    if record.get("of") != run_id:
        raise Refused(_foreign(folder, f"is an export of run {shown(str(record.get('of')))}"))
    files = record.get("files")
    return {name for name in files if OUR_NAME.fullmatch(name)} if isinstance(files, dict) else set()


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(store.read_regular(folder / RECORD, MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("derived_by") == COMMAND else None


def _foreign(folder: Path, what: str) -> Fault:
    return Fault("folder_not_ours", f"--to {folder}", what, "Name an empty folder or a new one with --to DIR")


def _refuse_truth(outputs: Path, folder: Path) -> None:
    for name in TRUTH:
        if folder.resolve().is_relative_to((outputs / name).resolve()):
            what = f"lies in {name}/, which holds the truth and no copies of it"
            raise Refused(Fault("folder_not_ours", f"--to {folder}", what, "Name a folder elsewhere with --to DIR"))
