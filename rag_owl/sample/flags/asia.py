"""The flags of Asia."""

from __future__ import annotations

import math

from rag_owl.sample.draw import (
    BLACK,
    WHITE,
    Flag,
    around,
    bands,
    crescent,
    disc,
    field,
    flag,
    line,
    polygon,
    rect,
    ring,
    star,
    stars,
    stripes,
    triangle,
)
from rag_owl.sample.emblems import cedar, chakra, hexagram, taegeuk, trigram

_DIAGONAL = math.degrees(math.atan2(2, 3))  # of a 3:2 flag

ASIA: dict[str, Flag] = {
    "bahrain": flag(
        50,
        30,
        field(WHITE),
        # Five white points: the red begins about a quarter of the way along.
        polygon(
            "#CE1126",
            (50, 0),
            *((13.1 if i % 2 == 0 else 19.9, 3 * i) for i in range(11)),
            (50, 30),
        ),
    ),
    "bangladesh": flag(10, 6, field("#006A4E"), disc(4.5, 3, 2, "#F42A41")),
    "china": flag(
        30,
        20,
        field("#EE1C25"),
        star(5, 5, 3, "#FFFF00"),
        *(
            # Each small star points at the middle of the large one.
            star(x, y, 1, "#FFFF00", angle=math.degrees(math.atan2(5 - x, y - 5)))
            for x, y in ((10, 2), (12, 4), (12, 7), (10, 9))
        ),
    ),
    "india": flag(45, 30, stripes("#FF9933", WHITE, "#138808"), chakra(22.5, 15, 4.2, "#000080")),
    "indonesia": flag(3, 2, stripes("#FF0000", WHITE)),
    "israel": flag(
        220,
        160,
        field(WHITE),
        rect(0, 15, 220, 25, "#0038B8"),
        rect(0, 120, 220, 25, "#0038B8"),
        hexagram(110, 80, 30, 5.5, "#0038B8"),
    ),
    "japan": flag(3, 2, field(WHITE), disc(1.5, 1, 0.6, "#BC002D")),
    "jordan": flag(
        12,
        6,
        stripes(BLACK, WHITE, "#007A3D"),
        triangle(6, "#CE1126"),
        star(2, 3, 0.43, WHITE, 7, inner=0.45),
    ),
    "kuwait": flag(
        12,
        6,
        stripes("#007A3D", WHITE, "#CE1126"),
        polygon(BLACK, (0, 0), (3, 2), (3, 4), (0, 6)),
    ),
    "kyrgyzstan": flag(
        50,
        30,
        field("#EE2737"),
        star(25, 15, 8.9, "#FEDD00", 40, inner=0.72),
        disc(25, 15, 5.85, "#EE2737"),
        disc(25, 15, 5.2, "#FEDD00"),
        # The roof ring of a yurt: two sheaves of three laths, bent upwards, which cross.
        *(
            ring(25 + side * 5.2, 21.2, radius + 0.25, radius - 0.25, "#EE2737")
            for side in (-1, 1)
            for radius in (7.1, 8.2, 9.3)
        ),
        # What of the laths lies outside the ring is covered again.
        ring(25, 15, 5.85, 5.2, "#EE2737"),
        ring(25, 15, 6.5, 5.85, "#FEDD00"),
    ),
    "laos": flag(
        3,
        2,
        stripes("#CE1126", "#002868", "#CE1126", weights=(1, 2, 1)),
        disc(1.5, 1, 0.4, WHITE),
    ),
    "lebanon": flag(
        9,
        6,
        stripes("#EE161F", WHITE, "#EE161F", weights=(1, 2, 1)),
        cedar(4.5, 3, 2.9, "#00A850"),
    ),
    "malaysia": flag(
        56,
        28,
        stripes(*["#CC0000", WHITE] * 7),
        rect(0, 0, 28, 16, "#000066"),
        crescent(11, 8, 6, "#FFCC00", bite=(13.2, 8, 5.3)),
        star(18, 8, 4.2, "#FFCC00", 14, inner=0.5),
    ),
    "maldives": flag(
        36,
        24,
        field("#D21034"),
        rect(6, 6, 24, 12, "#007E3A"),
        crescent(18.9, 12, 4, WHITE, bite=(20.4, 12, 3.85)),
    ),
    "myanmar": flag(
        18,
        12,
        stripes("#FECB00", "#34B233", "#EA2839"),
        star(9, 6.5, 4.2, WHITE),
    ),
    "nepal": flag(
        82,
        100,
        field(WHITE),
        polygon("#003893", (0, 0), (82, 51.4), (32.4, 51.4), (78.6, 100), (0, 100)),
        polygon("#DC143C", (3.2, 5.7), (71.5, 48.3), (25.2, 48.3), (71.3, 96.8), (3.2, 96.8)),
        star(20.1, 38.4, 7.2, WHITE, 16, inner=0.7),
        crescent(20.1, 32.2, 13.7, WHITE, bite=(20.1, 26.6, 14)),
        star(20.1, 72.7, 14.6, WHITE, 12, inner=0.62),
    ),
    "north-korea": flag(
        72,
        36,
        stripes("#024FA2", WHITE, "#ED1C27", WHITE, "#024FA2", weights=(6, 1, 22, 1, 6)),
        disc(24, 18, 8, WHITE),
        star(24, 18, 8, "#ED1C27"),
    ),
    "pakistan": flag(
        36,
        24,
        bands(WHITE, "#01411C", weights=(1, 3)),
        crescent(22.4, 12, 7.2, WHITE, bite=(24.2, 10.5, 6.6)),
        star(26, 8.8, 2.35, WHITE, angle=45),
    ),
    "philippines": flag(
        40,
        20,
        stripes("#0038A8", "#CE1126"),
        triangle(17.32, WHITE),
        *(
            # Eight sheaves of three rays.
            line((5.77, 10), around(5.77, 10, reach, 45 * i + turn), width, "#FCD116")
            for i in range(8)
            for turn, reach, width in ((-9, 3.7, 0.25), (0, 4.1, 0.6), (9, 3.7, 0.25))
        ),
        disc(5.77, 10, 2, "#FCD116"),
        star(1.6, 2.7, 1, "#FCD116", angle=-10),
        star(1.6, 17.3, 1, "#FCD116", angle=-10),
        star(14.5, 10, 1, "#FCD116", angle=90),
    ),
    "qatar": flag(
        28,
        11,
        field("#8A1538"),
        polygon(
            WHITE,
            (0, 0),
            *((8 if i % 2 == 0 else 10.6, 11 / 18 * i) for i in range(19)),
            (0, 11),
        ),
    ),
    "singapore": flag(
        36,
        24,
        stripes("#EE2536", WHITE),
        crescent(7.9, 6, 4.5, WHITE, bite=(9.9, 6, 4.4)),
        *(star(*around(10.14, 6, 2.55, 72 * i), 0.92, WHITE) for i in range(5)),
    ),
    "south-korea": flag(
        36,
        24,
        field(WHITE),
        taegeuk(18, 12, 6, "#CD2E3A", "#0047A0"),
        trigram(*around(18, 12, 11, _DIAGONAL - 90), _DIAGONAL - 90, (True, True, True)),
        trigram(*around(18, 12, 11, 90 - _DIAGONAL), 90 - _DIAGONAL, (False, True, False)),
        trigram(*around(18, 12, 11, 270 - _DIAGONAL), 270 - _DIAGONAL, (True, False, True)),
        trigram(*around(18, 12, 11, 90 + _DIAGONAL), 90 + _DIAGONAL, (False, False, False)),
    ),
    "thailand": flag(
        9,
        6,
        stripes("#A51931", "#F4F5F8", "#2D2A4A", "#F4F5F8", "#A51931", weights=(1, 1, 2, 1, 1)),
    ),
    "timor-leste": flag(
        36,
        18,
        field("#DC241F"),
        triangle(18, "#FFC726"),
        triangle(12, BLACK),
        star(4.2, 9, 2.9, WHITE, angle=-20),
    ),
    "united-arab-emirates": flag(
        12, 6, stripes("#00843D", WHITE, BLACK), rect(0, 0, 3, 6, "#C8102E")
    ),
    "uzbekistan": flag(
        500,
        250,
        stripes(*("#0099B5", "#CE1126", WHITE, "#CE1126", "#1EB53A"), weights=(80, 5, 80, 5, 80)),
        crescent(70, 40, 30, WHITE, bite=(80, 40, 30)),
        stars(
            [(98 + 24 * column, 64) for column in range(5)]
            + [(122 + 24 * column, 40) for column in range(4)]
            + [(146 + 24 * column, 16) for column in range(3)],
            9,
            WHITE,
        ),
    ),
    "vietnam": flag(30, 20, field("#DA251D"), star(15, 10, 6, "#FFFF00")),
    "yemen": flag(3, 2, stripes("#CE1126", WHITE, BLACK)),
}
