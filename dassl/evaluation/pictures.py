"""Pictures of an evaluation, for TensorBoard: drawn without a window and without pyplot's global state."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

_DPI = 100
_MOST_BARS = 40
_MOST_NAMES = 40  # more cannot be read
_MOST_CELLS = 250  # a side; of more classes, each cell is the mean of a block
_LETTERS = 28  # of a class name


def accuracy_bars(per_class: Mapping[str, float]) -> torch.Tensor:
    """Bars of the accuracy (percent) by class name, the highest on top; of many classes the lowest and the highest.

    Returns:
        uint8 [3, H, W].
    """
    falling = sorted(per_class.items(), key=lambda item: item[1], reverse=True)
    half = _MOST_BARS // 2
    shown = falling if len(falling) <= _MOST_BARS else [*falling[:half], *falling[-half:]]
    title = "accuracy per class, %"
    if len(shown) < len(falling):
        title += f": the {half} highest and the {half} lowest of {len(falling)}"

    def draw(axes: Axes) -> None:
        values = [value for _, value in shown]
        axes.barh(range(len(shown)), values, color="#1f4e8c", height=0.8)
        for i, value in enumerate(values):
            inside = value > 90  # no room is left beside the bar
            how: dict[str, Any] = {"ha": "right", "color": "white"} if inside else {"ha": "left", "color": "black"}
            axes.text(value - 0.7 if inside else value + 0.7, i, f"{value:.1f}", va="center", **how)
        if len(shown) < len(falling):
            axes.axhline(half - 0.5, color="black", linestyle=":")
        axes.set(xlim=(0, 100), ylim=(len(shown) - 0.5, -0.5), title=title)
        axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown])
        axes.spines[["right", "top"]].set_visible(False)

    return _drawn((7.0, 1.0 + 0.2 * len(shown)), draw)


def confusion_map(confusion: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """A confusion matrix, the darker the larger the share; of many classes without names, of very many in blocks.

    Args:
        confusion: [C, C], images by true (rows) and predicted class.
        names: C class names.

    Returns:
        uint8 [3, H, W].
    """
    block = -(-len(names) // _MOST_CELLS)
    # The sums of blocks, smaller ones at the right and lower edge.
    counts = F.avg_pool2d(confusion.double()[None], block, ceil_mode=True, divisor_override=1)[0]
    percent = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).numpy()
    named = len(names) <= _MOST_NAMES
    title = "rows: true class, columns: predicted, % of the true class"
    if block > 1:
        title += f"; {block} neighbouring classes a cell"

    def draw(axes: Axes) -> None:
        axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.6, 0, 100), interpolation="nearest")
        axes.set_title(title, loc="right")
        ticks = range(len(names)) if named else ()
        axes.set_xticks(ticks, [_short(name) for name in names] if named else [], rotation=90)
        axes.set_yticks(ticks, [_short(name) for name in names] if named else [])
        for (i, j), share in np.ndenumerate(percent) if named else ():
            if share >= 0.5:
                axes.text(j, i, f"{share:.0f}", ha="center", va="center", color="white" if share > 35 else "black")

    side = 3.5 + 0.22 * len(names) if named else 7.5
    return _drawn((side, side), draw)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _drawn(inches: tuple[float, float], draw: Callable[[Axes], None]) -> torch.Tensor:
    """What `draw` puts on axes of a figure of so many inches (width, height), as uint8 [3, H, W]."""
    # A dollar sign in a class name is no formula; letters that the font lacks are boxes, and no warning each.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 8.0}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=inches, dpi=_DPI, layout="constrained")
        draw(figure.add_subplot())
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
