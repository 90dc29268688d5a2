"""Vector outlines of the classes of `Shapes`: one function a class, in the terms of `datasets.rendered.outlines`."""

import random

import numpy as np

from .outlines import DARK, LIGHT, MAIN, SECOND, Glyph, Part, arc, circle, fill, rect, smooth, star, stroke, turn


def _square(r: random.Random) -> list[Part]:
    k = r.uniform(0.88, 1.0)
    return [fill(MAIN, rect(-1, -k, 1, k))]


def _triangle(r: random.Random) -> list[Part]:
    return [fill(MAIN, [(r.uniform(-0.25, 0.25), -1), (1, r.uniform(0.6, 0.8)), (-1, r.uniform(0.6, 0.8))])]


def _heart(r: random.Random) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return [fill(MAIN, np.stack([np.sin(t) ** 3, y * r.uniform(0.9, 1.1)], axis=1))]


def _cross(r: random.Random) -> list[Part]:
    a = r.uniform(0.22, 0.36)
    top = np.array([(-a, -1), (a, -1), (a, -a)])
    right = top[:, ::-1] * (-1, 1)
    return [fill(MAIN, np.concatenate([top, right, -top, -right]))]


def _moon(r: random.Random) -> list[Part]:
    k = r.uniform(0.3, 0.55)
    outer = arc(0, 0, 1, 1, 60, 300, 30)
    x, y = outer[-1]
    inner = arc(x, 0, k, abs(y), 270, 90, 24)
    return [fill(MAIN, np.concatenate([outer, inner]))]


def _arrow(r: random.Random) -> list[Part]:
    a, b, x = r.uniform(0.14, 0.26), r.uniform(0.5, 0.7), r.uniform(0.0, 0.3)
    return [fill(MAIN, [(-1, -a), (x, -a), (x, -b), (1, 0), (x, b), (x, a), (-1, a)])]


def _house(r: random.Random) -> list[Part]:
    roof, w = r.uniform(-0.25, -0.05), r.uniform(0.7, 0.82)
    x = r.uniform(-0.45, -0.2)
    return [
        fill(SECOND, rect(0.35, -0.9, 0.58, -0.2)),
        fill(MAIN, rect(-w, roof, w, 1)),
        fill(SECOND, [(-1, roof), (0, -1), (1, roof)]),
        fill(DARK, rect(x - 0.2, 0.35, x + 0.2, 1)),
        fill(LIGHT, rect(0.15, 0.2, 0.55, 0.58)),
    ]


def _tree(r: random.Random) -> list[Part]:
    w = r.uniform(0.1, 0.17)
    trunk = fill(SECOND, rect(-w, 0.1, w, 1))
    if r.random() < 0.5:
        k = r.uniform(0.65, 0.8)
        layers = [[(-k * f, y), (0, y - 0.75), (k * f, y)] for f, y in ((1, 0.6), (0.8, 0.15), (0.58, -0.28))]
        return [trunk, fill(MAIN, *layers)]
    d = r.uniform(0.38, 0.46)
    spots = [(-0.42, 0.02), (0.42, 0.02), (-0.3, -0.48), (0.32, -0.48), (0, -0.2)]
    return [trunk, fill(MAIN, *[arc(x, y, d, d) for x, y in spots])]


def _fish(r: random.Random) -> list[Part]:
    h = r.uniform(0.42, 0.55)
    body = smooth([(-1, 0.02), (-0.6, -h * 0.8), (-0.1, -h), (0.4, -h * 0.5), (0.62, 0), (0.4, h * 0.5),
                   (-0.1, h), (-0.6, h * 0.8)])  # fmt: skip
    tail = [(0.45, 0), (1, -r.uniform(0.4, 0.6)), (0.85, 0), (1, r.uniform(0.4, 0.6))]
    fin = [(-0.25, -h * 0.9), (0.1, -h * 1.55), (0.3, -h * 0.6)]
    return [fill(SECOND, tail, fin), fill(MAIN, body), fill(DARK, arc(-0.62, -0.1, 0.09, 0.09, n=12))]


def _flower(r: random.Random) -> list[Part]:
    n = r.choice([5, 6, 7])
    petals = [turn(arc(0, -0.78, 0.2, 0.3, n=18), 360 * i / n, 0, -0.35) for i in range(n)]
    leaf = turn(arc(0.25, 0.6, 0.26, 0.1, n=16), -35, 0.02, 0.65)
    return [
        stroke(SECOND, 0.1, [(0, -0.3), (r.uniform(-0.1, 0.1), 0.4), (0, 1.05)]),
        fill(SECOND, leaf),
        fill(MAIN, *petals),
        fill(LIGHT if r.random() < 0.5 else DARK, arc(0, -0.35, 0.22, 0.22, n=20)),
    ]


def _key(r: random.Random) -> list[Part]:
    w, d = r.uniform(0.16, 0.21), r.uniform(0.28, 0.36)
    tooth = r.uniform(0.28, 0.38)
    return [
        stroke(MAIN, w, arc(-0.65, 0, d, d, n=24), [(-0.65 + d, 0), (1, 0)], [(0.92, 0), (0.92, tooth)],
                [(0.58, 0), (0.58, tooth * 0.9)])
    ]  # fmt: skip


def _mug(r: random.Random) -> list[Part]:
    w, taper = r.uniform(0.55, 0.68), r.uniform(0.0, 0.12)
    bottom = arc(-0.2, 0.75, w - taper, 0.14, 0, 180, 12)
    body = np.concatenate([bottom, [(-0.2 - w, -0.7)], arc(-0.2, -0.7, w, 0.14, 180, 360, 12)])
    return [
        stroke(MAIN, 0.16, arc(w - 0.24, 0.05, r.uniform(0.38, 0.48), 0.42, -90, 90, 16)),
        fill(MAIN, body),
        fill(DARK, arc(-0.2, -0.7, w, 0.16, n=24)),
    ]


def _hammer(r: random.Random) -> list[Part]:
    w = r.uniform(0.09, 0.13)
    head = [(-0.62, -0.95), (-0.28, -0.95), (-0.22, -0.86), (0.2, -0.88), (0.7, -0.72), (0.62, -0.55),
            (0.2, -0.55), (-0.22, -0.5), (-0.28, -0.42), (-0.62, -0.42)]  # fmt: skip
    return [fill(SECOND, rect(-w, -0.6, w, 1)), fill(MAIN, head)]


def _umbrella(r: random.Random) -> list[Part]:
    h, n = r.uniform(0.85, 1.0), 4
    dome = arc(0, 0, 1, h, 180, 360, 24)
    scallops = [arc(1 - (2 * i + 1) / n, 0, 1 / n, 0.16, 0, -180, 8) for i in range(n)]
    hook = [(0, -h - 0.12), (0, 0.8), *arc(0.18, 0.8, 0.18, 0.2, 180, 0, 10)]
    return [stroke(DARK, 0.09, hook), fill(MAIN, np.concatenate([dome, *scallops]))]


def _car(r: random.Random) -> list[Part]:
    top, x = r.uniform(-0.52, -0.4), r.uniform(-0.05, 0.1)
    body = [(-1, 0.3), (-1, -0.02), (-0.68, -0.08), (-0.42 + x, top), (0.35 + x, top), (0.68, -0.06),
            (1, 0.04), (1, 0.3)]  # fmt: skip
    y = top + 0.1
    windows = ([(-0.5 + x, -0.08), (-0.36 + x, y), (-0.06 + x, y), (-0.06 + x, -0.08)],
               [(0.05 + x, -0.08), (0.05 + x, y), (0.3 + x, y), (0.5 + x, -0.08)])  # fmt: skip
    d = r.uniform(0.19, 0.24)
    return [
        fill(MAIN, body),
        fill(LIGHT, *windows),
        fill(DARK, arc(-0.55, 0.32, d, d, n=20), arc(0.55, 0.32, d, d, n=20)),
    ]


def _boat(r: random.Random) -> list[Part]:
    x, k = r.uniform(-0.1, 0.1), r.uniform(0.55, 0.75)
    hull = smooth([(-1, 0.4), (-0.68, 0.85), (0.55, 0.85), (1, 0.4)], closed=False)
    return [
        stroke(SECOND, 0.08, [(x, -1), (x, 0.45)]),
        fill(LIGHT, [(x + 0.07, -0.95), (x + 0.07, 0.28), (x + k + 0.1, 0.28)]),
        fill(LIGHT if r.random() < 0.5 else SECOND, [(x - 0.07, -0.75), (x - 0.07, 0.28), (x - k, 0.28)]),
        fill(MAIN, hull),
    ]


def _bird(r: random.Random) -> list[Part]:
    k = r.uniform(0.36, 0.44)
    body = smooth([(-0.55, -0.1), (-0.2, -0.3), (0.3, -0.12), (1, -0.32), (0.95, -0.12), (0.5, 0.28),
                   (0, 0.45), (-0.42, 0.3)])  # fmt: skip
    wing = smooth([(-0.25, 0.0), (0.15, -0.06), (0.6, 0.05), (0.2, k - 0.1)])
    return [
        stroke(DARK, 0.06, [(-0.05, 0.4), (-0.1, 0.85), (-0.28, 0.85)], [(0.2, 0.38), (0.18, 0.85), (0.0, 0.85)]),
        fill(SECOND, [(-0.75, -0.55), (-1.12, -0.4), (-0.75, -0.3)]),
        fill(MAIN, body, arc(-0.5, -0.42, 0.3, 0.29, n=22)),
        fill(SECOND, wing),
        fill(DARK, arc(-0.58, -0.5, 0.065, 0.065, n=10)),
    ]


def _butterfly(r: random.Random) -> list[Part]:
    a, b = r.uniform(0.48, 0.58), r.uniform(0.3, 0.42)
    upper, lower, spots = turn(arc(0.55, -0.4, a, b), -35, 0.55, -0.4), arc(0.42, 0.45, 0.36, 0.36), []
    for sign in (-1, 1):
        spots.append(arc(0.62 * sign, -0.42, 0.16, 0.16, n=14))
        spots.append(arc(0.46 * sign, 0.48, 0.12, 0.12, n=14))
    mirror = np.array([-1, 1])
    return [
        stroke(DARK, 0.05, [(0, -0.5), (0.22, -0.98)], [(0, -0.5), (-0.22, -0.98)]),
        fill(MAIN, lower, lower * mirror, upper, upper * mirror),
        fill(SECOND, *spots),
        fill(DARK, arc(0, 0.05, 0.09, 0.68, n=20)),
    ]


def _mushroom(r: random.Random) -> list[Part]:
    w = r.uniform(0.22, 0.32)
    stem = smooth([(-w, -0.1), (-w * 0.85, 0.5), (-w * 1.25, 0.95), (w * 1.25, 0.95), (w * 0.85, 0.5), (w, -0.1)])
    cap = np.concatenate([arc(0, 0.08, 1, r.uniform(0.85, 1.05), 180, 360, 24), arc(0, 0.08, 1, 0.16, 0, 180, 12)])
    spots = [arc(x, y, d, d * 0.85, n=14) for x, y, d in ((-0.45, -0.3, 0.15), (0.1, -0.5, 0.18), (0.55, -0.2, 0.13))]
    return [fill(LIGHT, stem), fill(MAIN, cap), fill(LIGHT, *spots)]


def _bottle(r: random.Random) -> list[Part]:
    w, n, y = r.uniform(0.32, 0.42), r.uniform(0.1, 0.14), r.uniform(-0.35, -0.15)
    side = [(n, -0.85), (n, y - 0.2), (n + 0.08, y - 0.08), (w, y + 0.12), (w, 0.92), (w - 0.06, 1)]
    return [
        fill(MAIN, [*side, *[(-x, v) for x, v in reversed(side)]]),
        fill(LIGHT, rect(-w, 0.25, w, 0.68)),
        fill(SECOND, rect(-n - 0.03, -1, n + 0.03, -0.8)),
    ]


def _lightning(r: random.Random) -> list[Part]:
    k = r.uniform(-0.08, 0.08)
    return [fill(MAIN, [(0.05, -1), (-0.55, 0.12 + k), (-0.1, 0.12 + k), (-0.35, 1), (0.55, -0.22 + k),
                         (0.1, -0.22 + k), (0.5, -1)])]  # fmt: skip


def _cloud(r: random.Random) -> list[Part]:
    puffs = [(-0.6, 0.2, 0.36), (-0.25, -0.12, r.uniform(0.38, 0.46)), (0.25, -0.02, r.uniform(0.36, 0.44)),
             (0.65, 0.22, 0.33)]  # fmt: skip
    return [fill(MAIN, *[arc(x, y, d, d) for x, y, d in puffs], rect(-0.6, 0.1, 0.65, 0.55))]


def _sun(r: random.Random) -> list[Part]:
    n, d = r.choice([8, 9, 10, 12]), r.uniform(0.48, 0.56)
    rays = [turn(np.array([(-0.14, -d - 0.1), (0, -1), (0.14, -d - 0.1)]), 360 * i / n) for i in range(n)]
    return [fill(MAIN, *rays), fill(MAIN, arc(0, 0, d, d, n=32))]


def _ladder(r: random.Random) -> list[Part]:
    w, n, lean = r.uniform(0.34, 0.42), r.choice([5, 6]), r.uniform(0, 0.08)
    rungs = [[(-w, y), (w, y)] for y in np.linspace(-0.72, 0.75, n)]
    return [stroke(MAIN, 0.1, [(-w + lean, -1), (-w - lean, 1)], [(w - lean, -1), (w + lean, 1)], *rungs)]


def _anchor(r: random.Random) -> list[Part]:
    k, y = r.uniform(0.68, 0.78), r.uniform(-0.42, -0.32)
    hooks = arc(0, 0.2, k, 0.68, 5, 175, 18)
    flukes = [[(s * k - 0.22, 0.34), (s * k + s * 0.06, -0.06), (s * k + 0.22, 0.34)] for s in (-1, 1)]
    return [
        stroke(MAIN, 0.15, arc(0, -0.82, 0.17, 0.17, n=18), [(0, -0.65), (0, 0.85)], [(-0.45, y), (0.45, y)], hooks),
        fill(MAIN, *flukes),
    ]


def _crown(r: random.Random) -> list[Part]:
    y, k = r.uniform(0.0, 0.12), r.uniform(0.42, 0.5)
    top = [(-1, 0.6), (-1, -0.5), (-k, y), (0, -0.75), (k, y), (1, -0.5), (1, 0.6)]
    balls = [arc(x, v, 0.11, 0.11, n=12) for x, v in ((-1, -0.55), (0, -0.8), (1, -0.55))]
    return [fill(MAIN, top), fill(SECOND, rect(-1, 0.35, 1, 0.65)), fill(LIGHT, *balls)]


def _bell(r: random.Random) -> list[Part]:
    w = r.uniform(0.42, 0.52)
    side = [(0.22, -0.82), (w, -0.45), (w + 0.08, 0.1), (0.95, 0.6)]
    half = smooth(side, closed=False)
    body = np.concatenate([half, half[::-1] * np.array([-1, 1])])
    return [
        fill(DARK, arc(0, 0.66, 0.2, 0.22, n=16)),
        fill(SECOND, arc(0, -0.88, 0.14, 0.14, n=14)),
        fill(MAIN, body),
        fill(SECOND, rect(-0.95, 0.46, 0.95, 0.64)),
    ]


def _leaf(r: random.Random) -> list[Part]:
    w = r.uniform(0.42, 0.55)
    side = smooth([(0, -1), (w * 0.75, -0.5), (w, 0.0), (w * 0.7, 0.45), (0, 0.72)], closed=False)
    veins = [[(0, y), (s * w * 0.62, y - 0.26)] for y in (-0.25, 0.1, 0.42) for s in (-1, 1)]
    blade = np.concatenate([side, side[::-1] * np.array([-1, 1])])
    return [fill(MAIN, blade), stroke(SECOND, 0.055, [(0, -0.8), (0, 1.1)], *veins)]


def _glasses(r: random.Random) -> list[Part]:
    d, h = r.uniform(0.34, 0.4), r.uniform(0.28, 0.38)
    left, right = arc(-0.5, 0, d, h, n=24), arc(0.5, 0, d, h, n=24)
    bridge = arc(0, 0.0, 0.14, 0.12, 180, 360, 8)
    arms = ([(-0.5 - d, -0.05), (-1.05, -0.35)], [(0.5 + d, -0.05), (1.05, -0.35)])
    return [fill(LIGHT, left, right), stroke(MAIN, r.uniform(0.09, 0.13), left, right, bridge, *arms)]


def _rocket(r: random.Random) -> list[Part]:
    w = r.uniform(0.28, 0.36)
    side = smooth([(0, -1), (w * 0.75, -0.6), (w, -0.1), (w * 0.75, 0.5)], closed=False)
    fins = [[(s * w * 0.9, 0.0), (s * 0.68, 0.42), (s * 0.68, 0.72), (s * w * 0.7, 0.48)] for s in (-1, 1)]
    flame = [(-w * 0.6, 0.5), (-0.1, 0.8), (0, 1.05), (0.1, 0.8), (w * 0.6, 0.5)]
    return [
        fill(LIGHT, flame),
        fill(SECOND, *fins),
        fill(MAIN, np.concatenate([side, side[::-1] * np.array([-1, 1])])),
        fill(LIGHT, arc(0, -0.3, 0.15, 0.15, n=16)),
    ]


def _cactus(r: random.Random) -> list[Part]:
    a, b = r.uniform(-0.2, 0.05), r.uniform(-0.1, 0.15)
    arms = ([(0, a + 0.35), (-0.5, a + 0.35), (-0.55, a - 0.3)], [(0, b + 0.3), (0.5, b + 0.3), (0.55, b - 0.35)])
    pot = [(-0.45, 0.6), (0.45, 0.6), (0.34, 1.05), (-0.34, 1.05)]
    return [stroke(MAIN, 0.26, [(0, -0.85), (0, 0.65)], *arms), fill(SECOND, pot)]


def _apple(r: random.Random) -> list[Part]:
    w = r.uniform(0.82, 0.95)
    side = [(0, -0.38), (w * 0.45, -0.58), (w * 0.95, -0.3), (w * 0.95, 0.3), (w * 0.5, 0.92), (0, 0.84)]
    body = smooth([*side, *[(-x, y) for x, y in side[-2:0:-1]]])
    return [
        fill(MAIN, body),
        stroke(DARK, 0.1, [(0, -0.36), (0.02, -0.6), (0.1, -0.9)]),
        fill(SECOND, turn(arc(0.38, -0.8, 0.27, 0.12, n=16), -20, 0.38, -0.8)),
    ]


def _hourglass(r: random.Random) -> list[Part]:
    w, n = r.uniform(0.52, 0.64), 0.06
    y = r.uniform(0.35, 0.6)
    x = n + (w - n) * (y - 0.05) / 0.8
    return [
        fill(LIGHT, [(-w, -0.85), (w, -0.85), (n, 0), (w, 0.85), (-w, 0.85), (-n, 0)]),
        fill(MAIN, [(-x * 0.75, -y * 0.75), (x * 0.75, -y * 0.75), (0, 0)], [(-w, 0.85), (0, 0.85 - y), (w, 0.85)]),
        fill(SECOND, rect(-w - 0.14, -1, w + 0.14, -0.8), rect(-w - 0.14, 0.8, w + 0.14, 1)),
    ]


def _snowman(r: random.Random) -> list[Part]:
    d = r.uniform(0.54, 0.62)
    return [
        fill(MAIN, arc(0, 0.5, d, d * 0.9, n=28)),
        fill(MAIN, arc(0, -0.25, 0.36, 0.35, n=24)),
        fill(DARK, rect(-0.45, -0.62, 0.45, -0.5), rect(-0.27, -1.05, 0.27, -0.5)),
        fill(DARK, *[arc(x, y, 0.05, 0.05, n=8) for x, y in ((-0.13, -0.33), (0.13, -0.33), (0, 0.3), (0, 0.6))]),
        fill(SECOND, [(0, -0.25), (0.34, -0.16), (0, -0.13)]),
    ]


# The order of the labels: mixed, so that both halves ("base" and "new" classes) are of like difficulty.
_ORDER: tuple[Glyph, ...] = (
    _fish, _square, _umbrella, _leaf, _crown, _cloud, _bird, star, _mug, _ladder, _heart, _rocket,
    _tree, _arrow, _bell, _glasses, _snowman, _mushroom, _butterfly, circle, _key, _house, _moon, _cactus,
    _car, _triangle, _bottle, _sun, _apple, _anchor, _flower, _cross, _boat, _lightning, _hourglass, _hammer,
)  # fmt: skip
SHAPES: dict[str, Glyph] = {glyph.__name__.strip("_"): glyph for glyph in _ORDER}
