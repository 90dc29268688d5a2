"""StanfordCars: photos of cars of 196 models."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Reader
from .fetch.matfile import read_mat
from .files import parsing, require
from .splits import Lists, split_trainval


@DATASET_REGISTRY.register()
class StanfordCars(Reader):
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
    image_dir = ""
    needs = ("cars_train", "cars_test")
    official = {"classes": 196, "train": 6509, "val": 1635, "test": 8041}

    def make_split(self, rng: Any) -> Lists:
        """Split the official training list; the official test list stays as it is."""
        meta = os.path.join(self.dataset_dir, "devkit", "cars_meta.mat")
        trainval = os.path.join(self.dataset_dir, "devkit", "cars_train_annos.mat")
        test = os.path.join(self.dataset_dir, "cars_test_annos_withlabels.mat")
        require(self, meta, trainval, test)
        train, val = split_trainval(self.read_data("cars_train", trainval, meta), rng=rng)
        return train, val, self.read_data("cars_test", test, meta)

    def read_data(self, image_dir: str, anno_file: str, meta_file: str) -> list[Datum]:
        """Read the annotations; class names get the year in front: "2012 Acura TL Sedan"."""
        meta, annotations = read_mat(meta_file), read_mat(anno_file)
        with parsing(meta_file, "the variable class_names, texts that end in a year"):
            names = [name.split(" ") for name in meta["class_names"]]
        classnames = {label: " ".join([*words[-1:], *words[:-1]]) for label, words in enumerate(names)}
        items = []
        with parsing(anno_file, f"the variable annotations, with fname and class (1 to {len(names)})"):
            for row in annotations["annotations"]:
                image = os.path.join(self.dataset_dir, image_dir, row["fname"])
                label = int(row["class"][0]) - 1
                items.append(Datum(impath=image, label=label, classname=classnames[label]))
        return items
