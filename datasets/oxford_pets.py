"""OxfordPets: photos of cats and dogs of 37 breeds."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Reader
from .few_shot import subsample_classes
from .files import parse_lines
from .splits import Lists, read_split, save_split, split_trainval


@DATASET_REGISTRY.register()
class OxfordPets(Reader):
    """Oxford-IIIT Pet (Parkhi et al., Cats and dogs, CVPR 2012).

    Source: https://www.robots.ox.ac.uk/~vgg/data/pets. Licence: CC BY-SA 4.0.

    Expected tree::

        oxford_pets/
            images/<image>
            annotations/trainval.txt        with test.txt; only read when the split file is missing
            split_zhou_OxfordPets.json      drawn (val: 20 % of trainval) when it is missing

    Official counts: 37 classes; 2,944 train, 736 val, 3,669 test images.
    """

    dataset_dir = "oxford_pets"
    official = {"classes": 37, "train": 2944, "val": 736, "test": 3669}

    # Data set files written for CoOp reach the shared helpers by these names.
    read_split = staticmethod(read_split)
    save_split = staticmethod(save_split)
    split_trainval = staticmethod(split_trainval)
    subsample_classes = staticmethod(subsample_classes)

    def make_split(self, rng: Any) -> Lists:
        """Split the official trainval list; the official test list stays as it is."""
        train, val = split_trainval(self.read_data("trainval.txt"), rng=rng)
        return train, val, self.read_data("test.txt")

    def read_data(self, split_file: str) -> list[Datum]:
        """Read lines ``<Breed_name>_<number> <label from 1> <species> <breed>``."""

        def parse(line: str) -> Datum:
            name, label, _, _ = line.split(" ")
            image = os.path.join(self.image_dir, name + ".jpg")
            return Datum(impath=image, label=int(label) - 1, classname=name.rpartition("_")[0].lower())

        path = os.path.join(self.dataset_dir, "annotations", split_file)
        return parse_lines(self, path, "<Breed_name>_<number> <label from 1> <species> <breed>", parse)
