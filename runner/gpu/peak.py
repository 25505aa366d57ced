"""The most memory that a piece of work took on a device, measured by the process that does it.

On the processor: resident memory at its highest, less what was resident at the start. On a card: what torch had
reserved at its highest, and torch is asked only where the work has loaded it. What it does not know: a card's
context beside torch's own blocks (some hundred MiB), and memory of child processes.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SELF = Path("/proc/self")


@dataclass(slots=True)
class PeakMeter:
    """Measures from `start()` on, which may be called for each piece of work; `read()` may be called often and from
    another thread. What an earlier piece did not give back to the system counts for the later ones too."""

    device: str
    _base_kib: int | None = None  # resident before the first piece of work

    def start(self) -> None:
        """Forget earlier peaks."""
        if self.device == "cpu":
            _forget_peak()
            if self._base_kib is None:
                self._base_kib = psutil.Process().memory_info().rss >> 10
        elif (cuda := _cuda()) is not None:
            cuda.reset_peak_memory_stats(self._index)

    def read(self) -> int | None:
        """The peak in MiB since the start; None when this device cannot be measured."""
        if self.device == "cpu":
            return max(0, _peak_kib() - (self._base_kib or 0)) >> 10
        if not self.device.startswith("cuda:"):
            return None
        cuda = _cuda()
        return 0 if cuda is None else int(cuda.max_memory_reserved(self._index)) >> 20

    @property
    def _index(self) -> int:
        return int(self.device.partition(":")[2])


def _cuda() -> Any:
    """torch.cuda when it is in use here; asking must not be what starts it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _forget_peak() -> None:
    """Linux counts the peak anew after this; elsewhere it is that of the whole life of the process."""
    try:
        (SELF / "clear_refs").write_text("5")
    except OSError:
        return


def _peak_kib() -> int:
    try:
        rows = (SELF / "status").read_text().splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM:"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most >> 10 if sys.platform == "darwin" else most
