"""How much memory a device has and has free, asked of the operating system and of nvidia-smi.

For the processor it is the smaller of the machine's and of what a container's limit (cgroup) leaves. What cannot be
asked is None. What it does not know: how much of a card the driver keeps, and shared memory of other devices.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import psutil

from runner.gpu.admission import Memory
from runner.gpu.devices import card, nvidia_smi

CGROUPS = Path("/sys/fs/cgroup")


def memory_of(device: str) -> Memory:
    """Memory of `cpu` and of a card `cuda:N`; of another device it cannot be asked."""
    if device == "cpu":
        return _of_processor()
    fields = nvidia_smi("--query-gpu=memory.free,memory.total", "-i", card(device)) if _is_card(device) else ""
    free, _, total = fields.strip().partition(", ")
    return Memory(int(free), int(total)) if free.isdigit() and total.isdigit() else Memory(None, None)


def _is_card(device: str) -> bool:
    return device.startswith("cuda:")


def _of_processor() -> Memory:
    machine = psutil.virtual_memory()
    own = _own_groups()
    limit, left = limits(CGROUPS, own) if own else (None, None)
    free = [size for size in (machine.available, left) if size is not None]
    total = [size for size in (machine.total, limit) if size is not None]
    return Memory(min(free) >> 20, min(total) >> 20)


def _own_groups() -> str:
    try:
        return Path("/proc/self/cgroup").read_text()
    except OSError:
        return ""


def limits(mounted: Path, own: str) -> tuple[int | None, int | None]:
    """The least limit in bytes, and the least that is left, over the groups that a process is in (v1 and v2).

    `own` is the text of /proc/self/cgroup. Inside a container its paths may be the host's; then the root counts.
    """
    groups = [folder for line in own.splitlines() for folder in _folders(mounted, line)]
    found = [pair for folder in groups if (pair := _limit_of(folder)) is not None]
    return min((limit for limit, _ in found), default=None), min((left for _, left in found), default=None)


def _folders(mounted: Path, line: str) -> list[Path]:
    _, _, rest = line.partition(":")
    kinds, _, path = rest.partition(":")
    if kinds and "memory" not in kinds.split(","):
        return []
    root = mounted / "memory" if kinds else mounted
    place = PurePosixPath(path.lstrip("/"))
    return [root / part for part in (place, *place.parents)]


def _limit_of(group: Path) -> tuple[int, int] | None:
    for limit_name, used_name in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        limit, used = _number(group / limit_name), _number(group / used_name)
        if limit is not None and used is not None and limit < 1 << 60:  # v1 says `none` by a number near 2**63
            return limit, max(0, limit - used + _reclaimable(group))
    return None


def _reclaimable(group: Path) -> int:
    """Bytes of file cache that the kernel gives back before anybody goes without."""
    try:
        rows = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(rows.get("total_inactive_file") or rows.get("inactive_file") or 0)
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or `max`
        return None
