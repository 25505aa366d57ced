"""`inspect` for what lies on disk: LoRA files, other weights, adapter folders, model folders, and whether they fit.

Only headers and configs are read. It never guesses: what the tensors cannot decide is `null` with its evidence,
and `compatible` has a third answer, `cannot_tell`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.contract.binding import CANNOT_TELL, NO, fit
from runner.contract.families import ADAPTER_CONFIG, ADAPTER_FILES, LoraFile, inspect_lora
from runner.contract.folder_files import INDEXES
from runner.contract.folders import ModelFolder, locate, read_model_folder, weights_digest
from runner.contract.headers import Broken
from runner.contract.shown import shown
from runner.store import file_digest

HASHED_BYTES = 1 << 30  # larger files are named by what their header says; hashing 24 GB takes a minute
MAX_CONFLICTS = 100


def is_model_folder(path: Path) -> bool:
    return any((path / name).is_file() for name in (*INDEXES, "config.json")) and not is_adapter_folder(path)


def is_adapter_folder(path: Path) -> bool:
    return any((path / name).is_file() for name in (ADAPTER_CONFIG, *ADAPTER_FILES))


def weights_in(folder: Path) -> list[Path]:
    """The weight files of a plain folder, and the adapter folders in it, by name."""
    inside = [place for place in folder.iterdir() if place.is_dir() and is_adapter_folder(place)]
    return sorted([*folder.glob("*.safetensors"), *inside])


def read_base(base: Path | None) -> ModelFolder | str | None:
    """The base to compare with; a text says why it cannot be read."""
    if base is None:
        return None
    try:
        return read_model_folder(locate(str(base)) or base)
    except Broken as broken:
        return f"{base} {broken}"


def file_facts(path: Path, base: ModelFolder | str | None, *, hashed: bool = True) -> dict[str, Any]:
    """What a weight file or adapter folder is."""
    try:
        file = inspect_lora(path)
    except Broken as broken:
        return _broken(path, str(broken), base)
    facts = {
        "kind": file.kind,
        "path": str(path),
        "sha256": _digest(file.path) if hashed else None,
        "family": file.family,
        "families": list(file.families),
        "models": list(file.models),
        "format": file.format,
        "algorithm": file.algorithm,
        "rank": file.rank,
        "ranks": {str(rank): number for rank, number in sorted(file.ranks().items())},
        "alpha": file.alpha,
        "scaling": file.scaling,
        "text_encoders": list(file.text_encoders),
        "trigger": file.trigger,
        "trigger_hints": list(file.claims.trigger_hints),
        "claimed_family": file.claimed_family,
        "flags": [shown(flag, 400) for flag in file.flags],
        "modules": len(file.modules),
        "tensors": file.num_tensors,
        "evidence": [shown(line, 400) for line in file.evidence],
        "metadata": dict(file.metadata),
    }
    return facts if base is None else {**facts, **compatibility(file, base)}


def compatibility(file: LoraFile, base: ModelFolder | str) -> dict[str, Any]:
    """Whether a file belongs on a base, module by module."""
    if isinstance(base, str):
        return {"compatible": CANNOT_TELL, "coverage": None, "conflicts": [], "unbound": [], "reason": shown(base, 400)}
    found = fit(file, base)
    return {
        "compatible": found.answer,
        "code": found.code or None,
        "reason": shown(found.reason, 400),
        "coverage": found.binding.coverage,
        "conflicts": _some(found.binding.conflicts),
        "unbound": _some(found.binding.unbound),
        "base": {"family": base.family, "model": base.model, "pipeline": base.pipeline},
    }


def folder_facts(path: Path) -> dict[str, Any]:
    """What a model folder is, and what it lacks."""
    try:
        folder = read_model_folder(path)
    except Broken as broken:
        return _broken(path, str(broken), None)
    size = sum(file.stat().st_size for file in path.rglob("*.safetensors") if file.is_file())
    return {
        "kind": "model_folder",
        "path": str(path),
        "pipeline": folder.pipeline,
        "family": folder.family,
        "model": folder.model,
        "components": list(folder.components),
        "tensors": len(folder.shapes),
        "missing": list(folder.missing),
        "quantised": list(folder.quantised),
        "sha256": weights_digest(path) if size <= HASHED_BYTES and folder.shapes else None,
    }


def _broken(path: Path, reason: str, base: ModelFolder | str | None) -> dict[str, Any]:
    said = shown(reason, 400)
    facts: dict[str, Any] = {
        "kind": "broken", "path": str(path), "family": None, "families": [], "format": None, "rank": None,
        "alpha": None, "text_encoders": [], "trigger": None, "evidence": [said], "reason": said, "unknown": True,
    }  # fmt: skip
    return facts if base is None else {**facts, "compatible": NO, "coverage": None, "conflicts": [], "unbound": []}


def _some(names: Sequence[str]) -> list[str]:
    return [shown(name) for name in names[:MAX_CONFLICTS]]


def _digest(path: Path) -> str | None:
    return file_digest(path) if path.stat().st_size <= HASHED_BYTES else None
