"""ImageNet (ILSVRC 2012): photos of 1,000 kinds of things."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

from . import common
from .imagenet_files import list_cached, to_items


@DATASET_REGISTRY.register()
class ImageNet(DatasetBase):
    """ImageNet (Deng et al., ImageNet: a large-scale hierarchical image database, CVPR 2009).

    Source: https://image-net.org (login). Licence: non-commercial research and education.

    Expected tree::

        imagenet/
            images/train/<wnid>/<image>     1,000 folders such as n01440764
            images/val/<wnid>/<image>
            classnames.txt                  lines "<wnid> <class name>"

    Official counts: 1,000 classes; 1,281,167 train, 50,000 test images. The official validation images are
    the test images, and also stand in as val, as in CoOp. Images are listed sorted by name; CoOp takes the
    order of the file system here, so its few-shot picks of ImageNet differ from machine to machine.
    """

    dataset_dir = "imagenet"
    official = {"classes": 1000, "train": 1281167, "test": 50000}
    read_classnames = staticmethod(common.read_classnames)

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        names_file = os.path.join(self.dataset_dir, "classnames.txt")
        parts = [os.path.join(self.image_dir, part) for part in ("train", "val")]
        common.require(self, *parts, names_file)
        names = common.read_classnames(names_file)
        listing = list_cached(self.image_dir, os.path.join(self.dataset_dir, "preprocessed.json"))
        train, test = (to_items(part, listing[os.path.basename(part)], names, names_file) for part in parts)
        train, _, test = common.finalize(cfg, self.dataset_dir, train, None, test)
        super().__init__(train_x=train, val=test, test=test)
