"""What a run needs of its device's memory: what the same work took before, or else what its weights are.

A measured peak is that of the same base, number format, offload, size, batch, role and kind of device. What it does
not know: what other programs will take meanwhile; admission asks for that when the device is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from runner import index
from runner.config.tree import Request
from runner.contract import Contract, Pins
from runner.contract.critic_server import server_mib
from runner.gpu import Needs

ROLES = {"generate": "generator", "critique": "critic"}


def peak_key(request: Request, pins: Pins, device: str) -> dict[str, Any]:
    """What two pieces of work must have in common for the memory of one to tell that of the other."""
    runtime, generate = request.runtime, request.generate
    return {
        "base": pins.base_sha256, "dtype": runtime.dtype, "offload": runtime.offload, "width": generate.width,
        "height": generate.height, "batch": generate.batch_size, "device": device.partition(":")[0],
    }  # fmt: skip


def needs(contract: Contract, pins: Pins, device: str, outputs: Path) -> Needs:
    """The most that any role of this request needs; one is resident at a time."""
    request = contract.request
    key = peak_key(request, pins, device)
    measured = {role: index.peak_mib(outputs, key, role) for role in map(ROLES.__getitem__, request.stages)}
    known = {role: peak for role, peak in measured.items() if peak is not None}
    needs = [_largest(known, device)]
    if "generator" in measured and "generator" not in known and request.runtime.offload == "none":
        needs.append(_of_weights(contract, device))
    if "critic" in measured:
        needs.append(_of_server(request, device))
    return max(needs, key=lambda need: need.need_mib)


def _of_server(request: Request, device: str) -> Needs:
    """What the critic's server takes; it is another process, and nobody but its profile knows."""
    return Needs(device, server_mib(request.critic_runtime), "declared", "critic")


def _largest(known: Mapping[str, int], device: str) -> Needs:
    role = max(known, key=known.__getitem__, default="")
    return Needs(device, known.get(role, 0), "measured" if known else "declared", role)


def _of_weights(contract: Contract, device: str) -> Needs:
    return Needs(device, weights_mib(contract), "headers", "generator")


def weights_mib(contract: Contract) -> int:
    """Memory of the base's weights in MiB at the configured dtype, from the headers of its files."""
    assert contract.base is not None, "only what is generated is asked for"
    values = sum(prod(shape) for shape in contract.base.shapes.values())
    return values * (4 if contract.request.runtime.dtype == "float32" else 2) >> 20
