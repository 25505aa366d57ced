"""Real MLflow stores for tests, what is in them as plain values, and servers that are no use."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner import gpu, journal, track
from runner.config.tree import Track
from tests import worlds

LOCAL = Track(kind="mlflow", uri=None, experiment="runner", thumbnails=True, timeout_s=60)


def at(uri: str) -> Track:
    return LOCAL.model_copy(update={"uri": uri})


def client(outputs: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(track.store_uri(outputs))


def tracked_runs(outputs: Path) -> list[Any]:
    mlflow = client(outputs)
    experiment = mlflow.get_experiment_by_name("runner")
    return list(mlflow.search_runs([experiment.experiment_id])) if experiment else []


def tracked(folder: Path) -> Any:
    """The one MLflow run of a run folder."""
    (found,) = [run for run in tracked_runs(folder.parent.parent) if run.data.tags["run_id"] == folder.name]
    return found


def artifacts(run: Any) -> dict[str, str]:
    """Every artifact of an MLflow run of a local store, with its sha256."""
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def dump(outputs: Path) -> dict[str, dict[str, Any]]:
    """All that MLflow holds of an outputs folder by run id, without the names that MLflow chooses itself."""
    history = _history(outputs / "mlflow.db")
    return {run.data.tags["run_id"]: _values(run, history[run.info.run_id]) for run in tracked_runs(outputs)}


def _values(run: Any, history: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "time": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "metrics": run.data.metrics,
        "tags": run.data.tags,
        "history": dict(history),
        "artifacts": artifacts(run),
    }


def _history(database: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Every point of every metric by MLflow run; the client would ask for one metric at a time."""
    points: dict[str, Any] = defaultdict(lambda: defaultdict(list))
    with contextlib.closing(sqlite3.connect(database)) as opened:
        for run, name, at, value in opened.execute("SELECT run_uuid, key, timestamp, value FROM metrics ORDER BY 3, 4"):
            points[run][name].append((at, value))
    return points


@functools.cache
def _empty_store(home: Path) -> Path:
    client(home).search_experiments()
    return home / "mlflow.db"


def give_store(outputs: Path, home: Path) -> None:
    """An MLflow store without the seconds that making one takes: a copy of an empty one, kept in `home`."""
    outputs.mkdir(parents=True, exist_ok=True)
    shutil.copy(_empty_store(home), outputs / "mlflow.db")


def open_attempt(folder: Path) -> None:
    """One more attempt at a run, by a process that is gone unless the caller holds the folder."""
    log, _ = journal.open_log(folder, journal.manifest_digest(folder), list)
    log.append({"event": "started", "owner": gpu.this_process(folder.name, "generator").as_dict(), "left": {}})


# ---- servers


class _Answering(http.server.BaseHTTPRequestHandler):
    """Answers everything with one code."""

    code = 500

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None: ...


class _Unauthorised(_Answering):
    code = 401


@contextmanager
def server(handler: type[_Answering] = _Answering) -> Iterator[str]:
    """A server that answers 500 to everything."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def unauthorised() -> Any:
    """A server that wants a password for everything."""
    return server(_Unauthorised)


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def closed() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@contextmanager
def nameless() -> Iterator[str]:
    """A host that no resolver knows."""
    yield "http://no-such-host.invalid:5000"


USELESS: dict[str, Callable[[], Any]] = {
    "refuses": closed,
    "hangs": silent,
    "answers 500": server,
    "is unknown": nameless,
}


@contextmanager
def mlflow_server(outputs: Path, port: int) -> Iterator[str]:
    """A real MLflow server on the store of an outputs folder."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", track.store_uri(outputs), "--workers", "1",
        "--artifacts-destination", str(outputs / "served"), "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = subprocess.DEVNULL
    environment = {**worlds.environment(outputs), **lean}
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
        uri = f"http://127.0.0.1:{port}"
        while track.unreachable(uri):
            assert process.poll() is None, "the server ended"
        yield uri
        process.terminate()
