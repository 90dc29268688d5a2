"""DTD: photos of 47 textures."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import Reader
from .splits import read_and_split_data


@DATASET_REGISTRY.register()
class DescribableTextures(Reader):
    """Describable Textures (Cimpoi et al., Describing textures in the wild, CVPR 2014).

    Source: https://www.robots.ox.ac.uk/~vgg/data/dtd. Licence: research.

    Expected tree::

        dtd/
            images/<class>/<image>
            split_zhou_DescribableTextures.json     drawn (50/20/30 per class) when it is missing

    Official counts: 47 classes; 2,820 train, 1,128 val, 1,692 test images.
    """

    dataset_dir = "dtd"
    official = {"classes": 47, "train": 2820, "val": 1128, "test": 1692}

    # Data set files written for CoOp reach the shared helper by this name.
    read_and_split_data = staticmethod(read_and_split_data)
