"""Whether both sides give the same result: figures of two different results mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def relative_error(got: Sequence[Any], expected: Sequence[Any], zero: float = 0.0) -> float:
    """Worst over tensors of max |got - expected| / max |expected|.

    Args:
        got: Tensors.
        expected: As many, of the same shapes.
        zero: A tensor whose largest value is below this share of the largest of all is a mathematical zero plus
            rounding, and is compared with the largest of all.

    Returns:
        The error.
    """
    pairs = [(a.detach().double().cpu(), b.detach().double().cpu()) for a, b in zip(got, expected, strict=True)]
    scales = [b.abs().max().item() for _, b in pairs]
    largest = max(scales)
    scales = [scale if scale > zero * largest else largest or 1.0 for scale in scales]
    return max((a - b).abs().max().item() / scale for (a, b), scale in zip(pairs, scales, strict=True))


def require(error: float, limit: float, what: str) -> float:
    """Return the error; above the limit, stop the benchmark."""
    if not error <= limit:  # also when it is not a number
        raise SystemExit(f"{what}: ours differs from the naive reference by {error:.1e} relative, limit {limit:.0e}")
    return error
