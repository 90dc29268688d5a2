"""Any folder of images as a data set, without writing Python."""

import os
import random
from collections import Counter
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import DomainReader
from .files import absolute, composed, data_root, expected_tree, read_classnames, relative
from .layout import Tree, find_parts, scan
from .splits import Lists, chosen_split, read_split, replaced, save_split, split_class

SPLIT_NAME = "split_ImageFolder.json"
SPLIT_SEED = 0  # a split belongs to the folder, so it does not follow SEED
SMALL = {1: (1, 0), 2: (1, 0), 3: (1, 1)}  # images of train and val in classes that 50/20/30 cannot cut into three


@DATASET_REGISTRY.register()
class ImageFolder(DomainReader):
    """A folder of images; ``DATASET.ROOT`` is the folder itself.

    Expected tree::

        <class>/<image>              one folder per class, or
        <domain>/<class>/<image>     the same classes in every domain, or
        train/..., val/..., test/... either of the two, already split (val or test may be absent)
        classnames.txt               optional: lines "<class folder> <class name>"
        split_ImageFolder.json       written by this reader where nothing else says what is tested on

    Labels follow the sorted folder names. Without folders of parts, and without ``DATASET.SPLIT_FILE``, a split of
    50/20/30 per class (and domain) is drawn once with a fixed seed and kept; where the folder cannot be written to,
    it goes to ``OUTPUT_DIR``. Train and val come from ``DATASET.SOURCE_DOMAINS``, test from
    ``DATASET.TARGET_DOMAINS``; all images of an unseen domain are test images. More in docs/data.md.
    """

    image_dir = ""
    as_people_see = True

    def __init__(self, cfg: Any) -> None:
        root = data_root(cfg)
        if not os.path.isdir(root):
            tree = expected_tree(type(self))
            raise FileNotFoundError(
                f"ImageFolder: the folder {root} (DATASET.ROOT) is missing. Expected in it:\n{tree}"
            )
        super().__init__(cfg)

    def title(self) -> str:
        """The folder too, as there are many."""
        return f"ImageFolder {self.root}"

    def read_splits(self, cfg: Any) -> dict[str, Lists]:
        """The lists of each domain."""
        return load_splits(cfg, self.image_dir, os.path.join(self.dataset_dir, SPLIT_NAME))


def load_splits(cfg: Any, root: str, split_path: str) -> dict[str, Lists]:
    """Find the split of a folder: a split file, ready-made train/val/test folders, or a new draw.

    Args:
        cfg: the config; reads ``DATASET.SPLIT_FILE`` and ``OUTPUT_DIR``.
        root: the image folder.
        split_path: the split file that is read or, when it is missing, written; where that fails, a file
            of that name in ``OUTPUT_DIR``.
    """
    splits = _find_split(cfg, root, split_path)
    names_file = os.path.join(root, "classnames.txt")
    if os.path.exists(names_file):
        rename_classes(splits, names_file)
    return splits


def _find_split(cfg: Any, root: str, split_path: str) -> dict[str, Lists]:
    chosen = chosen_split(cfg)
    if chosen:
        return by_domain(read_split(chosen, root), root)
    parts = find_parts(root)
    left_out: list[str] = []
    trees = {part: scan(folder, left_out) for part, folder in parts.items()} or {"": scan(root, left_out)}
    if left_out:
        kinds = Counter(os.path.splitext(path)[1].lower() or "no extension" for path in left_out)
        told = ", ".join(f"{kind}: {n}" for kind, n in kinds.most_common(5))
        print(f"Warning: {len(left_out)} files that Pillow cannot read are left out ({told}), such as {left_out[0]}")
    files = [split_path, os.path.join(absolute(cfg.OUTPUT_DIR), os.path.basename(split_path))]
    if parts:
        if os.path.exists(split_path):
            print(f"Warning: {split_path} is not used, as there are {' and '.join(parts)} folders")
        return read_parts(trees)
    for file in files:
        if os.path.exists(file):
            lists = read_split(file, root)
            _tell_left_out(trees[""], lists, file)
            return by_domain(lists, root)
    splits = draw(trees[""])
    train, val, test = ([d for lists in splits.values() for d in lists[i]] for i in range(3))
    any(save_split(train, val, test, file, root) for file in files)
    return splits


def _tell_left_out(tree: Tree, lists: Lists, file: str) -> None:
    paths = {p for classes in tree.values() for found in classes.values() for p in found}
    left_out = paths - {d.impath for part in lists for d in part}
    if left_out:
        print(
            f"Warning: {len(left_out)} images are not in {file} and are left out, such as {min(left_out)}. "
            "Delete that file to have a new split drawn."
        )


def read_parts(parts: dict[str, Tree]) -> dict[str, Lists]:
    """Turn scanned train, val and test folders into lists.

    Without a test folder val serves as test too, as is the habit with ImageNet.

    Raises:
        ValueError: val or test holds classes that train lacks.
    """
    folders = sorted({c for classes in parts["train"].values() for c in classes})
    for part, tree in parts.items():
        unknown = sorted({c for classes in tree.values() for c in classes} - set(folders))
        if unknown:
            raise ValueError(f"The {part} folder has classes that the train folder lacks: {', '.join(unknown)}.")
    if "test" not in parts:
        print("Warning: no test folder: the images of val are the test images too")
        parts = {**parts, "test": parts["val"]}
    domains = sorted({d for tree in parts.values() for d in tree})
    if "" in domains and len(domains) > 1:
        raise ValueError("Mixed layout: some of the train, val and test folders have domains, others have none.")

    def items(part: str, domain: str) -> list[Datum]:
        classes = parts.get(part, {}).get(domain, {})
        return [Datum(path, folders.index(name), classname=name) for name, paths in classes.items() for path in paths]

    return {domain: (items("train", domain), items("val", domain), items("test", domain)) for domain in domains}


def draw(tree: Tree) -> dict[str, Lists]:
    """Cut every class of every domain 50/20/30 by a fixed seed; those too small for that are cut as `SMALL` says."""
    rng = random.Random(SPLIT_SEED)
    splits: dict[str, Lists] = {}
    small = []
    for domain in sorted(tree):
        lists: Lists = ([], [], [])
        for label, folder in enumerate(sorted(tree[domain])):
            images = list(tree[domain][folder])
            title = f"{domain}/{folder}" if domain else folder
            if len(images) in SMALL:
                a, b = SMALL[len(images)]
                cut = images[:a], images[a : a + b], images[a + b :]
                small.append(f"{title} ({len(images)})")
            else:
                cut = split_class(images, title, rng=rng)
            for items, paths in zip(lists, cut, strict=True):
                items.extend(Datum(impath=p, label=label, classname=folder) for p in paths)
        splits[domain] = lists
    if small:
        more = ", ..." if len(small) > 10 else ""
        print(
            f"Warning: fewer than 4 images, the first of them for train and the last for test (1: none for test), "
            f"in {len(small)} class(es): {', '.join(small[:10])}{more}"
        )
    return splits


def by_domain(lists: Lists, root: str) -> dict[str, Lists]:
    """Sort the lists of a split file by domain, which is the first of three path parts below the image folder.

    Returns:
        One key "" when paths have another number of parts, or when the classes of the domains differ.
    """
    splits: dict[str, Lists] = {}
    for i, items in enumerate(lists):
        for d in items:
            parts = relative(d.impath, root).split("/")
            splits.setdefault(composed(parts[0]) if len(parts) == 3 else "", ([], [], []))[i].append(d)
    label_sets = {frozenset(d.label for part in split for d in part) for split in splits.values()}
    return splits if len(label_sets) == 1 and "" not in splits else {"": lists}


def rename_classes(splits: dict[str, Lists], names_file: str) -> None:
    """Give the classes the names of ``classnames.txt``; folders that it leaves out keep theirs.

    Raises:
        ValueError: the file names none of the folders.
    """
    names = read_classnames(names_file)
    parts = [part for lists in splits.values() for part in lists]
    folder_of = {d.impath: composed(os.path.basename(os.path.dirname(d.impath))) for part in parts for d in part}
    folders = sorted(set(folder_of.values()))
    unnamed = [f for f in folders if f not in names]
    if unnamed == folders:
        raise ValueError(f"{names_file} names none of the class folders: {', '.join(folders[:10])}.")
    if unnamed:
        print(f"Warning: {names_file} leaves out {len(unnamed)} class folders: {', '.join(unnamed[:10])}")
    for part in parts:
        part[:] = [replaced(d, classname=names.get(folder_of[d.impath], d.classname)) for d in part]
