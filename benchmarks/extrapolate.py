"""What the naive reference costs at sizes that it cannot run: a line through two that it can.

Its text tower does the same for every image and class, so time and memory grow in a straight line with the classes.
Where memory runs short it would in truth get slower than that, so the line flatters it, if anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SHARE = 0.75  # of the memory at hand, which the naive side may plan to take


def line(points: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """The line through the first and the last of some points (size, cost), sizes rising; it never falls.

    Raises:
        ValueError: Fewer than two sizes.
    """
    (x0, y0), (x1, y1) = points[0], points[-1]
    if x1 <= x0:
        raise ValueError(f"a line needs two rising sizes, got {[x for x, _ in points]}")
    slope = max(0.0, (y1 - y0) / (x1 - x0))
    return lambda x: y1 + slope * (x - x1)


def largest_fitting(wanted: int, need: Callable[[float], float], available: float) -> int:
    """The largest size up to `wanted` whose need, by a rising line, stays within SHARE of what is available.

    Args:
        wanted: Size asked for.
        need: Size -> bytes.
        available: Bytes at hand.

    Returns:
        The size; 0 when not even 1 fits.
    """
    low, high = 0, wanted
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if need(middle) <= SHARE * available else (low, middle - 1)
    return low
