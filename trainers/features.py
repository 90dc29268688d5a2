"""What the frozen image tower gives of an image, computed once for all methods, seeds, epochs and processes.

TEST.FEATURE_CACHE names a folder. A file in it is named by a digest of everything that its values depend on, down to
the last bit, so that another backbone, transform, batch size, library or list of images never finds it. Test and
validation images have one file each for their features and for the block statistics; training images, whose views and
batches are drawn from the seed and the epoch, have one for each epoch.

A file is an array in NumPy's format, followed by the CRC-32 of its values.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from yacs.config import CfgNode

import clip
import dassl.data.data_manager
import dassl.data.transforms
import dassl.utils.images
from dassl.config.check import at_least, empty, text
from dassl.data.datasets import Datum
from dassl.utils.tools import existing_folder, open_atomically, remove_stale_files, versions

RULES = {"TEST.FEATURE_CACHE": empty | text, "TEST.FEATURE_CACHE_MB": at_least(1)}
SUFFIX = ".features"
Parts = tuple[torch.Tensor, ...]  # of a batch: features [B, E], and where they are asked for block statistics


class File(NamedTuple):
    """What is kept of N images."""

    path: Path
    shape: tuple[int, ...]  # [N, ...]
    dtype: str = "<f4"  # NumPy's name

    @property
    def size(self) -> int:
        """Bytes."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


def add_config(cfg: CfgNode) -> None:
    """Declare the keys of the cache."""
    cfg.TEST.FEATURE_CACHE = "auto"  # folder that methods and runs share; auto: gopro in ~/.cache; empty: none
    cfg.TEST.FEATURE_CACHE_MB = 10_000  # the most that the folder may hold


def cache_folder(cfg: CfgNode) -> Path | None:
    """The folder that TEST.FEATURE_CACHE asks for; None for none, and for auto where there is no home folder.

    Raises:
        ValueError: A folder of the user's own choice cannot be one; the default never stops a run.
    """
    value = chosen = cfg.TEST.FEATURE_CACHE
    if chosen == "auto":
        value = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "gopro", "features")
    value = os.path.expanduser(value)
    if not value or (chosen == "auto" and value.startswith("~")):
        return None
    folder = Path(value).absolute()
    if chosen != "auto" and (value.startswith("~") or not existing_folder(folder).is_dir()):
        raise ValueError(f"TEST.FEATURE_CACHE must name a folder, got {str(folder)!r}, where none can be")
    return folder


class FeatureCache:
    """The files of one run.

    Args:
        cfg: The run's config, after the backbone settled its input.
        weights: Digest of the backbone.
        precision: A name in PRECISIONS.
        device: Where the features are computed.

    Raises:
        ValueError: See `cache_folder`.
    """

    def __init__(self, cfg: CfgNode, weights: str, precision: str, device: torch.device) -> None:
        self.folder, self.limit, self.name = cache_folder(cfg), int(cfg.TEST.FEATURE_CACHE_MB * 1e6), cfg.DATASET.NAME
        self._told: set[str] = set()
        self._sound: set[Path] = set()  # checked by this process
        if self.folder is None:
            return
        if device.type == "cuda":
            machine = [torch.cuda.get_device_name(device), torch.get_float32_matmul_precision()]
        else:  # the libraries choose other kernels for other processors and thread counts
            machine = [_processor(), torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads())]
        self._facts = [weights, precision, device.type, *machine, *sorted(versions().items()), _code()]
        with suppress(OSError):
            remove_stale_files(self.folder)

    def path(self, kind: str, facts: Sequence[object], images: Iterable[tuple[int, Datum]]) -> Path | None:
        """Where the values of some images belong.

        Args:
            kind: What is kept of an image.
            facts: What they depend on beside the backbone, the machine and the code, as JSON has it.
            images: N images with their indices, in the order of the batches; a file that changes in size or time is
                another one.

        Returns:
            A file; None without a cache, or where an image cannot be found.
        """
        if self.folder is None:
            return None
        sha = hashlib.sha256(json.dumps([kind, *self._facts, *facts]).encode())
        try:
            for index, item in images:
                status = os.stat(item.impath)
                stamp = f"{status.st_size}\0{status.st_mtime_ns}\0{item.as_people_see}"
                sha.update(f"{index}\0{os.path.abspath(item.impath)}\0{stamp}\n".encode())
        except OSError:  # the loader says which
            return None
        return self.folder / f"{self.name}-{kind}-{sha.hexdigest()[:24]}{SUFFIX}"

    def batches(self, what: str, files: Sequence[File], size: int, computed: Iterator[Parts]) -> Iterator[Parts]:
        """The parts of each batch: read where all files are there, else computed, and kept where there is room.

        Args:
            what: Whose they are, for the line that says what is done; it is said once.
            files: One for each part.
            size: Images a batch; the last may be smaller.
            computed: The parts.
        """
        found = [self._read(file) for file in files]
        arrays = [rows for rows in found if rows is not None]
        if len(arrays) == len(files):
            self._tell(what, f"{what}: read from {_shown(files)}")
            for i in range(0, len(arrays[0]), size):
                yield tuple(torch.from_numpy(np.array(rows[i : i + size])) for rows in arrays)
            return
        missing = [i for i, rows in enumerate(found) if rows is None]
        obstacle, kept = self._obstacle(sum(files[i].size for i in missing)), list[Parts]()
        if obstacle:
            self._tell(what, f"{what}: computed anew each time, since {obstacle}")
        for parts in computed:
            if not obstacle:
                kept.append(tuple(part.cpu() for part in parts))
            yield parts
        if obstacle:
            return
        try:
            for i in missing:
                _write(files[i], [parts[i] for parts in kept])
            told = f"kept for other runs in {_shown(files)}"
        except OSError as error:
            told = f"not kept for other runs, since {self.folder} cannot be written: {error.strerror}"
        self._tell(what, f"{what}: {told}")

    def has_room(self, what: str, size: int, share: float) -> bool:
        """Whether there is a folder, and so many bytes are at most a share of its bound; if not, a line says so."""
        if self.folder is None:
            return False
        if size > (most := share * self.limit):
            text = f"{_amount(size)} are more than {_amount(most)}, {share:.0%} of TEST.FEATURE_CACHE_MB"
            self._tell(what, f"{what}: computed anew each time, since {text}")
        return size <= most

    def _tell(self, key: str, line: str) -> None:
        if key not in self._told:
            print(line)
        self._told.add(key)

    def _read(self, file: File) -> np.ndarray | None:
        """The values of a file; None where there is none, or a damaged one, which is named."""
        path = file.path
        try:
            rows: np.ndarray = np.load(path, mmap_mode="r")
            if path not in self._sound:  # all of it is read once by a process
                with open(path, "rb") as opened:
                    opened.seek(-4, os.SEEK_END)
                    sound = int.from_bytes(opened.read(4), "little") == zlib.crc32(rows.data)
                if not sound or (rows.shape, rows.dtype.str) != file[1:]:
                    raise ValueError("other values")
        except OSError:  # there is none, or it is another user's
            return None
        except Exception:  # a damaged file raises whatever NumPy stumbles over
            print(f"{path} is damaged: it is ignored and written anew")
            return None
        self._sound.add(path)
        with suppress(OSError):  # of another user
            os.utime(path)  # see `_make_room`
        return rows

    def _obstacle(self, size: int) -> str:
        """Why so many bytes cannot be kept; empty where they can, and then there is room for them."""
        assert self.folder is not None
        if size > self.limit:
            return f"{_amount(size)} are more than TEST.FEATURE_CACHE_MB {self.limit / 1e6:g}"
        if size > psutil.virtual_memory().available // 4:
            return f"{_amount(size)} are more than a quarter of the free memory"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if size > (free := shutil.disk_usage(self.folder).free) // 4:
                return f"{_amount(size)} are more than a quarter of what is free in {self.folder}, {_amount(free)}"
            self._make_room(size)
        except OSError as error:
            return f"{self.folder} cannot be written: {error.strerror}"
        return "" if os.access(self.folder, os.W_OK) else f"{self.folder} cannot be written"

    def _make_room(self, size: int) -> None:
        """Remove the files that were not read for longest until `size` bytes fit TEST.FEATURE_CACHE_MB."""
        assert self.folder is not None
        files = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):  # another process removed it
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(file[1] for file in files) + size - self.limit
        removed = 0
        for _, bytes_, path in sorted(files):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess, removed = excess - bytes_, removed + 1
        if removed:
            self._tell("room", f"{self.folder}: {removed} files unused for longest made room for new ones")


def _write(file: File, parts: Iterable[torch.Tensor]) -> None:
    """Write an array in pieces; a reader sees all of it or nothing."""
    checksum = 0
    with open_atomically(file.path, "wb") as opened:
        header = {"descr": file.dtype, "fortran_order": False, "shape": file.shape}
        np.lib.format.write_array_header_1_0(opened, header)
        for part in parts:
            content = part.contiguous().numpy().data
            checksum = zlib.crc32(content, checksum)
            opened.write(content)
        opened.write(checksum.to_bytes(4, "little"))


def _shown(files: Sequence[File]) -> str:
    return f"{files[0].path.parent} ({_amount(sum(file.size for file in files))})"


def _amount(size: float) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.2g} MB"


@functools.cache
def _code() -> str:
    """Digest of the sources that images go through, so that a change of them computes anew."""
    modules = (dassl.data.data_manager, dassl.data.transforms, dassl.utils.images, dassl.utils.tools)
    own = [__file__, *(str(module.__file__) for module in modules)]
    paths = [*sorted(Path(str(clip.__file__)).parent.glob("*.py")), *map(Path, own)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


@functools.cache
def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        if found := re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor()
