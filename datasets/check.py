"""Check data sets before hours of training: layout, numbers of images, that every image decodes, and repetitions.

``python -m datasets.check NAME... --root data`` changes nothing; it prints what is missing and where it belongs.
"""

import argparse
import contextlib
import hashlib
import io
import multiprocessing
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from dassl.config import get_cfg_default
from dassl.utils import read_image, usable_cores
from dassl.utils.images import ImageReadError, is_image, special_pixels

from .catalog import RENDERED, missing_parts, read_table, reader_class, resolve
from .files import absolute, nothing_written

SHOWN = 20  # broken images that are named one by one
NO_SPLIT = " (without it a split is drawn, and results do not compare with published ones)"
INLINE_IMAGES = 64  # fewer than this are not worth starting processes for


class Look(NamedTuple):
    """What was found in an image file."""

    path: str
    error: str  # why it does not decode, or ""
    kinds: list[str]  # see `special_pixels`
    digest: bytes  # of the file


def check(stem: str, root: str, workers: int, decode: bool = True) -> tuple[list[str], list[str]]:
    """Check one data set.

    Args:
        stem: name of its config file.
        root: ``DATASET.ROOT``.
        workers: processes that decode images, from 1.
        decode: read every image.

    Returns:
        What is wrong, in words, and what is only worth knowing; both empty when all is well.
    """
    cls = reader_class(stem)
    folder = os.path.join(root, cls.dataset_dir).rstrip("/")
    print(f"{stem}: {folder}")
    if stem in RENDERED and not os.path.exists(folder):
        print("  layout   nothing to check: rendered at the first use")
        return [], []
    missing = missing_parts(read_table().get(stem, {"parts": []}), folder)
    problems = [f"missing: {os.path.join(folder, need)}" + NO_SPLIT * ("split" in need) for need in missing]
    try:
        dataset, notes = read_quietly(cls, root)
    except (OSError, ValueError) as e:
        return [*problems, str(e)], []
    if problems:
        problems.append(f"get it with: python -m datasets.prepare {stem} --root {root}")
    print("  layout   " + ("ok" if not problems else "see below"))
    found = counts(dataset, folder)
    numbers = ", ".join(f"{n:,} {what}" for what, n in found.items())
    official = cls.official
    wrong = [f"{what}: {found[what]:,} found, {n:,} published" for what, n in official.items() if found[what] != n]
    print(f"  numbers  {numbers}" + (": as published" if official and not wrong else ""))
    problems.extend(wrong)
    if decode:
        wrong, odd = _check_images(stem, dataset, workers)
        problems, notes = problems + wrong, notes + odd
    return problems, notes


def _check_images(stem: str, dataset: Any, workers: int) -> tuple[list[str], list[str]]:
    parts = {"train": dataset.train_x, "val": dataset.val, "test": dataset.test}
    items = {d.impath: d for part in parts.values() for d in part or []}
    jobs = [(path, items[path].as_people_see) for path in sorted(items)]
    looks = sorted(look_at_all(jobs, workers, f"Reading {stem}"))
    broken = [look for look in looks if look.error]
    print(f"  images   {len(looks) - len(broken):,} of {len(looks):,} decode")
    problems = [f"broken image: {look.path} ({look.error})" for look in broken[:SHOWN]]
    if len(broken) > SHOWN:
        problems.append(f"... and {len(broken) - SHOWN:,} more broken images")
    how = "shown as people see them" if dataset.as_people_see else "left as the published numbers have them"
    notes = []
    for kind, n in Counter(kind for look in looks for kind in look.kinds).items():
        example = next(look.path for look in looks if kind in look.kinds)
        notes.append(f"{n:,} images {kind}, {how}, such as {example}")
    if not dataset.test_only:  # else the train list is the test list
        leaks, others = repetitions(parts, {look.path: look.digest for look in looks if not look.error})
        notes.extend(others)
        (problems if dataset.as_people_see else notes).extend(leaks)  # published sets are what they are
    return problems, notes


def repetitions(parts: dict[str, Any], digests: dict[str, bytes]) -> tuple[list[str], list[str]]:
    """Pictures that are there more than once, by the bytes (`digests`) of their files.

    Returns:
        What makes results worthless (a picture in train and test, or under two labels), and what is only worth knowing.
    """
    seen: dict[bytes, list[tuple[str, int, str]]] = {}
    for part, items in parts.items():
        for d in items or []:
            if d.impath in digests:
                seen.setdefault(digests[d.impath], []).append((part, d.label, d.impath))
    found: dict[str, list[str]] = {}
    for copies in seen.values():
        paths = list(dict.fromkeys(path for _, _, path in copies))
        if len(paths) < 2:
            continue
        within = {part for part, _, _ in copies}
        kinds = ["under two labels"] if len({label for _, label, _ in copies}) > 1 else []
        kinds += ["in train and in test"] if {"train", "test"} <= within else []
        found.setdefault(" and ".join(kinds) or "more than once", []).append(" = ".join(paths[:3]))
    told = {kind: f"{len(same):,} pictures are there {kind}, such as {same[0]}" for kind, same in found.items()}
    notes = [told.pop("more than once")] if "more than once" in told else []
    return list(told.values()), notes


def read_quietly(cls: Any, root: str) -> tuple[Any, list[str]]:
    """A data set with all its images, read without writing anything, and the warnings that its reader gives."""
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = root
    cfg.SEED = 1
    with nothing_written(), contextlib.redirect_stdout(io.StringIO()) as printed:
        dataset = cls(cfg)
    told = [line.removeprefix("Warning: ") for line in printed.getvalue().splitlines() if line.startswith("Warning: ")]
    return dataset, told


def counts(dataset: Any, folder: str) -> dict[str, int]:
    """Numbers of classes, of images per split, and of all image files where a set publishes only these."""
    found = {"classes": dataset.num_classes, "train": len(dataset.train_x)}
    found |= {"val": len(dataset.val or []), "test": len(dataset.test)}
    if "images" in dataset.official:
        walk = os.walk(os.path.join(folder, "images"), followlinks=True)
        found["images"] = sum(is_image(os.path.join(at, name)) for at, _, names in walk for name in names)
    return found


def look_at_all(jobs: Sequence[tuple[str, bool]], workers: int, title: str) -> Iterator[Look]:
    """Decode images in `workers` (from 1) processes, with a progress bar; in any order.

    A job is an image file, and whether it is decoded as people see it.
    """
    with contextlib.ExitStack() as stack:
        if workers > 1 and len(jobs) >= INLINE_IMAGES:
            pool = stack.enter_context(multiprocessing.Pool(workers))
            results: Iterable[Look] = pool.imap_unordered(look_at, jobs, chunksize=16)
        else:
            results = map(look_at, jobs)
        yield from tqdm(results, total=len(jobs), desc=title, unit="image")


def look_at(job: tuple[str, bool]) -> Look:
    """Read one image to its last pixel."""
    path, as_people_see = job
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_image(path, as_people_see)
            kinds = special_pixels(path)
    except ImageReadError as e:
        return Look(path, str(e).removeprefix(f"cannot read image {path}: ").replace(f" {path!r}", ""), [], b"")
    with open(path, "rb") as f:
        return Look(path, "", kinds, hashlib.blake2b(f.read(), digest_size=16).digest())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        0 when all is well, 1 when something is wrong, 2 for bad arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m datasets.check", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="sets, named as in configs/datasets, or 'all'")
    parser.add_argument("--root", default="data", help="folder of all data sets (DATASET.ROOT); default: data")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes that decode; default: all cores")
    parser.add_argument("--no-decode", action="store_true", help="only layout and numbers")
    args = parser.parse_args(argv)
    try:
        stems = resolve(args.names, [*read_table(), *RENDERED, "image_folder"])
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    failed, noted = [], False
    for stem in stems:
        problems, notes = check(stem, absolute(args.root), max(1, args.workers), not args.no_decode)
        for line in [f"note: {note}" for note in notes] + problems:
            print("  " + line.replace("\n", "\n  "))
        noted = noted or bool(notes)
        if problems:
            failed.append(stem)
    well = "Well, but for the notes above; docs/data.md explains them." if noted else "All is well."
    print(f"Not ready: {', '.join(failed)}" if failed else well)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
