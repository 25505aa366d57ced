"""One picture of a run: a row per prompt, a column per image; a gap stays where an image is missing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from runner.errors import Corrupt
from runner.journal import Run
from runner.store import Store

CELL_PX = 128
PAD_PX = 4
LABEL_PX = 18
MAX_ROWS = 40
MAX_COLUMNS = 12
BACKGROUND = (24, 26, 30)
INK = (225, 228, 232)
GAP = (60, 30, 30)


def draw_grid(run: Run, objects: Store, path: Path) -> None:
    """Write the contact sheet; with many prompts only the first rows and columns are shown, and it says so."""
    from PIL import Image, ImageDraw

    rows = _rows(run)
    num_columns = min(max((len(images) for images in rows.values()), default=1), MAX_COLUMNS)
    shown = list(rows.items())[:MAX_ROWS]
    width = num_columns * (CELL_PX + PAD_PX) + PAD_PX
    height = len(shown) * (CELL_PX + LABEL_PX + PAD_PX) + PAD_PX + (LABEL_PX if len(rows) > MAX_ROWS else 0)
    sheet = Image.new("RGB", (max(width, 280), height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for row, (prompt, images) in enumerate(shown):
        top = PAD_PX + row * (CELL_PX + LABEL_PX + PAD_PX)
        draw.text((PAD_PX, top), _fit(prompt, sheet.width), fill=INK)
        for column, image in enumerate(images[:num_columns]):
            place = (PAD_PX + column * (CELL_PX + PAD_PX), top + LABEL_PX)
            sheet.paste(_thumbnail(image, objects), place)
    if len(rows) > MAX_ROWS:
        draw.text((PAD_PX, height - LABEL_PX), f"and {len(rows) - MAX_ROWS} more prompts", fill=INK)
    sheet.save(path, format="png")


def _rows(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Images by prompt; the arms of a probe stand beside each other in one row."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for image in run.images():
        label = image["prompt_key"].removesuffix(".without").removesuffix(".with")
        rows.setdefault(label, []).append(image)
    return {f"{label}: {images[0]['prompt']}": images for label, images in rows.items()}


def _thumbnail(image: dict[str, Any], objects: Store) -> Any:
    from PIL import Image, UnidentifiedImageError

    cell = Image.new("RGB", (CELL_PX, CELL_PX), GAP if image["digest"] is None else BACKGROUND)
    if image["digest"] is None:
        return cell
    try:
        with Image.open(io.BytesIO(objects.get(image["digest"]))) as picture:
            small = picture.convert("RGB")
    except (Corrupt, UnidentifiedImageError, OSError):
        return Image.new("RGB", (CELL_PX, CELL_PX), GAP)
    scale = CELL_PX / max(small.size)
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))), method)
    cell.paste(small, ((CELL_PX - small.width) // 2, (CELL_PX - small.height) // 2))
    return cell


def _fit(text: str, width: int) -> str:
    most = width // 6
    return text if len(text) <= most else text[: most - 3] + "..."
