"""`gc`: remove bytes that nobody names any more, or that were deleted. Dry unless told otherwise.

What goes: objects that no run, import, decision or dataset version names, once they are old enough; objects whose every
record is deleted; what crashed writes left behind. What stays: whatever a record that is not deleted names, and what a
decision or a dataset version holds. It refuses while a run is being written, while any record cannot be read, where
nothing at all is recorded, and a store that other outputs folders use as well: a link, or a bucket with another's mark.
What it does not know: a link elsewhere that leads to these objects.

Order: `collecting` with the digests, then the bytes, then `collected`. After a crash the next gc says what is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runner import journal, ledger, store
from runner.errors import Fault, Refused
from runner.verbs import records

OBJECTS_PER_COMMIT = 1_000
ORPHAN, DELETED = "no record names it", "deleted"


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes, what of the deleted stays and why, and how many are nobody's but too young to tell."""

    objects: Mapping[str, tuple[int, str]]  # digest -> bytes, why it goes
    kept: Mapping[str, str]  # digest -> why it stays although it is deleted
    leftovers: tuple[store.Leftover, ...]
    num_younger: int
    bytes: int


def gc(outputs: Path, *, yes: bool, older_than_hours: float, now_s: float) -> dict[str, Any]:
    """Say what would go, or with `yes` remove it and record it. Raises Refused, Unavailable, Corrupt, Failed.

    `now_s` is the time in seconds since 1970; only what is older than the hours before it is an orphan.
    """
    records.refuse_run_folder(outputs, "gc")
    records.refuse_missing(outputs)
    _refuse_unknown(outputs)
    _refuse_shared(store.open_store(outputs, None))
    if not (math.isfinite(older_than_hours) and older_than_hours >= 0):
        what, fix = f"is {older_than_hours}", "Give a number of hours, 0 or more"
        raise Refused(Fault("bad_option", "--older-than-hours", what, fix))
    before_s = now_s - 3600 * older_than_hours
    if not yes:
        records.refuse_while_written(outputs, "gc")
        return _result(make_plan(outputs, _sound(outputs), before_s), dry=True)
    with ledger.alone(outputs), ledger.writing(outputs) as book:
        records.refuse_while_written(outputs, "gc")
        plan = make_plan(outputs, book.known, before_s)
        _collect(outputs, book, plan)
    return _result(plan, dry=False)


def make_plan(outputs: Path, known: ledger.Ledger, before_s: float) -> Plan:
    """Judge every object of the store. Raises Corrupt when a record cannot be read: it may name any of them."""
    named, held = records.namers(outputs, known), ledger.held(outputs)
    objects = store.open_store(outputs, None)
    going: dict[str, tuple[int, str]] = {}
    kept: dict[str, str] = {}
    num_younger = 0
    for listed in objects.listing():
        why, stays = judge(listed.name, named.get(listed.name, set()), known, held)
        if stays:
            kept[listed.name] = stays
        elif why == ORPHAN and listed.modified_s > before_s:
            num_younger += 1
        elif why:
            going[listed.name] = (listed.size, why)
    leftovers = tuple(each for each in objects.leftovers() if each.modified_s <= before_s)
    num_bytes = sum(size for size, _ in going.values()) + sum(each.size for each in leftovers)
    return Plan(going, kept, leftovers, num_younger, num_bytes)


def judge(digest: str, names: set[str], known: ledger.Ledger, held: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Why an object goes, and why it stays although it is deleted; neither for one that simply lives. Pure."""
    tombstone = known.tombstones.get(digest)
    if tombstone is None:
        return (None, None) if names or digest in held else (ORPHAN, None)
    if digest in held:
        return None, held[digest]
    live = sorted(name for name in names - {ledger.DECISIONS} if not known.deletes(digest, name))
    if live:
        return None, f"named by {', '.join(live[:3])}"
    return f"{DELETED}: {tombstone['reason']}", None


def text(value: Mapping[str, Any]) -> str:
    """For a person: what goes and why, what stays although it is deleted, and the sum."""
    lines = [f"{row['digest']}  {row['bytes']} bytes  {row['why']}" for row in value["objects"]]
    lines += [
        f"{row['place']}  {row['bytes']} bytes  left behind by a write that never ended" for row in value["leftovers"]
    ]
    lines += [f"{row['digest']}  stays, though deleted: {row['why']}" for row in value["kept"]]
    if value["num_younger"]:
        lines.append(f"{value['num_younger']} more objects are nobody's, but too young to tell (--older-than-hours).")
    number = len(value["objects"]) + len(value["leftovers"])
    if not number:
        return "\n".join([*lines, "Nothing to remove."])
    what = f"{number} objects and leftovers, {value['bytes'] / 1e6:.1f} MB"
    return "\n".join([*lines, f"Would remove {what}; --yes does it." if value["dry"] else f"Removed {what}."])


def _collect(outputs: Path, book: ledger.Writer, plan: Plan) -> None:
    """Remove what the plan says, in commits of bounded size, each begun and ended by a line."""
    objects = store.open_store(outputs, None)
    _finish_crashed(book, objects)
    rest: Iterator[tuple[str, tuple[int, str]]] = iter(plan.objects.items())
    while piece := dict(islice(rest, OBJECTS_PER_COMMIT)):
        records.refuse_while_written(outputs, "gc")
        _refuse_shared(objects)
        size = sum(num_bytes for num_bytes, _ in piece.values())
        book.append({"event": "collecting", "objects": list(piece), "bytes": size, "user": records.user()})
        for digest in piece:
            objects.remove(digest)
        book.append({"event": "collected", "objects": list(piece), "bytes": size, "kept": []})
    for leftover in plan.leftovers:
        objects.discard(leftover.place)


def _finish_crashed(book: ledger.Writer, objects: store.Objects) -> None:
    """Say which objects a gc that died had removed; the others are judged anew."""
    if begun := book.known.collecting:
        there = {checked.name for checked in objects.check(begun, 4) if checked.found is not None or checked.problem}
        gone, kept = [d for d in begun if d not in there], [d for d in begun if d in there]
        book.append({"event": "collected", "objects": gone, "bytes": None, "kept": kept})


def _sound(outputs: Path) -> ledger.Ledger:
    known = ledger.read(outputs)
    ledger.refuse_broken(outputs, known)
    return known


def _refuse_shared(objects: store.Objects) -> None:
    """Another outputs folder has records of its own, which nobody reads here."""
    if fault := objects.shared():
        raise Refused(fault)


def _refuse_unknown(outputs: Path) -> None:
    """Where nothing is recorded every object would be nobody's: more likely the records were moved away."""
    if not (outputs / "runs").is_dir() and not (outputs / ledger.FOLDER / journal.JOURNAL).exists():
        what = f"{outputs} has neither runs nor a ledger: nothing there says what is still needed"
        fix = "Name the outputs folder of your runs with --outputs DIR"
        raise Refused(Fault("outputs_missing", "--outputs", what, fix))


def _result(plan: Plan, *, dry: bool) -> dict[str, Any]:
    return {
        "dry": dry,
        "objects": [{"digest": d, "bytes": size, "why": why} for d, (size, why) in plan.objects.items()],
        "leftovers": [{"place": each.place, "bytes": each.size} for each in plan.leftovers],
        "kept": [{"digest": digest, "why": why} for digest, why in plan.kept.items()],
        "bytes": plan.bytes,
        "num_younger": plan.num_younger,
    }
