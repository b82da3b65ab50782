"""A small drawing vocabulary for flags: a flag is a list of shapes on a field of its own units.

A flag of ratio 2:3 is drawn on a field that is 3 wide and 2 high (or 36 by 24, whatever makes its
published construction sheet easiest to read); x grows to the fly, y grows downwards. Each function
here returns a `Shape`, something that paints itself onto a `Canvas`, so that a flag reads as a
table row: `flag(3, 2, field(WHITE), disc(1.5, 1, 0.6, "#BC002D"))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw

Point: TypeAlias = tuple[float, float]

WHITE = "#FFFFFF"
BLACK = "#000000"

SUPERSAMPLE = 4  # drawn this much larger, then averaged: Pillow itself draws hard edges


class Canvas:
    """A field of `width` x `height` units on an RGB picture of `size` pixels (columns, rows)."""

    def __init__(self, size: tuple[int, int], width: float, height: float) -> None:
        self.image = Image.new("RGB", size, WHITE)
        self.width, self.height = width, height
        self.scale_x, self.scale_y = size[0] / width, size[1] / height
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Iterable[Point], colour: str) -> None:
        pixels = [(x * self.scale_x, y * self.scale_y) for x, y in points]
        self._draw.polygon(pixels, fill=colour)

    def box(self, x: float, y: float, width: float, height: float) -> tuple[int, int, int, int]:
        """Pixel edges, right and bottom exclusive."""
        left, top = round(x * self.scale_x), round(y * self.scale_y)
        return left, top, round((x + width) * self.scale_x), round((y + height) * self.scale_y)

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        left, top, right, bottom = self.box(x, y, width, height)
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)


Shape: TypeAlias = Callable[[Canvas], None]


@dataclass(frozen=True, slots=True)
class Flag:
    """What is painted, in order, on a field of `width` x `height` units."""

    width: float
    height: float
    shapes: tuple[Shape, ...]

    def draw(self, size: tuple[int, int]) -> Image.Image:
        """-> RGB picture of exactly `size` pixels, edges not smoothed."""
        canvas = Canvas(size, self.width, self.height)
        for shape in self.shapes:
            shape(canvas)
        return canvas.image

    def render(self, columns: int = 480) -> Image.Image:
        """-> RGB picture, `columns` pixels wide, the height that the flag's ratio asks for."""
        rows = round(columns * self.height / self.width)
        return self.draw((columns * SUPERSAMPLE, rows * SUPERSAMPLE)).reduce(SUPERSAMPLE)


def flag(width: float, height: float, *shapes: Shape) -> Flag:
    return Flag(width, height, shapes)


# --- fields, stripes, crosses ---------------------------------------------------------------------


def field(colour: str) -> Shape:
    return lambda canvas: canvas.rectangle(0, 0, canvas.width, canvas.height, colour)


def rect(x: float, y: float, width: float, height: float, colour: str) -> Shape:
    return lambda canvas: canvas.rectangle(x, y, width, height, colour)


def stripes(*colours: str, weights: Sequence[float] = ()) -> Shape:
    """Horizontal, top to bottom, equally high unless `weights` says otherwise."""

    def draw(canvas: Canvas) -> None:
        heights = weights or (1.0,) * len(colours)
        y, unit = 0.0, canvas.height / sum(heights)
        for colour, height in zip(colours, heights, strict=True):
            canvas.rectangle(0, y, canvas.width, height * unit, colour)
            y += height * unit

    return draw


def bands(*colours: str, weights: Sequence[float] = ()) -> Shape:
    """Vertical, hoist to fly, equally wide unless `weights` says otherwise."""

    def draw(canvas: Canvas) -> None:
        widths = weights or (1.0,) * len(colours)
        x, unit = 0.0, canvas.width / sum(widths)
        for colour, width in zip(colours, widths, strict=True):
            canvas.rectangle(x, 0, width * unit, canvas.height, colour)
            x += width * unit

    return draw


def cross(x: float, y: float, width: float, colour: str, arm: float | None = None) -> Shape:
    """A cross with its centre at (x, y); the arms reach the edges, or `arm` from the centre.

    A Nordic cross is one whose centre lies towards the hoist.
    """

    def draw(canvas: Canvas) -> None:
        half = width / 2
        left, right = (0.0, canvas.width) if arm is None else (x - arm, x + arm)
        top, bottom = (0.0, canvas.height) if arm is None else (y - arm, y + arm)
        canvas.rectangle(left, y - half, right - left, width, colour)
        canvas.rectangle(x - half, top, width, bottom - top, colour)

    return draw


def line(start: Point, end: Point, width: float, colour: str) -> Shape:
    """A straight bar, square at its ends."""

    def draw(canvas: Canvas) -> None:
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = (y0 - y1) / length * width / 2, (x1 - x0) / length * width / 2
        corners = [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]
        canvas.polygon(corners, colour)

    return draw


def rising(width: float, colour: str) -> Shape:
    """A diagonal band from the lower hoist corner to the upper fly corner, past both."""
    return lambda canvas: line(
        (-canvas.width, 2 * canvas.height), (2 * canvas.width, -canvas.height), width, colour
    )(canvas)


def falling(width: float, colour: str) -> Shape:
    """A diagonal band from the upper hoist corner to the lower fly corner, past both."""
    return lambda canvas: line(
        (-canvas.width, -canvas.height), (2 * canvas.width, 2 * canvas.height), width, colour
    )(canvas)


def saltire(width: float, colour: str) -> Shape:
    return group(rising(width, colour), falling(width, colour))


def triangle(depth: float, colour: str) -> Shape:
    """On the hoist, over the whole height, pointing `depth` into the flag."""
    return lambda canvas: canvas.polygon(
        [(0, 0), (depth, canvas.height / 2), (0, canvas.height)], colour
    )


# --- single charges -------------------------------------------------------------------------------


def polygon(colour: str, *points: Point) -> Shape:
    return lambda canvas: canvas.polygon(points, colour)


def arc(x: float, y: float, radius: float, start: float = 0, end: float = 360) -> list[Point]:
    """Points along a circle; degrees clockwise from straight up."""
    steps = max(2, round(abs(end - start) / 3))
    return [around(x, y, radius, start + (end - start) * i / steps) for i in range(steps + 1)]


def around(x: float, y: float, radius: float, angle: float) -> Point:
    """The point at `radius` from (x, y); degrees clockwise from straight up."""
    radians = math.radians(angle)
    return x + radius * math.sin(radians), y - radius * math.cos(radians)


def disc(x: float, y: float, radius: float, colour: str) -> Shape:
    return lambda canvas: canvas.polygon(arc(x, y, radius), colour)


def ellipse(x: float, y: float, across: float, down: float, colour: str) -> Shape:
    """Half axes `across` and `down`."""
    points = [(x + (px - x) * across / down, py) for px, py in arc(x, y, down)]
    return lambda canvas: canvas.polygon(points, colour)


def ring(x: float, y: float, outer: float, inner: float, colour: str) -> Shape:
    points = arc(x, y, outer) + arc(x, y, inner, 360, 0)
    return lambda canvas: canvas.polygon(points, colour)


def crescent(
    x: float, y: float, radius: float, colour: str, bite: tuple[float, float, float]
) -> Shape:
    """The disc at (x, y) without the disc `bite` = (x, y, radius), which must cut its edge."""
    bite_x, bite_y, bite_radius = bite
    distance = math.hypot(bite_x - x, bite_y - y)
    towards = math.degrees(math.atan2(bite_x - x, y - bite_y))
    # Half angles at which the two circles meet, seen from each centre (law of cosines).
    half = math.degrees(
        math.acos((distance**2 + radius**2 - bite_radius**2) / (2 * distance * radius))
    )
    bite_half = math.degrees(
        math.acos((distance**2 + bite_radius**2 - radius**2) / (2 * distance * bite_radius))
    )
    points = arc(x, y, radius, towards + half, towards + 360 - half)
    back = towards + 180  # the bite's edge runs within the disc, on the side of its centre
    points += arc(bite_x, bite_y, bite_radius, back + bite_half, back - bite_half)
    return lambda canvas: canvas.polygon(points, colour)


def star(
    x: float,
    y: float,
    radius: float,
    colour: str,
    points: int = 5,
    angle: float = 0,
    inner: float | None = None,
) -> Shape:
    """A star with its first point at `angle` degrees clockwise from straight up.

    `inner` is the inner radius as a fraction of the outer one; by default that of the regular star
    polygon {points/2}, cos(2 pi / n) / cos(pi / n).
    """
    ratio = inner if inner else math.cos(math.tau / points) / math.cos(math.pi / points)
    outline = [
        around(x, y, radius if i % 2 == 0 else radius * ratio, angle + 180 * i / points)
        for i in range(2 * points)
    ]
    return lambda canvas: canvas.polygon(outline, colour)


def stars(places: Iterable[Point], radius: float, colour: str, points: int = 5) -> Shape:
    return group(*(star(x, y, radius, colour, points) for x, y in places))


def group(*shapes: Shape) -> Shape:
    def draw(canvas: Canvas) -> None:
        for shape in shapes:
            shape(canvas)

    return draw


def inset(x: float, y: float, width: float, height: float, content: Flag) -> Shape:
    """A whole flag within a flag: a canton."""

    def draw(canvas: Canvas) -> None:
        left, top, right, bottom = canvas.box(x, y, width, height)
        canvas.image.paste(content.draw((right - left, bottom - top)), (left, top))

    return draw
