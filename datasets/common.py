"""What all data set readers share: domains, few-shot picks, base and new classes; files and splits too, by import.

The rules are those that CoOp's published numbers were made with, so the same split file, seed and number
of shots give the same images. A reader lists its images; everything that follows happens here, once.
"""

import difflib
import hashlib
import json
import math
import os
import random
from collections.abc import Sequence
from typing import Any

from dassl.data.datasets import Datum

from .files import (  # noqa: F401  readers reach all of these through this module
    IMAGE_EXTENSIONS,
    data_root,
    expected_tree,
    find_missing,
    list_folders,
    list_images,
    parsing,
    read_classnames,
    read_lines,
    relative,
    require,
    require_images,
    write_json,
)
from .splits import (  # noqa: F401
    Lists,
    generator,
    group_by_label,
    load_or_make_split,
    read_and_split_data,
    read_class,
    read_split,
    save_split,
    split_class,
    split_trainval,
)

SUBSAMPLE_CHOICES = ("all", "base", "new")
VAL_SHOTS_MAX = 4  # images per class of the few-shot validation list, as in CoOp


def choose_domains(cfg: Any, domains: Sequence[str], name: str) -> tuple[list[str], list[str]]:
    """Source and target domains of a run.

    Args:
        cfg: the config; reads ``DATASET.SOURCE_DOMAINS`` and ``DATASET.TARGET_DOMAINS``.
        domains: all domains of the set.
        name: the data set, for the error.

    Returns:
        Source and target names. Without sources: all domains but the targets; without targets: the sources.

    Raises:
        ValueError: an unknown domain, or none left for the sources.
    """
    sources, targets = list(cfg.DATASET.SOURCE_DOMAINS), list(cfg.DATASET.TARGET_DOMAINS)
    for key, chosen in (("SOURCE", sources), ("TARGET", targets)):
        for domain in chosen:
            if domain not in domains:
                close = difflib.get_close_matches(domain, domains, n=1)
                raise ValueError(
                    f"DATASET.{key}_DOMAINS: unknown domain {domain!r} of {name}"
                    + (f", did you mean {close[0]!r}?" if close else ".")
                    + (f" Domains: {', '.join(domains)}." if domains else " This data set has no domains.")
                )
    if not sources:
        sources = [d for d in domains if d not in targets]
        if domains and not sources:
            raise ValueError(f"DATASET.TARGET_DOMAINS names all domains of {name}: name the sources too.")
    return sources, targets or sources


def join_domains(splits: dict[str, Lists], sources: Sequence[str], targets: Sequence[str]) -> Lists:
    """Join the splits of several domains: train and val of the sources, test of the targets.

    A target that is no source is unseen, so all its images are test images. `Datum.domain` becomes the
    position in the list of sources (train, val) or of targets (test).

    Args:
        splits: train, val and test of each domain.
        sources: names of the source domains.
        targets: names of the target domains.

    Returns:
        train, val and test.
    """
    train = [_copy(d, domain=i) for i, name in enumerate(sources) for d in splits[name][0]]
    val = [_copy(d, domain=i) for i, name in enumerate(sources) for d in splits[name][1]]
    test: list[Datum] = []
    for i, name in enumerate(targets):
        items = splits[name][2]
        if name not in sources:
            items = sorted((d for part in splits[name] for d in part), key=lambda d: (d.label, d.impath))
        test.extend(_copy(d, domain=i) for d in items)
    return train, val, test


def finalize(
    cfg: Any,
    dataset_dir: str,
    train: Sequence[Datum],
    val: Sequence[Datum] | None,
    test: Sequence[Datum],
    sources: Sequence[str] = (),
    few_shot: bool = True,
) -> tuple[list[Datum], list[Datum] | None, list[Datum]]:
    """The last step of every reader: checks, few-shot picks, then base or new classes, in CoOp's order.

    Args:
        cfg: the config; reads ``SEED``, ``DATASET.NUM_SHOTS`` and ``DATASET.SUBSAMPLE_CLASSES``.
        dataset_dir: folder of the set; the picks are kept in its ``split_fewshot``.
        train: the full training list.
        val: the full validation list, or None when the set has none of its own.
        test: the full test list.
        sources: source domains, when the lists depend on them.
        few_shot: False for sets that only serve as test data: ``NUM_SHOTS`` then has no effect.

    Returns:
        train, val (None when it was None) and test.

    Raises:
        ValueError: bad config values, or lists whose labels do not fit together.
    """
    shots = cfg.DATASET.NUM_SHOTS
    if shots == 0 or shots < -1:
        raise ValueError(f"DATASET.NUM_SHOTS is {shots}; allowed are -1 (all images) and numbers from 1.")
    check_labels(train, val or [], test)
    if few_shot and shots >= 1:
        train, val = few_shot_lists(train, val, shots, cfg.SEED, dataset_dir, sources)
    lists = subsample_classes(train, val or [], test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
    return list(lists[0]), None if val is None else list(lists[1]), list(lists[2])


def check_labels(train: Sequence[Datum], val: Sequence[Datum], test: Sequence[Datum]) -> None:
    """Check that labels run from 0 without gaps, have one name each, and all have training images.

    Raises:
        ValueError: names the classes that break the rule.
    """
    if not train or not test:
        raise ValueError(f"The data set has no {'test' if train else 'training'} images.")
    names: dict[int, str] = {}
    for d in (*train, *val, *test):
        if names.setdefault(d.label, d.classname) != d.classname:
            both = f"{names[d.label]!r} and {d.classname!r}"
            raise ValueError(f"Label {d.label} stands for two classes: {both}.")
    with_images = {d.label for d in train}
    if min(names) < 0:
        raise ValueError(f"The class {names[min(names)]!r} has the label {min(names)}; labels run from 0.")
    empty = [y for y in range(max(names) + 1) if y not in with_images]
    if empty:
        listed = ", ".join(repr(names.get(y, f"label {y}")) for y in empty[:10])
        raise ValueError(f"{len(empty)} of {max(names) + 1} classes have no training images: {listed}.")


def few_shot_lists(
    train: Sequence[Datum],
    val: Sequence[Datum] | None,
    shots: int,
    seed: int,
    dataset_dir: str,
    sources: Sequence[str] = (),
) -> tuple[list[Datum], list[Datum] | None]:
    """Pick ``shots`` training and ``min(shots, 4)`` validation images per class.

    The picks are kept in ``dataset_dir/split_fewshot/shot_<shots>-seed_<seed>[-<domain>+<domain>].json``,
    together with a digest of the lists that they come from; a file that does not fit is made anew.

    Args:
        train: the full training list.
        val: the full validation list, or None.
        shots: images per class, from 1.
        seed: seed of the picks; a negative one means "not seeded", and nothing is kept.
        dataset_dir: folder of the set.
        sources: source domains, part of the file's name.

    Returns:
        The picked lists.
    """
    pools = [(train, shots, "training")]
    if val is not None:
        pools.append((val, min(shots, VAL_SHOTS_MAX), "validation"))
    for items, k, what in pools:
        _tell_small_classes(items, k, what)
    suffix = f"-{'+'.join(sources)}" if sources else ""
    path = os.path.join(dataset_dir, "split_fewshot", f"shot_{shots}-seed_{seed}{suffix}.json")
    digest = _digest([items for items, _, _ in pools], dataset_dir)
    picked = _cached_picks(path, digest, pools, dataset_dir) if seed >= 0 else None
    if picked is None:
        rng = generator(seed)
        picked = [pick_few_shot(items, k, rng) for items, k, _ in pools]
        if seed >= 0:
            content: dict[str, Any] = {"digest": digest}
            for part, items in zip(("train", "val"), picked, strict=False):
                content[part] = [[relative(d.impath, dataset_dir), d.label, d.classname] for d in items]
            write_json(content, path, "Few-shot picks")
    return picked[0], None if val is None else picked[1]


def pick_few_shot(items: Sequence[Datum], shots: int, rng: Any = random) -> list[Datum]:
    """CoOp's picks: ``rng.sample`` class by class in the order of first occurrence; all of a small class.

    Args:
        items: the full list.
        shots: images per class, from 1.
        rng: random generator.

    Returns:
        The picked images, class after class.
    """
    picked: list[Datum] = []
    for group in group_by_label(items).values():
        picked.extend(rng.sample(group, shots) if len(group) >= shots else group)
    return picked


def subsample_classes(*args: Sequence[Datum], subsample: str = "all") -> list[list[Datum]]:
    """Keep the base classes (first half of the labels, rounded up) or the new ones, relabelled from 0.

    Args:
        args: lists such as train, val and test; the labels are those of the first.
        subsample: ``all``, ``base`` or ``new``.

    Returns:
        The lists that remain, in the same order.

    Raises:
        ValueError: another word, or no class left.
    """
    if subsample not in SUBSAMPLE_CHOICES:
        close = difflib.get_close_matches(subsample, SUBSAMPLE_CHOICES, n=1)
        raise ValueError(
            f"DATASET.SUBSAMPLE_CLASSES is {subsample!r}; allowed are {', '.join(SUBSAMPLE_CHOICES)}."
            + (f" Did you mean {close[0]!r}?" if close else "")
        )
    if subsample == "all":
        return [list(items) for items in args]
    labels = sorted({d.label for d in args[0]})
    half = math.ceil(len(labels) / 2)
    selected = labels[:half] if subsample == "base" else labels[half:]
    if not selected:
        raise ValueError(f"DATASET.SUBSAMPLE_CLASSES {subsample!r}: {len(labels)} class(es) leave none.")
    new_label = {y: i for i, y in enumerate(selected)}
    return [[_copy(d, label=new_label[d.label]) for d in items if d.label in new_label] for items in args]


def _copy(d: Datum, label: int | None = None, domain: int | None = None) -> Datum:
    return Datum(
        impath=d.impath,
        label=d.label if label is None else label,
        domain=d.domain if domain is None else domain,
        classname=d.classname,
    )


def _tell_small_classes(items: Sequence[Datum], shots: int, what: str) -> None:
    small = [g for g in group_by_label(items).values() if len(g) < shots]
    if small:
        listed = ", ".join(f"{g[0].classname} ({len(g)})" for g in small[:10])
        more = f" and {len(small) - 10} more" if len(small) > 10 else ""
        print(f"Warning: fewer than {shots} {what} images, all taken, in {len(small)} class(es): {listed}{more}")


def _digest(lists: Sequence[Sequence[Datum]], prefix: str) -> str:
    sha = hashlib.sha256()
    for items in lists:
        for d in items:
            sha.update(f"{relative(d.impath, prefix)}\0{d.label}\0{d.classname}\0{d.domain}\n".encode())
        sha.update(b"\1")
    return sha.hexdigest()


def _cached_picks(
    path: str, digest: str, pools: Sequence[tuple[Sequence[Datum], int, str]], prefix: str
) -> list[list[Datum]] | None:
    """The kept picks, or None when there are none or they do not belong to these lists."""
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
        if content["digest"] != digest:
            raise ValueError("the data set's lists have changed")
        picked = []
        for key, (items, shots, _) in zip(("train", "val"), pools, strict=False):
            by_path = {relative(d.impath, prefix): d for d in items}
            chosen = [by_path[row[0]] for row in content[key]]
            wanted = {y: min(shots, len(g)) for y, g in group_by_label(items).items()}
            if {y: len({d.impath for d in g}) for y, g in group_by_label(chosen).items()} != wanted:
                raise ValueError(f"wrong number of {key} images")
            picked.append(chosen)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
        print(f"Picking again: {path} does not fit ({type(e).__name__}: {e})")
        return None
    return picked
