"""SUN397: photos of 397 kinds of scenes."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Reader
from .files import parse_lines, read_lines, require
from .splits import Lists, split_trainval


@DATASET_REGISTRY.register()
class SUN397(Reader):
    """SUN397 (Xiao et al., SUN database: large-scale scene recognition from abbey to zoo, CVPR 2010).

    Source: https://vision.princeton.edu/projects/2010/SUN. Licence: none stated.

    Expected tree::

        sun397/
            SUN397/<letter>/<class>[/indoor or outdoor]/<image>
            ClassName.txt                   with Training_01.txt and Testing_01.txt; only read when the split
                                            file is missing
            split_zhou_SUN397.json          drawn (val: 20 % of the training images) when it is missing

    Official counts: 397 classes; 15,880 train, 3,970 val, 19,850 test images.
    """

    dataset_dir = "sun397"
    image_dir = "SUN397"
    official = {"classes": 397, "train": 15880, "val": 3970, "test": 19850}

    def make_split(self, rng: Any) -> Lists:
        """Split the first official training list; the first official test list stays as it is."""
        names_file = os.path.join(self.dataset_dir, "ClassName.txt")
        require(self, names_file)
        labels = {line[1:]: label for label, line in enumerate(read_lines(names_file))}
        train, val = split_trainval(self.read_data(labels, "Training_01.txt"), rng=rng)
        return train, val, self.read_data(labels, "Testing_01.txt")

    def read_data(self, cname2lab: dict[str, int], text_file: str) -> list[Datum]:
        """Read lines ``/<letter>/<class>[/<part>]/<image>``; the part comes first in the class name."""

        def parse(line: str) -> Datum:
            folder = os.path.dirname(line[1:])
            classname = " ".join(reversed(folder.split("/")[1:]))
            return Datum(os.path.join(self.image_dir, line[1:]), label=cname2lab[folder], classname=classname)

        path = os.path.join(self.dataset_dir, text_file)
        return parse_lines(self, path, "a line of ClassName.txt, a slash and an image", parse)
