"""What a worker is given and what it gives back: `work(step, bench) -> Outcome`.

A worker sees a step and a bench (store, clock, device, loaded models); not Hydra, not MLflow, not the
journal. What it returns is bytes with facts; storing them and writing the line is the loop's.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.config.tree import Request
from runner.gpu import PeakMeter
from runner.plan import Step
from runner.store import Objects
from runner.timing import Clock


@dataclass(frozen=True, slots=True)
class Made:
    """One finished item: its bytes, and facts for its journal line (numbers, texts and small tables)."""

    item: str
    data: bytes
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unmade:
    """One item that could not be made, with a kind of the failure taxonomy and the reason."""

    item: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    made: tuple[Made, ...]
    unmade: tuple[Unmade, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment inside a step, for the eye only: nothing of it is recorded."""

    status: str
    phase: str
    done: int
    total: int


@dataclass(slots=True)
class Bench:
    """What a worker works with. One model is resident at a time: a change of role releases the one before."""

    request: Request
    facts: Any  # the accepted contract: paths, files, tokens
    store: Objects
    clock: Clock
    device: str  # torch's name of it, such as `cpu` or `cuda:0`
    images: Mapping[str, str]  # digests of finished images by item
    note: Callable[..., None]  # writes a journal line: note(event, **facts)
    status: Callable[..., None]  # moves the run's status: status(word, role)
    progress: Callable[[Progress], None] = lambda moment: None
    meter: PeakMeter = field(default_factory=lambda: PeakMeter("cpu"))
    took: Callable[[str, int | None], None] = lambda role, peak_mib: None  # told when a role is released
    _role: str | None = None
    _model: Any = field(default=None, repr=False)

    def model(self, role: str, load: Callable[[Bench], Any]) -> Any:
        """The resident model of a role; loads it first, after releasing another role's."""
        if self._role != role:
            self.release()
            self.status("loading", role)
            self.meter.start()
            self._model, self._role = load(self), role
        return self._model

    def release(self) -> None:
        """Let go of the resident model and hand its memory back."""
        if self._role is None:
            return
        self.took(self._role, self.meter.read())
        self.status("releasing")
        with self.clock.phase("release"):
            self._model, self._role = None, None
            gc.collect()
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()


def settle() -> None:
    """Call between importing a library and loading a model: what imports made never dies, so the collector need not
    look at it at every release (half a second for torch and diffusers)."""
    gc.freeze()


Work = Callable[[Step, Bench], Outcome]
