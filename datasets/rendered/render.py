"""Draw a class of the rendered data sets in one of four styles: `photo`, `sketch`, `painting` and `cartoon`.

`render` is a pure function of its arguments: the same generator state gives the same pixels. Only Pillow and
numpy are used. Pictures are drawn at twice the asked size and averaged down.
"""

import math
import random

import numpy as np
from PIL import Image

from dassl.names import choose

from .glyphs import SHAPES
from .outlines import COUNTS, DIGITS, PATTERNS, Glyph, Part
from .styles import STYLES, Palette, hsv, luminance, mix

DOMAINS = tuple(STYLES)
VOCABULARIES: dict[str, dict[str, Glyph]] = {"Shapes": SHAPES, "Patterns": PATTERNS, "Digits": DIGITS, "Counts": COUNTS}
# Classes that stay themselves at any angle; all others turn by at most 22 degrees.
_ANY_ANGLE = {"star", "circle", "sun", "key", "hammer", "leaf", "arrow", "stripes", "polka dots", "confetti",
              "spiral", "rings", "honeycomb"}  # fmt: skip
# Hues (0-1) of the main and second colour that half of the pictures of a class take.
_NATURAL = {
    "tree": (0.33, 0.08), "cactus": (0.35, 0.06), "leaf": (0.3, 0.25), "sun": (0.13, 0.1),
    "heart": (0.98, 0.9), "apple": (0.99, 0.3), "flower": (0.92, 0.33), "crown": (0.13, 0.0),
    "lightning": (0.14, 0.1), "cloud": (0.58, 0.6), "mushroom": (0.01, 0.1), "snowman": (0.56, 0.08),
    "bell": (0.12, 0.08), "moon": (0.15, 0.1), "bricks": (0.03, 0.05), "honeycomb": (0.12, 0.09),
    "hammer": (0.6, 0.08),
}  # fmt: skip


def render(dataset: str, class_name: str, domain: str, rng: random.Random, size: int) -> Image.Image:
    """Draw one picture.

    Args:
        dataset: A key of `VOCABULARIES`.
        class_name: A class of that data set.
        domain: One of `DOMAINS`.
        rng: Source of all randomness; it is advanced.
        size: Side of the square picture in pixels, at least 16.

    Returns:
        An RGB picture of `size` x `size` pixels.

    Raises:
        ValueError: If the data set, class or domain is unknown or the size too small.
    """
    classes = VOCABULARIES[choose(dataset, VOCABULARIES, "dataset")]
    parts = classes[choose(class_name, classes, "class name")](rng)
    if size < 16:
        raise ValueError(f"size: got {size}, must be at least 16 pixels")
    style = STYLES[choose(domain, STYLES, "domain")]
    placed = _place(parts, class_name, dataset, rng, 2 * size)
    palette = _palette(class_name, rng)
    return style(placed, palette, rng, np.random.default_rng(rng.getrandbits(32)), size, dataset)


def _place(parts: list[Part], name: str, dataset: str, rng: random.Random, side: int) -> list[Part]:
    """Flip, turn, stretch, scale and move the parts into a frame of `side` pixels."""
    angle = math.radians(rng.uniform(-180, 180) if name in _ANY_ANGLE else rng.uniform(-22, 22))
    flip = -1.0 if dataset != "Digits" and rng.random() < 0.5 else 1.0
    stretch = rng.uniform(0.9, 1.1)
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[flip * stretch, 0], [0, 1 / stretch]]) @ np.array([[c, s], [-s, c]])
    turned = [part._replace(paths=[path @ matrix for path in part.paths]) for part in parts]
    if dataset == "Patterns":
        unit, shift = side / 2 * rng.uniform(0.95, 1.1), np.array([side / 2, side / 2])
    else:
        points = np.concatenate([path for part in turned for path in part.paths])
        low, high = points.min(axis=0), points.max(axis=0)
        share = rng.uniform(0.8, 0.9) if dataset == "Counts" else rng.uniform(0.55, 0.85)
        if dataset == "Counts":  # one object stays as small as the objects of a crowd
            low, high = np.minimum(low, -0.9), np.maximum(high, 0.9)
        unit = side * share / max(high - low)
        room = (side - unit * (high - low)) / 2 * 0.85
        shift = side / 2 - unit * (low + high) / 2 + room * [rng.uniform(-1, 1), rng.uniform(-1, 1)]
    return [Part(p.role, [path * unit + shift for path in p.paths], p.width * unit) for p in turned]


def _palette(name: str, rng: random.Random) -> Palette:
    """Colours of the roles MAIN, SECOND, DARK and LIGHT."""
    hue = rng.random()
    second = hue + rng.uniform(0.25, 0.75)
    if name in _NATURAL and rng.random() < 0.5:
        hue, second = (base + rng.uniform(-0.03, 0.03) for base in _NATURAL[name])
    main = hsv(hue, rng.uniform(0.5, 0.95), rng.uniform(0.55, 0.95))
    other = hsv(second, rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95))
    if abs(luminance(main) - luminance(other)) < 40:  # keep the two apart in grey as well
        other = mix(other, (255, 255, 255) if luminance(main) < 128 else (20, 20, 30), 0.5)
    return [main, other, hsv(rng.random(), 0.4, rng.uniform(0.1, 0.25)), hsv(rng.random(), 0.1, rng.uniform(0.85, 1))]
