"""`gpu`: who holds each device and who waits for it; `gpu hold`: any command under a device's lease.

It shows what lease files and locks say, and takes a lease only in `hold`, in its turn. It never takes one away. What
it does not know: programs that use a device without a lease, other than that their memory is not free.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import which
from typing import Any

from runner import gpu
from runner.contract.machine import device_there
from runner.contract.shown import shown
from runner.errors import Fault, Refused, Unavailable
from runner.gpu import devices
from runner.gpu.command import FIX
from runner.verbs.show import table

# ---- who holds what


def show(device: str | None = None) -> dict[str, Any]:
    """Every device that was ever leased here, or the one named: holder, queue in order, memory, last beat."""
    files = _lease_files() if device is None else [gpu.lease_file(_checked(device))]
    return {"leases": str(gpu.lease_folder()), "devices": [_row(path) for path in files]}


def _lease_files() -> list[Path]:
    """Of devices with a lease file or a queue."""
    names = {path.stem for ending in ("json", "queue") for path in gpu.lease_folder().glob(f"*.{ending}")}
    files = (gpu.lease_folder() / f"{name}.json" for name in sorted(names))
    return [path for path in files if devices.device_of(path)]


def _row(path: Path) -> dict[str, Any]:
    device = devices.device_of(path) or path.stem
    record, held = gpu.read_owner(path), gpu.is_held(path)
    holder = gpu.of_holder(record) if held else None
    memory = gpu.memory_of(device)
    return {
        "device": device,
        "held": held,
        "holder": holder and {**holder, "process": gpu.state_of(holder)},
        "stale": None if held else record,
        "beat_age_s": _age_s(holder.get("beat")) if holder else None,
        "queue": [{**waiter, "process": gpu.state_of(waiter)} for waiter in gpu.waiters(path.with_suffix(".queue"))],
        "memory": {"free_mib": memory.free_mib, "total_mib": memory.total_mib},
    }


def _age_s(at: object) -> float | None:
    try:
        return round((datetime.now(UTC) - datetime.fromisoformat(str(at))).total_seconds(), 1)
    except (ValueError, TypeError):
        return None


def show_text(value: Mapping[str, Any]) -> str:
    """Devices as a table, and under it who waits."""
    if not value["devices"]:
        return f"No device has been leased on this machine ({shown(value['leases'])})."
    columns = ["device", "holder", "role", "took / asked for", "since", "last beat", "waiting", "memory free"]
    text = table(columns, [_cells(row) for row in value["devices"]])
    waiting = [_waiter(place, waiter) for row in value["devices"] for place, waiter in enumerate(row["queue"], 1)]
    return f"{text}\n{table(['waits for', 'place', 'who', 'role', 'needs', 'since'], waiting)}" if waiting else text


def _cells(row: Mapping[str, Any]) -> list[str]:
    holder, memory = row["holder"] or {}, row["memory"]
    beat = "" if row["beat_age_s"] is None else f"{row['beat_age_s']:.0f} s ago"
    free = "unknown" if memory["free_mib"] is None else f"{memory['free_mib']} of {memory['total_mib']} MiB"
    took = f"{holder.get('peak_mib') or '?'} / {holder.get('need_mib') or '?'} MiB" if holder else ""
    since, role = str(holder.get("since", ""))[:19], str(holder.get("role", ""))
    return [row["device"], _holder(row), role, took, since, beat, str(len(row["queue"])), free]


def _holder(row: Mapping[str, Any]) -> str:
    if row["held"]:
        state = (row["holder"] or {}).get("process", "unknown")
        told = {"stopped": ", stopped", "gone": "; the first is gone, its command works on"}
        return gpu.who(row["holder"] or {}) + told.get(state, "")
    return "nobody" + (f"; {gpu.who(row['stale'])} died with it" if row["stale"] else "")


def _waiter(place: int, waiter: Mapping[str, Any]) -> list[str]:
    who = gpu.who(waiter) + (", stopped: passed over" if waiter["process"] == "stopped" else "")
    needs = f"{waiter.get('need_mib') or '?'} MiB"
    return [str(waiter.get("device")), str(place), who, str(waiter.get("role")), needs, str(waiter.get("since"))[:19]]


# ---- any command under a lease


def hold(device: str | None, role: str, need_mib: int, wait: bool, command: Sequence[str]) -> int:
    """Run a command when its turn has come; returns its exit code, 128+n after signal n.

    The command inherits the lock: the lease lasts as long as it does, also when we are killed.
    """
    _check_command(command)
    first = "cuda:0" if device_there("cuda", 0) else "cpu"
    needs = gpu.Needs(_there(first if device is None else device), need_mib, "declared", role)
    me = gpu.this_process("", role)
    try:
        with gpu.lease(needs, me, wait=wait, on_wait=_tell_waiting, on_takeover=_tell_takeover) as held:
            return gpu.run_under(held, command)
    except Unavailable as error:
        faults = [replace(f, where="gpu hold", fix=NOT_NOW) if f.code in OURS else f for f in error.faults]
        raise Unavailable(faults) from error


OURS = ("device_held", "over_capacity")
NOT_NOW = "Try again later, or leave out --no-wait"


def _check_command(command: Sequence[str]) -> None:
    if not command:
        raise Refused(Fault("command_missing", "gpu hold", "got no command after --", FIX))
    if which(command[0]) is None:
        raise Refused(Fault("command_missing", "gpu hold", f"{command[0]!r} is no program here", FIX))


def _there(device: str) -> str:
    """A device that this machine has. Raises Refused."""
    kind, _, index = _checked(device).partition(":")
    if not device_there(kind, int(index or 0)):
        fix = "Look at `python -m runner gpu`, or hold cpu"
        raise Refused(Fault("device_missing", "--device", f"is {device}, which this machine does not have", fix))
    return device


def _checked(device: str) -> str:
    if not devices.NAME.fullmatch(device):
        raise Refused(Fault("device_missing", "--device", f"is {device!r}", "Write cpu, mps, cuda:0, cuda:1 ..."))
    return device


def _tell_waiting(holder: Mapping[str, Any]) -> None:
    print(f"waiting: {shown(str(holder['reason']), 500)}", file=sys.stderr, flush=True)


def _tell_takeover(before: Mapping[str, Any]) -> None:
    print(f"taking over: {shown(gpu.who(before), 500)} died with the lease", file=sys.stderr, flush=True)
