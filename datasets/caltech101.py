"""Caltech101: photos of 100 kinds of objects."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Reader

IGNORED = ("BACKGROUND_Google", "Faces_easy")
NEW_CNAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


@DATASET_REGISTRY.register()
class Caltech101(Reader):
    """Caltech101 (Fei-Fei et al., Learning generative visual models from few training examples, 2004).

    Source: https://data.caltech.edu/records/mzrjq-6wc02. Licence: CC BY 4.0.

    Expected tree::

        caltech-101/
            101_ObjectCategories/<class>/<image>
            split_zhou_Caltech101.json      drawn (50/20/30 per class) when it is missing

    Official counts: 100 classes; 4,128 train, 1,649 val, 2,465 test images. The background class and the
    second class of faces are left out.
    """

    dataset_dir = "caltech-101"
    image_dir = "101_ObjectCategories"
    ignored = IGNORED
    new_cnames = NEW_CNAMES
    official = {"classes": 100, "train": 4128, "val": 1649, "test": 2465}
