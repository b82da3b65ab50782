"""Plots as SVG texts, for pages that load nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#1f6fb4", "#d1620b", "#2c8a3d", "#8a4fb0", "#b02a37", "#5d6d7e")
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 40


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def bars(
    title: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[tuple[float, tuple[float, float] | None] | None]],
) -> str:
    """A group of bars per measure, one per series; (value, its interval), None: not measured.

    Values from 0 to 1.
    """
    frame = _Frame(title, (0.0, 1.0))
    room = (_WIDTH - _LEFT - _RIGHT) / max(1, len(groups))
    wide = min(46.0, room * 0.8 / max(1, len(series)))
    for at, group in enumerate(groups):
        left = _LEFT + at * room + (room - wide * len(series)) / 2
        frame.text(_LEFT + (at + 0.5) * room, _HEIGHT - _BOTTOM + 16, group, "middle")
        for number, (name, values) in enumerate(series.items()):
            found = values[at]
            if found is None:
                continue
            value, interval = found
            x, top = left + number * wide, frame.y(value)
            frame.add(
                f'<rect x="{x:.1f}" y="{top:.1f}" width="{wide * 0.9:.1f}" '
                f'height="{frame.y(0) - top:.1f}" fill="{colour(number)}">'
                f"<title>{escape(name)}, {escape(group)}: {value:.3f}</title></rect>"
            )
            if interval is not None:
                middle = x + wide * 0.45
                low, high = frame.y(interval[0]), frame.y(interval[1])
                frame.add(
                    f'<path d="M{middle:.1f} {low:.1f}V{high:.1f}M{middle - 4:.1f} {low:.1f}h8'
                    f'M{middle - 4:.1f} {high:.1f}h8" class="whisker"/>'
                )
    return frame.close(list(series))


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str,
    marks: Sequence[float] = (),
    steps: bool = False,
    even: bool = False,
) -> str:
    """One line per series of (x, y), y from 0 to 1.

    across: what x is; marks: where x is labelled; even: those places stand equally far apart.
    """
    places = sorted({x for points in series.values() for x, _ in points} | set(marks)) or [0.0]
    largest = max(places) or 1.0
    inner = _WIDTH - _LEFT - _RIGHT - 12

    def x_of(x: float) -> float:
        share = places.index(x) / max(1, len(places) - 1) if even else x / largest
        return _LEFT + 6 + inner * share

    frame = _Frame(title, (0.0, 1.0))
    for mark in marks or places:
        frame.text(x_of(mark), _HEIGHT - _BOTTOM + 16, f"{mark:g}", "middle")
    frame.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, across, "middle")
    for number, (name, points) in enumerate(series.items()):
        path, before = "", None
        for x, y in points:
            if before is None:
                path += f"M{x_of(x):.1f} {frame.y(y):.1f}"
            elif steps:
                path += f"H{x_of(x):.1f}V{frame.y(y):.1f}"
            else:
                path += f"L{x_of(x):.1f} {frame.y(y):.1f}"
            before = x
        dots = "" if len(points) > 12 else "".join(
            f'<circle cx="{x_of(x):.1f}" cy="{frame.y(y):.1f}" r="3.5" fill="{colour(number)}">'
            f"<title>{escape(name)}, {x:g}: {y:.3f}</title></circle>"
            for x, y in points
        )  # fmt: skip
        frame.add(f'<path d="{path}" fill="none" stroke="{colour(number)}" stroke-width="2"/>')
        frame.add(dots)
    return frame.close(list(series))


class _Frame:
    """Axes from 0 to 1 upwards, and a legend."""

    def __init__(self, title: str, span: tuple[float, float]) -> None:
        self._low, self._high = span
        self._title = title
        self._parts: list[str] = []
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
            y = self.y(tick)
            self.add(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" class="grid"/>')
            self.text(_LEFT - 6, y + 4, f"{tick:g}", "end")

    def y(self, value: float) -> float:
        share = (min(max(value, self._low), self._high) - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def text(self, x: float, y: float, text: str, anchor: str) -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def close(self, names: Sequence[str]) -> str:
        at = float(_LEFT)
        for number, name in enumerate(names):
            shown = name if len(name) <= 28 else f"…{name[-27:]}"
            self.add(f'<rect x="{at:.0f}" y="6" width="10" height="10" fill="{colour(number)}"/>')
            self.text(at + 15, 15, shown, "start")
            at += 30 + 7.2 * len(shown)
        return (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(self._title)}">{"".join(self._parts)}</svg>'
        )
