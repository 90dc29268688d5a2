"""What ImageNet and its variants share: class folders, and class names in a text file."""

import hashlib
import os
from typing import Any

from dassl.data.datasets import Datum
from dassl.utils import read_json

from .base import Reader
from .files import list_folders, list_images, read_classnames, require, write_json


def list_cached(image_dir: str, cache: str) -> dict[str, dict[str, list[str]]]:
    """List train and val by class folder; the 1.3 million names are kept in a file until a folder changes."""
    folders = {part: list_folders(os.path.join(image_dir, part)) for part in ("train", "val")}
    stamp = hashlib.sha256()
    for part, names in folders.items():
        for name in names:
            changed = os.stat(os.path.join(image_dir, part, name)).st_mtime_ns
            stamp.update(f"{part}/{name} {changed}\n".encode())
    try:
        kept = read_json(cache)
        if kept["stamp"] == stamp.hexdigest():
            return {"train": kept["train"], "val": kept["val"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    listing = {
        part: {name: list_images(os.path.join(image_dir, part, name)) for name in names}
        for part, names in folders.items()
    }
    write_json({"stamp": stamp.hexdigest(), **listing}, cache, "ImageNet's listing")
    return listing


def to_items(folder: str, images: dict[str, list[str]], names: dict[str, str], names_file: str) -> list[Datum]:
    """Items of class folders, labelled from 0 in the order of `images`; `images` and `names` go by class folder.

    Raises:
        ValueError: a folder without a name, or without images.
    """
    unnamed = [f for f in images if f not in names]
    if unnamed:
        raise ValueError(f"{names_file} has no name for {len(unnamed)} folders of {folder}: {unnamed[:5]}.")
    empty = [f for f, found in images.items() if not found]
    if empty or not images:
        raise ValueError(f"{folder} has no images" + (f" in the class folders {empty[:5]}." if empty else "."))
    return [
        Datum(impath=os.path.join(folder, f, image), label=label, classname=names[f])
        for label, (f, found) in enumerate(images.items())
        for image in found
    ]


class ImageNetVariant(Reader):
    """One of ImageNet's test sets, over the classes that it has; its images also stand in as train.

    Attributes:
        numbered: class folders are called 0, 1, ... in the order of classnames.txt; else labels follow the sorted
            folders.
    """

    test_only = True
    numbered = False

    def read_lists(self, cfg: Any) -> tuple[list[Datum], None, list[Datum]]:
        """List the class folders; ``imagenet/classnames.txt`` serves where the set has no file of its own."""
        own = os.path.join(self.dataset_dir, "classnames.txt")
        shared = os.path.join(self.root, "imagenet", "classnames.txt")
        names_file = own if os.path.exists(own) or not os.path.exists(shared) else shared
        require(self, names_file)
        names = read_classnames(names_file)
        if self.numbered:
            names = {str(number): name for number, name in enumerate(names.values())}
            require(self, *(os.path.join(self.image_dir, number) for number in names))
        folders = list(names) if self.numbered else list_folders(self.image_dir)
        images = {f: list_images(os.path.join(self.image_dir, f)) for f in folders}
        items = to_items(self.image_dir, images, names, names_file)
        return items, None, items
