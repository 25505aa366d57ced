"""How an attempt ends: what other libraries raise, and what signals ask for, as one status with one reason.

The closed taxonomy of failures is `errors.FAILURE_KINDS`; whatever is in none of them is a bug of ours, and its
traceback is shown.
"""

from __future__ import annotations

import io
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runner.config.tree import Request
from runner.errors import Failed, Fault, Interrupted, RunnerError, Unavailable, first_line
from runner.journal import Journal

OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate|failed to allocate", re.IGNORECASE)


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
        if self.fault is None:
            return None
        return {**self.fault.as_dict(), "kind": self.kind, "phase": self.phase, "item": self.item}


def ending_of(error: BaseException, phase: str | None) -> Ending:
    """The ending that an exception means."""
    if isinstance(error, KeyboardInterrupt):
        return Ending("interrupted", Interrupted.exit_code, INTERRUPTED, "interrupted", phase)
    if isinstance(error, Unavailable):
        return Ending("blocked", error.exit_code, error.faults[0], "preflight", phase)
    if isinstance(error, Failed):
        return Ending("failed", error.exit_code, error.faults[0], error.kind, phase, error.item)
    if isinstance(error, RunnerError):
        return Ending("failed", error.exit_code, error.faults[0], "storage", phase)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return Ending("failed", Failed.exit_code, _out_of_memory(error), "oom", phase)
    return Ending("failed", Failed.exit_code, _bug(error), "internal", phase, bug=error)


def incomplete(problems: Sequence[str], num_items: int) -> Ending:
    what = f"{len(problems)} of {num_items} items are not there: {'; '.join(problems[:3])}"
    fix = "`python -m runner status` counts them; the same command tries again"
    return Ending("incomplete", Failed.exit_code, Fault("incomplete", "run", what, fix), "sampling", "verify")


def unscored(num_unscored: int, num_verdicts: int, most: float) -> Ending:
    what = f"left {num_unscored} of {num_verdicts} images unscored; critic.max_unscored_share is {most:g}"
    fix = "`python -m runner inspect RUN` gives the reasons; images and verdicts are kept"
    return Ending("failed", Failed.exit_code, Fault("critic_unscored", "critic", what, fix), "critic", "review")


def image_problem(data: bytes, request: Request) -> str | None:
    """Why bytes are not an image of the planned size; None when they are."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            size = image.size
    except (UnidentifiedImageError, OSError) as error:
        return f"does not decode ({type(error).__name__})"
    wanted = (request.generate.width, request.generate.height)
    return None if size == wanted else f"is {size[0]}x{size[1]}, planned was {wanted[0]}x{wanted[1]}"


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
            log.interrupt(Interrupted(signal.Signals(number).name))

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield listening.clear
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


INTERRUPTED = Fault("interrupted", "run", "was interrupted; finished images are kept", "Run it again to make the rest")


def _out_of_memory(error: BaseException) -> Fault:
    fix = "Choose a smaller generate.batch_size or size, a smaller runtime.dtype, or runtime.offload"
    return Fault("out_of_memory", "device", f"ran out of memory ({first_line(error)})", fix)


def _bug(error: BaseException) -> Fault:
    what = f"stopped on {type(error).__name__}: {first_line(error)}"
    return Fault("internal_error", "run", what, "This is a bug: please report it with the traceback")
