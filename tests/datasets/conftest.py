"""Small made-up data sets, and configs for them."""

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dassl.config import get_cfg_default


def touch_images(root: Path, names: Iterable[str]) -> list[str]:
    """Make files that only need to exist, not to decode."""
    paths = []
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        paths.append(str(path))
    return paths


def save_image(path: Path, seed: int = 0) -> None:
    """Write an image that decodes, with its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    Image.new("RGB", (8, 8), tuple(rng.randrange(256) for _ in range(3))).save(path)


def make_config(root: Path, output: Path, **options: Any) -> Any:
    """The default config with DATASET keys (SEED and OUTPUT_DIR too) given as keyword arguments."""
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = str(root)
    cfg.OUTPUT_DIR = str(output)
    cfg.SEED = 1
    for key, value in options.items():
        node = cfg if key in ("SEED", "OUTPUT_DIR") else cfg.DATASET
        node[key] = tuple(value) if isinstance(value, list) else value
    return cfg


@pytest.fixture
def touch() -> Callable[[Path, Iterable[str]], list[str]]:
    return touch_images


@pytest.fixture
def image() -> Callable[..., None]:
    return save_image


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Any]:
    def build(root: Path | None = None, **options: Any) -> Any:
        return make_config(root or tmp_path / "data", tmp_path / "output", **options)

    return build


@pytest.fixture
def web() -> Iterator[Any]:
    from tests.datasets.web import Web

    server = Web()
    yield server
    server.close()
