"""PACS: seven classes in four styles, for leave-one-domain-out."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import DomainReader
from .domains import choose_domains
from .files import parse_lines
from .image_folder import load_splits
from .splits import Lists

BROKEN = ("sketch/dog/n02103406_4068-1.png",)  # left out by everybody who reports PACS numbers


@DATASET_REGISTRY.register()
class PACS(DomainReader):
    """PACS (Li et al., Deeper, broader and artier domain generalization, ICCV 2017).

    Source: https://github.com/KaiyangZhou/Dassl.pytorch (DATASETS.md, layout and lists).
    Licence: none stated; images collected from the web, for research.

    Expected tree::

        pacs/
            images/<domain>/<class>/<image>        domains: art_painting, cartoon, photo, sketch
            splits/<domain>_train_kfold.txt        optional, with <domain>_crossval_kfold.txt; lines
                                                   "<domain>/<class>/<image> <label from 1>"

    Official counts: 7 classes; 9,991 images (2,048 art_painting, 2,344 cartoon, 1,670 photo, 3,929 sketch).

    Train and val come from the source domains; all images of an unseen target domain are test images. The
    official files keep no test images apart within a domain, so without them, and whenever a target is also
    a source, a 50/20/30 split of our own is drawn (``pacs/split_PACS.json``).
    """

    dataset_dir = "pacs"
    domains = ["art_painting", "cartoon", "photo", "sketch"]
    official = {"classes": 7, "images": 9991}

    def read_splits(self, cfg: Any) -> dict[str, Lists]:
        """The lists of each domain, from the official files where they serve."""
        sources, targets = choose_domains(cfg, self.domains, "PACS")
        files = [d for d in ("splits", "splits_") if os.path.isdir(os.path.join(self.dataset_dir, d))]
        if files and not cfg.DATASET.SPLIT_FILE and not set(sources) & set(targets):
            folder = os.path.join(self.dataset_dir, files[0])
            splits = {d: read_official(folder, self.image_dir, d) for d in self.domains}
        else:
            splits = load_splits(cfg, self.image_dir, os.path.join(self.dataset_dir, "split_PACS.json"))
        broken = {os.path.join(self.image_dir, *name.split("/")) for name in BROKEN}
        for part in (part for lists in splits.values() for part in lists):
            part[:] = [d for d in part if d.impath not in broken]
        return splits


def read_official(split_dir: str, image_dir: str, domain: str) -> Lists:
    """Train and val lists of one domain from the files of the authors (an empty test list)."""

    def parse(line: str) -> Datum:
        name, label = line.rsplit(" ", 1)
        return Datum(os.path.join(image_dir, name), label=int(label) - 1, classname=name.split("/")[-2])

    files = (os.path.join(split_dir, f"{domain}_{part}_kfold.txt") for part in ("train", "crossval"))
    train, val = (parse_lines(PACS, file, "<domain>/<class>/<image> <label from 1>", parse) for file in files)
    return train, val, []
