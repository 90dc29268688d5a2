"""Files, seeds and the environment."""

from __future__ import annotations

import errno
import json
import os
import platform
import random
import shutil
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import psutil
import torch
from tqdm import tqdm

T = TypeVar("T")
R = TypeVar("R")
_HOST = platform.node().partition(".")[0]  # in the names of unfinished files: folders may be shared

PACKAGES = ("torch", "torchvision", "open_clip_torch", "yacs", "numpy", "pillow", "tensorboard", "safetensors", "timm")


def mkdir_if_missing(dirname: str) -> None:
    """Make a folder and its parents; an existing one is fine."""
    if dirname:
        os.makedirs(dirname, exist_ok=True)


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = Path(path).absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def check_isfile(fpath: str) -> bool:
    """Whether a file exists; warns when it does not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f"no file found at {fpath}", stacklevel=2)
    return found


def read_text(fpath: str | os.PathLike[str]) -> str:
    """Read a text file of any system: UTF-8, 16 or 32, with or without a byte-order mark; lines end in a line feed.

    Raises:
        ValueError: Another encoding; names the file, the line and what to do.
    """
    data = Path(fpath).read_bytes()
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace").splitlines() or [""]
        raise ValueError(
            f"{fpath}, line {len(before)}: after {before[-1][-40:]!r} come bytes that are not {encoding} "
            f"({data[error.start : error.end]!r}). Save the file as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(fpath: str | os.PathLike[str]) -> Any:
    """Read a JSON file as `read_text` does; raises ValueError naming the file when it is not JSON."""
    try:
        return json.loads(read_text(fpath))
    except json.JSONDecodeError as error:
        raise ValueError(f"{fpath} is not valid JSON: {error}") from error


@contextmanager
def open_atomically(fpath: str | os.PathLike[str], mode: str) -> Iterator[IO[Any]]:
    """A file to write that replaces the old one at the end: a reader or a crash never sees half of it."""
    path = Path(fpath)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")
    try:
        with open(tmp, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(errno.ENOSPC, "no space left on the disk", str(path)) from error
        raise
    finally:
        tmp.unlink(missing_ok=True)


def remove_stale_files(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writes left in a folder and those below it: unfinished files of this host's dead processes."""
    for path in (*Path(folder).glob(".*.tmp"), *Path(folder).glob("*/.*.tmp")):
        host, _, pid = path.name.split(".")[-2].rpartition("-")
        if host == _HOST and pid.isdigit() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def copy_atomically(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a file; a reader or a crash never sees half of it."""
    with open(source, "rb") as content, open_atomically(target, "wb") as file:
        shutil.copyfileobj(content, file)


def write_text(text: str, fpath: str | os.PathLike[str]) -> None:
    """Write a text file atomically."""
    with open_atomically(fpath, "w") as file:
        file.write(text)


def write_json(obj: Any, fpath: str | os.PathLike[str]) -> None:
    """Write JSON atomically, indented."""
    write_text(json.dumps(obj, indent=2) + "\n", fpath)


def set_random_seed(seed: int) -> None:
    """Seed Python, numpy and torch (all devices); 0 is a seed like any other."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's CPU generators start from the key; afterwards they go on as before.

    Args:
        key: Non-negative integers, e.g. seed, epoch, index.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    low, high = (int(word) for word in np.random.SeedSequence(key).generate_state(2))
    random.seed(low)
    np.random.seed(low)
    torch.default_generator.manual_seed(low << 31 ^ high)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def map_ahead(function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int) -> Iterator[R]:
    """`map` in threads, in order: results of up to `ahead` items beyond the one that is asked for are made ready.

    Args:
        function: Called in the threads; what it raises comes out where its result would.
        items: Taken one by one as results are asked for, in the caller's thread.
        threads: How many, at least 1.
        ahead: At least 1; no more than this and one results are held at once.
    """
    pool, pending = ThreadPoolExecutor(threads), deque[Future[R]]()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # the caller may have stopped asking
        pool.shutdown(cancel_futures=True)


def progress(iterable: Iterable[T], desc: str, **kwargs: Any) -> Iterable[T]:
    """A tqdm bar on a terminal, and a line now and then elsewhere (a log file, a pipe)."""
    if sys.stderr.isatty():
        return tqdm(iterable, desc=desc, **kwargs)  # type: ignore[no-any-return]
    # One line a report: tqdm's carriage returns would make a log a single endless line.
    lines = _Lines()
    return tqdm(iterable, desc=desc, mininterval=20, ascii=True, ncols=100, file=lines, **kwargs)  # type: ignore[no-any-return]


class _Lines:
    def write(self, text: str) -> None:
        text = text.strip("\r\n")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def collect_env_info() -> str:
    """One line on versions and hardware."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({os.cpu_count()} cores)"
    return ", ".join(f"{name} {version}" for name, version in versions().items()) + f", {device}"


def usable_cores() -> int:
    """Cores that this process may use; a container or a scheduler may have left it fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Entries of a folder without hidden ones."""
    items = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(items) if sort else items


def tolist_if_not(x: Any) -> list[Any]:
    """[x], or x if it is a list already."""
    return x if isinstance(x, list) else [x]
