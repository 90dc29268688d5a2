"""OxfordPets: photos of cats and dogs of 37 breeds."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from . import common


@DATASET_REGISTRY.register()
class OxfordPets(DatasetBase):
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
    read_split = staticmethod(common.read_split)
    save_split = staticmethod(common.save_split)
    split_trainval = staticmethod(common.split_trainval)
    subsample_classes = staticmethod(common.subsample_classes)

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.image_dir = os.path.join(self.dataset_dir, "images")
        self.anno_dir = os.path.join(self.dataset_dir, "annotations")
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_OxfordPets.json")
        common.require(self, self.image_dir)
        lists = common.load_or_make_split(cfg, self.split_path, self.image_dir, self.make_split)
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)

    def make_split(self, rng: Any) -> common.Lists:
        """Split the official trainval list; the official test list stays as it is."""
        train, val = common.split_trainval(self.read_data("trainval.txt"), rng=rng)
        return train, val, self.read_data("test.txt")

    def read_data(self, split_file: str) -> list[Datum]:
        """Read lines ``<Breed_name>_<number> <label from 1> <species> <breed>``."""
        path = os.path.join(self.anno_dir, split_file)
        common.require(self, path)
        items = []
        for line in common.read_lines(path):
            with common.parsing(f"{path}, {line!r}", "<Breed_name>_<number> <label from 1> <species> <breed>"):
                name, label, _, _ = line.split(" ")
                breed = name.rpartition("_")[0].lower()
                image = os.path.join(self.image_dir, name + ".jpg")
                items.append(Datum(impath=image, label=int(label) - 1, classname=breed))
        return items
