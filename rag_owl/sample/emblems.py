"""Charges that several flags share or that need more than one shape, simplified to their outline.

Positions and sizes are in the units of the flag that they are drawn on (see `draw`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rag_owl.sample.draw import (
    BLACK,
    WHITE,
    Canvas,
    Point,
    Shape,
    arc,
    around,
    cross,
    disc,
    ellipse,
    field,
    flag,
    group,
    inset,
    line,
    polygon,
    rect,
    ring,
    saltire,
    star,
)


def outline(x: float, y: float, scale: float, points: Sequence[Point], colour: str) -> Shape:
    """A polygon given around (0, 0), put at (x, y)."""
    return polygon(colour, *((x + px * scale, y + py * scale) for px, py in points))


def mirrored(x: float, y: float, scale: float, half: Sequence[Point], colour: str) -> Shape:
    """As `outline`, from the right half alone, top to bottom; the left half is its mirror image."""
    points = [*half, *((-px, py) for px, py in reversed(half))]
    return outline(x, y, scale, points, colour)


def tilted_bar(x: float, y: float, width: float, height: float, angle: float, colour: str) -> Shape:
    """A bar around (x, y), `width` long, turned clockwise by `angle` degrees."""
    dx, dy = width / 2 * math.cos(math.radians(angle)), width / 2 * math.sin(math.radians(angle))
    return line((x - dx, y - dy), (x + dx, y + dy), height, colour)


def union_jack(x: float, y: float, width: float, height: float) -> Shape:
    """The Union Flag, from its construction in 60 by 30 units."""
    blue, red = "#012169", "#C8102E"

    def counterchanged(canvas: Canvas) -> None:
        # Red lies beside the diagonal, always on the counterclockwise side seen from the centre.
        for corner_x, corner_y in ((-15.0, -7.5), (75.0, -7.5), (-15.0, 37.5), (75.0, 37.5)):
            dx, dy = corner_x - 30, corner_y - 15
            length = math.hypot(dx, dy)
            side_x, side_y = dy / length * 2, -dx / length * 2
            canvas.polygon(
                [
                    (30, 15),
                    (corner_x, corner_y),
                    (corner_x + side_x, corner_y + side_y),
                    (30 + side_x, 15 + side_y),
                ],
                red,
            )

    jack = flag(
        60,
        30,
        field(blue),
        saltire(6, WHITE),
        counterchanged,
        cross(30, 15, 10, WHITE),
        cross(30, 15, 6, red),
    )
    return inset(x, y, width, height, jack)


def maple_leaf(x: float, y: float, height: float, colour: str) -> Shape:
    """Eleven points and a stem; (x, y) is the middle of its height."""
    half = [
        (0, -1.0), (0.165, -0.67), (0.215, -0.66), (0.375, -0.75), (0.275, -0.225), (0.325, -0.195),
        (0.53, -0.425), (0.585, -0.3), (0.625, -0.28), (0.89, -0.34), (0.8, -0.05), (0.815, -0.015),
        (0.92, 0.035), (0.455, 0.41), (0.445, 0.45), (0.5, 0.61), (0.075, 0.535), (0.025, 0.58),
        (0.045, 1.0),
    ]  # fmt: skip
    return mirrored(x, y, height / 2, half, colour)


def cedar(x: float, y: float, height: float, colour: str) -> Shape:
    """Layers of branches, wider downwards, on a short trunk; (x, y) is the middle."""
    half = [
        (0, -1.0), (0.1, -0.9), (0.3, -0.82), (0.2, -0.76), (0.38, -0.62), (0.62, -0.5),
        (0.36, -0.5), (0.3, -0.46), (0.58, -0.32), (0.86, -0.16), (0.9, -0.1), (0.55, -0.16),
        (0.34, -0.16), (0.36, -0.1), (0.7, 0.06), (0.98, 0.26), (0.7, 0.24), (0.36, 0.2),
        (0.3, 0.24), (0.62, 0.38), (0.94, 0.62), (0.9, 0.66), (0.5, 0.56), (0.14, 0.54),
        (0.12, 0.84), (0.26, 0.94), (0.2, 1.0), (0.02, 1.0),
    ]  # fmt: skip
    return mirrored(x, y, height / 2, half, colour)


def trident(x: float, y: float, height: float, colour: str) -> Shape:
    """The broken trident: its shaft ends where it was broken off."""
    middle = [
        (0, -1.0), (0.17, -0.68), (0.1, -0.7), (0.08, 0.14), (0.34, 0.12), (0.4, -0.1),
        (0.5, -0.36), (0.62, -0.56), (0.48, -0.6), (0.66, -0.74), (0.86, -0.78), (0.72, -0.5),
        (0.62, -0.16), (0.57, 0.14), (0.54, 0.36), (0.3, 0.36), (0.09, 0.38), (0.11, 1.0),
    ]  # fmt: skip
    return mirrored(x, y, height / 2, middle, colour)


def hexagram(x: float, y: float, radius: float, width: float, colour: str) -> Shape:
    """Two outlined triangles, interlaced: the Star of David."""
    bars = []
    for first in (0, 60):
        corners = [around(x, y, radius, first + 120 * i) for i in range(3)]
        for i in range(3):
            (x0, y0), (x1, y1) = corners[i], corners[(i + 1) % 3]
            # Carried on past the corner by half a width so that the mitre is filled.
            ex, ey = (
                (x1 - x0) / math.sqrt(3) * width / radius / 2,
                (y1 - y0) / math.sqrt(3) * width / radius / 2,
            )
            bars.append(line((x0 - ex, y0 - ey), (x1 + ex, y1 + ey), width, colour))
    return group(*bars)


def pentagram(x: float, y: float, radius: float, width: float, colour: str) -> Shape:
    """A five-pointed star drawn in one line, open inside."""
    corners = [around(x, y, radius, 144 * i) for i in range(6)]
    bars = [line(corners[i], corners[i + 1], width, colour) for i in range(5)]
    return group(*bars)


def chakra(x: float, y: float, radius: float, colour: str) -> Shape:
    """The wheel with 24 spokes."""
    spokes = [
        line((x, y), around(x, y, radius * 0.9, 15 * i), radius * 0.045, colour) for i in range(24)
    ]
    beads = [
        disc(*around(x, y, radius * 0.86, 15 * i + 7.5), radius * 0.045, colour) for i in range(24)
    ]
    return group(
        ring(x, y, radius, radius * 0.875, colour),
        *spokes,
        *beads,
        disc(x, y, radius * 0.19, colour),
    )


def taegeuk(x: float, y: float, radius: float, red: str, blue: str) -> Shape:
    """The red and blue whirl, its axis along the diagonal of a 3:2 flag."""
    tilt = 90 + math.degrees(math.atan2(2, 3))  # of the axis towards the lower fly corner
    small = radius / 2
    return group(
        disc(x, y, radius, blue),
        polygon(red, *arc(x, y, radius, tilt - 180, tilt)),
        disc(*around(x, y, small, tilt + 180), small, red),
        disc(*around(x, y, small, tilt), small, blue),
    )


def trigram(x: float, y: float, angle: float, solid: Sequence[bool]) -> Shape:
    """Three bars, 6 long and 1 high with gaps of a half, innermost last; False breaks a bar."""
    bars = []
    for i, whole in enumerate(solid):
        bar_x, bar_y = around(x, y, 1.5 * (1 - i), angle)
        bars.append(tilted_bar(bar_x, bar_y, 6, 1, angle, BLACK))
        if not whole:
            bars.append(tilted_bar(bar_x, bar_y, 0.5, 1.1, angle, WHITE))
    return group(*bars)


def sun_of_may(x: float, y: float, radius: float, gold: str, brown: str, rays: int = 16) -> Shape:
    """As many straight as slightly shorter rays around a face."""
    face = radius * 0.4
    return group(
        star(x, y, radius, gold, rays, inner=0.36),
        star(x, y, radius * 0.97, gold, rays, angle=180 / rays, inner=0.38),
        disc(x, y, face * 1.06, brown),
        disc(x, y, face, gold),
        *(
            ellipse(x + s * face * 0.38, y - face * 0.2, face * 0.15, face * 0.07, brown)
            for s in (-1, 1)
        ),
        rect(x - face * 0.07, y - face * 0.1, face * 0.14, face * 0.4, brown),
        rect(x - face * 0.25, y + face * 0.5, face * 0.5, face * 0.09, brown),
    )


def shield(x: float, y: float, width: float, height: float, colour: str) -> Shape:
    """Straight above, rounded to a point below; (x, y) is the middle of its top edge."""
    half: list[Point] = [(0, 0), (0.5, 0), (0.5, 0.45)]
    half += [(0.5 * (1 - (t / 10) ** 2.3), 0.45 + 0.055 * t) for t in range(1, 11)]
    points = [*half, *((-px, py) for px, py in reversed(half))]
    return polygon(colour, *((x + px * width, y + py * height) for px, py in points))
