"""OxfordFlowers: photos of flowers of 102 kinds."""

import json
import os
from collections import defaultdict
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from . import common
from .fetch.matfile import read_mat


@DATASET_REGISTRY.register()
class OxfordFlowers(DatasetBase):
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
    official = {"classes": 102, "train": 4093, "val": 1633, "test": 2463}

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "jpg")
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_OxfordFlowers.json")
        common.require(self, self.image_dir)
        lists = common.load_or_make_split(cfg, self.split_path, self.image_dir, self.make_split)
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)

    def make_split(self, rng: Any) -> common.Lists:
        """Split every class; image i + 1 has the i-th label of the label file."""
        label_file = os.path.join(self.dataset_dir, "imagelabels.mat")
        names_file = os.path.join(self.dataset_dir, "cat_to_name.json")
        common.require(self, label_file, names_file)
        content, images = read_mat(label_file), defaultdict(list)
        with common.parsing(label_file, "the variable labels, numbers from 1"):
            for number, label in enumerate(content["labels"], start=1):
                images[int(label)].append(os.path.join(self.image_dir, f"image_{number:05d}.jpg"))
        with common.parsing(names_file, f"a JSON object with a name for every label of {label_file}"):
            with open(names_file, encoding="utf-8") as f:
                titles = json.load(f)
            names = {label: titles[str(label)] for label in images}
        lists: common.Lists = ([], [], [])
        for label, paths in images.items():
            parts = common.split_class(paths, names[label], rng=rng)
            for items, part in zip(lists, parts, strict=True):
                items.extend(Datum(impath=p, label=label - 1, classname=names[label]) for p in part)
        return lists
