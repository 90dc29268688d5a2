"""DTD: photos of 47 textures."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common


@DATASET_REGISTRY.register()
class DescribableTextures(DatasetBase):
    """Describable Textures (Cimpoi et al., Describing textures in the wild, CVPR 2014).

    Source: https://www.robots.ox.ac.uk/~vgg/data/dtd. Licence: research.

    Expected tree::

        dtd/
            images/<class>/<image>
            split_zhou_DescribableTextures.json     drawn (50/20/30 per class) when it is missing

    Official counts: 47 classes; 2,820 train, 1,128 val, 1,692 test images.
    """

    dataset_dir = "dtd"
    official = {"classes": 47, "train": 2820, "val": 1128, "test": 1692}

    # Data set files written for CoOp reach the shared helper by this name.
    read_and_split_data = staticmethod(common.read_and_split_data)

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_DescribableTextures.json")
        common.require(self, self.image_dir)
        lists = common.load_or_make_split(
            cfg,
            self.split_path,
            self.image_dir,
            lambda rng: common.read_and_split_data(self.image_dir, rng=rng),
        )
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)
