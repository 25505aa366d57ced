"""`inspect`: what one thing is; a thing we do not know reads UNKNOWN."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.contract import locate
from runner.contract.folders import ModelFolder
from runner.errors import Corrupt, Refused
from runner.journal import Run, read_run
from runner.store import Store
from runner.verbs import weights
from runner.verbs.status import find_run, run_folders, status

MANIFEST = "manifest.json"


def inspect(outputs: Path, thing: str, base: Path | None) -> dict[str, Any]:
    """Facts about a run, an image digest, a weight file, an adapter or model folder, or a folder of weight files."""
    place = locate(thing)
    if place is not None and (found := _on_disk(place, base)):
        return found
    if re.fullmatch(r"[0-9a-f]{8,64}", thing) and (found := _image(outputs, thing)):
        return found
    try:
        return _run(outputs, find_run(outputs, thing))
    except Refused:
        return {"thing": thing, "unknown": True, "kind": "UNKNOWN", "reason": "no run, image, file or folder we know"}


def inspect_many(things: Sequence[str], base: Path | None) -> dict[str, Any]:
    """One row of facts for each of many files; `unknown` when one of them is broken or not there."""
    model = weights.read_base(base)
    files = [_one_of_many(thing, model) for thing in things]
    return {"files": files, "unknown": any(facts.get("unknown") for facts in files)}


def _one_of_many(thing: str, base: ModelFolder | str | None) -> dict[str, Any]:
    place = locate(thing)
    if place is None:
        return {"kind": "UNKNOWN", "path": thing, "reason": "is not there", "unknown": True}
    if place.is_dir() and weights.is_model_folder(place):
        return weights.folder_facts(place)
    return weights.file_facts(place, base, hashed=False)


def _on_disk(place: Path, base: Path | None) -> dict[str, Any] | None:
    if not place.is_dir() or weights.is_adapter_folder(place) or place.suffix == ".safetensors":
        return weights.file_facts(place, weights.read_base(base))
    if (place / MANIFEST).is_file():
        return None
    if weights.is_model_folder(place):
        return weights.folder_facts(place)
    inside = weights.weights_in(place)
    return inspect_many([str(path) for path in inside], base) if inside else None


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
