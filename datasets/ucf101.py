"""UCF101: middle frames of videos of 101 human actions."""

import os
import re
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Reader
from .files import parse_lines, parsing, read_lines, require
from .splits import Lists, split_trainval


@DATASET_REGISTRY.register()
class UCF101(Reader):
    """UCF101 (Soomro et al., UCF101: a dataset of 101 human actions classes, 2012), one frame per video.

    Source: https://www.crcv.ucf.edu/data/UCF101.php; frames by CoOp's authors. Licence: none stated.

    Expected tree::

        ucf101/
            UCF-101-midframes/<Class_Name>/<video>.jpg
            ucfTrainTestlist/classInd.txt   with trainlist01.txt and testlist01.txt; only read when the
                                            split file is missing
            split_zhou_UCF101.json          drawn (val: 20 % of the training videos) when it is missing

    Official counts: 101 classes; 7,639 train, 1,898 val, 3,783 test images.
    """

    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    official = {"classes": 101, "train": 7639, "val": 1898, "test": 3783}

    def make_split(self, rng: Any) -> Lists:
        """Split the first official training list; the first official test list stays as it is."""
        index = os.path.join(self.dataset_dir, "ucfTrainTestlist", "classInd.txt")
        require(self, index)
        with parsing(index, "lines <label from 1> <ClassName>"):
            rows = [line.split(" ") for line in read_lines(index)]
            labels = {name: int(number) - 1 for number, name in rows}
        train, val = split_trainval(self.read_data(labels, "trainlist01.txt"), rng=rng)
        return train, val, self.read_data(labels, "testlist01.txt")

    def read_data(self, cname2lab: dict[str, int], text_file: str) -> list[Datum]:
        """Read lines ``<ClassName>/<video>.avi [<label>]``; the class becomes ``Class_Name``."""

        def parse(line: str) -> Datum:
            action, video = line.split(" ")[0].split("/")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            image = os.path.join(self.image_dir, name, video.replace(".avi", ".jpg"))
            return Datum(impath=image, label=cname2lab[action], classname=name)

        path = os.path.join(self.dataset_dir, "ucfTrainTestlist", text_file)
        return parse_lines(self, path, "<ClassName>/<video>.avi, with a name of classInd.txt", parse)
