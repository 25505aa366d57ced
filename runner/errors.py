"""The bottom of the house: the four ways a request can end badly, and what a fault says.

Exit codes are part of the command line: 1 unavailable, 2 refused, 3 failed, 4 corrupt, 130 interrupted.
Anything that is not one of these is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FAILURE_KINDS = (
    "contract", "preflight", "load", "oom", "sampling", "storage", "critic", "interrupted", "internal",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a request is wrong: a stable code, where, what, fix, and the evidence for it."""

    code: str
    where: str  # what the person would type: a config key, a file, a command
    what: str  # a fact, with the value in it
    fix: str  # something to type or to choose
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "where": self.where,
            "what": self.what,
            "fix": self.fix,
            "evidence": dict(self.evidence),
        }

    def __str__(self) -> str:
        stop = "" if self.fix.endswith((".", "?", "!")) else "."
        return f"{self.where}: {self.what}. {self.fix}{stop}"


class RunnerError(Exception):
    """Base of every ending that has its own exit code."""

    exit_code = 3
    title = "error"

    def __init__(self, faults: Fault | Iterable[Fault]) -> None:
        self.faults = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(f"- {fault}" for fault in self.faults))


class Unavailable(RunnerError):
    """The machine or a service is not ready; the same request may work later."""

    exit_code = 1
    title = "unavailable"


class Refused(RunnerError):
    """The request is wrong; nothing was started, nothing was written."""

    exit_code = 2
    title = "refused"


class Failed(RunnerError):
    """A step started and did not finish; the journal says which; run again to resume."""

    exit_code = 3
    title = "failed"

    def __init__(self, kind: str, fault: Fault, *, item: str | None = None) -> None:
        assert kind in FAILURE_KINDS, kind
        self.kind = kind
        self.item = item
        super().__init__(fault)


class Corrupt(RunnerError):
    """Bytes do not match their name; nothing was changed; look at it."""

    exit_code = 4
    title = "corrupt"


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; finished images are kept and the same command goes on."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """The first line of another library's error, or its kind when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def choose(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, then the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}"
