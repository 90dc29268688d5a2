"""Train, val and test lists: from split files, or drawn as CoOp draws them."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dassl.data.datasets import Datum
from dassl.names import did_you_mean
from dassl.utils import read_json

from .files import absolute, class_images, composed, list_folders, relative, require_images, write_json

Lists = tuple[list[Datum], list[Datum], list[Datum]]  # train, val, test
MaybeVal = tuple[list[Datum], list[Datum] | None, list[Datum]]


def chosen_split(cfg: Any) -> str:
    """Absolute path of ``DATASET.SPLIT_FILE``, or "" when the reader's own place holds.

    Raises:
        FileNotFoundError: it does not exist; a split is only drawn for the reader's own place.
    """
    if not cfg.DATASET.SPLIT_FILE:
        return ""
    path = absolute(cfg.DATASET.SPLIT_FILE)
    if not os.path.isfile(path):
        folder, name = os.path.split(path)
        hint = did_you_mean(name, os.listdir(folder) if os.path.isdir(folder) else [])
        raise FileNotFoundError(
            f"DATASET.SPLIT_FILE: there is no file {path}.{hint} Leave the key empty to have a split drawn."
        )
    return path


def read_split(filepath: str, path_prefix: str) -> Lists:
    """Read a split file ``{"train" | "val" | "test": [[path below `path_prefix`, label, class name], ...]}``.

    Raises:
        ValueError: the file is not JSON, has another structure, or trains on test images.
        FileNotFoundError: images that the file names are not there.
    """
    print(f"Reading split from {filepath}")
    try:
        split = read_json(filepath)
        parts = {part: _entries(part, split[part]) for part in ("train", "val", "test")}
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(
            f"Unreadable split file {filepath} ({type(e).__name__}: {e}). Expected a JSON object with "
            'the keys "train", "val" and "test", each a list of [image path, label, class name]. '
            "Mend it, or delete it to have a new split drawn."
        ) from e
    full = {path: os.path.normpath(os.path.join(path_prefix, path)) for rows in parts.values() for path, _, _ in rows}
    found = require_images(list(full.values()), filepath)
    train, val, test = (
        [Datum(impath=found[full[path]], label=y, classname=composed(c)) for path, y, c in rows]
        for rows in parts.values()
    )
    check_overlap(train, val, test, filepath)
    return train, val, test


def _entries(part: str, rows: Any) -> list[tuple[str, int, str]]:
    for number, row in enumerate(rows, start=1):
        path, label, classname = row if isinstance(row, list) and len(row) == 3 else (None, None, None)
        # Not isinstance: true is an int, and would be taken for the label 1.
        if not (isinstance(path, str) and isinstance(classname, str) and type(label) is int and label >= 0):
            raise ValueError(f'entry {number} of "{part}" is {row!r}; labels are whole numbers from 0')
    return list(rows)


def check_overlap(train: Sequence[Datum], val: Sequence[Datum], test: Sequence[Datum], source: str) -> None:
    """Refuse lists that train on test images or give an image two labels; tell of other repetitions.

    Raises:
        ValueError: an image is in train and test, or has two labels.
    """
    names = ("train", "val", "test")
    labels: dict[str, int] = {}
    for d in (*train, *val, *test):
        if labels.setdefault(d.impath, d.label) != d.label:
            raise ValueError(f"{source} gives {d.impath} two labels: {labels[d.impath]} and {d.label}.")
    counts = [Counter(d.impath for d in items) for items in (train, val, test)]
    for i, j in ((0, 2), (0, 1), (1, 2)):
        shared = sorted(counts[i].keys() & counts[j].keys())
        if shared:
            told = f"{len(shared)} images in {names[i]} and in {names[j]}, such as {shared[0]}"
            if (i, j) == (0, 2):
                raise ValueError(f"{source} has {told}: testing on images that were trained on means nothing.")
            print(f"Warning: {source} has {told}")
    for name, count in zip(names, counts, strict=True):
        repeated = sorted(path for path, n in count.items() if n > 1)
        if repeated:
            print(f"Warning: {source} has {len(repeated)} images more than once in {name}, such as {repeated[0]}")


def save_split(
    train: Sequence[Datum], val: Sequence[Datum], test: Sequence[Datum], filepath: str, path_prefix: str
) -> bool:
    """Write a split file for `read_split`, atomically; an existing file is kept.

    Returns:
        False when it could not be written (one line says so).
    """
    split = {
        part: [[relative(d.impath, path_prefix), d.label, d.classname] for d in items]
        for part, items in (("train", train), ("val", val), ("test", test))
    }
    saved = write_json(split, filepath, "Split", keep_existing=True)
    if saved:
        print(f"Saved split to {filepath}")
    return saved


def load_or_make_split(cfg: Any, split_path: str, image_dir: str, make: Callable[[Any], Lists]) -> Lists:
    """Read the split file, or draw the split once and keep it.

    As in CoOp the draw follows ``SEED``, which seeds the generator that `make` gets. The first of several runs that
    draw at once wins; the others read its file. Few-shot picks start from the seed whether the split was drawn or
    read; in CoOp those of the run that draws go on where the split left the generator, so they depend on which run
    came first.
    """
    if not os.path.exists(split_path):
        train, val, test = make(generator(cfg.SEED))
        require_images([d.impath for d in train + val + test], os.path.dirname(split_path))
        check_overlap(train, val, test, os.path.dirname(split_path))
        if not save_split(train, val, test, split_path, image_dir):
            print(f"This split holds for SEED {cfg.SEED} only; evaluate with the same seed.")
            return train, val, test
    return read_split(split_path, image_dir)


def generator(seed: int) -> Any:
    """A private generator that draws what Python's `random` draws after ``random.seed(seed)``.

    A negative seed means "not seeded": then it is the `random` module itself.
    """
    return random if seed < 0 else random.Random(seed)


def split_trainval(trainval: Sequence[Datum], p_val: float = 0.2, rng: Any = random) -> tuple[list[Datum], list[Datum]]:
    """Draw a share `p_val` (0-1) of every class for validation, as CoOp does for sets that have train and test only.

    Raises:
        ValueError: a class is too small to give an image to both.
    """
    train: list[Datum] = []
    val: list[Datum] = []
    for items in group_by_label(trainval).values():
        n_val = round(len(items) * p_val)
        if not 0 < n_val < len(items):
            raise ValueError(
                f"Class {items[0].classname!r} has {len(items)} training image(s): too few to split off "
                f"{p_val:.0%} for validation."
            )
        rng.shuffle(items)
        val.extend(items[:n_val])
        train.extend(items[n_val:])
    return train, val


def split_class(
    images: list[str], name: str, p_trn: float = 0.5, p_val: float = 0.2, rng: Any = random
) -> tuple[list[str], list[str], list[str]]:
    """Shuffle one class's images (in place) and cut them into train, val and test (shares p_trn, p_val, the rest).

    Raises:
        ValueError: one of the three would be empty.
    """
    rng.shuffle(images)
    n_train, n_val = round(len(images) * p_trn), round(len(images) * p_val)
    parts = images[:n_train], images[n_train : n_train + n_val], images[n_train + n_val :]
    if not all(parts):
        raise ValueError(
            f"Class {name!r} has {len(images)} image(s): too few for a split into {p_trn:.0%} train, "
            f"{p_val:.0%} val and {1 - p_trn - p_val:.0%} test, which gives "
            f"{len(parts[0])}, {len(parts[1])} and {len(parts[2])}."
        )
    return parts


def read_and_split_data(
    image_dir: str,
    p_trn: float = 0.5,
    p_val: float = 0.2,
    ignored: Sequence[str] = (),
    new_cnames: Mapping[str, str] | None = None,
    rng: Any = random,
) -> Lists:
    """List ``image_dir/class/image`` and split every class, as CoOp does for sets without official splits.

    Labels follow the sorted folder names, without those that are `ignored`; `new_cnames` has class names for folders
    whose own name will not do.
    """
    folders = [f for f in list_folders(image_dir) if f not in ignored]
    if not folders:
        raise ValueError(f"No class folders in {image_dir}.")
    lists: Lists = ([], [], [])
    for label, folder in enumerate(folders):
        images, _ = class_images(os.path.join(image_dir, folder))
        classname = (new_cnames or {}).get(folder, folder)
        parts = split_class(images, folder, p_trn, p_val, rng)
        for items, part in zip(lists, parts, strict=True):
            items.extend(Datum(impath=p, label=label, classname=classname) for p in part)
    return lists


def replaced(d: Datum, **changes: Any) -> Datum:
    """A copy of an item with other fields."""
    fields = {name: getattr(d, name) for name in ("impath", "label", "domain", "classname", "as_people_see")}
    return Datum(**(fields | changes))


def group_by_label(items: Iterable[Datum]) -> dict[int, list[Datum]]:
    """The items of each label; labels in the order in which they first occur."""
    groups: dict[int, list[Datum]] = defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    return groups
