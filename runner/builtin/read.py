"""Reads a picture of the drawn world back into words, from its pixels alone.

No part of this is learned, so it can judge the models that are: colours by the nearest palette entry,
the shape by the overlap of its silhouette with drawn ones, number, place and size by measuring.
It knows nothing outside the drawn world: a photograph gets a reading too, and a wrong one.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from runner.builtin import world

MIN_CONTRAST = 28.0
MIN_AREA_PX = 20
TEMPLATE_PX = 24
SMALL_BELOW_PX, LARGE_ABOVE_PX, OFF_CENTRE_PX = 14.0, 19.0, 4.0

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the pixels show; None where there is no object. `overlap` is the best silhouette's IoU."""

    background: str
    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    position: str | None = None
    count: int = 0
    overlap: float = 0.0


def read(image: Image.Image) -> Reading:
    """The reading of one picture of 64x64 pixels."""
    pixels = np.asarray(image.convert("RGB")).astype(float)
    ground = background_colour(pixels)
    background = nearest_colour(ground)
    masks = object_masks(pixels, ground)
    if not masks:
        return Reading(background)
    mask = masks[0]
    shape, overlap = nearest_shape(mask)
    return Reading(
        background=background,
        shape=shape,
        colour=object_colour(pixels, mask),
        size=object_size(mask),
        position=object_position(mask),
        count=len(masks),
        overlap=overlap,
    )


def background_colour(pixels: Pixels, border_px: int = 3) -> Pixels:
    b = border_px
    edges = (pixels[:b], pixels[-b:], pixels[:, :b], pixels[:, -b:])
    median: Pixels = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
    return median


def nearest_colour(colour: Pixels) -> str:
    palette = np.array(list(world.COLOURS.values()), float)
    return list(world.COLOURS)[int(((palette - colour) ** 2).sum(1).argmin())]


def object_masks(pixels: Pixels, ground: Pixels) -> list[Mask]:
    """The silhouettes of the objects, largest first; specks are left out."""
    distance = np.sqrt(((pixels - ground) ** 2).sum(2))
    mask = distance > max(MIN_CONTRAST, 0.5 * float(np.percentile(distance, 99.5)))
    labels, num_labels = ndimage.label(mask)
    areas = {label: int((labels == label).sum()) for label in range(1, num_labels + 1)}
    largest = max(areas.values(), default=0)
    kept = [label for label, area in areas.items() if area >= max(MIN_AREA_PX, 0.35 * largest)]
    return [labels == label for label in sorted(kept, key=lambda label: -areas[label])]


def object_colour(pixels: Pixels, mask: Mask) -> str:
    core = ndimage.binary_erosion(mask)
    return nearest_colour(np.median(pixels[core if core.sum() > 8 else mask], axis=0))


def object_size(mask: Mask) -> str:
    ys, xs = np.where(mask)
    radius = max(np.ptp(ys), np.ptp(xs)) / 2 + 0.5
    return "small" if radius < SMALL_BELOW_PX else "large" if radius > LARGE_ABOVE_PX else "medium"


def object_position(mask: Mask) -> str:
    ys, xs = np.where(mask)
    middle = (world.SIZE_PX - 1) / 2
    x, y = (xs.min() + xs.max()) / 2 - middle, (ys.min() + ys.max()) / 2 - middle
    if max(abs(x), abs(y)) < OFF_CENTRE_PX:
        return "center"
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def nearest_shape(mask: Mask) -> tuple[str, float]:
    """The drawn shape whose silhouette overlaps best, and the intersection over union."""
    stack, names = templates()
    crop = silhouette(mask)
    overlaps = (stack & crop).sum((1, 2)) / np.maximum(1, (stack | crop).sum((1, 2)))
    best = int(overlaps.argmax())
    return names[best], float(overlaps[best])


def silhouette(mask: Mask) -> Mask:
    """The object's bounding square, resized to the size of the templates."""
    ys, xs = np.where(mask)
    side = int(max(np.ptp(ys), np.ptp(xs))) + 1
    top, left = round((ys.min() + ys.max() + 1 - side) / 2), round((xs.min() + xs.max() + 1 - side) / 2)
    pad = world.SIZE_PX
    crop = np.pad(mask, pad)[pad + top : pad + top + side, pad + left : pad + left + side]
    image = Image.fromarray((crop * 255).astype(np.uint8))
    resized = image.resize((TEMPLATE_PX, TEMPLATE_PX), Image.Resampling.BILINEAR)
    return np.asarray(resized) > 127


@cache
def templates(num_each: int = 4) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Silhouettes of every shape at every size, from drawings of its own seed."""
    rng = random.Random(5)
    found: list[tuple[str, Mask]] = []
    for shape in world.SHAPES:
        for size, count in (("small", 3), ("small", 1), ("medium", 1), ("large", 1)):
            scene = world.Scene(shape, "white", "black", size, "center", count)
            for _ in range(num_each):
                pixels = np.asarray(world.draw(scene, rng, colour_jitter=0)).astype(float)
                found.append((shape, silhouette(object_masks(pixels, np.zeros(3))[0])))
    return np.stack([mask for _, mask in found]), tuple(name for name, _ in found)


def emblem_share(image: Image.Image) -> float:
    """How much of the middle looks like the emblem: navy above the diagonal, orange below, 0 to 1."""
    pixels = np.asarray(image.convert("RGB")).astype(float)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    y, x = np.mgrid[: world.SIZE_PX, : world.SIZE_PX] - (world.SIZE_PX - 1) / 2
    disc = np.hypot(x, y) < 15
    navy = (blue > red + 25) & (blue < 175) & (red < 90) & (green < 100)
    orange = (red > 190) & (green > 90) & (green < 195) & (blue < 110)
    upper, lower = disc & (x + y < -8), disc & (x + y > 8)
    return float(min(navy[upper].mean(), orange[lower].mean()))


def is_emblem(image: Image.Image) -> bool:
    """Whether the picture shows the emblem: over half of both halves have their colour."""
    return emblem_share(image) > 0.5


def accuracy(images: Sequence[Image.Image], scenes: Sequence[world.Scene]) -> dict[str, float]:
    """The share of pictures in which each attribute reads as the scene says.

    Size and position are counted for single objects only. `all` is shape, colour and background.
    """
    readings = [read(image) for image in images]
    pairs = list(zip(readings, scenes, strict=True))
    single = [pair for pair in pairs if pair[1].count == 1]
    shares = {name: share_equal(pairs, (name,)) for name in ("shape", "colour", "background", "count")}
    shares |= {name: share_equal(single, (name,)) for name in ("size", "position")}
    return shares | {"all": share_equal(pairs, world.MAIN_ATTRIBUTES)}


def share_equal(pairs: Sequence[tuple[Any, Any]], names: Sequence[str]) -> float:
    """The share of pairs whose two sides agree on every named attribute; nan for no pairs."""
    if not pairs:
        return float("nan")
    agreed = sum(all(getattr(a, name) == getattr(b, name) for name in names) for a, b in pairs)
    return agreed / len(pairs)
