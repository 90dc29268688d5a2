"""Check data sets before hours of training: layout, numbers of images, and that every image decodes.

``python -m datasets.check NAME... --root data`` changes nothing; it prints what is missing and where it belongs.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image
from tqdm import tqdm

from dassl.config import get_cfg_default

from . import common
from .catalog import RENDERED, missing_parts, read_table, reader_class, resolve
from .files import nothing_written

SHOWN = 20  # broken images that are named one by one
INLINE_IMAGES = 64  # fewer than this are not worth starting processes for


def check(stem: str, root: str, workers: int, decode: bool = True) -> list[str]:
    """Check one data set.

    Args:
        stem: name of its config file.
        root: ``DATASET.ROOT``.
        workers: processes that decode images, from 1.
        decode: read every image.

    Returns:
        What is wrong, in words; empty when all is well.
    """
    cls = reader_class(stem)
    folder = os.path.join(root, cls.dataset_dir).rstrip("/")
    print(f"{stem}: {folder}")
    if stem in RENDERED and not os.path.exists(folder):
        print("  layout   nothing to check: rendered at the first use")
        return []
    entry = read_table().get(stem, {"parts": []})
    problems = [f"missing: {os.path.join(folder, need)}{_consequence(need)}" for need in missing_parts(entry, folder)]
    try:
        dataset = read_quietly(cls, root)
    except (OSError, ValueError) as e:
        return [*problems, str(e)]
    if problems:
        problems.append(f"get it with: python -m datasets.prepare {stem} --root {root}")
    print("  layout   " + ("ok" if not problems else "see below"))
    found = counts(dataset, folder)
    told = ", ".join(f"{n:,} {what}" for what, n in found.items())
    official = getattr(cls, "official", {})
    wrong = [f"{what}: {found[what]:,} found, {n:,} published" for what, n in official.items() if found[what] != n]
    print(f"  numbers  {told}" + (": as published" if official and not wrong else ""))
    problems.extend(wrong)
    if decode:
        parts = (dataset.train_x, dataset.val, dataset.test)
        paths = sorted({d.impath for part in parts for d in part or []})
        broken = sorted(decode_all(paths, workers, f"Reading {stem}"))
        print(f"  images   {len(paths) - len(broken):,} of {len(paths):,} decode")
        problems.extend(f"broken image: {path} ({why})" for path, why in broken[:SHOWN])
        if len(broken) > SHOWN:
            problems.append(f"... and {len(broken) - SHOWN:,} more broken images")
    return problems


def _consequence(need: str) -> str:
    return " (without it a split is drawn, and results do not compare with published ones)" if "split" in need else ""


def read_quietly(cls: Any, root: str) -> Any:
    """A data set with all its images, read without printing or writing anything."""
    cfg = get_cfg_default()
    cfg.DATASET.ROOT = root
    cfg.SEED = 1
    with nothing_written(), contextlib.redirect_stdout(io.StringIO()):
        return cls(cfg)


def counts(dataset: Any, folder: str) -> dict[str, int]:
    """Numbers of classes, of images per split, and of all image files where a set publishes only these."""
    found = {"classes": dataset.num_classes, "train": len(dataset.train_x)}
    found |= {"val": len(dataset.val or []), "test": len(dataset.test)}
    if "images" in getattr(dataset, "official", {}):
        walk = os.walk(os.path.join(folder, "images"), followlinks=True)
        found["images"] = sum(f.lower().endswith(common.IMAGE_EXTENSIONS) for _, _, names in walk for f in names)
    return found


def decode_all(paths: Sequence[str], workers: int, title: str) -> Iterator[tuple[str, str]]:
    """Decode images on several cores, with a progress bar.

    Args:
        paths: image files.
        workers: processes, from 1.
        title: words before the bar.

    Yields:
        Path and reason of each image that does not decode.
    """
    with contextlib.ExitStack() as stack:
        if workers > 1 and len(paths) >= INLINE_IMAGES:
            pool = stack.enter_context(multiprocessing.Pool(workers))
            results = pool.imap_unordered(decode_error, paths, chunksize=16)
        else:
            results = map(decode_error, paths)
        for path, why in tqdm(results, total=len(paths), desc=title, unit="image"):
            if why:
                yield path, why


def decode_error(path: str) -> tuple[str, str]:
    """Read one image to its last pixel; returns the path and why it failed, or ""."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as e:
        return path, str(e).replace(f" {path!r}", "") or type(e).__name__
    return path, ""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        0 when all is well, 1 when something is wrong, 2 for bad arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m datasets.check", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="sets, named as in configs/datasets, or 'all'")
    parser.add_argument("--root", default="data", help="folder of all data sets (DATASET.ROOT); default: data")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cores, help="processes that decode; default: all cores")
    parser.add_argument("--no-decode", action="store_true", help="only layout and numbers")
    args = parser.parse_args(argv)
    root = os.path.abspath(os.path.expanduser(args.root))
    try:
        stems = resolve(args.names, [*read_table(), *RENDERED, "image_folder"])
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    failed = []
    for stem in stems:
        problems = check(stem, root, max(1, args.workers), not args.no_decode)
        for problem in problems:
            print("  " + problem.replace("\n", "\n  "))
        if problems:
            failed.append(stem)
    print(f"Not ready: {', '.join(failed)}" if failed else "All is well.")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped.")
