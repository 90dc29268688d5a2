"""EuroSAT: satellite images of ten kinds of land."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Reader

NEW_CNAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


@DATASET_REGISTRY.register()
class EuroSAT(Reader):
    """EuroSAT (Helber et al., EuroSAT: a novel dataset and deep learning benchmark, 2019), RGB version.

    Source: https://github.com/phelber/EuroSAT. Licence: MIT.

    Expected tree::

        eurosat/
            2750/<class>/<image>
            split_zhou_EuroSAT.json         drawn (50/20/30 per class) when it is missing

    Official counts: 10 classes; 13,500 train, 5,400 val, 8,100 test images.
    """

    dataset_dir = "eurosat"
    image_dir = "2750"
    new_cnames = NEW_CNAMES
    official = {"classes": 10, "train": 13500, "val": 5400, "test": 8100}
