"""Decoded training images, kept in memory that the loader's worker processes share."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image


class ImageCache:
    """Keeps decoded images while there is room; what one worker decoded, all of them read.

    The memory is mapped before the workers are forked, and the system takes its pages only as images come. A worker
    that is spawned instead gets a cache without room, and decodes each time.

    Args:
        count: Number of images.
        limit_bytes: Room for their pixels; 0 keeps nothing.
    """

    def __init__(self, count: int, limit_bytes: int) -> None:
        self.count = count
        self.limit = limit_bytes
        if not limit_bytes:
            return
        self._pixels = mmap.mmap(-1, limit_bytes)
        # Per image its offset, width and height, 0 until its pixels are there; in the last row the bytes taken.
        self._table = torch.frombuffer(mmap.mmap(-1, 24 * (count + 1)), dtype=torch.int64).view(-1, 3)
        self._lock = multiprocessing.Lock()

    def __reduce__(self) -> Any:
        return ImageCache, (self.count, 0)

    def get(self, index: int, decode: Callable[[], Image.Image]) -> Image.Image:
        """The image of an index, in a copy of its own.

        Args:
            index: Which, from 0 to count - 1.
            decode: Gives it in RGB where it is not kept.
        """
        if not self.limit:
            return decode()
        with self._lock:
            offset, width, height = self._table[index].tolist()
        if width:
            return Image.frombytes("RGB", (width, height), self._pixels[offset : offset + 3 * width * height])
        image = decode()
        size = 3 * image.width * image.height
        with self._lock:
            offset = int(self._table[-1, 0])
            fits = offset + size <= self.limit
            if fits:
                self._table[-1, 0] = offset + size
        if fits:
            self._pixels[offset : offset + size] = image.tobytes()
            with self._lock:
                self._table[index] = torch.tensor([offset, image.width, image.height])
        return image
