"""The pulse of an attempt: while its main thread is inside a model, another says that it lives and how far it is.

The lease is beaten always; the journal only in phases that last, so that slow and stalled can be told apart from
outside. It never fails a run: what it cannot write, the run itself will meet.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from runner.errors import RunnerError
from runner.journal import Event, Journal
from runner.timing import Clock
from runner.worker import Progress

BEAT_S = 2.0
QUIET_S = 10.0  # a phase shorter than this needs no beat


@dataclass(slots=True)
class Pulse:
    """What the beating thread looks at; `moment` is the last step that a worker told of."""

    log: Journal
    clock: Clock
    beat_lease: Callable[[], bool] = lambda: True  # false when the lease file is gone
    moment: Progress | None = None
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def beating(self, every_s: float = BEAT_S) -> Iterator[None]:
        """Beat in a thread of its own until the block is left."""
        thread = threading.Thread(target=self._beat_on, args=(every_s,), name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join()

    def _beat_on(self, every_s: float) -> None:
        while not self._ending.wait(every_s):
            self.beat()

    def beat(self) -> None:
        """One beat: the lease's, and a line when the present phase has lasted."""
        self._beat_lease()
        lasting = self.clock.lasting(QUIET_S)
        if lasting is None:
            return
        phase, for_s = lasting
        moment = self.moment if self.moment and self.moment.phase == phase else None
        told = {"done": moment.done, "total": moment.total} if moment else {"done": None, "total": None}
        self._note({"event": "beat", "phase": phase, "phase_s": round(for_s, 3), **told})

    def _beat_lease(self) -> None:
        with contextlib.suppress(Exception):  # memory that cannot be asked now must not stop the pulse
            if not self.beat_lease():
                self.beat_lease = lambda: True
                self._note({"event": "lease_lost", "reason": "its file was deleted"})

    def _note(self, event: Event) -> None:
        with contextlib.suppress(RunnerError):
            self.log.append(event)
