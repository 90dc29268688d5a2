"""FGVCAircraft: photos of aircraft of 100 variants."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from . import common


@DATASET_REGISTRY.register()
class FGVCAircraft(DatasetBase):
    """FGVC-Aircraft (Maji et al., Fine-grained visual classification of aircraft, 2013), variant level.

    Source: https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft. Licence: non-commercial research.

    Expected tree::

        fgvc_aircraft/
            images/<image>.jpg
            variants.txt                    class names in label order
            images_variant_train.txt        with _val.txt and _test.txt: lines "<image> <class name>"

    Official counts: 100 classes; 3,334 train, 3,333 val, 3,333 test images.
    """

    dataset_dir = "fgvc_aircraft"
    official = {"classes": 100, "train": 3334, "val": 3333, "test": 3333}

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        variants = os.path.join(self.dataset_dir, "variants.txt")
        common.require(self, self.image_dir, variants)
        labels = {name: label for label, name in enumerate(common.read_lines(variants))}
        lists = [self.read_data(labels, f"images_variant_{part}.txt") for part in ("train", "val", "test")]
        common.require_images([d.impath for items in lists for d in items], self.dataset_dir)
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)

    def read_data(self, cname2lab: dict[str, int], split_file: str) -> list[Datum]:
        """Read lines ``<image> <class name>``."""
        path = os.path.join(self.dataset_dir, split_file)
        common.require(self, path)
        items = []
        for line in common.read_lines(path):
            with common.parsing(f"{path}, {line!r}", "<image> <class name>, with a name of variants.txt"):
                name, classname = line.split(" ", 1)
                image = os.path.join(self.image_dir, name + ".jpg")
                items.append(Datum(impath=image, label=cname2lab[classname], classname=classname))
        return items
