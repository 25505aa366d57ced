"""One run -> its MLflow run. The only file that talks to MLflow.

Each projection reads the journal again under the run's lock, so that of two at once the later one has the newer
truth. Everything is written under names and times that follow from the journal: doing it twice changes nothing.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from runner import gpu, journal
from runner.config.tree import Track
from runner.errors import Corrupt, Failed, Fault, RunnerError
from runner.store import Objects, open_store
from runner.track import place
from runner.track.numbers import History, Point, begun_points, ended_points, milliseconds, params_of, table_of, tags_of
from runner.track.place import store_uri
from runner.track.review_numbers import review_tags
from runner.track.review_table import BLANK, has_pictures, pictures_of, review_table

MLFLOW_STATUS = {
    "complete": "FINISHED",
    "incomplete": "FAILED",
    "failed": "FAILED",
    "blocked": "FAILED",
    "interrupted": "KILLED",
    "crashed": "KILLED",
}
MAX_THUMBNAILS = 200


def project(folder: Path, track: Track, *, again: bool = False) -> str:
    """Write the present truth of a run into MLflow; returns its MLflow run id. May be called again.

    `again` trusts nothing that an earlier projection left. Raises Corrupt when manifest or journal are broken.
    """
    with place.only_projector(folder):
        run, history, status = _read(folder)
        client, mlflow_id = _find_or_create(run, track, status)
        ended = status in MLFLOW_STATUS
        points = begun_points(run, history) + (ended_points(_attempts(run, history)) if ended else [])
        _log_numbers(client, mlflow_id, points, status)
        pointer = {} if again else place.read_pointer(folder)
        shown = pointer.get("thumbnails", {}) if pointer.get("mlflow_run_id") == mlflow_id else {}
        if ended:
            shown = _log_thumbnails(client, mlflow_id, run, track, shown)
            _log_artifacts(client, mlflow_id, run, shown)
            client.set_terminated(mlflow_id, MLFLOW_STATUS[status], milliseconds(run.state.last_event))
        pointer = {
            "mlflow_run_id": mlflow_id, "uri": track.uri and place.shown_uri(track.uri), "experiment": track.experiment,
            "closed": ended, "hash": history.last_hash, "thumbnails": shown,
        }  # fmt: skip
        place.write_pointer(folder, pointer)
    return mlflow_id


def _read(folder: Path) -> tuple[journal.Run, History, str]:
    """A run, its history and its status. One that seems to have crashed is read again: it may have just ended.

    A run that goes on is read slim: it may be long, and is read often.
    """
    run = _sound(folder, slim=True)
    if not run.state.open or run.status(gpu.alive) == "crashed":
        run = _sound(folder, slim=False)
    status = run.status(gpu.alive) if run.state.open else run.state.status
    return run, History(len(run.manifest["images"])).read(journal.iter_events(folder)), status


def _sound(folder: Path, *, slim: bool) -> journal.Run:
    run = journal.read_run(folder, slim=slim)
    if run.problem:
        fix = "Nothing was changed. `python -m runner verify` says more; put the original back"
        raise Corrupt(Fault("journal_altered", str(folder / journal.JOURNAL), run.problem, fix))
    return run


def _attempts(run: journal.Run, history: History) -> Iterator[journal.Run]:
    """The run as it stood at the end of each of its attempts."""
    for num_lines in history.attempts:
        state = journal.fold(islice(journal.iter_events(run.folder), num_lines))
        yield journal.Run(run.folder, run.manifest, state, None)
    yield run


# ---- the MLflow run


def _find_or_create(run: journal.Run, track: Track, status: str) -> tuple[Any, str]:
    import mlflow

    outputs = run.folder.parent.parent
    with FileLock(outputs / ".mlflow.lock"):  # two processes creating one SQLite store, or one run, break it
        uri = store_uri(outputs, track)
        _forget_deleted(uri)
        client = mlflow.MlflowClient(uri)
        return client, _mlflow_run(client, _experiment(client, track, outputs), run, status)


def _forget_deleted(uri: str) -> None:
    """MLflow keeps one engine per address as long as the process lives: into a deleted file it would go on writing."""
    if not uri.startswith("sqlite:"):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking._tracking_service import utils

    engines = SqlAlchemyStore._engine_map
    if uri in engines:
        engines[uri].dispose()  # its next connection opens what lies there now
    if not Path(uri.removeprefix("sqlite:///")).exists():
        engines.pop(uri, None)
        utils._tracking_store_registry._get_store_with_resolved_uri.cache_clear()


def _experiment(client: Any, track: Track, outputs: Path) -> str:
    found = client.get_experiment_by_name(track.experiment)
    if found is not None:
        return str(found.experiment_id)
    artifacts = None if track.uri else (outputs.absolute() / "mlartifacts").as_uri()
    return str(client.create_experiment(track.experiment, artifact_location=artifacts))


def _mlflow_run(client: Any, experiment: str, run: journal.Run, status: str) -> str:
    """The MLflow run that carries this manifest's digest as a tag; a new one the first time."""
    from mlflow.entities import Param, RunTag

    tags = tags_of(run.manifest, run.folder) | review_tags(run)
    wanted = f"tags.run_id = '{run.id}' AND tags.manifest = '{tags['manifest']}'"
    found = client.search_runs([experiment], wanted, max_results=1)
    if found:
        mlflow_id = str(found[0].info.run_id)
        if status not in MLFLOW_STATUS and found[0].info.status != "RUNNING":
            client.update_run(mlflow_id, status="RUNNING")
    else:
        identity = {"run_id": run.id, "manifest": tags["manifest"]}
        start_ms = milliseconds(run.state.started) or None
        mlflow_id = str(client.create_run(experiment, start_ms, identity, run.id).info.run_id)
    params = [Param(key, str(value)[:6000]) for key, value in params_of(run.manifest).items()]
    client.log_batch(mlflow_id, params=params, tags=[RunTag(key, str(value)) for key, value in tags.items()])
    return mlflow_id


def _log_numbers(client: Any, mlflow_id: str, points: list[Point], status: str) -> None:
    from mlflow.entities import Metric, RunTag

    metrics = [Metric(point.name, point.value, point.at_ms, 0) for point in points]
    client.log_batch(mlflow_id, metrics=metrics, tags=[RunTag("status", status)])


# ---- files

_TOKEN_COLUMNS = ("prompt", "encoder", "raw", "overhead", "templated", "limit", "headroom", "trigger_pieces", "lost")


def _log_artifacts(client: Any, mlflow_id: str, run: journal.Run, shown: Mapping[str, str]) -> None:
    """Files at the artifact root, each written over on a resume: pictures, records, and tables that the UI shows."""
    from mlflow.entities import RunTag

    logged = {key: f"images/{_thumbnail(key, run)}" for key in shown}
    review = review_table(run, _store_of(run), logged)
    tables = {"tokens.json": table_of(run.manifest["tokens"], _TOKEN_COLUMNS), "review.json": review}
    records = {"contract.json": run.manifest["contract"], "request.json": run.manifest["request"], **tables}
    with tempfile.TemporaryDirectory() as scratch:
        for name, value in records.items():
            (Path(scratch) / name).write_text(json.dumps(value), "utf-8")
        for name in (journal.MANIFEST, "grid.png", "report.html"):
            if (run.folder / name).exists():
                (Path(scratch) / name).write_bytes((run.folder / name).read_bytes())
        if has_pictures(review):
            _draw_blank(Path(scratch) / BLANK)
        client.log_artifacts(mlflow_id, scratch)
    marks = [{"path": name, "type": "table"} for name in tables]  # MLflow's own mark of a table, see log_table
    client.log_batch(mlflow_id, tags=[RunTag("mlflow.loggedArtifacts", json.dumps(marks))])


def _store_of(run: journal.Run) -> Objects | None:
    """The store of a run; None where it cannot be opened from here: MLflow then shows what the journal says."""
    try:
        return open_store(run.folder.parent.parent, None)
    except RunnerError:
        return None


def _log_thumbnails(
    client: Any, mlflow_id: str, run: journal.Run, track: Track, shown: Mapping[str, str]
) -> dict[str, str]:
    """Each image under its key at step 0, so that the chart view shows the same key of several runs together.

    `shown` is what an earlier projection logged, by key: it need not be sent again. Returns what is logged now.
    """
    pictures = pictures_of(run, MAX_THUMBNAILS if track.thumbnails else 0)
    new = {key: digest for key, digest in pictures.items() if shown.get(key) != digest}
    if not new:
        return dict(shown)
    objects = open_store(run.folder.parent.parent, None)
    now = dict(shown)
    with tempfile.TemporaryDirectory() as scratch:
        for key, digest in new.items():
            with contextlib.suppress(Corrupt, Failed):
                _draw(Path(scratch) / _thumbnail(key, run), objects.get(digest))
                now[key] = digest
        client.log_artifacts(mlflow_id, scratch, "images")
    client.set_tag(mlflow_id, "mlflow.loggedImages", True)
    return now


def _thumbnail(key: str, run: journal.Run) -> str:
    """The file name that `log_image` would give, without its chance and its clock: one file for one key, always."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, key)
    return f"{key.replace('/', '~')}+step+0+timestamp+{milliseconds(run.state.started)}+{name}"


def _draw(path: Path, data: bytes) -> None:
    """The two files of `log_image`: the picture, here byte for byte, and a small one for the gallery."""
    from mlflow.tracking.multimedia import compress_image_size
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        small = compress_image_size(picture.convert("RGB"))
    path.with_name(path.name + ".png").write_bytes(data)
    small.save(path.with_name(path.name + "+compressed.webp"))


def _draw_blank(path: Path) -> None:
    """What stands in a table where an image has no thumbnail."""
    from PIL import Image

    path.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64), (128, 128, 128)).save(path)
