"""`compare`: two complete runs that differ in the declared knobs alone, pair by pair, with an interval.

`side` reads a run and refuses an unfinished or altered one, `controlled` refuses what no knob names, `measured` pairs
outputs, time and scores, `table` shows it. What it does not know: whether a difference would come again in other runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner import controlled, paired
from runner.controlled import Names
from runner.errors import Refused
from runner.prompt import few
from runner.verbs.compare import measured
from runner.verbs.compare.side import Side, read_side, unfinished
from runner.verbs.compare.table import text
from runner.verbs.status import find_run

__all__ = ["compare", "text"]


def compare(outputs: Path, a: str, b: str, knobs: Sequence[str]) -> dict[str, Any]:
    """What B has that A has not. Raises Refused with every reason against it, and Corrupt for an altered run."""
    one, other = (read_side(find_run(outputs, name)) for name in (a, b))
    names = Names(one.run.id, other.run.id) if one.run.id != other.run.id else Names(a, b)
    faults = [*unfinished(one, other, names), *controlled.faults(one.settings, other.settings, knobs, names)]
    faults += controlled.unpaired(one.run.manifest, other.run.manifest, names)
    if faults:
        raise Refused(few(faults))
    found = controlled.differences(one.settings, other.settings)
    counted = {key: list(pair) for key, pair in found.items() if controlled.counts(key)}
    bytes_found = measured.outputs(one, other)
    speed = measured.speed(counted, bytes_found["different"])
    phases = measured.phases(one, other, speed)
    return {
        "a": names.a,
        "b": names.b,
        "knobs": list(dict.fromkeys(knobs)),
        "differences": counted,
        "not_counted": {key: list(pair) for key, pair in found.items() if key not in counted},
        "n": len(one.images),
        "outputs": bytes_found,
        "unscored": {"a": measured.num_unscored(one), "b": measured.num_unscored(other)},
        "speed": speed,
        "phases": phases,
        "run_phases": measured.run_phases(one, other),
        "criteria": measured.criteria(one, other),
        "notes": [*_of_runs(one, other, names), *_of_result(counted, bytes_found["different"], phases)],
    }


def _of_runs(one: Side, other: Side, names: Names) -> Iterator[str]:
    """What stands against the runs themselves."""
    for name, side in zip(names, (one, other), strict=True):
        manifest, state = side.run.manifest, side.run.state
        if state.attempts > 1:
            yield f"{name} took {state.attempts} attempts; its run phases are of the last one and are not compared"
        if state.num_differing:
            yield f"{name} does not repeat: {state.num_differing} kept images came out otherwise when sampled again"
        if manifest["environment"].get("git_dirty"):
            commit = str(manifest["environment"]["git_commit"])[:12]
            yield f"{name} was made by changed files on commit {commit}: which changes is not known"
        if manifest.get("repeatable") == "best_effort":
            yield f"{name} was made on a device that promises no equal bytes"


def _of_result(counted: dict[str, Any], num_different: int, phases: measured.Rows) -> Iterator[str]:
    """How the figures are to be read."""
    shown = [row["phase"] for row in phases if row["verdict"] in (paired.A_HIGHER, paired.B_HIGHER)]
    if not counted and num_different:
        yield "the same work gave other bytes: the device, or something that is not recorded, is not repeatable"
    if not counted and shown:
        yield f"the same work twice: the difference in {', '.join(shown)} is what changes from run to run"
    elif shown:
        yield "the intervals of time cover the batches of these two runs, not what changes from run to run"
