"""EuroSAT: satellite images of ten kinds of land."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common

NEW_CNAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


@DATASET_REGISTRY.register()
class EuroSAT(DatasetBase):
    """EuroSAT (Helber et al., EuroSAT: a novel dataset and deep learning benchmark, 2019), RGB version.

    Source: https://github.com/phelber/EuroSAT. Licence: MIT.

    Expected tree::

        eurosat/
            2750/<class>/<image>
            split_zhou_EuroSAT.json         drawn (50/20/30 per class) when it is missing

    Official counts: 10 classes; 13,500 train, 5,400 val, 8,100 test images.
    """

    dataset_dir = "eurosat"
    official = {"classes": 10, "train": 13500, "val": 5400, "test": 8100}

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "2750")
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_EuroSAT.json")
        common.require(self, self.image_dir)
        lists = common.load_or_make_split(
            cfg,
            self.split_path,
            self.image_dir,
            lambda rng: common.read_and_split_data(self.image_dir, new_cnames=NEW_CNAMES, rng=rng),
        )
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)
