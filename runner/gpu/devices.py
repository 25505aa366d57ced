"""Names of devices, and where their leases are: one file and one queue per device, shared by all users of a machine.

A device is called as torch calls it (`cpu`, `mps`, `cuda:0`). CUDA_VISIBLE_DEVICES renumbers the cards of a process,
so a lease is named by the card itself: two processes that call one card by two numbers meet at the same file.
What it does not know: a temporary folder of one's own (systemd's PrivateTmp, a container), for which RUNNER_LEASES
is there; and cards of different kinds that CUDA counts in another order than nvidia-smi (CUDA_DEVICE_ORDER=PCI_BUS_ID
makes them the same).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

NAME = re.compile(r"cpu|mps|cuda:\d+")
UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+")


def lease_folder() -> Path:
    """RUNNER_LEASES, or one place in the system's temporary folder, whatever TMPDIR a job has of its own."""
    system = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    return Path(os.environ.get("RUNNER_LEASES") or system / "runner-leases")


def lease_file(device: str) -> Path:
    """The lease of one device of this machine; shared by every run of every output folder and user."""
    return lease_folder() / f"{file_name(device)}.json"


def queue_folder(device: str) -> Path:
    return lease_folder() / f"{file_name(device)}.queue"


def file_name(device: str) -> str:
    kind, _, _ = device.partition(":")
    return f"cuda-{card(device)}" if kind == "cuda" else device.replace(":", "-")


def device_of(path: Path) -> str | None:
    """The device of a lease file or queue; None for a file that is something else."""
    kind, dash, index = path.stem.partition("-")
    name = f"{kind}:{index}" if dash else kind
    return name if NAME.fullmatch(name) or UUID.fullmatch(index) else None


def card(device: str) -> str:
    """Number by which nvidia-smi knows a `cuda:N`, whatever CUDA_VISIBLE_DEVICES made of the numbers."""
    index = device.partition(":")[2] or "0"
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    name = visible[int(index)] if int(index) < len(visible) else ""
    if UUID.fullmatch(name):
        return _number_of(name)
    return name if name.isdigit() else index


def _number_of(uuid: str) -> str:
    """A whole card has a number as well; a part of one (MIG) is a device of its own."""
    rows = (line.partition(", ") for line in nvidia_smi("--query-gpu=index,uuid").splitlines())
    return next((number for number, _, name in rows if name.startswith(uuid)), uuid.replace("/", "_"))


def nvidia_smi(*query: str) -> str:
    """What nvidia-smi answers; nothing when it is not there or does not answer."""
    command = ["nvidia-smi", *query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
