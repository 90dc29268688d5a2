"""ImageNet-R: art, cartoons, toys and other renditions of 200 of ImageNet's classes."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common
from .imagenet_files import read_variant


@DATASET_REGISTRY.register()
class ImageNetR(DatasetBase):
    """ImageNet-R (Hendrycks et al., The many faces of robustness, ICCV 2021).

    Source: https://github.com/hendrycks/imagenet-r. Licence: MIT.

    Expected tree::

        imagenet-rendition/
            imagenet-r/<wnid>/<image>
            classnames.txt                  ImageNet's; labels 0 to 199 follow the sorted folders

    Official counts: 200 classes; 30,000 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, a prediction is one of these 200 classes, not of ImageNet's 1,000.
    """

    dataset_dir = "imagenet-rendition"
    official = {"classes": 200, "test": 30000}
    test_only = True

    def __init__(self, cfg: Any) -> None:
        root = common.data_root(cfg)
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "imagenet-r")
        items = read_variant(self, root, self.image_dir)
        train, _, test = common.finalize(cfg, self.dataset_dir, items, None, items, few_shot=False)
        super().__init__(train_x=train, test=test)
