"""Vector outlines of the rendered data sets: their building blocks, and `Patterns`, `Digits` and `Counts`.

A class is a function of a `random.Random` that returns a list of parts in unit coordinates (x to the right,
y down, the object about within [-1, 1]). Parts carry a colour role instead of a colour and are painted in
order, so that every style of `datasets.rendered.render` can draw every class. Patterns reach beyond [-1, 1], so that
they still fill the frame after a rotation. The order of a vocabulary is the order of its labels: fixed and
mixed, so that its first half ("base") and its second half ("new") are of like difficulty.
"""

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

MAIN, SECOND, DARK, LIGHT = range(4)  # colour roles
Points = np.ndarray  # [N, 2] float


class Part(NamedTuple):
    """A piece of a drawing: the union of polygons (`width` 0) or of open strokes of `width` units."""

    role: int
    paths: list[Points]
    width: float = 0.0


Glyph = Callable[[random.Random], list[Part]]


def fill(role: int, *paths: Sequence[Sequence[float]] | Points) -> Part:
    """Polygons of one colour role; they count as one area."""
    return Part(role, [np.asarray(path, dtype=float) for path in paths])


def stroke(role: int, width: float, *paths: Sequence[Sequence[float]] | Points) -> Part:
    """Lines of one colour role, `width` units wide."""
    return Part(role, [np.asarray(path, dtype=float) for path in paths], width)


def arc(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0, n: int = 26) -> Points:
    """`n` points on an axis-parallel ellipse from angle `start` to `stop` in degrees (clockwise)."""
    angles = np.radians(np.linspace(start, stop, n))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1)


def rect(x0: float, y0: float, x1: float, y1: float) -> Points:
    """The corners of a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float)


def turn(path: Points, degrees: float, cx: float = 0.0, cy: float = 0.0) -> Points:
    """A path turned by `degrees` (clockwise) about a point."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    centre = np.array([cx, cy])
    return (np.asarray(path, dtype=float) - centre) @ np.array([[c, s], [-s, c]]) + centre


def smooth(points: Sequence[Sequence[float]], closed: bool = True, steps: int = 5) -> Points:
    """Catmull-Rom curve through the points."""
    p = np.asarray(points, dtype=float)
    ends = (p[-1:], p[:2]) if closed else (p[:1], p[-1:])
    q = np.concatenate([ends[0], p, ends[1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(q, q[1:], q[2:], q[3:], strict=False)
    ]
    return np.concatenate(pieces if closed else [*pieces, p[-1:]])


def star(r: random.Random) -> list[Part]:
    """A regular star with five tips."""
    radii = np.tile([1.0, r.uniform(0.36, 0.5)], 5)
    angles = np.pi * np.arange(10) / 5 - np.pi / 2
    return [fill(MAIN, np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1))]


def circle(r: random.Random) -> list[Part]:
    """A disc, a little flattened."""
    return [fill(MAIN, arc(0, 0, 1, r.uniform(0.92, 1.0), n=36))]


_REACH = 1.5  # half side of the square that a pattern covers


def _ground(role: int = SECOND) -> Part:
    return fill(role, rect(-2, -2, 2, 2))


def _steps(step: float, r: random.Random) -> np.ndarray:
    return np.arange(-_REACH - r.random() * step, _REACH + step, step)


def _stripes(r: random.Random) -> list[Part]:
    step = r.uniform(0.32, 0.6)
    return [_ground(), fill(MAIN, *[rect(-2, y, 2, y + step / 2) for y in _steps(step, r)])]


def _polka_dots(r: random.Random) -> list[Part]:
    step = r.uniform(0.4, 0.6)
    d, shift = step * r.uniform(0.25, 0.36), r.choice([0.0, 0.5])
    rows = enumerate(_steps(step, r))
    dots = [arc(x + shift * step * (i % 2), y, d, d, n=14) for i, y in rows for x in np.arange(-_REACH, _REACH, step)]
    return [_ground(), fill(MAIN, *dots)]


def _checkerboard(r: random.Random) -> list[Part]:
    step = r.uniform(0.32, 0.52)
    ticks = _steps(step, r)
    cells = [rect(x, y, x + step, y + step) for i, y in enumerate(ticks) for x in ticks[i % 2 :: 2]]
    return [_ground(), fill(MAIN, *cells)]


def _zigzag(r: random.Random) -> list[Part]:
    step, rows = r.uniform(0.3, 0.45), r.uniform(0.42, 0.6)
    x = np.arange(-2, 2, step)
    teeth = np.where(np.arange(len(x)) % 2, 1, -1) * step * 0.5
    return [_ground(), stroke(MAIN, rows * 0.42, *[np.stack([x, y + teeth], axis=1) for y in _steps(rows, r)])]


def _waves(r: random.Random) -> list[Part]:
    rows, length, x = r.uniform(0.4, 0.55), r.uniform(0.8, 1.2), np.linspace(-2, 2, 60)
    lift = rows * 0.32 * np.sin(2 * np.pi * (x / length + r.random()))
    return [_ground(), stroke(MAIN, rows * 0.42, *[np.stack([x, y + lift], axis=1) for y in _steps(rows, r)])]


def _grid(r: random.Random) -> list[Part]:
    step = r.uniform(0.35, 0.55)
    lines = [[(-2, y), (2, y)] for y in _steps(step, r)] + [[(x, -2), (x, 2)] for x in _steps(step, r)]
    return [_ground(), stroke(MAIN, step * r.uniform(0.14, 0.22), *lines)]


def _bricks(r: random.Random) -> list[Part]:
    h = r.uniform(0.26, 0.36)
    w, gap = h * r.uniform(2.0, 2.5), h * 0.09
    rows = enumerate(_steps(h, r))
    cells = [(x + w / 2 * (i % 2), y) for i, y in rows for x in np.arange(-_REACH - w, _REACH, w)]
    return [_ground(LIGHT), fill(MAIN, *[rect(x + gap, y + gap, x + w - gap, y + h - gap) for x, y in cells])]


def _spiral(r: random.Random) -> list[Part]:
    step, sign = r.uniform(0.38, 0.5), r.choice([-1, 1])
    t = np.linspace(0, 2 * np.pi * 3.6, 110)
    radius, phase = step * t / (2 * np.pi), r.uniform(0, 6.3)
    x, y = r.uniform(-0.15, 0.15), r.uniform(-0.15, 0.15)
    path = np.stack([x + radius * np.cos(sign * t + phase), y + radius * np.sin(sign * t + phase)], axis=1)
    return [_ground(), stroke(MAIN, step * r.uniform(0.36, 0.46), path)]


def _rings(r: random.Random) -> list[Part]:
    step, x, y = r.uniform(0.34, 0.46), r.uniform(-0.2, 0.2), r.uniform(-0.2, 0.2)
    radii = np.arange(r.uniform(0.1, 0.3), 1.7, step)
    circles = [arc(x, y, d, d, n=16 + int(20 * d)) for d in radii]
    return [_ground(), stroke(MAIN, step * r.uniform(0.36, 0.46), *circles)]


def _confetti(r: random.Random) -> list[Part]:
    papers: list[list[Points]] = [[], [], []]
    for i, (x, y) in enumerate((x, y) for x in np.arange(-1.3, 1.4, 0.36) for y in np.arange(-1.3, 1.4, 0.36)):
        angle, a, b = r.uniform(0, np.pi), r.uniform(0.07, 0.15), r.uniform(0.05, 0.08)
        u, v = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        centre = np.array([x + r.uniform(-0.14, 0.14), y + r.uniform(-0.14, 0.14)])
        papers[i % 3].append(
            np.stack([centre + s * a * u + t * b * v for s, t in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
        )
    return [_ground(LIGHT), *[fill(role, *some) for role, some in zip((MAIN, SECOND, DARK), papers, strict=True)]]


def _plaid(r: random.Random) -> list[Part]:
    step, wide = r.uniform(0.7, 0.9), r.uniform(0.26, 0.36)
    x, y = _steps(step, r), _steps(step, r)
    thin = [[(-2, v + step * 0.62), (2, v + step * 0.62)] for v in y]
    thin += [[(v + step * 0.62, -2), (v + step * 0.62, 2)] for v in x]
    return [
        _ground(LIGHT),
        fill(MAIN, *[rect(-2, v, 2, v + wide) for v in y]),
        fill(SECOND, *[rect(v, -2, v + wide, 2) for v in x]),
        fill(DARK, *[rect(u, v, u + wide, v + wide) for u in x for v in y]),
        stroke(DARK, 0.055, *thin),
    ]


def _honeycomb(r: random.Random) -> list[Part]:
    d, phase = r.uniform(0.25, 0.34), r.random()
    w, h = d * 3**0.5, d * 1.5
    corners = arc(0, 0, d * 0.84, d * 0.84, 30, 390, 7)[:-1]
    rows = enumerate(np.arange(-_REACH - phase * h, _REACH + h, h))
    cells = [corners + (x + w / 2 * (i % 2), y) for i, y in rows for x in np.arange(-_REACH, _REACH + w, w)]
    return [_ground(), fill(MAIN, *cells)]


def _digit(number: int, r: random.Random) -> list[Part]:
    a, k = r.uniform(0.5, 0.62), r.uniform(-0.08, 0.08)
    up, low = 0.5 + k / 2, 0.5 - k / 2  # half heights of the two loops of 3 and 8
    paths: dict[int, list[Any]] = {
        0: [arc(0, 0, a, 1, 0, 360, 30)],
        1: [[(-0.35, -0.62), (0.05, -1), (0.05, 1)]],
        2: [[*arc(0, -0.48, a, 0.52, 195, 395, 18), (-a, 1), (a, 1)]],
        3: [arc(0, -1 + up, a * 0.9, up, 205, 450, 18), arc(0, 1 - low, a, low, -90, 155, 18)],
        4: [[(0.25, 1), (0.25, -1), (-0.62, 0.4), (0.65, 0.4)]],
        5: [[(0.5, -1), (-0.42, -1), (-0.48, -0.12), *arc(-0.02, 0.38, a, 0.6, 230, 510, 20)]],
        6: [[(0.3, -1), *arc(0.55, 0.35, 1.05, 1.2, 245, 190, 8)], arc(0, 0.42, a * 0.95, 0.57, 0, 360, 24)],
        7: [[(-a, -1), (a, -1), (-0.15, 1)]] + ([[(-0.25, 0), (0.4, 0)]] if r.random() < 0.2 else []),
        8: [arc(0, -1 + up * 0.95, a * 0.85, up * 0.95, n=24), arc(0, 1 - low * 1.05, a, low * 1.05, n=24)],
        9: [arc(0, -0.42, a * 0.95, 0.57, 0, 360, 24), [(-0.3, 1), *arc(-0.55, -0.35, 1.05, 1.2, 65, 10, 8)]],
    }
    return [stroke(MAIN, r.uniform(0.12, 0.32), *paths[number])]


def _count(number: int, shape: Glyph, r: random.Random) -> list[Part]:
    """`number` separate copies of a shape, thrown onto a 3 x 3 board."""
    places = r.sample([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], number)
    size = r.uniform(0.2, 0.28)
    paths = [
        path * size * r.uniform(0.9, 1.1) + (x * 0.78 + r.uniform(-0.08, 0.08), y * 0.78 + r.uniform(-0.08, 0.08))
        for x, y in places
        for part in shape(r)
        for path in part.paths
    ]
    return [fill(MAIN, *paths)]


PATTERNS: dict[str, Glyph] = {
    "waves": _waves, "bricks": _bricks, "polka dots": _polka_dots, "plaid": _plaid, "spiral": _spiral,
    "grid": _grid, "honeycomb": _honeycomb, "stripes": _stripes, "rings": _rings,
    "checkerboard": _checkerboard, "confetti": _confetti, "zigzag": _zigzag,
}  # fmt: skip
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS: dict[str, Glyph] = {_WORDS[n]: functools.partial(_digit, n) for n in (3, 8, 0, 5, 7, 9, 2, 6, 1, 4)}
_NOUNS: dict[str, Glyph] = {"star": star, "circle": circle}
_COUNTED = ("3 star", "1 circle", "5 circle", "2 star", "4 circle", "6 star", "2 circle", "5 star",
            "6 circle", "1 star", "3 circle", "4 star")  # fmt: skip
COUNTS: dict[str, Glyph] = {
    f"{_WORDS[int(n)]} {noun}" + ("s" if n != "1" else ""): functools.partial(_count, int(n), _NOUNS[noun])
    for n, noun in (text.split() for text in _COUNTED)
}
