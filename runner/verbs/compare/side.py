"""One run of a comparison, read whole: its images, their batches, and what its journal says of attempts and machine.

It refuses a journal that is altered (Corrupt), and names what an unfinished run lacks. What it does not know: the
other run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runner import controlled, gpu, journal
from runner.controlled import Names
from runner.errors import Corrupt, Fault
from runner.plan import ITEM_KINDS

MAX_SHOWN = 3
MACHINE = ("threads", "cpu")  # what a model that loads notes of the machine


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs. A cold step is the first of its batch size in an attempt."""

    run: journal.Run
    images: Mapping[str, Mapping[str, Any]]  # by key
    batches: Mapping[str, str]  # image key -> digest of the step that made it
    cold: frozenset[str]  # digests of steps
    settings: Mapping[str, Any]  # by dotted key, with the machine's


def read_side(folder: Path) -> Side:
    """A run folder as a side of a comparison. Raises Corrupt when journal or manifest were altered."""
    run = journal.read_run(folder)
    if run.problem:
        fix = "Nothing was changed. Put the original back, or make the run again with run.fresh=true"
        raise Corrupt(Fault("journal_altered", str(folder / journal.JOURNAL), run.problem, fix))
    steps = [step for step in run.manifest.get("steps", ()) if step["kind"] == "generate"]
    keys = (key for key, _, _ in run.manifest["images"])
    batches = {key: step["digest"] for step in steps for key in islice(keys, step["items"])}
    cold, machine = _history(folder, {step["digest"]: step["items"] for step in steps})
    images = {image["key"]: image for image in run.images()}
    return Side(run, images, batches, cold, controlled.settings(run.manifest, machine))


def _history(folder: Path, sizes: Mapping[str, int]) -> tuple[frozenset[str], dict[str, Any]]:
    """The cold steps of all attempts; and the host, and the machine as each model found it."""
    cold: set[str] = set()
    begun: dict[str, int] = {}  # steps of this attempt, with the size of their batch
    seen: dict[str, set[Any]] = {"host": set()}
    for event in journal.iter_events(folder):
        kind, step = event["event"], event.get("step", "")
        if kind == "started":
            begun = {}
            seen["host"].add(event["owner"].get("host"))
        elif kind == "loaded":
            for name in MACHINE:
                seen.setdefault(f"{event['role']}.{name}", set()).add(event.get(name))
        elif kind == "made" and step in sizes and step not in begun:
            if sizes[step] not in begun.values():
                cold.add(step)
            begun[step] = sizes[step]
    return frozenset(cold), {name: _one_or_all(values) for name, values in seen.items()}


def _one_or_all(values: set[Any]) -> Any:
    """The value that all attempts share, or the list of them."""
    return next(iter(values)) if len(values) == 1 else sorted(values, key=str)


def unfinished(one: Side, other: Side, names: Names) -> Iterator[Fault]:
    """Runs that are not complete, and a run beside itself."""
    if (one.run.id, one.run.state.started) == (other.run.id, other.run.state.started):
        fix = "Name another run; the same command with run.fresh=true makes one"
        yield Fault("not_comparable", names.b, "is compared with itself", fix)
    for name, run in {one.run.folder: (names.a, one.run), other.run.folder: (names.b, other.run)}.values():
        status = run.status(gpu.alive)
        if status != "complete":
            expected, there = _expected(run), run.state.made()
            lost = [item for item in expected if item not in there]
            what = f"is {status}: {len(lost)} of {len(expected)} items are not there{_some(lost)}"
            fix = "Run its command again: it makes what is missing. `python -m runner status` shows how far it is"
            yield Fault("not_comparable", name, what, fix)


def _expected(run: journal.Run) -> list[str]:
    stages = [stage for stage in run.manifest["request"]["stages"] if stage in ITEM_KINDS]
    return [f"{ITEM_KINDS[stage]}/{key}" for stage in stages for key, _, _ in run.manifest["images"]]


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - MAX_SHOWN} more" if len(items) > MAX_SHOWN else ""
    return f" ({', '.join(items[:MAX_SHOWN])}{more})" if items else ""
