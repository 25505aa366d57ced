"""A self-contained page of one run: every image with its prompt, seed and verdict, who judged, and where time went."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.errors import Corrupt
from runner.gpu import alive
from runner.journal import Run, read_run
from runner.report.grid import draw_grid
from runner.report.verdicts import Review, findings_of, in_order, record, review_of
from runner.store import Objects
from runner.timing import percentile

MAX_IMAGES = 500
SIDES = ("A", "B")
TEMPLATE = Path(__file__).with_name("report.html.j2")
Row = dict[str, Any]


def write_report(folder: Path, objects: Objects) -> None:
    """Draw `grid.png` and `report.html` of a run as far as it has come."""
    run = read_run(folder)
    draw_grid(run, objects, folder / "grid.png")
    write_page(run, objects, folder / "report.html")


def write_page(run: Run, objects: Objects, path: Path) -> None:
    """Write the page. Images are inside it; with many of them the first are shown, and it says so."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    images, review = run.images(), review_of(run)
    shown = [_image(run, row, objects) for row in images[:MAX_IMAGES]]
    page = template.render(
        run=run, status=run.state.status if run.state.ended else run.status(alive), manifest=run.manifest,
        images=shown, num_images=len(images), wins=_wins(shown),
        review=review, scores=_scores(review), critic=_critic(run), timings=_phases(run), failure=run.state.failure,
    )  # fmt: skip
    path.write_text(page, "utf-8")


# ---- images and what was said of them


def _image(run: Run, row: Row, objects: Objects) -> Row:
    """A row with its pictures (two of a pair), and what its verdict says beyond its line."""
    said = record(row["verdict"], objects)
    found = [{**finding, "number": number} for number, finding in enumerate(findings_of(said), 1)]
    given = run.manifest.get("given", {}).get(row["key"], [row["digest"]])
    sides = SIDES if len(given) > 1 else ("",)
    pictures = [
        {"side": side, "data": _data_uri(digest, objects), "boxes": list(_boxes(found, side))}
        for side, digest in zip(sides, given, strict=False)
    ]
    advice = said.get("advice")
    because = advice.get("because") if isinstance(advice, Mapping) else None
    told = {"pictures": pictures, "findings": found, "because": because, "winner": said.get("winner")}
    return {**row, **told, "scores": in_order(row["scores"], run.manifest)}


def _boxes(found: list[Row], side: str) -> Iterator[Row]:
    """Where findings are drawn over one picture, in percent of it; their record has thousandths."""
    for finding in found:
        box = finding.get("box")
        if not box or len(box) != 4 or (finding.get("image") or "") != side:
            continue
        left, top, right, bottom = (side / 10 for side in box)
        place = f"left:{left:g}%;top:{top:g}%;width:{right - left:g}%;height:{bottom - top:g}%"
        yield {"place": place, **finding}


def _wins(rows: list[Row]) -> Counter[str]:
    """Of pairs: how often A, B and neither was better."""
    return Counter(row["winner"] for row in rows if row["winner"] and not row["quarantined"])


def _scores(review: Review | None) -> list[Row]:
    lists = review.scores.items() if review else ()
    return [
        {"name": name, "n": len(values), "mean": sum(values) / len(values), "p10": percentile(values, 0.1),
         "p90": percentile(values, 0.9)}
        for name, values in lists
    ]  # fmt: skip


def _data_uri(digest: str | None, objects: Objects) -> str | None:
    if digest is None:
        return None
    try:
        return "data:image/png;base64," + base64.b64encode(objects.get(digest)).decode()
    except Corrupt:
        return None


# ---- who judged, and what took the time


def _critic(run: Run) -> Row | None:
    """Profile, runtime, what its last exam says it is, how its exams went, and the parts of its server's start."""
    request = run.manifest["request"]
    profile, runtime = request.get("critic") or {}, request.get("critic_runtime") or {}
    if not profile.get("profile"):
        return None
    exams = run.state.exams
    return {
        "profile": profile["profile"], "version": profile.get("version"), "mode": profile.get("mode", "pointwise"),
        "digest": run.manifest["pins"].get("profile"), "runtime": runtime.get("id"),
        "identity": (exams[-1].get("identity") or {}) if exams else {}, "exams": exams, "servers": run.state.servers,
    }  # fmt: skip


def _phases(run: Run) -> list[Row]:
    total = sum(row["total_s"] for row in run.state.timings.values()) or 1.0
    rows = sorted(run.state.timings.items(), key=lambda entry: -entry[1]["total_s"])
    return [{"name": name, "percent": 100 * row["total_s"] / total, **row} for name, row in rows]
