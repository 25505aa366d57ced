"""The manifest: what a run is, written once and durably before any model loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner import store
from runner.errors import Corrupt, Failed, Fault, RunnerError

MANIFEST = "manifest.json"
MAX_BYTES = 1 << 30
REQUIRED = ("run_id", "identity", "request", "contract", "pins", "prompts", "images", "tokens", "environment")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Write the manifest once, durably, before any model loads; returns its digest."""
    path = folder / MANIFEST
    if path.exists():
        raise Corrupt(Fault("manifest_exists", str(path), "is already written", "Leave it; start a new run"))
    data = store.canonical(manifest)
    try:
        store.write_durably(path, data)
        store.fsync_folder(folder.parent)
    except OSError as error:
        raise not_writable(path, error) from error
    return store.digest(data)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder. Raises Corrupt when it is gone or is not the canonical JSON we wrote."""
    path = folder / MANIFEST
    try:
        data = store.read_regular(path, MAX_BYTES)
        manifest = json.loads(data)
        sound = isinstance(manifest, dict) and store.canonical(manifest) == data
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(altered("manifest_altered", path, f"cannot be read ({error})")) from error
    if not sound or any(name not in manifest for name in REQUIRED) or not _is_shaped(manifest):
        raise Corrupt(altered("manifest_altered", path, "is not the canonical JSON that a run writes"))
    return dict(manifest)


def _is_shaped(manifest: dict[str, Any]) -> bool:
    """Whether what every reader looks at has its kind: a run whose settings are elsewhere is none of ours."""
    request, prompts = manifest["request"], manifest["prompts"]
    try:
        named = isinstance(request["name"], str) and {"width", "height"} <= request["generate"].keys()
        texts = all({"text", "key", "id"} <= prompt.keys() for prompt in prompts)
        return named and texts and all(0 <= place < len(prompts) for _, place, _ in manifest["images"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def manifest_digest(folder: Path) -> str:
    return store.file_digest(folder / MANIFEST)


def altered(code: str, path: Path, what: str) -> Fault:
    fix = "Nothing was changed. Put the original back, or start again with run.fresh=true"
    return Fault(code, str(path), what, fix)


def not_writable(path: Path, error: OSError) -> RunnerError:
    fix = "Free space or mend the permissions of that folder, then run the same command again"
    return Failed("storage", Fault("storage_failed", str(path), f"cannot be written ({error.strerror})", fix))
