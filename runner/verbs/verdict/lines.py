"""The journal lines that hold a verdict, each with what stands around it: the exam before, and the run's own state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runner import journal
from runner.errors import Corrupt

COSTS = ("latency_s", "num_attempts", "retried", "tokens", "first_token_s")
OF_AN_EXAM = ("at", "when", "passed", "digest", "took_s", "enforced", "checks", "identity")


@dataclass(frozen=True, slots=True)
class Line:
    """One run that holds a verdict: its line, the last exam before it, and what it judged."""

    run: journal.Run
    key: str
    event: journal.Event
    exam: journal.Event | None

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.event.get("facts", {}))

    @property
    def cached(self) -> bool:
        return bool(self.facts.get("cached"))

    @property
    def row(self) -> dict[str, Any]:
        """The image of the run that was judged, as the run tells it."""
        return row_of(self.run, self.key)

    @property
    def judged(self) -> list[str]:
        """The digests that the run has for what was judged: of its own image, or of those it was given."""
        given: list[str] | None = self.run.manifest.get("given", {}).get(self.key)
        return given or [digest for digest in [self.row["digest"]] if digest]

    def as_dict(self, lines: Iterable[Line]) -> dict[str, Any]:
        """For a program; `lines` are all that hold the verdict."""
        exam = self.exam and {name: self.exam[name] for name in OF_AN_EXAM if name in self.exam}
        told = {name: self.facts[name] for name in COSTS if name in self.facts}
        asked = next((line.run.id for line in lines if not line.cached), None)
        return {
            "run_id": self.run.id, "key": self.key, "line": self.event["n"] + 1, "at": self.event["at"], **told,
            "cached": self.cached, "cached_from": asked if self.cached else None,
            "quarantined": self.row["quarantined"], "exam": exam,
        }  # fmt: skip


def lines_of(outputs: Path, digest: str, places: Iterable[tuple[str, str]]) -> list[Line]:
    """The lines that hold a verdict, the one that was asked for first. `places` are runs with the keys in them."""
    found = list(_lines(outputs, digest, dict.fromkeys(places)))
    return sorted(found, key=lambda line: (line.cached, line.event["at"], line.run.id))


def _lines(outputs: Path, digest: str, places: Iterable[tuple[str, str]]) -> Iterator[Line]:
    for run_id, key in places:
        with suppress(Corrupt):
            run = journal.read_run(folder_of(outputs, run_id))
            yield from _in_run(run, key, digest)


def _in_run(run: journal.Run, key: str, digest: str) -> Iterator[Line]:
    exam, last = None, None
    for event in journal.iter_events(run.folder):
        if event["event"] == "exam":
            exam = event
        elif event["event"] == "made" and (event["key"], event["object"]) == (f"verdict/{key}", digest):
            last = Line(run, key, event, exam)
    if last is not None:
        yield last


def row_of(run: journal.Run, key: str) -> dict[str, Any]:
    """One image as its run tells it, without telling the others."""
    entry = next(entry for entry in run.manifest["images"] if entry[0] == key)
    return replace(run, manifest={**run.manifest, "images": [entry]}).images()[0]


def folder_of(outputs: Path, run_id: str) -> Path:
    """Where a run of the index lies; a run folder that was copied elsewhere is an outputs folder by itself."""
    return outputs if (outputs / journal.MANIFEST).exists() else outputs / "runs" / run_id


# ---- every verdict on an image


def on_image(outputs: Path, digest: str, places: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    """What every run's critic said of an image, a row each; runs that cannot be read are left out."""
    known: dict[str, journal.Run] = {}
    rows = []
    for run_id, key in places:
        with suppress(Corrupt):
            run = known.setdefault(run_id, journal.read_run(folder_of(outputs, run_id)))
            rows.append(_said(run, row_of(run, key), digest))
    return rows


def _said(run: journal.Run, row: dict[str, Any], digest: str) -> dict[str, Any]:
    request = run.manifest["request"]
    critic, runtime = request.get("critic") or {}, request.get("critic_runtime") or {}
    pair = run.manifest.get("given", {}).get(row["key"], ())
    side = "AB"[pair.index(digest)] if len(pair) > 1 and digest in pair else None
    return {
        "run_id": run.id, "key": row["key"], "verdict": row["verdict"], "side": side,
        "profile": critic.get("profile"), "version": critic.get("version"), "runtime": runtime.get("id"),
        **{name: row[name] for name in ("advice", "scores", "tags", "unscored", "quarantined")},
    }  # fmt: skip
