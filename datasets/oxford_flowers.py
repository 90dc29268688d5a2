"""OxfordFlowers: photos of flowers of 102 kinds."""

import os
from collections import defaultdict
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import read_json

from .base import Reader
from .fetch.matfile import read_mat
from .files import parsing, require
from .splits import Lists, split_class


@DATASET_REGISTRY.register()
class OxfordFlowers(Reader):
    """102 Category Flower (Nilsback and Zisserman, Automated flower classification, ICVGIP 2008).

    Source: https://www.robots.ox.ac.uk/~vgg/data/flowers/102. Licence: none stated.

    Expected tree::

        oxford_flowers/
            jpg/image_<number>.jpg
            imagelabels.mat                 with cat_to_name.json; only read when the split file is missing
            cat_to_name.json
            split_zhou_OxfordFlowers.json   drawn (50/20/30 per class) when it is missing

    Official counts: 102 classes; 4,093 train, 1,633 val, 2,463 test images.
    """

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    official = {"classes": 102, "train": 4093, "val": 1633, "test": 2463}

    def make_split(self, rng: Any) -> Lists:
        """Split every class; image i + 1 has the i-th label of the label file."""
        label_file = os.path.join(self.dataset_dir, "imagelabels.mat")
        names_file = os.path.join(self.dataset_dir, "cat_to_name.json")
        require(self, label_file, names_file)
        content, images = read_mat(label_file), defaultdict(list)
        with parsing(label_file, "the variable labels, numbers from 1"):
            for number, label in enumerate(content["labels"], start=1):
                images[int(label)].append(os.path.join(self.image_dir, f"image_{number:05d}.jpg"))
        with parsing(names_file, f"a JSON object with a name for every label of {label_file}"):
            titles = read_json(names_file)
            names = {label: titles[str(label)] for label in images}
        lists: Lists = ([], [], [])
        for label, paths in images.items():
            parts = split_class(paths, names[label], rng=rng)
            for items, part in zip(lists, parts, strict=True):
                items.extend(Datum(impath=p, label=label - 1, classname=names[label]) for p in part)
        return lists
