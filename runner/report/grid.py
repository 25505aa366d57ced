"""One picture of a run: a block per prompt, its images in a row; a gap stays where an image is missing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from runner.errors import Corrupt
from runner.journal import Run
from runner.store import Objects

CELL_PX = 128
PAD_PX = 4
LABEL_PX = 18
MAX_BLOCKS = 48
MAX_COLUMNS = 12
BACKGROUND = (24, 26, 30)
INK = (225, 228, 232)
GAP = (60, 30, 30)


def draw_grid(run: Run, objects: Objects, path: Path) -> None:
    """Write the contact sheet; with many prompts only the first are shown, and it says so."""
    from PIL import Image, ImageDraw

    blocks = _blocks(run)
    shown = list(blocks.items())[:MAX_BLOCKS]
    num_columns = min(max((len(images) for images in blocks.values()), default=1), MAX_COLUMNS)
    block_width, block_height = num_columns * (CELL_PX + PAD_PX) + 2 * PAD_PX, CELL_PX + LABEL_PX + PAD_PX
    across = blocks_across(len(shown), block_width, block_height)
    height = -(-len(shown) // across) * block_height + PAD_PX + LABEL_PX * (len(blocks) > len(shown))
    sheet = Image.new("RGB", (across * block_width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (prompt, images) in enumerate(shown):
        left, top = PAD_PX + number % across * block_width, PAD_PX + number // across * block_height
        draw.text((left, top), _fit(prompt, block_width), fill=INK)
        for column, image in enumerate(images[:num_columns]):
            sheet.paste(_thumbnail(image, objects), (left + column * (CELL_PX + PAD_PX), top + LABEL_PX))
    if len(blocks) > len(shown):
        draw.text((PAD_PX, height - LABEL_PX), f"and {len(blocks) - len(shown)} more prompts", fill=INK)
    sheet.save(path, format="png")


def blocks_across(num_blocks: int, width: int, height: int) -> int:
    """How many blocks of this size stand side by side, so that the sheet comes nearest to 3:2."""
    shapes = range(1, num_blocks + 1)
    return min(shapes, key=lambda n: abs(n * width / (-(-num_blocks // n) * height) - 1.5), default=1)


def _blocks(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Images by prompt; the arms of a probe stand beside each other in one block."""
    blocks: dict[str, list[dict[str, Any]]] = {}
    for image in run.images():
        blocks.setdefault(image["prompt_id"], []).append(image)
    return {f"{label}: {images[0]['prompt']}": images for label, images in blocks.items()}


def _thumbnail(image: dict[str, Any], objects: Objects) -> Any:
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
