"""Where an accepted request lives on disk: its run folder, its manifest, and the room there is for it.

The run id comes from the plan's digest, so the same command finds the same folder. It refuses a folder that
cannot be written, a disk that is too full, and a run whose settings are not the ones it was made from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import environment, gpu, journal, ledger
from runner.config.changes import changed_fields
from runner.config.tree import Request
from runner.contract import Contract, Pins, card
from runner.contract.machine import device_of
from runner.contract.source import Source
from runner.errors import Corrupt, Fault, Refused, choose
from runner.execute import memory
from runner.plan import ImagePlan, Plan, PromptPlan, make_plan, manifest
from runner.prompt import few


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that passed the contract, with its plan: what `execute` turns into a run."""

    contract: Contract
    pins: Pins
    plan: Plan
    device: str
    fallback: str | None
    needs: gpu.Needs

    @property
    def memory(self) -> str:
        """Needed memory against the device's, in words."""
        return gpu.admit(self.needs, gpu.memory_of(self.device), None).text

    @property
    def request(self) -> Request:
        return self.contract.request


def accept(contract: Contract, pins: Pins) -> Accepted:
    """Plan an accepted contract on the device it will run on. Raises Refused when memory, disk or run.id say no."""
    device, fallback = _device(contract.request)
    outputs = Path(contract.request.outputs).absolute()
    needs = memory.needs(contract, pins, device, outputs)
    asked = gpu.admit(needs, gpu.Memory(None, gpu.memory_of(device).total_mib), None)
    if asked.verdict == "never" and asked.fault:
        raise Refused(asked.fault)
    prompts = [
        PromptPlan(p.key, p.id, p.text, {s.name: s.text for s in p.sections}, p.triggered) for p in contract.prompts
    ]
    given = _given(contract.source) if contract.source else ()
    plan = make_plan(contract.request, prompts, pins.as_dict(), device.partition(":")[0], given)
    check_disk(contract.request, outputs, plan.num_expected["image"])
    if contract.request.run.id:
        _named_run(outputs / "runs", contract.request.run.id)
    return Accepted(contract, pins, plan, device, fallback, needs)


def _given(source: Source) -> tuple[ImagePlan, ...]:
    """The images of the run under review, with their prompts as its manifest has them."""
    order = source.manifest["request"]["prompt"]["sections"]  # canonical JSON has sorted them
    prompts = [
        PromptPlan(p["key"], p["id"], p["text"], _in_order(p["sections"], order), p["triggered"])
        for p in source.manifest["prompts"]
    ]
    return tuple(ImagePlan(key, prompts[place], seed, digests) for key, place, seed, digests in source.images)


def _in_order(sections: Mapping[str, str], order: Sequence[str]) -> dict[str, str]:
    return {name: sections[name] for name in (*order, *sections) if name in sections}


def _device(request: Request) -> tuple[str, str | None]:
    """torch's name of the device, and what was fallen back from."""
    hardware, kind = request.hardware, device_of(request)
    if kind != hardware.device:
        return kind, f"{hardware.device}:{hardware.index} is not there; hardware.on_missing=cpu"
    return f"cuda:{hardware.index}" if kind == "cuda" else kind, None


def check_disk(request: Request, outputs: Path, num_images: int) -> None:
    """Outputs writable, and room for the images: a raw image is the most that a PNG takes."""
    there = next(folder for folder in (outputs, *outputs.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        fix = "Choose another folder with outputs=DIR, or mend its permissions"
        raise Refused(Fault("outputs_unwritable", "outputs", f"{there} cannot be written", fix))
    free_mib = shutil.disk_usage(there).free >> 20
    need_mib = request.storage.min_free_mib + (num_images * request.generate.width * request.generate.height * 3 >> 20)
    if free_mib < need_mib:
        what = f"{outputs} has {free_mib} MiB free, this run needs {need_mib} MiB"
        raise Refused(Fault("over_capacity", "outputs", what, "Free space, or choose another folder with outputs=DIR"))


def run_folder(accepted: Accepted, outputs: Path) -> Path:
    """The folder of this request: the latest attempt at it, a new one when asked for, or the one named."""
    request = accepted.request
    if request.run.id:
        return _named_run(outputs / "runs", request.run.id)
    name = f"{request.name}-{accepted.plan.identity[:10]}"
    attempts = [outputs / "runs" / name]
    while (outputs / "runs" / f"{name}-{len(attempts) + 1}").exists():
        attempts.append(outputs / "runs" / f"{name}-{len(attempts) + 1}")
    if request.run.fresh and attempts[0].exists():
        return outputs / "runs" / f"{name}-{len(attempts) + 1}"
    return attempts[-1]


def _named_run(runs: Path, name: str) -> Path:
    if not (runs / name / journal.MANIFEST).exists():
        known = [path.parent.name for path in runs.glob(f"*/{journal.MANIFEST}")]
        raise Refused(Fault("unknown_run", "run.id", f"{name} is no run of {runs.parent}", choose(name, known)))
    return runs / name


def keep_manifest(accepted: Accepted, folder: Path) -> tuple[str, dict[str, Any]]:
    """The digest of this run's manifest and the environment it was begun in; writes it on the first attempt, compares
    it on a later one."""
    if not (folder / journal.MANIFEST).exists():
        if (folder / journal.JOURNAL).exists():
            what, fix = "is gone; its journal is there", "Put it back, or start again with run.fresh=true"
            raise Corrupt(Fault("manifest_altered", str(folder / journal.MANIFEST), what, fix))
        new = _new_manifest(accepted, folder.name)
        return journal.write_manifest(folder, new), new["environment"]
    stored = journal.read_manifest(folder)
    if stored.get("identity") != accepted.plan.identity:
        _refuse_changed_settings(accepted, folder, stored)
    return journal.manifest_digest(folder), stored["environment"]


def _new_manifest(accepted: Accepted, run_id: str) -> dict[str, Any]:
    return manifest(
        accepted.request, accepted.plan, card(accepted.contract, accepted.pins), accepted.pins.as_dict(),
        run_id=run_id, environment=environment.fingerprint(accepted.device), fallback=accepted.fallback,
        tokens=[count.as_dict() for count in accepted.contract.tokens],
    )  # fmt: skip


def _refuse_changed_settings(accepted: Accepted, folder: Path, stored: Mapping[str, Any]) -> None:
    now = _new_manifest(accepted, folder.name)
    changes = changed_fields(stored.get("request"), now["request"]) + changed_fields(stored.get("pins"), now["pins"])
    if accepted.request.prompt.file:  # the request names the file, and not what it holds
        changes += changed_fields(_texts(stored), _texts(now), "prompt")
    if not accepted.request.run.id:
        raise Corrupt(
            Fault("manifest_altered", str(folder / journal.MANIFEST), "is not the one this run was named by",
                  "Nothing was changed. Put the original back, or start again with run.fresh=true")
        )  # fmt: skip
    fix = "Leave out run.id: other settings are another run"
    raise Refused(few(Fault("settings_changed", f"run.id={folder.name}", change, fix) for change in changes))


def _texts(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {prompt["key"]: prompt["text"] for prompt in manifest["prompts"]}


RESERVE = ".reserve"  # hidden: no part of a run
RESERVE_BYTES = 1 << 16


def reserve(folder: Path) -> None:
    """Keep some bytes of the disk for the line that says how the attempt ended. Raises Failed(storage)."""
    try:
        (folder / RESERVE).write_bytes(os.urandom(RESERVE_BYTES))
    except OSError as error:
        raise journal.not_writable(folder / RESERVE, error) from error


def free_reserve(folder: Path) -> None:
    (folder / RESERVE).unlink(missing_ok=True)


def tombstones(folder: Path) -> dict[str, str]:
    """Digests that a human deleted from this run, each with the reason. Raises Corrupt when the ledger is altered."""
    outputs = folder.parent.parent
    known = ledger.read(outputs)
    ledger.refuse_broken(outputs, known)
    record = f"{folder.parent.name}/{folder.name}"
    return {name: str(event["reason"]) for name, event in known.tombstones.items() if known.deletes(name, record)}
