"""FGVCAircraft: photos of aircraft of 100 variants."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Reader
from .files import parse_lines, read_lines, require_images
from .splits import Lists


@DATASET_REGISTRY.register()
class FGVCAircraft(Reader):
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
    needs = ("variants.txt",)
    official = {"classes": 100, "train": 3334, "val": 3333, "test": 3333}

    def read_lists(self, cfg: Any) -> Lists:
        """Read the three official lists."""
        names = read_lines(os.path.join(self.dataset_dir, "variants.txt"))
        labels = {name: label for label, name in enumerate(names)}
        train, val, test = (self.read_data(labels, f"images_variant_{part}.txt") for part in ("train", "val", "test"))
        require_images([d.impath for d in train + val + test], self.dataset_dir)
        return train, val, test

    def read_data(self, cname2lab: dict[str, int], split_file: str) -> list[Datum]:
        """Read lines ``<image> <class name>``."""

        def parse(line: str) -> Datum:
            name, classname = line.split(" ", 1)
            return Datum(os.path.join(self.image_dir, name + ".jpg"), label=cname2lab[classname], classname=classname)

        path = os.path.join(self.dataset_dir, split_file)
        return parse_lines(self, path, "<image> <class name>, with a name of variants.txt", parse)
