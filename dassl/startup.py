"""How a command starts and ends quickly."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import PyTorch and what stands on it without Python's garbage collector.

    It would walk the many objects of these modules time and again while they are imported, and once more when the
    interpreter ends: two of five seconds. What was imported stays out of its way afterwards (`gc.freeze`).
    Does nothing where PyTorch is imported already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
