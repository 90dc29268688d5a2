"""Made-up lists of images."""

import random

from dassl.data.datasets import Datum


def made_up(n: int, classes: int, seed: int, folder: str = "/data") -> list[Datum]:
    """Items whose labels first occur in an arbitrary order and are unevenly many."""
    rng = random.Random(seed)
    labels = list(range(classes)) + [min(rng.randrange(classes), rng.randrange(classes)) for _ in range(n)]
    rng.shuffle(labels)
    return [Datum(impath=f"{folder}/im{i:04d}.jpg", label=y, classname=f"c{y}") for i, y in enumerate(labels)]


def paths(items: list[Datum] | None) -> list[str]:
    return [d.impath for d in items or []]
