"""PACS: seven classes in four styles, for leave-one-domain-out."""

import os
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from . import common
from .image_folder import load_splits, pick_domains

BROKEN = ("sketch/dog/n02103406_4068-1.png",)  # left out by everybody who reports PACS numbers


@DATASET_REGISTRY.register()
class PACS(DatasetBase):
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

    def __init__(self, cfg: Any) -> None:
        folder = os.path.join(common.data_root(cfg), self.dataset_dir)
        images = os.path.join(folder, "images")
        common.require(self, images)
        sources, targets = common.choose_domains(cfg, self.domains, "PACS")
        files = [d for d in ("splits", "splits_") if os.path.isdir(os.path.join(folder, d))]
        if files and not cfg.DATASET.SPLIT_FILE and not set(sources) & set(targets):
            splits = {d: read_official(os.path.join(folder, files[0]), images, d) for d in self.domains}
        else:
            splits = load_splits(cfg, images, os.path.join(folder, "split_PACS.json"))
        lists = pick_domains(cfg, without_broken(splits, images), "PACS")
        train, val, test = common.finalize(cfg, folder, *lists)
        super().__init__(train_x=train, val=val, test=test)


def read_official(split_dir: str, image_dir: str, domain: str) -> common.Lists:
    """Train and val lists of one domain from the files of the authors (an empty test list)."""
    lists: common.Lists = ([], [], [])
    for items, part in zip(lists, ("train", "crossval"), strict=False):
        file = os.path.join(split_dir, f"{domain}_{part}_kfold.txt")
        common.require(PACS, file)
        for line in common.read_lines(file):
            with common.parsing(f"{file}, {line!r}", "<domain>/<class>/<image> <label from 1>"):
                name, label = line.rsplit(" ", 1)
                path = os.path.join(image_dir, name)
                items.append(Datum(impath=path, label=int(label) - 1, classname=name.split("/")[-2]))
    return lists


def without_broken(splits: dict[str, common.Lists], image_dir: str) -> dict[str, common.Lists]:
    """The same lists without the `BROKEN` images."""
    broken = {os.path.join(image_dir, *name.split("/")) for name in BROKEN}
    return {
        domain: tuple([d for d in items if d.impath not in broken] for items in lists)
        for domain, lists in splits.items()
    }
