"""Photograph-like pictures in a folder per class, for the benchmarks that read images."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image


def make_pictures(folder: Path, classes: int, per_class: int, width: int, height: int) -> Path:
    """Fill the folder with <class>/<number>.jpg, smooth random colours, and return it.

    The files are as large as those of ImageNet where 500 x 375 pixels are asked for.
    """
    draw = random.Random(0)
    for c in range(classes):
        place = folder / f"class {c}"
        place.mkdir(parents=True)
        for i in range(per_class):
            small = Image.frombytes("RGB", (width // 4, height // 4), draw.randbytes(width // 4 * (height // 4) * 3))
            coarse = small.resize((width // 16, height // 16)).resize((width, height), Image.Resampling.BICUBIC)
            fine = small.resize((width, height), Image.Resampling.BILINEAR)
            Image.blend(coarse, fine, 0.3).save(place / f"{i}.jpg", quality=90)
    return folder
