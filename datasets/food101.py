"""Food101: photos of 101 dishes."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Reader


@DATASET_REGISTRY.register()
class Food101(Reader):
    """Food-101 (Bossard et al., Mining discriminative components with random forests, ECCV 2014).

    Source: https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101. Licence: research.

    Expected tree::

        food-101/
            images/<class>/<image>
            split_zhou_Food101.json         drawn (50/20/30 per class) when it is missing

    Official counts: 101 classes; 50,500 train, 20,200 val, 30,300 test images.
    """

    dataset_dir = "food-101"
    official = {"classes": 101, "train": 50500, "val": 20200, "test": 30300}
