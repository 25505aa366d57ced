"""A bar on standard error while many objects are hashed; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from runner.store import Checked

MANY = 2_000  # objects: fewer are done before a bar can be read
STEP = 64


def shown(checks: Iterator[Checked], total: int) -> Iterator[Checked]:
    """The same checks, counted for a person when standard error is a terminal."""
    if total < MANY or not sys.stderr.isatty():
        yield from checks
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("hashing objects", total=total)
        for number, checked in enumerate(checks, start=1):
            yield checked
            if number % STEP == 0:
                bar.update(task, completed=number)
