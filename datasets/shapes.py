"""Rendered data sets, which need no download: `Shapes`, `Patterns`, `Digits` and `Counts`.

They are drawn by `datasets.rendered.render` at the first use and look like PACS on disk. ``python -m
datasets.rendered.contact_sheet out.png`` shows what they look like.
"""

import contextlib
import glob
import itertools
import json
import os
import random
import shutil
import tempfile
import time
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import progress, read_json

from .base import DomainReader
from .files import data_root, respect_read_only
from .image_folder import load_splits
from .rendered.render import DOMAINS, VOCABULARIES, render
from .splits import Lists

VERSION = 1  # count up whenever the same seed gives other pixels
SEED = 0  # of the pictures; it belongs to the data set, so it does not follow cfg.SEED
SIZE_PX = 80
IMAGES = {"train": 16, "val": 4, "test": 20}  # per class and domain
STAMP = "rendered.json"
STALE_SEC = 3600  # no rendering takes that long: older unfinished folders were left behind by a kill


def split_name(name: str) -> str:
    """File name of the split of a rendered set."""
    return f"split_zhou_{name}.json"


class Rendered(DomainReader):
    """Base of the rendered sets: draws the pictures when they are missing, then reads them as any other set."""

    domains = list(DOMAINS)

    def __init_subclass__(cls) -> None:
        cls.dataset_dir = cls.__name__.lower()
        top = f"{cls.dataset_dir}/".ljust(32)
        parts = ", ".join(f"{images} {part}" for part, images in IMAGES.items())
        n, each = len(VOCABULARIES[cls.__name__]), sum(IMAGES.values())
        cls.__doc__ = f"""{cls.__doc__}
Rendered by this repository under its licence.

Expected tree::

    {top} made at the first use
        images/<domain>/<class>/     domains: {", ".join(DOMAINS)}
        {split_name(cls.__name__)}
        rendered.json                version, seed and numbers of the rendering

Counts: {n} classes; {each} images ({parts}) per class and domain, {n * len(DOMAINS) * each:,} in all.
"""

    def __init__(self, cfg: Any) -> None:
        render_dataset(type(self).__name__, os.path.join(data_root(cfg), self.dataset_dir))
        super().__init__(cfg)

    def read_splits(self, cfg: Any) -> dict[str, Lists]:
        """The lists of each domain, from the split file that was written with the pictures."""
        return load_splits(cfg, self.image_dir, os.path.join(self.dataset_dir, split_name(type(self).__name__)))


@DATASET_REGISTRY.register()
class Shapes(Rendered):
    """Everyday things and plain shapes, one to a picture."""


@DATASET_REGISTRY.register()
class Patterns(Rendered):
    """Textures that fill the picture."""


@DATASET_REGISTRY.register()
class Digits(Rendered):
    """The digits zero to nine."""


@DATASET_REGISTRY.register()
class Counts(Rendered):
    """One to six small circles or stars."""


def render_dataset(name: str, folder: str) -> str:
    """Draw a whole data set, unless it is there already.

    Everything is written into an unfinished folder beside the final one, which then gets its name in one
    step: no reader ever sees half a set, and of two processes that render at once the first one wins.

    Args:
        name: a key of `datasets.rendered.render.VOCABULARIES`.
        folder: where the set belongs.

    Returns:
        `folder`.

    Raises:
        ValueError: the folder holds something else, or pictures of another version of the renderer.
        OSError: the folder's parent cannot be written to.
    """
    if os.path.exists(folder):
        _check_stamp(name, folder)
        return folder
    parent, base = os.path.split(folder)
    respect_read_only(parent)
    os.makedirs(parent, exist_ok=True)
    prefix = f".{base}-unfinished-"
    _remove_stale(parent, prefix)
    unfinished = tempfile.mkdtemp(prefix=prefix, dir=parent)
    try:
        _draw_all(name, unfinished)
        os.chmod(unfinished, 0o755)  # mkdtemp's 0700 would lock out the others on a shared disk
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not os.path.exists(folder):
                raise
            _check_stamp(name, folder)  # another process was faster; its pictures are the same
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _draw_all(name: str, folder: str) -> None:
    split: dict[str, list[list[Any]]] = {part: [] for part in IMAGES}
    parts = [part for part, n in IMAGES.items() for _ in range(n)]
    groups = list(itertools.product(DOMAINS, enumerate(VOCABULARIES[name])))
    for domain, (label, class_name) in progress(groups, f"Rendering {name}", unit="class"):
        sub = f"{domain}/{class_name.replace(' ', '_')}"
        os.makedirs(os.path.join(folder, "images", sub))
        for i, part in enumerate(parts):
            image = render(name, class_name, domain, image_rng(name, class_name, domain, i), SIZE_PX)
            path = f"{sub}/{i + 1:04d}.png"
            image.save(os.path.join(folder, "images", path))
            split[part].append([path, label, class_name])
    for file, content in ((split_name(name), split), (STAMP, stamp(name))):
        with open(os.path.join(folder, file), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=1 if file == STAMP else None)


def image_rng(name: str, class_name: str, domain: str, index: int, seed: int | str = SEED) -> random.Random:
    """The generator that picture `index` of a class in a domain is drawn with."""
    return random.Random(f"{seed}/{name}/{domain}/{class_name}/{index}")


def stamp(name: str) -> dict[str, Any]:
    """What the pictures of a set depend on."""
    return {
        "dataset": name,
        "version": VERSION,
        "seed": SEED,
        "size_px": SIZE_PX,
        "images": IMAGES,
        "domains": list(DOMAINS),
        "classes": list(VOCABULARIES[name]),
    }


def _check_stamp(name: str, folder: str) -> None:
    try:
        found = read_json(os.path.join(folder, STAMP))
    except (OSError, ValueError) as e:
        raise ValueError(
            f"{name}: {folder} was not rendered by this reader (no readable {STAMP} in it: {e}). "
            "Move it away, or choose another DATASET.ROOT."
        ) from e
    wanted = stamp(name)
    differing = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
    if differing:
        raise ValueError(
            f"{name}: {folder} was rendered by another version of this repository (other "
            f"{', '.join(differing)}). Delete the folder; it is then rendered anew."
        )


def _remove_stale(parent: str, prefix: str) -> None:
    for path in glob.glob(glob.escape(os.path.join(parent, prefix)) + "*"):
        with contextlib.suppress(FileNotFoundError):  # its process has just finished
            if time.time() - os.path.getmtime(path) > STALE_SEC:
                shutil.rmtree(path, ignore_errors=True)
