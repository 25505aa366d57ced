"""Where a run is in MLflow: the store's address, the pointer in the run folder, and the settings to find it by."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from runner import store
from runner.config.tree import Track

POINTER = "tracking.json"  # where this run is in MLflow; derived, rebuilt with it
LOCKS = ".tracking"  # in an outputs folder, by run: who projects it
LEAN = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # a server that stops answering costs this once; then it is known
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # we try again ourselves, at the next turn
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for a program
}


def read_pointer(folder: Path) -> dict[str, Any]:
    """Where a run folder says its MLflow run is; empty when it was not tracked."""
    try:
        pointer = json.loads((folder / POINTER).read_bytes())
    except (OSError, ValueError):
        return {}
    return pointer if isinstance(pointer, dict) else {}


def write_pointer(folder: Path, pointer: Mapping[str, Any]) -> None:
    store.write_durably(folder / POINTER, store.canonical(pointer))


def store_uri(outputs: Path, track: Track | None = None) -> str:
    """The MLflow store of an outputs folder, or the server that config names."""
    return track.uri if track and track.uri else f"sqlite:///{outputs.absolute()}/mlflow.db"


def shown_uri(uri: str) -> str:
    """An address without the name and password that may stand in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def settings_of(manifest: Mapping[str, Any], pointer: Mapping[str, Any]) -> Track:
    """How a run is tracked: as its manifest says, or where a later attempt was sent instead."""
    asked = Track.model_validate(manifest["request"]["track"])
    if not pointer.get("mlflow_run_id"):
        return asked
    elsewhere = pointer.get("uri") != (asked.uri and shown_uri(asked.uri))
    changes = {"kind": "mlflow", "experiment": pointer.get("experiment", asked.experiment)}
    return asked.model_copy(update=changes | ({"uri": pointer.get("uri")} if elsewhere else {}))


@contextmanager
def only_projector(folder: Path) -> Iterator[None]:
    """Hold the projection of one run; who comes second waits, and then reads the newer truth."""
    locks = folder.parent.parent / LOCKS
    locks.mkdir(exist_ok=True)
    with FileLock(locks / f"{folder.name}.lock"):
        yield


@contextmanager
def lean_mlflow() -> Iterator[None]:
    """MLflow in this process under our settings: it reads them from the environment, at import and at each call."""
    before = {name: os.environ.get(name) for name in LEAN}
    os.environ.update(LEAN)
    try:
        yield
    finally:
        for name, value in before.items():
            with contextlib.suppress(KeyError):
                del os.environ[name]
            if value is not None:
                os.environ[name] = value
