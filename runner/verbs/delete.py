"""`delete`: a tombstone, and nothing else: bytes stay until `gc` removes them, and until then `--undo` takes it back.

All of it or nothing: one image that cannot be deleted refuses the command. It refuses images that a person decided on
or that a dataset version holds, and a digest that several runs made unless one of them is named or all are meant. A
record made later is not covered by an earlier tombstone. What it does not know: whether the bytes are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import ledger, store
from runner.errors import Fault, Refused
from runner.verbs import records
from runner.verbs.foreign_image import safe
from runner.verbs.status import find_run

MAX_REASON_CHARS = 2_000


def delete(
    outputs: Path, digests: Sequence[str], reason: str, *, run: str | None = None, everywhere: bool = False
) -> dict[str, Any]:
    """Delete images by digest or by its beginning. Raises Refused with every reason, Corrupt, Unavailable."""
    records.refuse_run_folder(outputs, "delete")
    records.refuse_missing(outputs)
    known = _sound_ledger(outputs)
    only = records.record_of(find_run(outputs, run)) if run else None
    images, held = records.images(outputs, known), ledger.held(outputs)
    found = [records.resolve(prefix, images, "no image of a run or an import") for prefix in digests]
    names = {digest: images[digest] for digest in found if isinstance(digest, str)}
    live = {d: [name for name in names[d] if not known.deletes(d, name)] for d in names}
    faults = [*_faults_of(reason), *(each for each in found if isinstance(each, Fault))]
    for digest, owners in names.items():
        faults += _against(digest, owners, live[digest], only, everywhere, held)
    if faults:
        raise Refused(faults)
    new = {digest: [name for name in live[digest] if only in (None, name)] for digest in names}
    new = {digest: some for digest, some in new.items() if some}
    if new:
        _bury(outputs, new, safe(reason, MAX_REASON_CHARS))
    return {"deleted": [_row(d, some) for d, some in new.items()], "already": [d for d in names if d not in new]}


def undo(outputs: Path, digests: Sequence[str], reason: str) -> dict[str, Any]:
    """Take deletions back while the bytes are there. Raises Refused with every reason."""
    records.refuse_run_folder(outputs, "delete")
    records.refuse_missing(outputs)
    known, objects = _sound_ledger(outputs), store.open_store(outputs, None)
    found = [records.resolve(prefix, known.tombstones, "not deleted") for prefix in digests]
    faults = [each for each in found if isinstance(each, Fault)]
    wanted = list(dict.fromkeys(each for each in found if isinstance(each, str)))
    faults += [_gone(digest) for digest in wanted if not objects.holds(digest)]
    if faults:
        raise Refused(faults)
    with ledger.writing(outputs) as book:
        if lost := [_gone(digest) for digest in wanted if not objects.holds(digest)]:  # a gc came in between
            raise Refused(lost)
        back = [digest for digest in wanted if digest in book.known.tombstones]
        said = {"reason": safe(reason, MAX_REASON_CHARS), "user": records.user()}
        book.append(*({"event": "untombstoned", "object": digest, **said} for digest in back))
    return {"restored": [_row(d, known.tombstones[d]["records"]) for d in wanted]}


def text(value: Mapping[str, Any]) -> str:
    """For a person: a line for each image, and what happens next."""
    lines = [f"{row['digest']} deleted: {', '.join(row['records'])}" for row in value.get("deleted", ())]
    lines += [f"{digest} was deleted already" for digest in value.get("already", ())]
    lines += [f"{row['digest']} is back: {', '.join(row['records'])}" for row in value.get("restored", ())]
    if value.get("deleted"):
        lines.append("Bytes stay until `python -m runner gc --yes`; until then `delete --undo DIGEST` takes it back.")
    return "\n".join(lines)


def _bury(outputs: Path, wanted: Mapping[str, Sequence[str]], reason: str) -> None:
    with ledger.writing(outputs) as book:
        held = ledger.held(outputs)  # a person may have decided since
        if faults := [_held(digest, held[digest]) for digest in wanted if digest in held]:
            raise Refused(faults)
        lines = [_line(digest, names, reason) for digest, names in wanted.items()]
        book.append(*lines)


def _line(digest: str, names: Sequence[str], reason: str) -> ledger.Event:
    said = {"records": list(names), "reason": reason, "user": records.user()}
    return {"event": "tombstoned", "object": digest, **said}


def _sound_ledger(outputs: Path) -> ledger.Ledger:
    known = ledger.read(outputs)
    ledger.refuse_broken(outputs, known)
    return known


def _against(
    digest: str, names: Sequence[str], live: Sequence[str], only: str | None, everywhere: bool, held: Mapping[str, str]
) -> list[Fault]:
    """What stands against deleting one image, which `names` name and `live` are not deleted yet."""
    if digest in held:
        return [_held(digest, held[digest])]
    if only and only not in names:
        what = f"is no image of {only}; it is one of {', '.join(names)}"
        return [Fault("unknown_image", digest[:16], what, "Name another run with --run, or leave --run out")]
    if len(live) > 1 and not only and not everywhere:
        what = f"is an image of {len(live)} records: {', '.join(live[:8])}"
        return [Fault("several_records", digest[:16], what, "Name one with --run RUN, or delete all with --everywhere")]
    return []


def _held(digest: str, why: str) -> Fault:
    fix = "It stays. Take the decision back first, or make a dataset version without it and remove this one"
    return Fault("image_held", digest[:16], why, fix, {"image": digest, "held": why})


def _gone(digest: str) -> Fault:
    what = "is deleted, and its bytes are gone or are others"
    fix = "Import it again with `import --again`, or make it again with run.fresh=true"
    return Fault("image_gone", digest[:16], what, fix, {"image": digest})


def _faults_of(reason: str) -> list[Fault]:
    if not reason.strip():
        return [Fault("bad_option", "--reason", "is empty", "Say why: --reason 'no licence'")]
    if len(reason) > MAX_REASON_CHARS:
        what = f"has {len(reason)} characters; the limit is {MAX_REASON_CHARS}"
        return [Fault("bad_option", "--reason", what, "Say it in fewer words")]
    return []


def _row(digest: str, names: Sequence[str]) -> dict[str, Any]:
    return {"digest": digest, "records": list(names)}
