"""Few-shot picks, and base and new classes, by the rules of CoOp's published numbers.

The same lists, seed and number of shots give the same images as CoOp gives.
"""

import hashlib
import math
import os
import random
from collections.abc import Sequence
from typing import Any

from dassl.data.datasets import Datum
from dassl.names import choose
from dassl.utils import read_json

from .files import relative, write_json
from .splits import generator, group_by_label, replaced

SUBSAMPLE_CHOICES = ("all", "base", "new")
VAL_SHOTS_MAX = 4  # images per class of the few-shot validation list, as in CoOp


def few_shot_lists(
    train: Sequence[Datum],
    val: Sequence[Datum] | None,
    shots: int,
    seed: int,
    dataset_dir: str,
    sources: Sequence[str] = (),
) -> tuple[list[Datum], list[Datum] | None]:
    """Pick ``shots`` (from 1) training and ``min(shots, 4)`` validation images per class.

    The picks are kept in ``dataset_dir/split_fewshot/shot_<shots>-seed_<seed>[-<source>+<source>].json``, together with
    a digest of the lists that they come from; a file that does not fit is made anew. A negative seed means "not
    seeded", and nothing is kept.
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
    """CoOp's ``rng.sample`` of ``shots`` (from 1), class by class in order of first occurrence; small classes whole."""
    picked: list[Datum] = []
    for group in group_by_label(items).values():
        picked.extend(rng.sample(group, shots) if len(group) >= shots else group)
    return picked


def subsample_classes(*args: Sequence[Datum], subsample: str = "all") -> list[list[Datum]]:
    """Keep ``all``, the ``base`` classes (first half of the first list's labels, rounded up) or the ``new`` ones.

    Base and new classes are relabelled from 0.

    Raises:
        ValueError: another word, or no class left.
    """
    choose(subsample, SUBSAMPLE_CHOICES, "DATASET.SUBSAMPLE_CLASSES")
    if subsample == "all":
        return [list(items) for items in args]
    labels = sorted({d.label for d in args[0]})
    half = math.ceil(len(labels) / 2)
    selected = labels[:half] if subsample == "base" else labels[half:]
    if not selected:
        raise ValueError(f"DATASET.SUBSAMPLE_CLASSES {subsample!r}: {len(labels)} class(es) leave none.")
    new_label = {y: i for i, y in enumerate(selected)}
    return [[replaced(d, label=new_label[d.label]) for d in items if d.label in new_label] for items in args]


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
        content = read_json(path)
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
