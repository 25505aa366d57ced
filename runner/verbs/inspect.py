"""`inspect`: what one thing is; a thing we do not know reads UNKNOWN."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from runner.contract import locate, rules
from runner.contract.families import LoraFile, inspect_lora
from runner.contract.folders import read_model_folder, weights_digest
from runner.contract.headers import Broken
from runner.errors import Corrupt, Refused
from runner.journal import Run, read_run
from runner.store import Store, file_digest
from runner.verbs.status import find_run, run_folders, status


def inspect(outputs: Path, thing: str, base: Path | None) -> dict[str, Any]:
    """Facts about a run, an image digest, a .safetensors file or a model folder."""
    place = locate(thing)
    if place is not None and place.is_file():
        return _file(place, base)
    if place is not None and (place / "model_index.json").is_file():
        return _folder(place)
    if re.fullmatch(r"[0-9a-f]{8,64}", thing) and (found := _image(outputs, thing)):
        return found
    try:
        return _run(outputs, find_run(outputs, thing))
    except Refused:
        return {"thing": thing, "unknown": True, "kind": "UNKNOWN", "reason": "no run, image, file or folder we know"}


def _run(outputs: Path, folder: Path) -> dict[str, Any]:
    run = read_run(folder)
    row = status(outputs, str(folder))[0]
    return {
        "kind": "run",
        **row,
        "contract": run.manifest["contract"],
        "manifest": run.manifest,
        "tokens": run.manifest["tokens"],
        "images": run.images(),
        "timings": run.state.timings,
    }


def _image(outputs: Path, digest: str) -> dict[str, Any] | None:
    """Full provenance of an image: the manifest's settings and its journal line."""
    for folder in run_folders(outputs):
        try:
            run = read_run(folder)
        except Corrupt:
            continue
        for image in run.images():
            if image["digest"] and image["digest"].startswith(digest):
                return _provenance(run, image, outputs)
    return None


def _provenance(run: Run, image: dict[str, Any], outputs: Path) -> dict[str, Any]:
    request, pins = run.manifest["request"], run.manifest["pins"]
    objects = Store(outputs / "objects")
    return {
        "kind": "image",
        **image,
        "stored": objects.holds(image["digest"]),
        "run_id": run.id,
        "mode": request["mode"],
        "base_model": {"id": request["base_model"]["id"], "sha256": pins["base_sha256"]},
        "lora": {"id": request["lora"]["id"], "sha256": pins["lora_sha256"], "scale": request["lora"]["scale"]}
        if pins["lora_sha256"]
        else None,
        "trigger": request["trigger"]["token"],
        "generate": request["generate"],
        "runtime": request["runtime"],
        "environment": run.manifest["environment"],
        "contract": run.manifest["contract"]["digest"],
        "fallback": run.manifest["fallback"],
    }


def _file(path: Path, base: Path | None) -> dict[str, Any]:
    try:
        lora = inspect_lora(path)
    except Broken as broken:
        return {"kind": "broken", "path": str(path), "reason": str(broken), "unknown": True}
    facts = {
        "kind": lora.kind,
        "path": str(path),
        "sha256": file_digest(path),
        "family": lora.family,
        "format": lora.format,
        "rank": lora.rank,
        "alpha": lora.alpha,
        "text_encoders": list(lora.text_encoders),
        "trigger": lora.trigger,
        "modules": len(lora.modules),
        "tensors": lora.num_tensors,
        "evidence": list(lora.evidence),
        "metadata": dict(lora.metadata),
    }
    return facts if base is None else {**facts, **_compatibility(lora, base)}


def _compatibility(lora: LoraFile, base: Path) -> dict[str, Any]:
    place = locate(str(base))
    try:
        folder = read_model_folder(place or base)
    except Broken as broken:
        return {"compatible": "cannot_tell", "coverage": None, "conflicts": [], "reason": f"{base} {broken}"}
    binding = rules.bind(lora, folder.shapes)
    whole = bool(lora.modules) and len(binding.bound) == binding.num_modules
    other = lora.family and folder.family and lora.family != folder.family
    return {
        "compatible": "no" if other or binding.conflicts or not binding.bound else "yes" if whole else "cannot_tell",
        "coverage": f"{len(binding.bound)}/{binding.num_modules}",
        "conflicts": list(binding.conflicts),
    }


def _folder(path: Path) -> dict[str, Any]:
    try:
        folder = read_model_folder(path)
    except Broken as broken:
        return {"kind": "broken", "path": str(path), "reason": str(broken), "unknown": True}
    return {
        "kind": "model_folder",
        "path": str(path),
        "pipeline": folder.pipeline,
        "family": folder.family,
        "components": list(folder.components),
        "tensors": len(folder.shapes),
        "sha256": weights_digest(path),
    }
