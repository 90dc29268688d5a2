"""ImageNetV2: new test images for ImageNet's classes."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common
from .imagenet_files import read_variant


@DATASET_REGISTRY.register()
class ImageNetV2(DatasetBase):
    """ImageNetV2, matched frequency (Recht et al., Do ImageNet classifiers generalize to ImageNet?, 2019).

    Source: https://github.com/modestyachts/ImageNetV2. Licence: MIT.

    Expected tree::

        imagenetv2/
            imagenetv2-matched-frequency-format-val/<0 to 999>/<image>
            classnames.txt                  ImageNet's; its line order gives the labels

    Official counts: 1,000 classes; 10,000 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, folder i holds the class of line i of classnames.txt, counted from 0.
    """

    dataset_dir = "imagenetv2"
    official = {"classes": 1000, "test": 10000}
    test_only = True

    def __init__(self, cfg: Any) -> None:
        root = common.data_root(cfg)
        self.dataset_dir = os.path.join(root, self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "imagenetv2-matched-frequency-format-val")
        items = read_variant(self, root, self.image_dir, numbered=True)
        train, _, test = common.finalize(cfg, self.dataset_dir, items, None, items, few_shot=False)
        super().__init__(train_x=train, test=test)
