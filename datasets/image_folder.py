"""Any folder of images as a data set, without writing Python."""

import os
import random
from collections.abc import Iterable
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

from . import common

SPLIT_NAME = "split_ImageFolder.json"
SPLIT_SEED = 0  # a split belongs to the folder, so it does not follow SEED
MIN_IMAGES = 4  # the fewest that 50/20/30 can cut into three
OWN_FOLDERS = ("split_fewshot",)
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

Tree = dict[str, dict[str, list[str]]]  # domain ("" when there are none) -> class folder -> image paths


@DATASET_REGISTRY.register()
class ImageFolder(DatasetBase):
    """A folder of images; ``DATASET.ROOT`` is the folder itself.

    Expected tree::

        <class>/<image>              one folder per class, or
        <domain>/<class>/<image>     the same classes in every domain, or
        train/..., val/..., test/... either of the two, already split (val or test may be absent)
        classnames.txt               optional: lines "<class folder> <class name>"
        split_ImageFolder.json       written by this reader, unless DATASET.SPLIT_FILE names another file

    Labels follow the sorted folder names. The split is 50/20/30 per class (and domain), drawn once with a
    fixed seed and kept; where the folder cannot be written to, it goes to ``OUTPUT_DIR``. Train and val
    come from ``DATASET.SOURCE_DOMAINS``, test from ``DATASET.TARGET_DOMAINS``; all images of an unseen
    domain are test images.
    """

    def __init__(self, cfg: Any) -> None:
        root = common.data_root(cfg)
        if not os.path.isdir(root):
            raise FileNotFoundError(
                f"ImageFolder: the folder {root} (DATASET.ROOT) is missing. Expected in it:\n"
                + common.expected_tree(type(self))
            )
        splits = load_splits(cfg, root, os.path.join(root, SPLIT_NAME))
        self.domains = sorted(d for d in splits if d)
        lists = pick_domains(cfg, splits, f"ImageFolder {root}")
        train, val, test = common.finalize(cfg, root, *lists)
        super().__init__(train_x=train, val=val, test=test)


def pick_domains(
    cfg: Any, splits: dict[str, common.Lists], name: str
) -> tuple[list[Datum], list[Datum] | None, list[Datum], list[str]]:
    """Join the splits of the chosen domains, ready for `common.finalize`.

    Args:
        cfg: the config.
        splits: train, val and test by domain; one key "" when the set has no domains.
        name: the data set, for errors.

    Returns:
        train, val (None when empty), test, and the source domains when they are a part of all domains.

    Raises:
        ValueError: unknown domains, or a source class too small to be split.
    """
    domains = sorted(d for d in splits if d)
    sources, targets = common.choose_domains(cfg, domains, name)
    train, val, test = common.join_domains(splits, sources or [""], targets or [""])
    return train, val or None, test, sources if sources != domains else []


def load_splits(cfg: Any, root: str, split_path: str) -> dict[str, common.Lists]:
    """Find the split of a folder: a split file, ready-made train/val/test folders, or a new draw.

    Args:
        cfg: the config; reads ``DATASET.SPLIT_FILE`` and ``OUTPUT_DIR``.
        root: the image folder.
        split_path: the split file that is read or, when it is missing, written; where that fails, a file
            of that name in ``OUTPUT_DIR``.

    Returns:
        train, val and test by domain.
    """
    splits = _find_split(cfg, root, split_path)
    names_file = os.path.join(root, "classnames.txt")
    if os.path.exists(names_file):
        splits = rename_classes(splits, names_file)
    return splits


def _find_split(cfg: Any, root: str, split_path: str) -> dict[str, common.Lists]:
    chosen = cfg.DATASET.SPLIT_FILE and os.path.abspath(os.path.expanduser(cfg.DATASET.SPLIT_FILE))
    if chosen and os.path.exists(chosen):
        return by_domain(common.read_split(chosen, root), root)
    parts = find_parts(root)
    if parts and not chosen:
        return read_parts({part: scan(folder) for part, folder in parts.items()})

    tree = scan(root)
    in_output = os.path.join(os.path.abspath(cfg.OUTPUT_DIR), os.path.basename(split_path))
    files = [chosen] if chosen else [split_path, in_output]
    for file in files:
        if os.path.exists(file):
            lists = common.read_split(file, root)
            _tell_left_out(tree, lists, file)
            return by_domain(lists, root)
    sources, _ = common.choose_domains(cfg, [d for d in tree if d], root)
    splits = draw(tree, sources or [""])
    train, val, test = ([d for lists in splits.values() for d in lists[i]] for i in range(3))
    any(common.save_split(train, val, test, file, root) for file in files)
    return splits


def _tell_left_out(tree: Tree, lists: common.Lists, file: str) -> None:
    paths = {p for classes in tree.values() for found in classes.values() for p in found}
    left_out = paths - {d.impath for part in lists for d in part}
    if left_out:
        print(
            f"{len(left_out)} images are not in {file} and are left out, such as {min(left_out)}. "
            "Delete that file to have a new split drawn."
        )


def scan(root: str) -> Tree:
    """List ``root/class/image`` or ``root/domain/class/image``, whichever it is.

    Returns:
        Image paths by domain and class folder, everything sorted by name.

    Raises:
        ValueError: no images, empty class folders, mixed layouts, or domains with different classes.
    """
    loose = common.list_images(root)
    if loose:
        raise ValueError(f"{root} holds images that are in no class folder, such as {loose[0]}.")
    tree: Tree = {}
    kinds: dict[str, str] = {}
    for name in (n for n in common.list_folders(root) if n not in OWN_FOLDERS):
        folder = os.path.join(root, name)
        images, inner = common.list_images(folder), common.list_folders(folder)
        if images and inner:
            raise ValueError(f"Mixed layout: {folder} holds images ({images[0]}) and folders ({inner[0]}).")
        kinds[name] = "domain" if inner else "class"
        domain, classes = (name, {n: os.path.join(folder, n) for n in inner}) if inner else ("", {name: folder})
        for class_name, path in classes.items():
            found = [os.path.join(path, n) for n in common.list_images(path)]
            if not found:
                deeper = common.list_folders(path)
                raise ValueError(
                    f"Too deep: {path} holds the folder {deeper[0]!r} where class images are expected."
                    if deeper
                    else f"The class folder {path} holds no images."
                )
            tree.setdefault(domain, {})[class_name] = found
    if not tree:
        raise ValueError(f"{root} holds no images. Expected in it:\n{common.expected_tree(ImageFolder)}")
    if len(set(kinds.values())) > 1:
        first = {kind: name for name, kind in reversed(kinds.items())}
        raise ValueError(
            f"Mixed layout in {root}: {first['class']!r} is a class (holds images), "
            f"{first['domain']!r} a domain (holds folders)."
        )
    for domain, classes in tree.items():
        differing = sorted({c for other in tree.values() for c in other} - set(classes))
        if differing:
            raise ValueError(f"Domain {domain!r} of {root} lacks classes of other domains: {', '.join(differing)}.")
    return tree


def find_parts(root: str) -> dict[str, str]:
    """Folders of a ready-made split: ``train`` and one or both of val and test, with nothing beside them."""
    names = [n for n in common.list_folders(root) if n not in OWN_FOLDERS]
    parts = {PARTS[n]: os.path.join(root, n) for n in names if n in PARTS}
    return parts if "train" in parts and len(parts) > 1 and all(n in PARTS for n in names) else {}


def read_parts(parts: dict[str, Tree]) -> dict[str, common.Lists]:
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
    parts = {**parts, "test": parts.get("test", parts.get("val", {}))}
    domains = sorted({d for tree in parts.values() for d in tree})
    if "" in domains and len(domains) > 1:
        raise ValueError("Mixed layout: some of the train, val and test folders have domains, others have none.")
    return {
        domain: tuple(
            [
                Datum(impath=path, label=folders.index(folder), classname=folder)
                for folder, paths in parts.get(part, {}).get(domain, {}).items()
                for path in paths
            ]
            for part in ("train", "val", "test")
        )
        for domain in domains
    }


def draw(tree: Tree, sources: Iterable[str]) -> dict[str, common.Lists]:
    """Cut every class of every domain 50/20/30 by a fixed seed.

    Args:
        tree: the scanned folder.
        sources: domains that will be trained on; in the others a class may be too small to be cut.

    Returns:
        train, val and test by domain.

    Raises:
        ValueError: a source class with fewer than `MIN_IMAGES` images.
    """
    rng = random.Random(SPLIT_SEED)
    splits: dict[str, common.Lists] = {}
    for domain in sorted(tree):
        lists: common.Lists = ([], [], [])
        for label, folder in enumerate(sorted(tree[domain])):
            images = list(tree[domain][folder])
            title = f"{domain}/{folder}" if domain else folder
            if len(images) < MIN_IMAGES and domain not in sources:
                cut: tuple[list[str], list[str], list[str]] = ([], [], images)
            else:
                cut = common.split_class(images, title, rng=rng)
            for items, paths in zip(lists, cut, strict=True):
                items.extend(Datum(impath=p, label=label, classname=folder) for p in paths)
        splits[domain] = lists
    return splits


def by_domain(lists: common.Lists, root: str) -> dict[str, common.Lists]:
    """Sort the lists of a split file by domain.

    Args:
        lists: train, val and test.
        root: the image folder.

    Returns:
        The lists by domain, which is the first of three path parts; one key "" when paths have another
        number of parts, or when the classes of the domains differ.
    """
    splits: dict[str, common.Lists] = {}
    for i, items in enumerate(lists):
        for d in items:
            parts = common.relative(d.impath, root).split("/")
            splits.setdefault(parts[0] if len(parts) == 3 else "", ([], [], []))[i].append(d)
    label_sets = {frozenset(d.label for part in split for d in part) for split in splits.values()}
    return splits if len(label_sets) == 1 and "" not in splits else {"": lists}


def rename_classes(splits: dict[str, common.Lists], names_file: str) -> dict[str, common.Lists]:
    """Give the classes the names of ``classnames.txt``; folders that it leaves out keep theirs.

    Args:
        splits: train, val and test by domain.
        names_file: the file.

    Returns:
        The same images with their new class names.

    Raises:
        ValueError: the file names none of the folders.
    """
    names = common.read_classnames(names_file)
    folder_of = {d.impath: os.path.basename(os.path.dirname(d.impath)) for d in _all_items(splits)}
    folders = sorted(set(folder_of.values()))
    unnamed = [f for f in folders if f not in names]
    if unnamed == folders:
        raise ValueError(f"{names_file} names none of the class folders: {', '.join(folders[:10])}.")
    if unnamed:
        print(f"{names_file} leaves out {len(unnamed)} class folders: {', '.join(unnamed[:10])}")

    def renamed(items: list[Datum]) -> list[Datum]:
        return [Datum(d.impath, d.label, d.domain, names.get(folder_of[d.impath], d.classname)) for d in items]

    return {domain: (renamed(a), renamed(b), renamed(c)) for domain, (a, b, c) in splits.items()}


def _all_items(splits: dict[str, common.Lists]) -> list[Datum]:
    return [d for lists in splits.values() for part in lists for d in part]
