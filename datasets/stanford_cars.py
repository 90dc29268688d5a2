"""StanfordCars: photos of cars of 196 models."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from . import common
from .fetch.matfile import read_mat


@DATASET_REGISTRY.register()
class StanfordCars(DatasetBase):
    """Stanford Cars (Krause et al., 3D object representations for fine-grained categorization, 2013).

    Source: https://ai.stanford.edu/~jkrause/cars/car_dataset.html (gone). Licence: non-commercial research.

    Expected tree::

        stanford_cars/
            cars_train/<image>
            cars_test/<image>
            devkit/cars_train_annos.mat     with cars_meta.mat; only read when the split file is missing
            cars_test_annos_withlabels.mat  likewise
            split_zhou_StanfordCars.json    drawn (val: 20 % of the training images) when it is missing

    Official counts: 196 classes; 6,509 train, 1,635 val, 8,041 test images.
    """

    dataset_dir = "stanford_cars"
    official = {"classes": 196, "train": 6509, "val": 1635, "test": 8041}

    def __init__(self, cfg: Any) -> None:
        self.dataset_dir = os.path.join(common.data_root(cfg), self.dataset_dir)
        self.split_path = os.path.join(self.dataset_dir, "split_zhou_StanfordCars.json")
        for folder in ("cars_train", "cars_test"):
            common.require(self, os.path.join(self.dataset_dir, folder))
        lists = common.load_or_make_split(cfg, self.split_path, self.dataset_dir, self.make_split)
        train, val, test = common.finalize(cfg, self.dataset_dir, *lists)
        super().__init__(train_x=train, val=val, test=test)

    def make_split(self, rng: Any) -> common.Lists:
        """Split the official training list; the official test list stays as it is."""
        meta = os.path.join(self.dataset_dir, "devkit", "cars_meta.mat")
        trainval = os.path.join(self.dataset_dir, "devkit", "cars_train_annos.mat")
        test = os.path.join(self.dataset_dir, "cars_test_annos_withlabels.mat")
        common.require(self, meta, trainval, test)
        train, val = common.split_trainval(self.read_data("cars_train", trainval, meta), rng=rng)
        return train, val, self.read_data("cars_test", test, meta)

    def read_data(self, image_dir: str, anno_file: str, meta_file: str) -> list[Datum]:
        """Read the annotations; class names get the year in front: "2012 Acura TL Sedan"."""
        meta, annotations = read_mat(meta_file), read_mat(anno_file)
        with common.parsing(meta_file, "the variable class_names, texts that end in a year"):
            names = [name.split(" ") for name in meta["class_names"]]
        classnames = {label: " ".join([*words[-1:], *words[:-1]]) for label, words in enumerate(names)}
        items = []
        with common.parsing(anno_file, f"the variable annotations, with fname and class (1 to {len(names)})"):
            for row in annotations["annotations"]:
                image = os.path.join(self.dataset_dir, image_dir, row["fname"])
                label = int(row["class"][0]) - 1
                items.append(Datum(impath=image, label=label, classname=classnames[label]))
        return items
