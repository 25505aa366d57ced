"""What a worker is given and what it gives back: `work(step, bench) -> Outcome`.

A worker sees a step and a bench (store, clock, device, loaded models); not Hydra, not MLflow, not the
journal. What it returns is bytes with facts; storing them and writing the line is the loop's.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from runner import gpu
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
    deliver: Callable[[Outcome], None] = lambda outcome: None  # commits a part of a step before the step is done
    recall: Callable[[str], str | None] = lambda key: None  # digest of a verdict that was given under this key before
    wanted: Collection[str] = ()  # items of this step that are to be made; the others are kept
    progress: Callable[[Progress], None] = lambda moment: None
    meter: PeakMeter = field(default_factory=lambda: PeakMeter("cpu"))
    took: Callable[[str, int | None], None] = lambda role, peak_mib: None  # told when a role is released
    on_release: ExitStack = field(default_factory=ExitStack, repr=False)  # what a role has to close when it goes
    at_end: ExitStack = field(default_factory=ExitStack, repr=False)  # what stays between turns, until the device goes
    kept: dict[str, Any] = field(default_factory=dict, repr=False)  # such things by name
    _role: str | None = None
    _model: Any = field(default=None, repr=False)

    def model(self, role: str, load: Callable[[Bench], Any]) -> Any:
        """The resident model of a role; loads it first, after releasing another role's."""
        if self._role != role:
            self.release()
            self.status("loading", role)
            self.meter.start()
            self._role = role  # from here on there is something to release, also when loading fails
            self._model = load(self)
        return self._model

    def release(self) -> None:
        """Let go of the resident model and hand its memory back; how much came free is noted."""
        if self._role is None:
            return
        role, self._role = self._role, None
        self.took(role, self.meter.read())
        self.status("releasing")
        with self.clock.phase("release"):
            before_mib = gpu.memory_of(self.device).free_mib
            self._model = None
            self.on_release.close()
            gc.collect()
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_available():
                torch.cuda.empty_cache()
            after_mib = gpu.memory_of(self.device).free_mib
        self.note("released", role=role, free_before_mib=before_mib, free_after_mib=after_mib)

    def close(self) -> None:
        """Release what is resident, and end what a role kept between its turns."""
        try:
            self.release()
        finally:
            self.kept.clear()
            self.at_end.close()


def settle() -> None:
    """Call between importing a library and loading a model: what imports made never dies, so the collector need not
    look at it at every release (half a second for torch and diffusers)."""
    gc.freeze()


Work = Callable[[Step, Bench], Outcome]
