"""Whether work may start on a device now: pure, from what it needs, what is free, and who holds the device.

It refuses nothing itself: a verdict has a text with every number in it, and the fault that a caller may raise.
Memory that cannot be asked admits, says so, and the device's own error decides. What it does not know: whether a
holder will take what it said, and memory of programs that hold no lease, other than that it is not free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runner.errors import Fault
from runner.gpu.owner import who

Source = Literal["headers", "measured", "declared"]
Verdict = Literal["admit", "wait", "never"]

SMALLER = "Choose a smaller runtime.dtype, runtime.offload=model, or another device"
LATER = "Wait for it, or set hardware.wait=true"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a piece of work wants of a device; 0 MiB when nothing is known."""

    device: str
    need_mib: int = 0
    source: Source = "declared"  # the weights by their headers, the peak of the same work before, or somebody's word
    role: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a device in MiB; None when it cannot be asked."""

    free_mib: int | None
    total_mib: int | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who is in the way: it has the device, or it waits before us."""

    record: Mapping[str, Any]
    waits: bool = False

    def __str__(self) -> str:
        return f"next for {who(self.record)}, which waits before this" if self.waits else f"held by {self._told()}"

    def _told(self) -> str:
        """With what it has taken and may take."""
        took, may = (_mib(self.record.get(name)) for name in ("peak_mib", "need_mib"))
        said = [f"has taken {took} MiB so far"] * bool(took) + [f"said that it needs {may} MiB"] * bool(may)
        return who(self.record) + (f", which {' and '.join(said)}" if said else "")


@dataclass(frozen=True, slots=True)
class Admission:
    """A verdict with its reason, and what is in the way when it is not `admit`."""

    verdict: Verdict
    text: str
    fault: Fault | None = None


def admit(needs: Needs, free: Memory, held: Holder | None) -> Admission:
    """Whether this work may start: `never` when it is more than the device has, `wait` when something is in the way."""
    evidence: dict[str, Any] = {"need_mib": needs.need_mib, "free_mib": free.free_mib, "total_mib": free.total_mib}
    if free.total_mib is not None and needs.need_mib > free.total_mib:
        what = f"{needs.device} has {free.total_mib} MiB of memory in all; {_need(needs)}"
        return Admission("never", what, Fault("over_capacity", "hardware", what, SMALLER, evidence))
    if held is not None:
        what = f"{needs.device} is {held}{_beside(needs, free)}"
        evidence["holder"] = dict(held.record)
        return Admission("wait", what, Fault("device_held", "hardware.device", what, LATER, evidence))
    what = f"{needs.device} has {_free(free)}; {_need(needs)}"
    if free.free_mib is not None and needs.need_mib > free.free_mib:
        return Admission("wait", what, Fault("over_capacity", "hardware", what, f"{LATER}. {SMALLER}", evidence))
    return Admission("admit", what)


def _need(needs: Needs) -> str:
    if not needs.need_mib:
        return "nothing is known of what this needs"
    if needs.source == "headers":
        return f"the weights alone need about {needs.need_mib} MiB (counted from their headers)"
    if needs.source == "measured":
        return f"this took {needs.need_mib} MiB when it was measured before"
    return f"this said that it needs {needs.need_mib} MiB"


def _free(free: Memory) -> str:
    if free.free_mib is None:
        return "memory that cannot be asked, so nothing is compared"
    return f"{free.free_mib} MiB of memory free" + (f" of {free.total_mib} MiB" if free.total_mib is not None else "")


def _beside(needs: Needs, free: Memory) -> str:
    return f"; it has {_free(free)}, and {_need(needs)}" if needs.need_mib else ""


def _mib(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
