"""The flags of Oceania."""

from __future__ import annotations

from rag_owl.sample.draw import (
    BLACK,
    WHITE,
    Flag,
    Shape,
    arc,
    cross,
    disc,
    field,
    flag,
    group,
    line,
    polygon,
    rect,
    rising,
    star,
    stars,
    stripes,
)
from rag_owl.sample.emblems import union_jack


def _southern_cross_star(x: float, y: float, radius: float) -> Shape:
    """A red star edged in white, as New Zealand has four of them."""
    return group(star(x, y, radius * 1.35, WHITE), star(x, y, radius, "#C8102E"))


OCEANIA: dict[str, Flag] = {
    "australia": flag(
        48,
        24,
        field("#012169"),
        union_jack(0, 0, 24, 12),
        star(12, 18, 3.6, WHITE, 7, inner=0.444),
        *(
            star(x, y, 1.72, WHITE, 7, inner=0.444)
            for x, y in ((36, 20), (30, 10.5), (36, 4), (41.33, 8.9))
        ),
        star(38.4, 13, 1, WHITE),
    ),
    "marshall-islands": flag(
        190,
        100,
        field("#003087"),
        # Two rays that widen from the lower hoist corner to the fly.
        polygon("#E57200", (0, 95), (190, 2), (190, 21.7)),
        polygon(WHITE, (0, 95), (190, 21.7), (190, 41.4)),
        star(36.5, 36.5, 22, WHITE, 24, inner=0.5),
        star(36.5, 36.5, 28, WHITE, 4, inner=0.16),
    ),
    "micronesia": flag(
        190,
        100,
        field("#75B2DD"),
        star(95, 21, 11, WHITE),
        star(95, 79, 11, WHITE, angle=180),
        star(66, 50, 11, WHITE, angle=-90),
        star(124, 50, 11, WHITE, angle=90),
    ),
    "new-zealand": flag(
        48,
        24,
        field("#012169"),
        union_jack(0, 0, 24, 12),
        _southern_cross_star(36, 4.8, 1.2),
        _southern_cross_star(30.45, 10.4, 1.2),
        _southern_cross_star(40.75, 8.95, 1),
        _southern_cross_star(36, 19.2, 1.4),
    ),
    "palau": flag(8, 5, field("#0099FF"), disc(3.5, 2.5, 1.5, "#FFFF00")),
    "samoa": flag(
        36,
        18,
        field("#CE1126"),
        rect(0, 0, 18, 9, "#002B7F"),
        star(9, 1.5, 0.95, WHITE),
        star(6.25, 3.7, 0.95, WHITE),
        star(11.8, 3.25, 0.9, WHITE),
        star(10.35, 5.2, 0.55, WHITE),
        star(9, 7.65, 1.2, WHITE),
    ),
    "solomon-islands": flag(
        36,
        18,
        field("#215B33"),
        polygon("#0051BA", (0, 0), (36, 0), (0, 18)),
        rising(1.6, "#FCD116"),
        stars([(2.75, 2.35), (9.85, 2.35), (6.3, 5.4), (2.75, 8.45), (9.85, 8.45)], 1.73, WHITE),
    ),
    "tonga": flag(
        48, 24, field("#C10000"), rect(0, 0, 20, 12, WHITE), cross(10, 6, 3, "#C10000", arm=4.5)
    ),
    "tuvalu": flag(
        48,
        24,
        field("#009CDE"),
        union_jack(0, 0, 24, 12),
        *(
            star(x, y, 1.85, "#FFDA00", angle=36 if turned else 0)
            for x, y, turned in (
                *((44.1, 3.6, 0), (40.7, 7, 0), (36.5, 8.2, 1), (44.1, 12.7, 1), (31.5, 15.4, 0)),
                *((39.8, 15.4, 1), (36.5, 18.8, 1), (31.5, 20.1, 1), (25.8, 21.7, 0)),
            )
        ),
    ),
    "vanuatu": flag(
        50,
        30,
        stripes("#D21034", "#009543"),
        # A black-edged gold Y on its side, the hoist triangle with a boar's tusk.
        polygon(BLACK, (0, 0), (23.9, 12.3), (50, 12.3), (50, 17.7), (23.9, 17.7), (0, 30)),
        polygon(
            "#FDCE12", (0, 2.25), (23.2, 14.2), (50, 14.2), (50, 15.8), (23.2, 15.8), (0, 27.75)
        ),
        polygon(BLACK, (0, 4), (21.3, 15), (0, 26)),
        # The tusk winds round once and grows thicker towards its root, about crossed fern leaves.
        polygon("#FDCE12", *arc(6.9, 14.9, 4, -60, 180), *arc(7, 14.2, 2.6, 180, -60)),
        polygon("#FDCE12", *arc(6.9, 14.9, 4, 180, 300), *arc(6.8, 14.9, 3.3, 300, 180)),
        line((5.3, 13.3), (8.6, 16.3), 0.7, "#FDCE12"),
        line((5.3, 16.3), (8.6, 13.3), 0.7, "#FDCE12"),
    ),
}
