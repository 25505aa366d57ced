"""How an attempt ends: what other libraries raise, and what signals ask for, as one status with one reason.

The closed taxonomy of failures is `errors.FAILURE_KINDS`; whatever is in none of them is a bug of ours, and its
traceback is shown.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from runner.contract.machine import is_out_of_memory
from runner.errors import Failed, Fault, Interrupted, Refused, RunnerError, Unavailable, first_line
from runner.journal import Journal

PHASE_OF_KIND = {"sampling": "sample", "critic": "review"}  # where an item was lost
Lost = tuple[str, str]  # of an item that was not made: its kind of failure and the reason


@dataclass(frozen=True, slots=True)
class Ending:
    """A status with its exit code; the fault, its kind, phase and item when it is not complete."""

    status: str
    exit_code: int
    fault: Fault | None = None
    kind: str | None = None
    phase: str | None = None
    item: str | None = None
    bug: BaseException | None = None  # shown with its traceback

    def as_dict(self) -> dict[str, Any] | None:
        """The record of a failure: what kind, in which phase, at which item, its cause and what to do."""
        if self.fault is None:
            return None
        fault = self.fault.as_dict()
        told = {"cause": fault.pop("what"), "hint": fault.pop("fix")}
        return {"kind": self.kind, "phase": self.phase, "item": self.item, **told, **fault}


def ending_of(error: BaseException, phase: str | None) -> Ending:
    """The ending that an exception means."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", Interrupted.exit_code, INTERRUPTED, "interrupted", phase)
    if isinstance(error, RunnerError):
        return _of_ours(error, phase)
    if is_out_of_memory(error):
        return Ending("failed", Failed.exit_code, _out_of_memory(error), "oom", phase)
    if isinstance(error, OSError):
        return Ending("failed", Failed.exit_code, _storage(error), "storage", phase)
    return Ending("failed", Failed.exit_code, _bug(error), "internal", phase, bug=error)


def _of_ours(error: RunnerError, phase: str | None) -> Ending:
    fault = error.faults[0]
    if isinstance(error, Unavailable):
        return Ending("blocked", error.exit_code, fault, "preflight", phase)
    if isinstance(error, Refused):  # what could be known in advance was refused then: the machine has changed since
        return Ending("failed", Failed.exit_code, fault, "preflight", phase)
    kind, item = (error.kind, error.item) if isinstance(error, Failed) else ("storage", None)
    return Ending("failed", error.exit_code, fault, kind, phase, item)


def incomplete(lost: Mapping[str, Lost], num_items: int) -> Ending:
    """Items that are not there, each with its kind and reason."""
    first, (kind, _) = next(iter(lost.items()))
    told = "; ".join(f"{item} {reason}" for item, (_, reason) in islice(lost.items(), 3))
    what = f"{len(lost)} of {num_items} items are not there: {told}"
    fix = "`python -m runner inspect RUN` lists them; the same command tries again"
    phase = PHASE_OF_KIND.get(kind, "verify")
    return Ending("incomplete", Failed.exit_code, Fault("incomplete", "run", what, fix), kind, phase, first)


def unscored(num_unscored: int, num_verdicts: int, most: float) -> Ending:
    what = f"left {num_unscored} of {num_verdicts} images unscored; critic.budget.max_unscored_share is {most:g}"
    fix = "`python -m runner inspect RUN` gives the reasons; images and verdicts are kept"
    return Ending("failed", Failed.exit_code, Fault("critic_unscored", "critic", what, fix), "critic", "review")


@contextmanager
def interruptible(log: Journal) -> Iterator[Callable[[], None]]:
    """SIGINT and SIGTERM raise Interrupted, but never inside a commit, and not while an attempt is being ended.

    Yields a function that stops listening. Outside the main thread signals stay as they are.
    """
    listening = [True]
    if threading.current_thread() is not threading.main_thread():
        yield listening.clear
        return

    def interrupt(number: int, frame: Any) -> None:
        if listening:
            listening.clear()  # the second Ctrl-C of an impatient person must not cost the last line
            with contextlib.suppress(OSError, ValueError):
                os.write(2, STOPPING)
            log.interrupt(Interrupted(signal.Signals(number).name))

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield listening.clear
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


STOPPING = b"\nstopping; what is done is kept and noted\n"
INTERRUPTED = Fault("interrupted", "run", "was interrupted; what is finished is kept", "Run it again to do the rest")


def _out_of_memory(error: BaseException) -> Fault:
    fix = "Choose a smaller generate.batch_size or size, a smaller runtime.dtype, or runtime.offload"
    return Fault("out_of_memory", "device", f"ran out of memory ({first_line(error)})", fix)


def _storage(error: OSError) -> Fault:
    """What the operating system refused outside of the rooms that write: still a reason, and no bug."""
    what = f"was refused by the operating system ({error.strerror or first_line(error)})"
    fix = "Free space or mend the permissions there, then run the same command again to resume"
    return Fault("storage_failed", str(error.filename or "run"), what, fix)


def _bug(error: BaseException) -> Fault:
    what = f"stopped on {type(error).__name__}: {first_line(error)}"
    return Fault("internal_error", "run", what, "This is a bug: please report it with the traceback")
