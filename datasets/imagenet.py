"""ImageNet (ILSVRC 2012): photos of 1,000 kinds of things."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Reader
from .files import read_classnames
from .imagenet_files import list_cached, to_items


@DATASET_REGISTRY.register()
class ImageNet(Reader):
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
    read_classnames = staticmethod(read_classnames)
    needs = ("images/train", "images/val", "classnames.txt")

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._val = self._val or self._test

    def read_lists(self, cfg: Any) -> tuple[list[Datum], None, list[Datum]]:
        """List the folders; the validation images are the test images."""
        names_file = os.path.join(self.dataset_dir, "classnames.txt")
        names = read_classnames(names_file)
        listing = list_cached(self.image_dir, os.path.join(self.dataset_dir, "preprocessed.json"))
        train, test = (
            to_items(os.path.join(self.image_dir, part), listing[part], names, names_file) for part in ("train", "val")
        )
        return train, None, test
