"""What MLflow is told of a run, as plain values: params, tags, metrics, tables, and the points of its history.

Pure. The history is a function of the journal alone, so that a projection made while the run went on and one made
from nothing years later hold the same points. What it does not know: MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from runner import journal
from runner.timing import percentile
from runner.track.review_numbers import gone, review_metrics

PARAM_SECTIONS = ("generate", "runtime")
NUM_CURVE_POINTS = 50  # of the images that are complete, while they are being made


def params_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a table are compared by; prompts and the whole request are artifacts."""
    request, pins = manifest["request"], manifest["pins"]
    critic = request["critic"] or {}
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
        "critic.profile": critic.get("profile") or "none",
        "critic.version": critic.get("version", "none"),
        "critic.runtime": (request.get("critic_runtime") or {}).get("id", "none"),
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


def metrics_of(run: journal.Run) -> dict[str, float]:
    """Every metric of a run under its agreed name."""
    images = run.images()
    metrics: dict[str, float] = {
        "images/planned": len(images),
        "images/complete": sum(1 for image in images if image["status"] == "complete"),
        "images/failed": sum(1 for image in images if image["status"] == "failed"),
    }
    metrics |= token_metrics(run.manifest["tokens"]) | review_metrics(run) | _peak_metrics(run.state.peaks)
    metrics["run.attempts"] = run.state.attempts
    for phase, row in run.state.timings.items():
        metrics |= {f"phase/{phase}/{name}": row[name] for name in ("total_s", "p50_s", "p95_s", "count")}
    return metrics


def token_metrics(tokens: list[Mapping[str, Any]]) -> dict[str, float]:
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


def _peak_metrics(peaks: Iterable[journal.Event]) -> dict[str, float]:
    """The most memory that each role was measured to take, over all attempts."""
    metrics: dict[str, float] = {}
    for peak in peaks:
        name = f"memory/{peak['role']}/peak_mib"
        metrics[name] = max(metrics.get(name, 0.0), float(peak["peak_mib"]))
    return metrics


def table_of(rows: list[Any], columns: tuple[str, ...]) -> dict[str, Any]:
    """Rows in the form of `mlflow.log_table`, which itself would append to the table of an earlier attempt."""
    return {"columns": list(columns), "data": [[_cell(row[name]) for name in columns] for row in rows]}


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list) else value


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric at a time in milliseconds."""

    name: str
    value: float
    at_ms: int


@dataclass(slots=True)
class History:
    """What a journal's lines say about time, read in order."""

    num_planned: int
    started: str | None = None
    attempts: list[int] = field(default_factory=list)  # of each attempt but the last: how many lines there were
    curve: list[tuple[int, str]] = field(default_factory=list)  # images complete, and when
    last_hash: str | None = None
    last_event: str | None = None
    _made: set[str] = field(default_factory=set)

    def read(self, events: Iterable[journal.Event]) -> History:
        every = max(1, self.num_planned // NUM_CURVE_POINTS)
        for number, event in enumerate(events):
            if event["event"] == "started":
                self._begin(number, event["at"])
            elif event["event"] == "made" and event["key"].startswith("image/") and event["key"] not in self._made:
                self._made.add(event["key"])
                if len(self._made) % every == 0:
                    self.curve.append((len(self._made), event["at"]))
            self.last_hash, self.last_event = event["hash"], event["at"]
        return self

    def _begin(self, number: int, at: str) -> None:
        if self.started is None:
            self.started = at
        else:
            self.attempts.append(number)


def begun_points(run: journal.Run, history: History) -> list[Point]:
    """What is known of a run before it ends: its tokens and counts, and the images as they come."""
    if history.started is None:
        return []
    at_ms = milliseconds(history.started)
    known = {"images/planned": float(len(run.manifest["images"])), **token_metrics(run.manifest["tokens"])}
    points = [Point(name, value, at_ms) for name, value in known.items()]
    return points + [Point("images/complete", float(count), milliseconds(at)) for count, at in history.curve]


def ended_points(attempts: Iterable[journal.Run]) -> list[Point]:
    """Every metric at the end of every attempt, and what became of those that a later attempt knows no more."""
    points: list[Point] = []
    known: set[str] = set()
    for run in attempts:
        metrics = metrics_of(run)
        metrics = gone(known, metrics) | metrics
        known |= metrics.keys()
        at_ms = milliseconds(run.state.last_event)
        points += [Point(name, float(value), at_ms) for name, value in metrics.items()]
    return points


def milliseconds(at: str | None) -> int:
    return int(datetime.fromisoformat(at).timestamp() * 1000) if at else 0
