"""The queue of a device: one ticket file per process that wants it, first come, first served.

A ticket is named by the moment it was drawn and locked by its process, so the ticket of a dead one is known by its
free lock and taken away. Every taker draws one, also one that will not wait: nobody passes those who do. A waiter
that was stopped (Ctrl-Z) keeps its number and is passed over until it goes on.
What it does not know: programs that lock the lease file and draw no ticket; they may come first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.gpu import lockfile, owner

NAME = re.compile(r"\d{20}-\d+\.json")  # monotonic nanoseconds, and pid


@contextmanager
def drawn(queue: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """Stand in the queue; yields our ticket. It is given up at the end of the block, or of the process."""
    lockfile.make_shared_folder(queue)
    ticket = queue / f"{time.monotonic_ns():020d}-{os.getpid()}.json"
    file = lockfile.open_shared(ticket)
    fcntl.flock(file, fcntl.LOCK_EX)  # who looks at it has it for a moment
    while not lockfile.is_at(file, ticket):  # it was looked at before it was locked, and taken for a dead one's
        file.close()
        file = lockfile.open_shared(ticket)
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        lockfile.write(file, record)
        yield ticket
    finally:
        with contextlib.suppress(OSError):
            ticket.unlink()
        file.close()


def first_before(ticket: Path) -> dict[str, Any] | None:
    """The record of the first waiter before us that could go; None when it is our turn."""
    for path in _tickets(ticket.parent):
        if path.name >= ticket.name:
            return None
        if _is_living(path):
            waiter = lockfile.read(path) or {}
            if owner.state_of(waiter) != "stopped":
                return waiter
    return None


def waiters(queue: Path) -> list[dict[str, Any]]:
    """The records of all who wait, in order."""
    return [lockfile.read(path) or {} for path in _tickets(queue) if _is_living(path)]


def _tickets(queue: Path) -> list[Path]:
    try:
        return sorted(path for path in queue.iterdir() if NAME.fullmatch(path.name))
    except OSError:
        return []


def _is_living(path: Path) -> bool:
    """Whether a ticket's process lives; takes away the ticket of one that does not.

    It is taken away under its lock: its process, should it only just have drawn it, waits for that and draws again.
    """
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if lockfile.is_at(file, path):
                path.unlink()
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # another user's, in a folder where only they may take it away: the lock has said that it is dead
        return not os.access(path, os.R_OK)
    return False
