"""A self-contained page of one run: every image with its prompt, seed and scores, the contract, the phases."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from runner.errors import Corrupt
from runner.gpu import alive
from runner.journal import Run, read_run
from runner.report.grid import draw_grid
from runner.report.summary import score_lists
from runner.store import Objects

MAX_IMAGES = 500
TEMPLATE = Path(__file__).with_name("report.html.j2")


def write_report(folder: Path, objects: Objects) -> None:
    """Draw `grid.png` and `report.html` of a run as far as it has come."""
    run = read_run(folder)
    draw_grid(run, objects, folder / "grid.png")
    write_page(run, objects, folder / "report.html")


def write_page(run: Run, objects: Objects, path: Path) -> None:
    """Write the page. Images are inside it; with many of them the first are shown, and it says so."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    images = run.images()
    shown = [{**image, "data": _data_uri(image["digest"], objects)} for image in images[:MAX_IMAGES]]
    scores = {name: sum(values) / len(values) for name, values in sorted(score_lists(images).items())}
    status = run.state.status if run.state.ended else run.status(alive)
    page = template.render(
        run=run, status=status, manifest=run.manifest, images=shown, num_images=len(images), scores=scores,
        timings=_phases(run), failure=run.state.failure,
    )  # fmt: skip
    path.write_text(page, "utf-8")


def _phases(run: Run) -> list[dict[str, Any]]:
    total = sum(row["total_s"] for row in run.state.timings.values()) or 1.0
    rows = sorted(run.state.timings.items(), key=lambda entry: -entry[1]["total_s"])
    return [{"name": name, "percent": 100 * row["total_s"] / total, **row} for name, row in rows]


def _data_uri(digest: str | None, objects: Objects) -> str | None:
    if digest is None:
        return None
    try:
        return "data:image/png;base64," + base64.b64encode(objects.get(digest)).decode()
    except Corrupt:
        return None
