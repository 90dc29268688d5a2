"""Food101: photos of 101 dishes."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common


@DATASET_REGISTRY.register()
class Food101(DatasetBase):
    """Food-101 (Bossard et al., Mining discriminative components with random forests, ECCV 2014).

    Source: https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101. Licence: research.

    Expected tree::

        food-101/
            images/<class>/<image>
            split_zhou_Food101.json         drawn (50/20/30 per class) when it is missing

    Official counts: 101 classes; 50,500 train, 20,200 val, 30,300 test images.
    """

    dataset_dir = "food-101"
    official = {"classes": 101, "train": 50500, "val": 20200, "test": 30300}

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_Food101.json")
        common.require(self, self.image_dir)
        lists = common.load_or_make_split(
            cfg,
            self.split_path,
            self.image_dir,
            lambda rng: common.read_and_split_data(self.image_dir, rng=rng),
        )
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)
