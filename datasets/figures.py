"""Vector outlines of the classes of `Patterns`, `Digits` and `Counts`, in the conventions of `datasets.glyphs`.

Patterns fill the frame: their coordinates reach beyond [-1, 1], so that they still cover it after a rotation.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from datasets.glyphs import DARK, LIGHT, MAIN, SECOND, Glyph, Part, Points, arc, circle, fill, rect, star, stroke

REACH = 1.5  # half side of the square that a pattern covers


def _ground(role: int = SECOND) -> Part:
    return fill(role, rect(-2, -2, 2, 2))


def _steps(step: float, r: random.Random) -> np.ndarray:
    return np.arange(-REACH - r.random() * step, REACH + step, step)


def stripes(r: random.Random) -> list[Part]:
    step = r.uniform(0.32, 0.6)
    return [_ground(), fill(MAIN, *[rect(-2, y, 2, y + step / 2) for y in _steps(step, r)])]


def polka_dots(r: random.Random) -> list[Part]:
    step = r.uniform(0.4, 0.6)
    d, shift = step * r.uniform(0.25, 0.36), r.choice([0.0, 0.5])
    rows = enumerate(_steps(step, r))
    dots = [arc(x + shift * step * (i % 2), y, d, d, n=14) for i, y in rows for x in np.arange(-REACH, REACH, step)]
    return [_ground(), fill(MAIN, *dots)]


def checkerboard(r: random.Random) -> list[Part]:
    step = r.uniform(0.32, 0.52)
    ticks = _steps(step, r)
    cells = [rect(x, y, x + step, y + step) for i, y in enumerate(ticks) for x in ticks[i % 2 :: 2]]
    return [_ground(), fill(MAIN, *cells)]


def zigzag(r: random.Random) -> list[Part]:
    step, rows = r.uniform(0.3, 0.45), r.uniform(0.42, 0.6)
    x = np.arange(-2, 2, step)
    teeth = np.where(np.arange(len(x)) % 2, 1, -1) * step * 0.5
    return [_ground(), stroke(MAIN, rows * 0.42, *[np.stack([x, y + teeth], axis=1) for y in _steps(rows, r)])]


def waves(r: random.Random) -> list[Part]:
    rows, length, x = r.uniform(0.4, 0.55), r.uniform(0.8, 1.2), np.linspace(-2, 2, 60)
    lift = rows * 0.32 * np.sin(2 * np.pi * (x / length + r.random()))
    return [_ground(), stroke(MAIN, rows * 0.42, *[np.stack([x, y + lift], axis=1) for y in _steps(rows, r)])]


def grid(r: random.Random) -> list[Part]:
    step = r.uniform(0.35, 0.55)
    lines = [[(-2, y), (2, y)] for y in _steps(step, r)] + [[(x, -2), (x, 2)] for x in _steps(step, r)]
    return [_ground(), stroke(MAIN, step * r.uniform(0.14, 0.22), *lines)]


def bricks(r: random.Random) -> list[Part]:
    h = r.uniform(0.26, 0.36)
    w, gap = h * r.uniform(2.0, 2.5), h * 0.09
    rows = enumerate(_steps(h, r))
    cells = [(x + w / 2 * (i % 2), y) for i, y in rows for x in np.arange(-REACH - w, REACH, w)]
    return [_ground(LIGHT), fill(MAIN, *[rect(x + gap, y + gap, x + w - gap, y + h - gap) for x, y in cells])]


def spiral(r: random.Random) -> list[Part]:
    step, sign = r.uniform(0.38, 0.5), r.choice([-1, 1])
    t = np.linspace(0, 2 * np.pi * 3.6, 110)
    radius, phase = step * t / (2 * np.pi), r.uniform(0, 6.3)
    x, y = r.uniform(-0.15, 0.15), r.uniform(-0.15, 0.15)
    path = np.stack([x + radius * np.cos(sign * t + phase), y + radius * np.sin(sign * t + phase)], axis=1)
    return [_ground(), stroke(MAIN, step * r.uniform(0.36, 0.46), path)]


def rings(r: random.Random) -> list[Part]:
    step, x, y = r.uniform(0.34, 0.46), r.uniform(-0.2, 0.2), r.uniform(-0.2, 0.2)
    radii = np.arange(r.uniform(0.1, 0.3), 1.7, step)
    circles = [arc(x, y, d, d, n=16 + int(20 * d)) for d in radii]
    return [_ground(), stroke(MAIN, step * r.uniform(0.36, 0.46), *circles)]


def confetti(r: random.Random) -> list[Part]:
    papers: list[list[Points]] = [[], [], []]
    for i, (x, y) in enumerate((x, y) for x in np.arange(-1.3, 1.4, 0.36) for y in np.arange(-1.3, 1.4, 0.36)):
        angle, a, b = r.uniform(0, np.pi), r.uniform(0.07, 0.15), r.uniform(0.05, 0.08)
        u, v = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        centre = np.array([x + r.uniform(-0.14, 0.14), y + r.uniform(-0.14, 0.14)])
        papers[i % 3].append(np.stack([centre + s * a * u + t * b * v for s, t in ((1, 1), (1, -1), (-1, -1), (-1, 1))]))
    return [_ground(LIGHT), *[fill(role, *some) for role, some in zip((MAIN, SECOND, DARK), papers, strict=True)]]


def plaid(r: random.Random) -> list[Part]:
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


def honeycomb(r: random.Random) -> list[Part]:
    d, phase = r.uniform(0.25, 0.34), r.random()
    w, h = d * 3**0.5, d * 1.5
    corners = arc(0, 0, d * 0.84, d * 0.84, 30, 390, 7)[:-1]
    rows = enumerate(np.arange(-REACH - phase * h, REACH + h, h))
    cells = [corners + (x + w / 2 * (i % 2), y) for i, y in rows for x in np.arange(-REACH, REACH + w, w)]
    return [_ground(), fill(MAIN, *cells)]


def _digit(number: int, r: random.Random) -> list[Part]:
    a, k = r.uniform(0.5, 0.62), r.uniform(-0.08, 0.08)
    up, low = 0.5 + k / 2, 0.5 - k / 2  # half heights of the two loops of 3 and 8
    paths: dict[int, list] = {
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
    "waves": waves, "bricks": bricks, "polka dots": polka_dots, "plaid": plaid, "spiral": spiral, "grid": grid,
    "honeycomb": honeycomb, "stripes": stripes, "rings": rings, "checkerboard": checkerboard, "confetti": confetti,
    "zigzag": zigzag,
}  # fmt: skip
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS: dict[str, Glyph] = {_WORDS[n]: functools.partial(_digit, n) for n in (3, 8, 0, 5, 7, 9, 2, 6, 1, 4)}
COUNTS: dict[str, Glyph] = {
    f"{_WORDS[n]} {noun}" + ("s" if n > 1 else ""): functools.partial(_count, n, shape)
    for n, noun, shape in (
        (3, "star", star), (1, "circle", circle), (5, "circle", circle), (2, "star", star), (4, "circle", circle),
        (6, "star", star), (2, "circle", circle), (5, "star", star), (6, "circle", circle), (1, "star", star),
        (3, "circle", circle), (4, "star", star),
    )
}  # fmt: skip
