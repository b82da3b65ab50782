"""The flags of Africa."""

from __future__ import annotations

from rag_owl.sample.draw import (
    BLACK,
    WHITE,
    Flag,
    around,
    bands,
    crescent,
    disc,
    ellipse,
    field,
    flag,
    line,
    polygon,
    rect,
    ring,
    rising,
    saltire,
    star,
    stars,
    stripes,
    triangle,
)
from rag_owl.sample.emblems import pentagram

AFRICA: dict[str, Flag] = {
    "algeria": flag(
        36,
        24,
        bands("#006233", WHITE),
        crescent(18, 12, 6, "#D21034", bite=(19.4, 12, 4.8)),
        star(21, 12, 3, "#D21034", angle=-90),
    ),
    "benin": flag(30, 20, stripes("#FCD116", "#E8112D"), rect(0, 0, 12, 20, "#008751")),
    "botswana": flag(
        36,
        24,
        stripes("#75AADB", WHITE, BLACK, WHITE, "#75AADB", weights=(9, 1, 4, 1, 9)),
    ),
    "burkina-faso": flag(36, 24, stripes("#EF2B2D", "#009E49"), star(18, 12, 4, "#FCD116")),
    "burundi": flag(
        50,
        30,
        field("#CE1126"),
        polygon("#1EB53A", (0, 0), (25, 15), (0, 30)),
        polygon("#1EB53A", (50, 0), (25, 15), (50, 30)),
        saltire(4.2, WHITE),
        disc(25, 15, 8.5, WHITE),
        *(
            star(x, y, radius, colour, 6)
            for x, y in ((25, 10.6), (21.2, 17.2), (28.8, 17.2))
            for radius, colour in ((2.1, "#1EB53A"), (1.7, "#CE1126"))
        ),
    ),
    "cameroon": flag(36, 24, bands("#007A5E", "#CE1126", "#FCD116"), star(18, 12, 3.4, "#FCD116")),
    "cape-verde": flag(
        85,
        50,
        stripes(*("#003893", WHITE, "#CF2027", WHITE, "#003893"), weights=(6, 1, 1, 1, 3)),
        stars([around(31.9, 31.2, 12.5, 36 * i) for i in range(10)], 2.2, "#F7D116"),
    ),
    "central-african-republic": flag(
        36,
        24,
        stripes("#003082", WHITE, "#289728", "#FFCE00"),
        rect(15.2, 0, 5.6, 24, "#D21034"),
        star(6, 3, 2.8, "#FFCE00"),
    ),
    "chad": flag(3, 2, bands("#002664", "#FECB00", "#C60C30")),
    "comoros": flag(
        50,
        30,
        stripes("#FFC61E", WHITE, "#CE1126", "#3A75C4"),
        triangle(22, "#3D8E33"),
        crescent(8.4, 15, 6.7, WHITE, bite=(10.9, 15, 6.6)),
        stars([(10, 10.2 + 3.22 * i) for i in range(4)], 1.1, WHITE),
    ),
    "democratic-republic-of-the-congo": flag(
        40,
        30,
        field("#007FFF"),
        line((-20, 39.1), (60, -9.1), 7.95, "#F7D618"),
        line((-20, 39.1), (60, -9.1), 5.4, "#CE1021"),
        star(7.5, 7.5, 5.6, "#F7D618"),
    ),
    "djibouti": flag(
        36,
        24,
        stripes("#6AB2E7", "#12AD2B"),
        triangle(20.8, WHITE),
        star(8, 12, 3.1, "#D7141A"),
    ),
    "ethiopia": flag(
        36,
        18,
        stripes("#078930", "#FCDD09", "#DA121A"),
        disc(18, 9, 6, "#0F47AF"),
        pentagram(18, 9, 4.6, 0.45, "#FCDD09"),
        *(
            line(around(18, 9, 2.2, 36 + 72 * i), around(18, 9, 4.6, 36 + 72 * i), 0.3, "#FCDD09")
            for i in range(5)
        ),
    ),
    "gabon": flag(4, 3, stripes("#009E60", "#FCD116", "#3A75C4")),
    "gambia": flag(
        36,
        24,
        stripes("#CE1126", WHITE, "#0C1C8C", WHITE, "#3A7728", weights=(6, 1, 4, 1, 6)),
    ),
    "ghana": flag(36, 24, stripes("#CE1126", "#FCD116", "#006B3F"), star(18, 12, 4, BLACK)),
    "guinea": flag(3, 2, bands("#CE1126", "#FCD116", "#009460")),
    "guinea-bissau": flag(
        36,
        18,
        stripes("#FCD116", "#009E49"),
        rect(0, 0, 12, 18, "#CE1126"),
        star(6, 9, 3.5, BLACK),
    ),
    "ivory-coast": flag(3, 2, bands("#FF8200", WHITE, "#009A44")),
    "kenya": flag(
        36,
        24,
        stripes(*(BLACK, WHITE, "#BB0000", WHITE, "#006600"), weights=(6, 1, 6, 1, 6)),
        # Two crossed spears behind a Maasai shield.
        *(
            part
            for s in (-1, 1)
            for part in (
                line((18 - s * 3.6, 21), (18 + s * 3.2, 4.5), 0.4, WHITE),
                polygon(WHITE, (18 + s * 3.9, 2.2), (18 + s * 2.6, 5.2), (18 + s * 3.6, 5.8)),
            )
        ),
        ellipse(18, 12, 3.2, 7.4, "#BB0000"),
        polygon(BLACK, (15.6, 7.2), (16.9, 12), (15.6, 16.8), (14.85, 12)),
        polygon(BLACK, (20.4, 7.2), (19.1, 12), (20.4, 16.8), (21.15, 12)),
        ellipse(18, 8.3, 0.42, 3, WHITE),
        ellipse(18, 15.7, 0.42, 3, WHITE),
        disc(18, 12, 0.65, WHITE),
    ),
    "lesotho": flag(
        36,
        24,
        stripes("#00209F", WHITE, "#009543", weights=(3, 4, 3)),
        # The mokorotlo, a cone-shaped straw hat.
        polygon(
            BLACK,
            *((18, 8.6), (18.5, 9.6), (19.4, 11.6), (20.2, 13), (22.2, 14.6), (22.4, 15.4)),
            *((18, 16), (13.6, 15.4), (13.8, 14.6), (15.8, 13), (16.6, 11.6), (17.5, 9.6)),
        ),
        line((16.4, 13.2), (15.6, 15.2), 0.25, WHITE),
        line((19.6, 13.2), (20.4, 15.2), 0.25, WHITE),
        ring(18, 8.9, 1.3, 0.9, BLACK),
        line((18, 7.7), (18, 10.4), 0.4, BLACK),
    ),
    "liberia": flag(
        209,
        110,
        stripes(*["#BF0A30", WHITE] * 5, "#BF0A30"),
        rect(0, 0, 50, 50, "#002868"),
        star(25, 25, 14.5, WHITE),
    ),
    "libya": flag(
        48,
        24,
        stripes("#E70013", BLACK, "#239E46", weights=(1, 2, 1)),
        crescent(24, 12, 3, WHITE, bite=(24.75, 12, 2.4)),
        star(27.85, 12, 2.05, WHITE, angle=-90),
    ),
    "madagascar": flag(3, 2, stripes("#FC3D32", "#007E3A"), rect(0, 0, 1, 2, WHITE)),
    "malawi": flag(
        36,
        24,
        stripes(BLACK, "#CE1126", "#339E35"),
        # The sun as it rises out of the red.
        *(
            line(around(18, 8.4, 5.4, turn), around(18, 8.4, 7.5, turn), 0.34, "#CE1126")
            for turn in range(-80, 81, 5)
        ),
        disc(18, 8.4, 4.7, "#CE1126"),
        rect(0, 7.4, 36, 0.6, BLACK),
        rect(0, 8, 36, 8, "#CE1126"),
    ),
    "mali": flag(3, 2, bands("#14B53A", "#FCD116", "#CE1126")),
    "mauritania": flag(
        30,
        20,
        stripes("#D01C1F", "#00A95C", "#D01C1F", weights=(1, 3, 1)),
        crescent(15, 6.3, 7.7, "#FFD700", bite=(15, 3.8, 7.9)),
        star(15, 8.2, 2.05, "#FFD700"),
    ),
    "mauritius": flag(3, 2, stripes("#EA2839", "#1A206D", "#FFD500", "#00A551")),
    "morocco": flag(36, 24, field("#C1272D"), pentagram(18, 12, 5.2, 0.75, "#006233")),
    "namibia": flag(
        900,
        600,
        field("#009543"),
        polygon("#003580", (0, 0), (900, 0), (0, 600)),
        rising(200, WHITE),
        rising(149, "#D21034"),
        star(186, 158, 100, "#FFCE00", 12, inner=0.62),
        disc(186, 158, 67, "#003580"),
        disc(186, 158, 57, "#FFCE00"),
    ),
    "niger": flag(7, 6, stripes("#E05206", WHITE, "#0DB02B"), disc(3.5, 3, 0.85, "#E05206")),
    "nigeria": flag(2, 1, bands("#008751", WHITE, "#008751")),
    "republic-of-the-congo": flag(
        30,
        20,
        field("#009543"),
        polygon("#DC241F", (30, 0), (30, 20), (10, 20)),
        polygon("#FBDE4A", (20, 0), (30, 0), (10, 20), (0, 20)),
    ),
    "rwanda": flag(
        36,
        24,
        stripes("#00A1DE", "#FAD201", "#20603D", weights=(2, 1, 1)),
        star(29.5, 6.2, 3.2, "#E5BE01", 24, inner=0.42),
        disc(29.5, 6.2, 1.35, "#00A1DE"),
        disc(29.5, 6.2, 1.1, "#E5BE01"),
    ),
    "sao-tome-and-principe": flag(
        28,
        14,
        stripes("#12AD2B", "#FFCE00", "#12AD2B", weights=(4, 6, 4)),
        triangle(7, "#D21034"),
        stars([(14, 7), (21, 7)], 2.1, BLACK),
    ),
    "senegal": flag(36, 24, bands("#00853F", "#FDEF42", "#E31B23"), star(18, 12, 3.9, "#00853F")),
    "seychelles": flag(
        18,
        9,
        field("#007A3D"),
        # Five rays fan out from the lower hoist corner.
        polygon(WHITE, (0, 9), (18, 3), (18, 6)),
        polygon("#D62828", (0, 9), (12, 0), (18, 0), (18, 3)),
        polygon("#FCD856", (0, 9), (6, 0), (12, 0)),
        polygon("#003F87", (0, 9), (0, 0), (6, 0)),
    ),
    "sierra-leone": flag(3, 2, stripes("#1EB53A", WHITE, "#0072C6")),
    "somalia": flag(36, 24, field("#418FDE"), star(18, 12, 5.6, WHITE)),
    "south-africa": flag(
        90,
        60,
        stripes("#E03C31", "#001489"),
        # A green pall, edged in white towards the fields and in gold towards the triangle.
        polygon(WHITE, (0, 0), (18, 0), (48, 20), (90, 20), (90, 40), (48, 40), (18, 60), (0, 60)),
        polygon(
            "#007749",
            *((0, 0), (10.8, 0), (46.8, 24), (90, 24), (90, 36), (46.8, 36), (10.8, 60), (0, 60)),
        ),
        polygon("#FFB81C", (0, 7.2), (34.2, 30), (0, 52.8)),
        polygon(BLACK, (0, 12.1), (26.8, 30), (0, 47.9)),
    ),
    "south-sudan": flag(
        48,
        24,
        stripes(*(BLACK, WHITE, "#DA121A", WHITE, "#078930"), weights=(6, 1, 6, 1, 6)),
        triangle(20.8, "#0F47AF"),
        star(7, 12, 4.4, "#FCDD09", angle=-18),
    ),
    "sudan": flag(12, 6, stripes("#D21034", WHITE, BLACK), triangle(4, "#007229")),
    "tanzania": flag(
        36,
        24,
        field("#00A3DD"),
        polygon("#1EB53A", (0, 0), (36, 0), (0, 24)),
        rising(9.4, "#FCD116"),
        rising(6.45, BLACK),
    ),
    "togo": flag(
        81,
        50,
        stripes("#006A4E", "#FFCE00", "#006A4E", "#FFCE00", "#006A4E"),
        rect(0, 0, 30, 30, "#D21034"),
        star(15, 15, 10, WHITE),
    ),
    "tunisia": flag(
        60,
        40,
        field("#E70013"),
        disc(30, 20, 10, WHITE),
        crescent(30, 20, 7.5, "#E70013", bite=(32.2, 20, 6)),
        star(32.4, 20, 4.4, "#E70013", angle=-90),
    ),
}
