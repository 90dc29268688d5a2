"""How people lay out folders of images: classes, domains, and parts that are split already."""

import os
import re

from .files import class_images, composed, list_files, list_folders

OWN_FOLDERS = ("split_fewshot",)
PARTS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validation", "crossval", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}

Tree = dict[str, dict[str, list[str]]]  # domain ("" when there are none) -> class folder -> image paths


def part_of(name: str, by_one_word: bool = False) -> str:
    """The part that a folder is called after: train, val, test or "".

    Capitals, digits and signs do not count, nor do endings such as in ``Training_set`` and ``test-images2017``.

    Args:
        name: the folder.
        by_one_word: one word of several is enough, as in ``seg_train``.
    """
    words = re.findall("[a-z]+", name.lower())
    for word in ["".join(words), *(words if by_one_word else [])]:
        word = re.sub(r"(?<=.)(set|split|data|dataset|images?|imgs?)$", "", word)
        for part, names in PARTS.items():
            if word in names:
                return part
    return ""


def find_parts(root: str) -> dict[str, str]:
    """Folders of a ready-made split.

    Args:
        root: the image folder.

    Returns:
        The folders of train and of one or both of val and test; nothing when the folder holds classes or domains.

    Raises:
        ValueError: it cannot be told what is trained on and what is tested on.
    """
    folders = [n for n in list_folders(root) if n not in OWN_FOLDERS]
    deep = [n for n in folders if list_folders(os.path.join(root, n))]  # folders in it, as parts have and classes not
    split = any(part_of(n) for n in deep) or len({part_of(n, by_one_word=True) for n in deep} - {""}) > 1
    named = {n: part_of(n, by_one_word=split) for n in folders if part_of(n, by_one_word=split)}
    if not split:
        if len(set(named.values())) > 1:
            raise ValueError(
                f"{root} holds the parts {', '.join(named)} with images, but without a folder per class. Expected in "
                "it: train/<class>/<image> and so on, or a DATASET.SPLIT_FILE that gives every image its class."
            )
        return {}
    empty = [n for n in folders if not _holds_images(os.path.join(root, n))]
    others = [n for n in folders if n not in named and n not in empty]
    parts: dict[str, str] = {}
    for name, part in named.items():
        if name in empty:
            continue
        if part in parts:
            raise ValueError(
                f"{root} holds two folders for {part}: {parts[part]} and {name}. Join them, or move one of them away."
            )
        parts[part] = name
    found = ", ".join(parts.values())
    if others and parts:
        raise ValueError(
            f"{root} holds {found} beside {', '.join(others)}: are these parts of a split, domains or "
            "classes? Expected are train, val and test alone; move the others away, or rename those that are no parts."
        )
    if len(parts) > 1 and "train" not in parts:
        raise ValueError(f"{root} holds {found}, but no train folder.")
    if len(parts) == 1 and any(n in named for n in empty):
        raise ValueError(f"{root} holds images in {found} only, none in {', '.join(empty)}.")
    if len(parts) < 2:
        return {}  # a lone folder is a domain like any other
    if empty:
        print(f"Warning: no images in {', '.join(empty)} of {root}: left out")
    return {part: os.path.join(root, name) for part, name in parts.items()}


def scan(root: str, left_out: list[str]) -> Tree:
    """List ``root/class/image`` or ``root/domain/class/image``, whichever it is.

    Args:
        root: the image folder.
        left_out: gets the files in class folders that are no images.

    Returns:
        Image paths by domain and class folder, everything sorted by name.

    Raises:
        ValueError: no images, empty class folders, mixed layouts, or domains with different classes.
    """
    loose, _ = list_files(root)
    if loose:
        raise ValueError(f"{root} holds images that are in no class folder, such as {loose[0]}.")
    tree: Tree = {}
    kinds: dict[str, str] = {}
    for name in (n for n in list_folders(root) if n not in OWN_FOLDERS):
        folder = os.path.join(root, name)
        images, inner = list_files(folder)[0], list_folders(folder)
        if images and inner:
            raise ValueError(f"Mixed layout: {folder} holds images ({images[0]}) and folders ({inner[0]}).")
        if len({part_of(n) for n in inner} - {""}) > 1:
            raise ValueError(
                f"{folder} holds the parts {', '.join(inner)}, which belong on top of classes and domains. Point "
                f"DATASET.ROOT at {folder}, or put {inner[0]} on top: {inner[0]}/{name}/<image or class>."
            )
        kinds[name] = "domain" if inner else "class"
        domain = composed(name) if inner else ""
        for class_name in inner or [name]:
            path = os.path.join(folder, class_name) if inner else folder
            classes = tree.setdefault(domain, {})
            if composed(class_name) in classes:
                raise ValueError(f"Two folders of {os.path.dirname(path)} are called {class_name!r} (Unicode).")
            classes[composed(class_name)], others = class_images(path)
            left_out.extend(others)
    if not tree:
        raise ValueError(f"{root} holds no images. Expected in it: <class>/<image> or <domain>/<class>/<image>.")
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


def _holds_images(folder: str, levels: int = 3) -> bool:
    if list_files(folder)[0]:
        return True
    return levels > 0 and any(_holds_images(os.path.join(folder, n), levels - 1) for n in list_folders(folder))
