"""Caltech101: photos of 100 kinds of objects."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common

IGNORED = ("BACKGROUND_Google", "Faces_easy")
NEW_CNAMES = {
    "airplanes": "airplane",
    "Faces": "face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
}


@DATASET_REGISTRY.register()
class Caltech101(DatasetBase):
    """Caltech101 (Fei-Fei et al., Learning generative visual models from few training examples, 2004).

    Source: https://data.caltech.edu/records/mzrjq-6wc02. Licence: CC BY 4.0.

    Expected tree::

        caltech-101/
            101_ObjectCategories/<class>/<image>
            split_zhou_Caltech101.json      drawn (50/20/30 per class) when it is missing

    Official counts: 100 classes; 4,128 train, 1,649 val, 2,465 test images. The background class and the
    second class of faces are left out.
    """

    dataset_dir = "caltech-101"
    official = {"classes": 100, "train": 4128, "val": 1649, "test": 2465}

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "101_ObjectCategories")
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_Caltech101.json")
        common.require(self, self.image_dir)
        lists = common.load_or_make_split(
            cfg,
            self.split_path,
            self.image_dir,
            lambda rng: common.read_and_split_data(self.image_dir, ignored=IGNORED, new_cnames=NEW_CNAMES, rng=rng),
        )
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)
