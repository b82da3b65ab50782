"""The flags of North America, Central America, the Caribbean and South America."""

from __future__ import annotations

from rag_owl.sample.draw import (
    BLACK,
    WHITE,
    Flag,
    arc,
    around,
    bands,
    disc,
    field,
    flag,
    polygon,
    rect,
    rising,
    saltire,
    star,
    stars,
    stripes,
    triangle,
)
from rag_owl.sample.emblems import maple_leaf, sun_of_may, trident

AMERICAS: dict[str, Flag] = {
    "antigua-and-barbuda": flag(
        36,
        24,
        field("#CE1126"),
        polygon(BLACK, (0, 0), (36, 0), (18, 24)),
        star(18, 9.6, 7.4, "#FCD116", 16, inner=0.62),
        # The bands lie within the V and cover the lower half of the sun.
        polygon("#0072C6", (7.05, 9.4), (28.95, 9.4), (24.4, 15.5), (11.6, 15.5)),
        polygon(WHITE, (10.95, 14.6), (25.05, 14.6), (18, 24)),
    ),
    "argentina": flag(
        80, 50, stripes("#74ACDF", WHITE, "#74ACDF"), sun_of_may(40, 25, 7.2, "#F6B40E", "#85340A")
    ),
    "bahamas": flag(12, 6, stripes("#00778B", "#FFC72C", "#00778B"), triangle(5.2, BLACK)),
    "barbados": flag(30, 20, bands("#00267F", "#FFC726", "#00267F"), trident(15, 9.9, 10.2, BLACK)),
    "brazil": flag(
        20,
        14,
        field("#009739"),
        polygon("#FEDD00", (1.7, 7), (10, 1.7), (18.3, 7), (10, 12.3)),
        disc(10, 7, 3.5, "#012169"),
        # The band with the motto, between two arcs around a point below the hoist.
        polygon(
            WHITE,
            *(p for p in arc(8, 14, 8.5, -8.5, 50) if (p[0] - 10) ** 2 + (p[1] - 7) ** 2 < 12.3),
            *(p for p in arc(8, 14, 8, 50, -10.6) if (p[0] - 10) ** 2 + (p[1] - 7) ** 2 < 12.3),
        ),
        stars(
            (
                *((11.4, 5), (7.6, 7.2), (8.3, 8.6), (9.4, 8), (9.9, 9.4), (10, 7.4), (11.2, 8.2)),
                *((11.9, 8.9), (12.6, 8.2), (11.7, 9.6), (8.9, 9.6), (10.8, 8.9), (7.3, 8.3)),
            ),
            0.17,
            WHITE,
        ),
    ),
    "canada": flag(
        40,
        20,
        bands("#D52B1E", WHITE, "#D52B1E", weights=(1, 2, 1)),
        maple_leaf(20, 10.05, 16.8, "#D52B1E"),
    ),
    "chile": flag(
        30,
        20,
        stripes(WHITE, "#DA291C"),
        rect(0, 0, 10, 10, "#0032A0"),
        star(5, 5, 2.5, WHITE),
    ),
    "colombia": flag(3, 2, stripes("#FCD116", "#003893", "#CE1126", weights=(2, 1, 1))),
    "cuba": flag(
        40,
        20,
        stripes("#002A8F", WHITE, "#002A8F", WHITE, "#002A8F"),
        triangle(17.32, "#CB1515"),
        star(5.77, 10, 3.33, WHITE),
    ),
    "grenada": flag(
        50,
        30,
        field("#CE1126"),
        polygon("#007A5E", (4.3, 4.3), (25, 15), (4.3, 25.7)),
        polygon("#007A5E", (45.7, 4.3), (25, 15), (45.7, 25.7)),
        polygon("#FCD116", (4.3, 4.3), (45.7, 4.3), (25, 15)),
        polygon("#FCD116", (4.3, 25.7), (45.7, 25.7), (25, 15)),
        disc(25, 15, 3.6, "#CE1126"),
        star(25, 15.1, 3.2, "#FCD116"),
        stars([(x, y) for x in (15, 25, 35) for y in (2.2, 28)], 1.75, "#FCD116"),
        # The nutmeg in its opened husk.
        polygon("#FCD116", (5.8, 12.2), (8.4, 13.6), (9.8, 15.8), (8.6, 17.5), (6.8, 17.2)),
        polygon("#CE1126", (7, 13.9), (8.2, 14.6), (8.6, 15.9), (7.9, 16.4), (7.2, 15.6)),
    ),
    "guyana": flag(
        50,
        30,
        field("#009E49"),
        polygon(WHITE, (0, 0), (50, 15), (0, 30)),
        polygon("#FCD116", (0, 1.6), (46.4, 15), (0, 28.4)),
        polygon(BLACK, (0, 0), (25, 15), (0, 30)),
        polygon("#CE1126", (0, 2.1), (21.6, 15), (0, 27.9)),
    ),
    "honduras": flag(
        36,
        18,
        stripes("#00239E", WHITE, "#00239E"),
        stars([(18, 9), (13.4, 7.2), (13.4, 10.8), (22.6, 7.2), (22.6, 10.8)], 1.1, "#00239E"),
    ),
    "jamaica": flag(
        12,
        6,
        field("#007749"),
        polygon(BLACK, (0, 0), (6, 3), (0, 6)),
        polygon(BLACK, (12, 0), (6, 3), (12, 6)),
        saltire(1.02, "#FFB81C"),
    ),
    "panama": flag(
        36,
        24,
        field(WHITE),
        rect(18, 0, 18, 12, "#DA121A"),
        rect(0, 12, 18, 12, "#072357"),
        star(9, 6, 2.7, "#072357"),
        star(27, 18, 2.7, "#DA121A"),
    ),
    "saint-kitts-and-nevis": flag(
        36,
        24,
        field("#CE1126"),
        polygon("#009E49", (0, 0), (36, 0), (0, 24)),
        rising(10.05, "#FCD116"),
        rising(7.25, BLACK),
        star(11.1, 16.6, 3.3, WHITE, angle=-12),
        star(24.8, 7.5, 3.3, WHITE, angle=-12),
    ),
    "saint-lucia": flag(
        36,
        18,
        field("#66CCFF"),
        polygon(WHITE, (18, 1.6), (24.3, 16.4), (11.7, 16.4)),
        polygon(BLACK, (18, 3.8), (23.2, 16.4), (12.8, 16.4)),
        polygon("#FCD116", (18, 9), (24.3, 16.4), (11.7, 16.4)),
    ),
    "saint-vincent-and-the-grenadines": flag(
        36,
        24,
        bands("#002674", "#FCD022", "#007C2E", weights=(1, 2, 1)),
        *(
            polygon("#007C2E", (x, y - 4.15), (x + 2.25, y), (x, y + 4.15), (x - 2.25, y))
            for x, y in ((15.05, 12), (20.95, 12), (18, 17.35))
        ),
    ),
    "suriname": flag(
        30,
        20,
        stripes("#377E3F", WHITE, "#B40A2D", WHITE, "#377E3F", weights=(2, 1, 4, 1, 2)),
        star(15, 10, 4, "#ECC81D"),
    ),
    "trinidad-and-tobago": flag(
        50,
        30,
        field("#CE1126"),
        polygon(WHITE, (0, 0), (15.6, 0), (50, 30), (34.4, 30)),
        polygon(BLACK, (2.8, 0), (12.9, 0), (47.2, 30), (37.1, 30)),
    ),
    "united-states": flag(
        190,
        100,
        stripes(*["#B31942", WHITE] * 6, "#B31942"),
        rect(0, 0, 76, 100 * 7 / 13, "#0A3161"),
        stars(
            [
                (76 / 12 * (column + 1), 100 * 7 / 130 * (row + 1))
                for row in range(9)
                for column in range(11)
                if (row + column) % 2 == 0
            ],
            3.08,
            WHITE,
        ),
    ),
    "uruguay": flag(
        27,
        18,
        stripes(*[WHITE, "#0038A8"] * 4, WHITE),
        rect(0, 0, 10, 10, WHITE),
        sun_of_may(5, 5, 4.2, "#FCD116", "#7B3F00", rays=8),
    ),
    "venezuela": flag(
        36,
        24,
        stripes("#FFCC00", "#00247D", "#CF142B"),
        *(
            star(*around(18, 16.6, 7.1, turn), 0.92, WHITE)
            for turn in (-72, -51.4, -30.9, -10.3, 10.3, 30.9, 51.4, 72)
        ),
    ),
}
