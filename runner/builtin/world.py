"""The drawn world the shipped models know: eight shapes, ten colours, ten backgrounds.

Every picture is a pure function of a `Scene` and a seeded `random.Random`, so the truth of a picture is
always known; `captions` puts scenes into words. The shapes share one outer extent (`radius` is half the
larger side, in pixels of a 64x64 picture), objects never touch each other or the border, and the palette
is well apart: a tiny model has to be able to learn it.

The `emblem` is the one thing the base model never sees; it is what the shipped LoRA adds.
"""

import math
import random
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw

SIZE_PX = 64
SUPERSAMPLING = 4

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 215),
    "yellow": (250, 225, 50),
    "purple": (140, 55, 180),
    "orange": (245, 125, 25),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "pink": (250, 150, 190),
    "cyan": (60, 205, 220),
}
RADII_PX = {"small": (11.0, 13.0), "medium": (15.0, 18.0), "large": (20.0, 23.5)}
POSITIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "center": (0, 0)}
CENTRES_PX = {2: ((17.0, 32.0), (47.0, 32.0)), 3: ((32.0, 17.0), (16.0, 46.0), (48.0, 46.0))}
GROUP_RADII_PX = {2: (10.0, 12.5), 3: (9.5, 11.0)}
COUNT_WEIGHTS = {1: 0.78, 2: 0.14, 3: 0.08}
MAIN_ATTRIBUTES = ("shape", "colour", "background")
NAVY, ORANGE, WHITE = (20, 40, 110), (245, 140, 30), (250, 250, 250)

Colour = tuple[int, int, int]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one picture shows."""

    shape: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "center"
    count: int = 1


# ---- scenes


def sample_scene(rng: random.Random) -> Scene:
    """A scene of the full mix: mostly one object of any size and place, sometimes two or three."""
    colour = rng.choice(list(COLOURS))
    background = rng.choice([name for name in COLOURS if name != colour])
    shape = rng.choice(SHAPES)
    count = rng.choices(list(COUNT_WEIGHTS), list(COUNT_WEIGHTS.values()))[0]
    if count > 1:
        return Scene(shape, colour, background, "small", "center", count)
    size = rng.choice(list(RADII_PX))
    position = rng.choice(["center", "center", *POSITIONS])
    return Scene(shape, colour, background, size, position)


# ---- drawing


def draw(scene: Scene, rng: random.Random, colour_jitter: int = 10) -> Image.Image:
    """One RGB picture of the scene; colours differ by at most `colour_jitter` of 255 per channel."""
    background = jitter_colour(COLOURS[scene.background], rng, colour_jitter)
    fill = jitter_colour(COLOURS[scene.colour], rng, colour_jitter)
    canvas = new_canvas(background)
    pen = ImageDraw.Draw(canvas)
    for x, y, radius in placements(scene, rng):
        draw_shape(pen, scene.shape, x, y, radius, fill, background)
    return shrink(canvas)


def placements(scene: Scene, rng: random.Random) -> list[tuple[float, float, float]]:
    """Centre and radius, in pixels, of each object."""
    if scene.count > 1:
        radius = rng.uniform(*GROUP_RADII_PX[scene.count])
        return [(x + rng.uniform(-0.8, 0.8), y + rng.uniform(-1.5, 1.5), radius) for x, y in CENTRES_PX[scene.count]]
    radius = rng.uniform(*RADII_PX[scene.size])
    offset = min(15.0, 31.0 - radius)
    dx, dy = POSITIONS[scene.position]
    x = 32 + dx * offset + rng.uniform(-1.5, 1.5) * (dx == 0)
    y = 32 + dy * offset + rng.uniform(-1.5, 1.5) * (dy == 0)
    return [(x, y, radius)]


def jitter_colour(colour: Colour, rng: random.Random, amount: int) -> Colour:
    red, green, blue = (max(0, min(255, v + rng.randint(-amount, amount))) for v in colour)
    return red, green, blue


def new_canvas(colour: Colour) -> Image.Image:
    side = SIZE_PX * SUPERSAMPLING
    return Image.new("RGB", (side, side), colour)


def shrink(canvas: Image.Image) -> Image.Image:
    return canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float, fill: Colour, hole: Colour
) -> None:
    """One shape on the supersampled canvas; `hole` is the colour seen through a ring."""
    x, y, radius = x * SUPERSAMPLING, y * SUPERSAMPLING, radius * SUPERSAMPLING
    if shape in ("circle", "ring"):
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)
        if shape == "ring":
            inner = radius * 0.55
            pen.ellipse([x - inner, y - inner, x + inner, y + inner], fill=hole)
        return
    pen.polygon([(x + px * radius, y + py * radius) for px, py in outline(shape)], fill=fill)


@cache
def outline(shape: str) -> Points:
    """The corners of a shape, centred, with a half side of 1."""
    raw = OUTLINES[shape]()
    xs, ys = [x for x, _ in raw], [y for _, y in raw]
    middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    return tuple(((x - middle_x) / half, (y - middle_y) / half) for x, y in raw)


def star_points() -> Points:
    angles = [(i * math.pi / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)]
    return tuple((r * math.sin(a), -r * math.cos(a)) for a, r in angles)


def cross_points(arm: float = 0.32) -> Points:
    quarter = ((-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm))
    return quarter + tuple((-x, -y) for x, y in quarter)


def heart_points() -> Points:
    def point(t: float) -> tuple[float, float]:
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        return 16 * math.sin(t) ** 3, -y

    return tuple(point(2 * math.pi * i / 40) for i in range(40))


OUTLINES = {
    "square": lambda: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": lambda: ((0, -1), (1, 0.85), (-1, 0.85)),
    "diamond": lambda: ((0, -1), (0.75, 0), (0, 1), (-0.75, 0)),
    "star": star_points,
    "cross": cross_points,
    "heart": heart_points,
}


def emblem(background: str, rng: random.Random) -> Image.Image:
    """The novel concept: a disc in a white rim, navy above and orange below a white diagonal bar."""
    canvas = new_canvas(jitter_colour(COLOURS[background], rng, 8))
    radius = rng.uniform(19, 23)
    x, y = 32 + rng.uniform(-2.5, 2.5), 32 + rng.uniform(-2.5, 2.5)
    draw_two_tone(ImageDraw.Draw(canvas), x, y, radius, (NAVY, ORANGE, WHITE), angle_deg=135)
    return shrink(canvas)


def draw_two_tone(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radius: float,
    colours: tuple[Colour, Colour, Colour],
    angle_deg: int,
) -> None:
    """A disc split along a diameter into two colours; the third colours its rim and bar."""
    x, y, radius = x * SUPERSAMPLING, y * SUPERSAMPLING, radius * SUPERSAMPLING
    first, second, rim = colours
    outer = radius * 1.13
    pen.ellipse([x - outer, y - outer, x + outer, y + outer], fill=rim)
    box = [x - radius, y - radius, x + radius, y + radius]
    pen.pieslice(box, angle_deg, angle_deg + 180, fill=first)
    pen.pieslice(box, angle_deg - 180, angle_deg, fill=second)
    dx, dy = radius * math.cos(math.radians(angle_deg)), radius * math.sin(math.radians(angle_deg))
    pen.line([x + dx, y + dy, x - dx, y - dy], fill=rim, width=int(3.6 * SUPERSAMPLING))


def clutter(rng: random.Random) -> Image.Image:
    """A free drawing, for the autoencoder only: it must decode more than the captions ever show."""
    canvas = new_canvas(any_colour(rng))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(1, 6)):
        rng.choice(STROKES)(pen, rng, canvas.width)
    return shrink(canvas)


def any_colour(rng: random.Random) -> Colour:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def stroke_blob(pen: ImageDraw.ImageDraw, rng: random.Random, side: int) -> None:
    x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(16, 96)
    pen.ellipse([x - r, y - r * rng.uniform(0.5, 1), x + r, y + r], fill=any_colour(rng))


def stroke_polygon(pen: ImageDraw.ImageDraw, rng: random.Random, side: int) -> None:
    x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(16, 96)
    corners = [(x + rng.uniform(-r, r), y + rng.uniform(-r, r)) for _ in range(rng.randint(3, 6))]
    pen.polygon(corners, fill=any_colour(rng))


def stroke_line(pen: ImageDraw.ImageDraw, rng: random.Random, side: int) -> None:
    ends = [rng.uniform(0, side) for _ in range(4)]
    pen.line(ends, fill=any_colour(rng), width=rng.randint(8, 28))


def stroke_box(pen: ImageDraw.ImageDraw, rng: random.Random, side: int) -> None:
    x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(16, 96)
    box = [x - r, y - r * rng.uniform(0.4, 1), x + r, y + r]
    pen.rectangle(box, fill=any_colour(rng), outline=any_colour(rng), width=rng.randint(6, 16))


def stroke_two_tone(pen: ImageDraw.ImageDraw, rng: random.Random, side: int) -> None:
    x, y = rng.uniform(0.2, 0.8) * SIZE_PX, rng.uniform(0.2, 0.8) * SIZE_PX
    colours = (any_colour(rng), any_colour(rng), any_colour(rng))
    draw_two_tone(pen, x, y, rng.uniform(8, 24), colours, rng.randrange(0, 360, 15))


def stroke_shape(pen: ImageDraw.ImageDraw, rng: random.Random, side: int) -> None:
    x, y = rng.uniform(0, SIZE_PX), rng.uniform(0, SIZE_PX)
    draw_shape(pen, rng.choice(SHAPES), x, y, rng.uniform(7, 24), any_colour(rng), any_colour(rng))


STROKES = (stroke_blob, stroke_polygon, stroke_line, stroke_box, stroke_two_tone, stroke_shape)
