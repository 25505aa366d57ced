"""The journal -> MLflow: one flat run per manifest, rebuilt from the truth at any time.

`Tracker` starts this module as a process of its own, so that MLflow's import and its store cost the run
nothing and its failure fails nothing. The pipe to it is both signals: a closed pipe means "project now",
whether the run ended or its process died, and so the MLflow run of a dead process is closed as well.
What it does not know: anything that is not in the manifest, the journal or the store.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from runner import gpu, journal, store
from runner.config.tree import Track
from runner.errors import Corrupt
from runner.store import Store
from runner.timing import percentile

POINTER = "tracking.json"  # where this run is in MLflow; derived, rebuilt with it
EVERY_S = 10.0  # how often a running run is projected
MLFLOW_STATUS = {
    "complete": "FINISHED",
    "incomplete": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "crashed": "KILLED",
}
PARAM_SECTIONS = ("generate", "runtime")
MAX_THUMBNAILS = 200


@dataclass(slots=True)
class Tracker:
    """The tracking process of one run, seen from the run."""

    folder: Path
    timeout_s: float
    process: subprocess.Popen[bytes] | None = None

    def start(self, track: Track) -> None:
        """Start projecting; a tracker that cannot start is noted in the run folder and nothing more."""
        command = [sys.executable, "-m", "runner.track", str(self.folder), track.model_dump_json()]
        with contextlib.suppress(OSError), (self.folder / "tracking.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=_environment()
            )

    def finish(self) -> str:
        """Ask for the final projection and wait for it: `tracked`, `late` (it goes on by itself) or `failed`."""
        if self.process is None or self.process.stdin is None:
            return "failed"
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # the run has its own ending
            self.process.wait(self.timeout_s)
        return {0: "tracked", None: "late"}.get(self.process.returncode, "failed")


def read_pointer(folder: Path) -> dict[str, Any]:
    """Where a run folder says its MLflow run is; empty when it was not tracked."""
    try:
        pointer = json.loads((folder / POINTER).read_bytes())
    except (OSError, ValueError):
        return {}
    return pointer if isinstance(pointer, dict) else {}


def store_uri(outputs: Path, track: Track | None = None) -> str:
    """The MLflow store of an outputs folder, or the server that config names."""
    return track.uri if track and track.uri else f"sqlite:///{outputs.absolute()}/mlflow.db"


def project(folder: Path, track: Track) -> str:
    """Write the present truth of a run into MLflow; returns its MLflow run id. May be called again."""
    import mlflow

    outputs = folder.parent.parent
    run = journal.read_run(folder)
    with FileLock(outputs / ".mlflow.lock"):  # two processes creating one SQLite store, or one run, break it
        client = mlflow.MlflowClient(store_uri(outputs, track))
        mlflow_id = _mlflow_run(client, _experiment(client, track, outputs), run)
    _log_numbers(client, mlflow_id, run)
    pointer = read_pointer(folder)
    shown = pointer.get("thumbnails", {}) if pointer.get("mlflow_run_id") == mlflow_id else {}
    if run.state.ended or run.status(gpu.alive) == "crashed":
        _log_artifacts(client, mlflow_id, run)
        shown = _log_thumbnails(client, mlflow_id, run, track, shown)
        client.set_terminated(mlflow_id, MLFLOW_STATUS.get(run.status(gpu.alive), "FAILED"))
    pointer = {"mlflow_run_id": mlflow_id, "uri": store_uri(outputs, track), "thumbnails": shown}
    store.write_durably(folder / POINTER, store.canonical(pointer))
    return mlflow_id


def _experiment(client: Any, track: Track, outputs: Path) -> str:
    found = client.get_experiment_by_name(track.experiment)
    if found is not None:
        return str(found.experiment_id)
    place = None if track.uri else (outputs.absolute() / "mlartifacts").as_uri()
    return str(client.create_experiment(track.experiment, artifact_location=place))


def _mlflow_run(client: Any, experiment: str, run: journal.Run) -> str:
    """The MLflow run that carries this manifest's digest as a tag; a new one the first time."""
    from mlflow.entities import Param, RunTag

    tags = tags_of(run.manifest, run.folder)
    wanted = f"tags.run_id = '{run.id}' AND tags.manifest = '{tags['manifest']}'"
    found = client.search_runs([experiment], wanted, max_results=1)
    if found:
        mlflow_id = str(found[0].info.run_id)
        client.update_run(mlflow_id, status="RUNNING")
    else:
        identity = {"run_id": run.id, "manifest": tags["manifest"]}
        mlflow_id = str(client.create_run(experiment, run_name=run.id, tags=identity).info.run_id)
    params = [Param(key, str(value)[:6000]) for key, value in params_of(run.manifest).items()]
    client.log_batch(mlflow_id, params=params, tags=[RunTag(key, str(value)) for key, value in tags.items()])
    return mlflow_id


def params_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a table are compared by; prompts and the whole request are artifacts."""
    request, pins = manifest["request"], manifest["pins"]
    params = {
        "experiment": request["name"],
        "mode": request["mode"],
        "seed": request["seed"],
        "base_model.id": request["base_model"]["id"],
        "base_model.family": request["base_model"]["family"],
        "base_model.revision": request["base_model"]["revision"] or "none",
        "lora.id": request["lora"]["id"] or "none",
        "lora.sha256": pins["lora_sha256"] or "none",
        "lora.scale": request["lora"]["scale"] if pins["lora_sha256"] else "none",
        "trigger.token": request["trigger"]["token"] or "none",
        "trigger.mode": request["trigger"]["mode"],
        "prompt.set": request["prompt"]["set"],
        "critic.profile": request["critic"]["profile"] or "none",
        "critic.version": request["critic"]["version"],
        "hardware": request["hardware"]["id"],
        "device": manifest["environment"]["device"],
    }
    for section in PARAM_SECTIONS:
        params.update({f"{section}.{key}": value for key, value in request[section].items()})
    return params


def tags_of(manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Who a run is: its manifest, contract, fallback and commit."""
    environment = manifest["environment"]
    tags = {
        "manifest": journal.manifest_digest(folder),
        "contract": manifest["contract"]["digest"],
        "fallback": manifest["fallback"] or "none",
        "git_commit": environment["git_commit"] or "unknown",
        "git_dirty": environment["git_dirty"],
    }
    if manifest["request"]["sweep"]:
        tags["sweep"] = manifest["request"]["sweep"]
    return tags


def _log_numbers(client: Any, mlflow_id: str, run: journal.Run) -> None:
    from mlflow.entities import Metric, RunTag

    at = _milliseconds(run)
    metrics = [Metric(name, float(value), at, 0) for name, value in metrics_of(run).items()]
    client.log_batch(mlflow_id, metrics=metrics, tags=[RunTag("status", run.status(gpu.alive))])


def metrics_of(run: journal.Run) -> dict[str, float]:
    """Every metric of a run under its agreed name."""
    images = run.images()
    metrics: dict[str, float] = {
        "images/planned": len(images),
        "images/complete": sum(1 for image in images if image["status"] == "complete"),
        "images/failed": sum(1 for image in images if image["status"] == "failed"),
    }
    metrics |= _token_metrics(run.manifest["tokens"]) | _review_metrics(images)
    for phase, row in run.state.timings.items():
        metrics |= {f"phase/{phase}/{name}": row[name] for name in ("total_s", "p50_s", "p95_s", "count")}
    return metrics


def _token_metrics(tokens: list[Mapping[str, Any]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for encoder in {row["encoder"] for row in tokens}:
        rows = [row for row in tokens if row["encoder"] == encoder]
        counts = [float(row["templated"]) for row in rows]
        metrics |= {
            f"tokens/{encoder}/max": max(counts),
            f"tokens/{encoder}/min": min(counts),
            f"tokens/{encoder}/mean": sum(counts) / len(counts),
            f"tokens/{encoder}/p95": percentile(counts, 0.95),
            f"tokens/{encoder}/share": max(counts) / rows[0]["limit"],
        }
        for section in {name for row in rows for name in row["sections"]}:
            of_section = [row["sections"].get(section, 0) for row in rows]
            metrics[f"tokens/{encoder}/section/{section}/mean"] = sum(of_section) / len(of_section)
    return metrics


def _review_metrics(images: list[dict[str, Any]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    reviewed = [image for image in images if image["verdict"]]
    if not reviewed:
        return metrics
    for criterion in {name for image in reviewed for name in image["scores"]}:
        scores = [image["scores"][criterion] for image in reviewed if criterion in image["scores"]]
        metrics[f"review/{criterion}/mean"] = sum(scores) / len(scores)
        metrics[f"review/{criterion}/p10"] = percentile(scores, 0.1)
        metrics[f"review/{criterion}/p90"] = percentile(scores, 0.9)
    unscored = [image["unscored"] for image in reviewed if image["unscored"]]
    metrics["review/unscored"] = len(unscored)
    for reason in unscored:
        name = f"review/{reason.partition(':')[0]}"
        metrics[name] = metrics.get(name, 0) + 1
    return metrics


def _log_artifacts(client: Any, mlflow_id: str, run: journal.Run) -> None:
    """Files at the artifact root, each written over on a resume: pictures, records, and tables that the UI shows."""
    from mlflow.entities import RunTag

    tables = {
        "tokens.json": table_of(run.manifest["tokens"], _TOKEN_COLUMNS),
        "review.json": table_of(run.images(), _REVIEW_COLUMNS),
    }
    records = {"contract.json": run.manifest["contract"], "request.json": run.manifest["request"], **tables}
    with tempfile.TemporaryDirectory() as scratch:
        for name, value in records.items():
            (Path(scratch) / name).write_text(json.dumps(value), "utf-8")
        for name in (journal.MANIFEST, "grid.png", "report.html"):
            if (run.folder / name).exists():
                (Path(scratch) / name).write_bytes((run.folder / name).read_bytes())
        client.log_artifacts(mlflow_id, scratch)
    shown = [{"path": name, "type": "table"} for name in tables]  # MLflow's own mark of a table, see log_table
    client.log_batch(mlflow_id, tags=[RunTag("mlflow.loggedArtifacts", json.dumps(shown))])


_TOKEN_COLUMNS = ("prompt", "encoder", "raw", "overhead", "templated", "limit", "headroom", "trigger_pieces", "lost")
_REVIEW_COLUMNS = ("key", "prompt", "seed", "status", "digest", "scores", "tags", "unscored", "verdict")


def table_of(rows: list[Any], columns: tuple[str, ...]) -> dict[str, Any]:
    """Rows in the form of `mlflow.log_table`, which itself would append to the table of an earlier attempt."""
    return {"columns": list(columns), "data": [[_cell(row[name]) for name in columns] for row in rows]}


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


def _log_thumbnails(
    client: Any, mlflow_id: str, run: journal.Run, track: Track, shown: Mapping[str, str]
) -> dict[str, str]:
    """Each image under its key at step 0, so that the chart view shows the same key of several runs together.

    `shown` is what an earlier attempt logged, by key; MLflow would keep both. Returns what is logged now.
    """
    from PIL import Image

    objects, now = Store(run.folder.parent.parent / "objects"), dict(shown)
    for image in [image for image in run.images() if image["digest"]][: MAX_THUMBNAILS if track.thumbnails else 0]:
        if now.get(image["key"]) == image["digest"]:
            continue
        with contextlib.suppress(Corrupt), Image.open(io.BytesIO(objects.get(image["digest"]))) as picture:
            client.log_image(mlflow_id, picture.convert("RGB"), key=image["key"], step=0, synchronous=True)
            now[image["key"]] = image["digest"]
    return now


def _milliseconds(run: journal.Run) -> int:
    from datetime import datetime

    last = run.state.last_event
    return int(datetime.fromisoformat(last).timestamp() * 1000) if last else 0


def _environment() -> dict[str, str]:
    own = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is down is known at once
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return {**os.environ, **own}


def follow(folder: Path, track: Track, closed: IO[str]) -> bool:
    """Project now, then now and again until the pipe closes, and once more; returns whether that last one worked.

    One projection that fails (a server that restarts) does not cost the next.
    """
    _try_to_project(folder, track)
    while not select.select([closed], [], [], EVERY_S)[0]:
        _try_to_project(folder, track)
    _wait_for_the_writer(folder)
    return _try_to_project(folder, track)


def _try_to_project(folder: Path, track: Track) -> bool:
    try:
        project(folder, track)
    except Exception:
        traceback.print_exc()
        return False
    return True


def _wait_for_the_writer(folder: Path) -> None:
    """The pipe of a killed process closes a moment before the process is gone."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and journal.read_run(folder).state.open and gpu.is_held(folder / gpu.LOCK):
        time.sleep(0.05)


def main() -> int:
    """`python -m runner.track RUN_FOLDER TRACK_SETTINGS`: what Tracker starts."""
    return 0 if follow(Path(sys.argv[1]), Track.model_validate_json(sys.argv[2]), sys.stdin) else 1


if __name__ == "__main__":
    sys.exit(main())
