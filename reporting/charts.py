"""Bar charts and confusion matrices, saved as PNG or, in vectors, as PDF."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reporting.tables import Heatmap, Panel

if TYPE_CHECKING:  # matplotlib is loaded where something is drawn, because it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6db5", "#e08a1e", "#3a9d6e", "#b5527a", "#7b61a8", "#5b3d2e")
INK, GREY, FAINT = "#22272e", "#98a1ad", "#dde1e6"
# Sizes are in points, of which an inch has 72.
ACROSS, BAR, GAP, LEFT, PLOT, LINE, LETTER = 1280.0, 34.0, 26.0, 56.0, 250.0, 15.0, 6.0
Place = tuple[float, float, float, float]  # left, bottom, width, height of axes, as shares of the figure


def wrap(text: str, width: float) -> str:
    """Breaks `text` at spaces, hyphens and underscores into lines of at most `width`, where it can."""
    return textwrap.fill(text.replace("_", " "), max(1, int(width / LETTER)), break_long_words=False)


def head(axes: Axes, text: str, right: float, up: float, size: float) -> None:
    """Writes a line above the axes, its upper left corner so many points from theirs."""
    axes.annotate(text, (0, 1), (right, up), "axes fraction", "offset points", va="top", fontsize=size)


class Bars:
    """Grouped bars with intervals as error bars and the values above; an empty place is a missing value."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.group = max(BAR * len(panel.series), 48.0)
        plot = max(len(panel.groups) * (self.group + GAP), 1.3 * LETTER * len(panel.title), 360.0)
        share = plot / max(1, len(panel.groups))  # of a group with the gap beside it
        self.captions = [wrap(name, share - 8) for name in panel.groups]
        # The legend has as many columns as fit.
        self.columns = max(1, min(len(panel.series), int(plot / (30 + LETTER * max(map(len, panel.series))))))
        self.above = 42 + 1.2 * LINE * math.ceil(len(panel.series) / self.columns)
        self.below = 14 + LINE * max(caption.count("\n") + 1 for caption in self.captions)
        self.bar = BAR / share
        self.box = (LEFT, GAP, self.below, self.above)  # margins: left, right, bottom, top
        self.width, self.height = LEFT + plot + GAP, self.below + PLOT + self.above

    def draw(self, figure: Figure, place: Place) -> None:
        panel, axes = self.panel, figure.add_axes(place)
        names = list(panel.series)
        lively = [name for name in names if name not in panel.muted]
        colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(lively)}
        tops = [c.mean + (c.half or 0) for row in panel.series.values() for c in row if c and math.isfinite(c.mean)]
        highest = max(tops, default=95.0)
        limit = min(100, 20 * math.ceil((highest + 5) / 20))
        for i, name in enumerate(names):
            cells = [(g, cell) for g, cell in enumerate(panel.series[name]) if cell and math.isfinite(cell.mean)]
            xs = [g + (i - (len(names) - 1) / 2) * self.bar for g, _ in cells]
            halves = [cell.half or math.nan for _, cell in cells]  # no error bar where there is no interval
            look: dict[str, Any] = {"color": colours.get(name, GREY), "ecolor": INK, "capsize": 4, "label": name}
            axes.bar(xs, [cell.mean for _, cell in cells], 0.88 * self.bar, yerr=halves, **look)
            for x, (_, cell) in zip(xs, cells, strict=True):
                text, top = f"{cell.mean:.1f}{'*' if cell.incomplete else ''}", cell.mean + (cell.half or 0)
                axes.annotate(text, (x, min(top, limit)), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        axes.set(xlim=(-0.5, len(panel.groups) - 0.5), ylim=(0, limit))
        axes.set_xticks(range(len(panel.groups)), self.captions, fontsize=10)
        axes.set_yticks(range(0, limit + 1, 20), [f"{value} %" for value in range(0, limit + 1, 20)], fontsize=9)
        axes.tick_params(length=0)
        axes.grid(axis="y", color=FAINT)
        axes.set_axisbelow(True)
        axes.spines[["left", "right", "top"]].set_visible(False)
        head(axes, panel.title, 8 - LEFT, self.above - 10, 13)
        anchor: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.06), "ncols": self.columns}
        axes.legend(**anchor, frameon=False, fontsize=10, borderpad=0, handlelength=1)


class Matrix:
    """A confusion matrix: the darker, the larger the share of the true class."""

    def __init__(self, heatmap: Heatmap) -> None:
        self.heatmap, count = heatmap, len(heatmap.names)
        self.cell = max(4.0, min(40.0, 720 / count))
        self.size = min(10.0, self.cell * 0.8)
        self.named = self.size >= 5  # smaller letters cannot be read
        names = 0.65 * self.size * max(map(len, heatmap.names)) if self.named else 10.0
        side, wide = self.cell * count, 1.3 * LETTER * max(len(heatmap.title), 44)
        self.box = (20 + names, max(24.0, wide - side - names), 20.0, 60 + names)
        self.width, self.height = side + self.box[0] + self.box[1], side + self.box[2] + self.box[3]

    def draw(self, figure: Figure, place: Place) -> None:
        from matplotlib.colors import LinearSegmentedColormap, PowerNorm

        axes, names, matrix = figure.add_axes(place), self.heatmap.names, self.heatmap.matrix
        blues = LinearSegmentedColormap.from_list("blues", ["white", "#1f4e8c"])
        norm = PowerNorm(0.6, 0, 100)  # lifts the small shares, which are what one looks for
        axes.pcolormesh(matrix, cmap=blues, norm=norm, rasterized=len(names) > 200)
        axes.invert_yaxis()
        axes.xaxis.tick_top()
        ticks = [i + 0.5 for i in range(len(names))] if self.named else []
        axes.set_xticks(ticks, names if ticks else [], rotation=90, fontsize=self.size)
        axes.set_yticks(ticks, names if ticks else [], fontsize=self.size)
        axes.tick_params(length=0)
        axes.spines[:].set_color(FAINT)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if self.cell >= 24 and value >= 0.5:
                    ink = "white" if norm(value) > 0.5 else INK
                    axes.text(j + 0.5, i + 0.5, f"{value:.0f}", color=ink, ha="center", va="center", fontsize=9)
        left, _, _, above = self.box
        head(axes, self.heatmap.title, 8 - left, above - 10, 12)
        head(axes, "rows: true classes, columns: predicted classes", 8 - left, above - 28, 9)


def draw(panels: list[Panel | Heatmap]) -> Figure:
    """One figure with all panels, laid out in rows."""
    from matplotlib.figure import Figure

    pictures = [Bars(panel) if isinstance(panel, Panel) else Matrix(panel) for panel in panels]
    corners, x, y, row = [], 0.0, 0.0, 0.0
    for picture in pictures:
        if x and x + picture.width > ACROSS:
            x, y, row = 0.0, y + row, 0.0
        corners.append((x, y))
        x, row = x + picture.width, max(row, picture.height)
    width = max(x + picture.width for (x, _), picture in zip(corners, pictures, strict=True))
    height = y + row
    figure = Figure(figsize=(width / 72, height / 72))
    for (x, y), picture in zip(corners, pictures, strict=True):
        left, right, bottom, top = picture.box
        inner = (picture.width - left - right, picture.height - bottom - top)
        corner = (x + left, height - y - picture.height + bottom)
        picture.draw(figure, (corner[0] / width, corner[1] / height, inner[0] / width, inner[1] / height))
    return figure


def save(panels: list[Panel | Heatmap], path: Path) -> None:
    """Draws the panels into one file; its ending, .png or .pdf, chooses the format."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    # A dollar sign in a class name is no formula.
    with matplotlib.rc_context({"text.parse_math": False, "text.color": INK, "xtick.color": INK, "ytick.color": INK}):
        draw(panels).savefig(path, dpi=144)
