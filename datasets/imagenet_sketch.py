"""ImageNet-Sketch: sketches of ImageNet's classes."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common
from .imagenet_files import read_variant


@DATASET_REGISTRY.register()
class ImageNetSketch(DatasetBase):
    """ImageNet-Sketch (Wang et al., Learning robust global representations, NeurIPS 2019).

    Source: https://github.com/HaohanWang/ImageNet-Sketch. Licence: MIT.

    Expected tree::

        imagenet-sketch/
            images/<wnid>/<image>
            classnames.txt                  ImageNet's

    Official counts: 1,000 classes; 50,889 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, labels follow the sorted folders, which gives the labels of `ImageNet`.
    """

    dataset_dir = "imagenet-sketch"
    official = {"classes": 1000, "test": 50889}
    test_only = True

    def __init__(self, cfg: Any) -> None:
        root = common.data_root(cfg)
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        items = read_variant(self, root, self.image_dir)
        train, _, test = common.finalize(cfg, self.dataset_dir, items, None, items, few_shot=False)
        super().__init__(train_x=train, test=test)
