"""Download data sets and put them where the readers expect them.

``python -m datasets.prepare NAME... --root data`` gets sets; ``--list`` shows all of them. A call that was
interrupted goes on where it stopped, and a second call does nothing. Addresses are in ``sources.yaml``.
"""

import argparse
import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from .catalog import RENDERED, TABLE, list_sets, missing_parts, read_table, reader_class, resolve
from .fetch.download import DownloadError, UnpackError, checksum, download, is_archive, unpack
from .fetch.imagenet_archives import unpack_imagenet
from .files import absolute, list_folders, read_classnames
from .shapes import render_dataset

FAR_MORE = 4  # times the stated size: what comes out beyond that is no data set
DOWNLOADS = ".downloads"  # in the set's folder: archives and unfinished downloads
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
MIRROR = "https://huggingface.co/zhengli97/prompt_learning_dataset/resolve/main/"
SPLITS = (
    "https://raw.githubusercontent.com/linzhiqiu/cross_modal_adaptation/"
    "ac9077ee4e422f768c9b9109551468605e33ec9a/splits/"
)


def prepare(stem: str, root: str, entry: dict[str, Any], keep_archives: bool = False) -> list[str]:
    """Get everything of one data set that is not there yet.

    Args:
        stem: name of its config file.
        root: ``DATASET.ROOT``.
        entry: its entry of the table.
        keep_archives: leave the archives in the set's folder.

    Returns:
        What could not be had, in words; empty when the set is complete.

    Raises:
        OSError: the disk is full or cannot be written to.
    """
    folder = os.path.join(root, reader_class(stem).dataset_dir)
    downloads = os.path.join(folder, DOWNLOADS)
    os.makedirs(downloads, exist_ok=True)
    limit_bytes = FAR_MORE * (entry.get("size_gb", 1) + 1) * 1e9
    problems: list[str] = []
    with alone_in(folder):
        for left_by_a_kill in glob.glob(os.path.join(glob.escape(downloads), "unpack-*")):
            shutil.rmtree(left_by_a_kill)
        for part in entry["parts"]:
            problems.extend(_prepare_part(stem, root, folder, part, limit_bytes))
        if missing_parts(entry, folder):
            by_hand = entry.get("manual", "By hand: put what is missing into FOLDER.")
            problems.append(by_hand.rstrip().replace("FOLDER", folder))
        if not (keep_archives or problems) or not os.listdir(downloads):
            shutil.rmtree(downloads)
    return problems


def _prepare_part(stem: str, root: str, folder: str, part: dict[str, Any], limit_bytes: float) -> list[str]:
    missing = partial(missing_parts, {"parts": [part]}, folder)
    for need, other in itertools.product(missing(), part.get("copy", ())):
        path, target = os.path.join(root, other, need), os.path.join(folder, need)
        if os.path.isfile(path) and not os.path.exists(target):
            shutil.copyfile(path, target + ".part")
            os.replace(target + ".part", target)
            print(f"  {need}: copied from {os.path.dirname(path)}")
    attempts = [partial(_get, source, folder, missing, limit_bytes) for source in part["sources"]]
    if stem == "imagenet":
        attempts.insert(0, partial(unpack_imagenet, folder, os.path.join(folder, DOWNLOADS)))
    for attempt in attempts:
        if not missing():
            return []
        try:
            attempt()
        except (DownloadError, UnpackError) as e:
            print(f"  {e}", file=sys.stderr)
    return [f"{os.path.join(folder, need)} is missing." for need in missing()]


def _get(source: dict[str, Any], folder: str, missing: Callable[[], list[str]], limit_bytes: float) -> None:
    """Download one source, unless its file is here already, and take what is needed out of it."""
    needs = missing()
    url, drive = source["url"], source["url"].startswith("gdrive:")
    for short, address in (("gdrive:", DRIVE), ("mirror:", MIRROR), ("splits:", SPLITS)):
        if url.startswith(short):
            url = address + url.removeprefix(short)
    name = source.get("file") or (needs[0] if drive else re.split("[/?]", url)[-1])
    own_folder = hashlib.sha256(url.encode()).hexdigest()[:8]  # several sources use the same file names
    path = os.path.join(folder, DOWNLOADS, own_folder, name)
    by_hand = os.path.join(folder, name)
    if is_archive(name) and os.path.isfile(by_hand) and _is_published(by_hand, source):
        path = by_hand
    elif not os.path.exists(path):
        print(f"  {', '.join(needs)}: from {source['url']}")
        download(url, path, source.get("md5", ""), source.get("sha256", ""), limit_bytes=limit_bytes)
    if is_archive(path):
        try:
            _take_out(path, source, folder, needs, limit_bytes)
        except UnpackError:
            if path != by_hand:
                os.remove(path)  # so that the next call downloads it anew
            raise
    else:
        _check_text(path, url)
        os.replace(path, os.path.join(folder, needs[0]))


def _is_published(path: str, source: dict[str, Any]) -> bool:
    for kind in ("md5", "sha256"):
        if kind in source and checksum(path, kind) != source[kind]:
            print(f"  {path} is not the published file (its {kind.upper()} differs), so it is not used")
            return False
    return True


def _check_text(path: str, url: str) -> None:
    """A split or a list of names must be what it claims, not an error message in its place."""
    try:
        if path.endswith(".json"):
            with open(path, encoding="utf-8") as f:
                json.load(f)
        elif path.endswith("classnames.txt"):
            read_classnames(path)
    except ValueError as e:
        os.remove(path)
        raise DownloadError(f"{url} gave something else than {os.path.basename(path)} ({e}).") from e


def _take_out(archive: str, source: dict[str, Any], folder: str, needs: Sequence[str], limit_bytes: float) -> None:
    """Unpack into a folder that is thrown away, then move what is needed to its place in one step each."""
    names = {need: inside for inside, need in source.get("place", {}).items()}
    wanted = [names.get(need, need) for need in needs]
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=os.path.join(folder, DOWNLOADS)) as scratch:
        unpack(archive, scratch, only=[source["inner"]] if "inner" in source else wanted, limit_bytes=limit_bytes)
        if "inner" in source:
            inner, scratch = _find(scratch, source["inner"], archive), os.path.join(scratch, "inner")
            unpack(inner, scratch, only=wanted, limit_bytes=limit_bytes)
        for need, inside in zip(needs, wanted, strict=True):
            found, target = _find(scratch, inside, archive), os.path.join(folder, need)
            if os.path.isdir(target):
                os.rmdir(target)  # it is empty, or it would not be needed
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.replace(found, target)


def _find(folder: str, name: str, archive: str) -> str:
    """The first file or folder of an unpacked archive, from the top down, whose path ends in `name`."""
    level = [folder]
    while level:
        for parent in level:
            path = os.path.join(parent, *name.split("/"))
            if os.path.exists(path):
                return path
        level = [os.path.join(parent, n) for parent in level for n in list_folders(parent)]
    raise UnpackError(f"{archive} does not hold {name}.")


@contextlib.contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Keep a second call out of the same folder (where the system has file locks).

    Raises:
        BlockingIOError: another one is at work there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as e:
        raise BlockingIOError(e.errno, "another datasets.prepare is at work there", folder) from e
    finally:
        os.close(lock)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        0 when everything asked for is there, 1 when something is missing, 2 for bad arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m datasets.prepare", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="sets, named as in configs/datasets, or 'all'")
    parser.add_argument("--root", default="data", help="folder of all data sets (DATASET.ROOT); default: data")
    parser.add_argument("--list", action="store_true", help="show every set: size, state, licence")
    parser.add_argument("--keep-archives", action="store_true", help="keep what was downloaded")
    parser.add_argument("--sources", default=TABLE, help="another table of sources, such as your own mirror's")
    args = parser.parse_args(argv)
    root, table = absolute(args.root), read_table(args.sources)
    if args.list or not args.names:
        print(list_sets(root, table))
        return 0 if args.list else 2
    try:
        stems = resolve(args.names, [*table, *RENDERED])
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    failed = [stem for stem in stems if not _prepare_and_tell(stem, root, table, args.keep_archives)]
    if failed:
        print(f"Not complete: {', '.join(failed)}. Run the same command again to go on.", file=sys.stderr)
    return 1 if failed else 0


def _prepare_and_tell(stem: str, root: str, table: dict[str, Any], keep_archives: bool) -> bool:
    print(f"{stem}:")
    cls = reader_class(stem)
    problems: list[str] = []
    try:
        if stem in RENDERED:
            render_dataset(cls.__name__, os.path.join(root, cls.dataset_dir))
        elif not missing_parts(table[stem], os.path.join(root, cls.dataset_dir)):
            print("  is there already")
            return True
        else:
            problems = prepare(stem, root, table[stem], keep_archives)
    except (OSError, ValueError) as e:
        where = f": {e.filename}" if isinstance(e, OSError) and e.filename else ""
        problems = [(e.strerror if isinstance(e, OSError) and e.strerror else str(e)) + where]
    for problem in problems:
        print("  " + problem.replace("\n", "\n  "), file=sys.stderr)
    if not problems:
        print(f"  ready; check it with: python -m datasets.check {stem} --root {root}")
    return not problems


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run the same command again to go on.")
