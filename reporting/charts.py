"""Bar charts, lines and confusion matrices, saved as PNG or, in vectors, as PDF, or given as SVG for a page."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reporting.tables import Cell, Curves, Heatmap, Panel, printable

if TYPE_CHECKING:  # matplotlib is loaded where something is drawn, because it takes a while
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (
    *("#2f6db5", "#e08a1e", "#3a9d6e", "#b5527a", "#7b61a8", "#5b3d2e", "#d62b2b", "#17b3c4"),
    *("#a8b820", "#14285a", "#f07fc0", "#0e5a3c", "#8a0f7a", "#c9a227", "#7fb2ee", "#8c5a14"),
)
GREYS = ("#98a1ad", "#5f6875", "#c4cad2")  # of what is muted
# Marker, line and hatch, each for eight colours: who cannot tell two colours apart has these.
STYLES = (("o", "-", ""), ("s", "--", "////"), ("^", ":", "...."), ("D", "-.", "xxxx"))
INK, FAINT = "#22272e", "#dde1e6"
# Sizes are in points, of which an inch has 72.
ACROSS, BAR, GAP, LEFT, PLOT, LINE, LETTER = 1280.0, 34.0, 26.0, 56.0, 250.0, 15.0, 6.0
PAGE = 900.0  # of a chart in an HTML page
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
Place = tuple[float, float, float, float]  # left, bottom, width, height of axes, as shares of the figure


def wrap(text: str, width: float) -> str:
    """Breaks `text` at spaces, hyphens and underscores into lines of at most `width`, where it can."""
    return textwrap.fill(text.replace("_", " "), max(1, int(width / LETTER)), break_long_words=False)


def head(axes: Axes, text: str, right: float, up: float, size: float) -> None:
    """Writes a line above the axes, its upper left corner so many points from theirs."""
    axes.annotate(text, (0, 1), (right, up), "axes fraction", "offset points", va="top", fontsize=size)


@dataclass(frozen=True)
class Look:
    """How a series is drawn, in bars and lines alike."""

    colour: str
    marker: str
    line: str
    hatch: str


def looks_of(panels: Iterable[Panel | Curves | Heatmap]) -> dict[str, Look]:
    """The look of every series in a figure, the same in all its panels."""
    charts = [panel for panel in panels if not isinstance(panel, Heatmap)]
    muted = {name for panel in charts for name in panel.muted}
    names = list(dict.fromkeys(name for panel in charts for name in panel.series))
    looks = {}
    for colours, chosen in ((COLOURS, [n for n in names if n not in muted]), (GREYS, [n for n in names if n in muted])):
        for i, name in enumerate(chosen):
            looks[name] = Look(colours[i % len(colours)], *STYLES[i // 8 % len(STYLES)])
    return looks


class Bars:
    """Grouped bars with intervals as error bars and the values above; an empty place is a missing value."""

    def __init__(self, panel: Panel, looks: dict[str, Look]) -> None:
        self.panel, self.looks = panel, looks
        tops = [c.mean + (c.half or 0) for row in panel.series.values() for c in row if c and math.isfinite(c.mean)]
        self.limit = min(100, 20 * math.ceil((max(tops, default=95.0) + 5) / 20))
        self.crowded = len(panel.series) > 8  # then narrow bars, and their values stand upright
        bar, self.lift = (BAR / 2, 36.0) if self.crowded else (BAR, 15.0)
        self.group = max(bar * len(panel.series), 48.0)
        plot = max(len(panel.groups) * (self.group + GAP), 1.3 * LETTER * len(panel.title), 360.0)
        share = plot / max(1, len(panel.groups))  # of a group with the gap beside it
        self.captions = [wrap(name, share - 8) for name in panel.groups]
        # The legend has as many columns as fit.
        self.columns = max(1, min(len(panel.series), int(plot / (30 + LETTER * max(map(len, panel.series))))))
        self.above = 27 + self.lift + 1.2 * LINE * math.ceil(len(panel.series) / self.columns)
        self.below = 14 + LINE * max(caption.count("\n") + 1 for caption in self.captions)
        self.bar = bar / share
        self.box = (LEFT, GAP, self.below, self.above)  # margins: left, right, bottom, top
        self.width, self.height = LEFT + plot + GAP, self.below + PLOT + self.above

    def parts(self, across: float) -> list[Bars]:
        """The chart in as many of the same scale as it takes for each to be as narrow as that, if groups can be."""
        groups = self.panel.groups
        most = max(1, int((across - LEFT - GAP) / (self.group + GAP)))  # in one chart
        size = max(1, math.ceil(len(groups) / max(1, math.ceil(len(groups) / most))))
        starts = range(0, len(groups), size)
        if len(starts) < 2:
            return [self]
        found = []
        for number, start in enumerate(starts, 1):
            series = {name: row[start : start + size] for name, row in self.panel.series.items()}
            title = f"{self.panel.title} ({number} of {len(starts)})"
            part = replace(self.panel, title=title, groups=groups[start : start + size], series=series)
            found.append(Bars(part, self.looks))
            found[-1].limit = self.limit
        return found

    def draw(self, figure: Figure, place: Place) -> None:
        from matplotlib.patches import Patch

        panel, axes = self.panel, figure.add_axes(place)
        names, limit, squares = list(panel.series), self.limit, []
        for i, name in enumerate(names):
            cells = [(g, cell) for g, cell in enumerate(panel.series[name]) if cell and math.isfinite(cell.mean)]
            xs = [g + (i - (len(names) - 1) / 2) * self.bar for g, _ in cells]
            halves = [cell.half or math.nan for _, cell in cells]  # no error bar where there is no interval
            look: dict[str, Any] = {"facecolor": self.looks[name].colour, "hatch": self.looks[name].hatch}
            look |= {"label": name, "edgecolor": "white", "linewidth": 0}
            squares.append(Patch(**look))  # for the legend, also of a series without a bar
            ends: dict[str, Any] = {"yerr": halves, "ecolor": INK, "capsize": 2 if self.crowded else 4}
            axes.bar(xs, [cell.mean for _, cell in cells], 0.88 * self.bar, **look, **ends)
            for x, (_, cell) in zip(xs, cells, strict=True):
                text, top = f"{cell.mean:.1f}{'*' if cell.incomplete else ''}", cell.mean + (cell.half or 0)
                at: dict[str, Any] = {"rotation": 90 if self.crowded else 0, "ha": "center", "fontsize": 9}
                up = (0, 5 if self.crowded else 3)
                axes.annotate(text, (x, min(top, limit)), up, textcoords="offset points", **at)
        axes.set(xlim=(-0.5, len(panel.groups) - 0.5), ylim=(0, limit))
        axes.set_xticks(range(len(panel.groups)), self.captions, fontsize=10)
        axes.set_yticks(range(0, limit + 1, 20), [f"{value} %" for value in range(0, limit + 1, 20)], fontsize=9)
        axes.tick_params(length=0)
        axes.grid(axis="y", color=FAINT)
        axes.set_axisbelow(True)
        axes.spines[["left", "right", "top"]].set_visible(False)
        head(axes, panel.title, 8 - LEFT, self.above - 10, 13)
        anchor: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1 + self.lift / PLOT)}
        anchor |= {"handles": squares, "ncols": self.columns, "frameon": False, "borderpad": 0, "handlelength": 1}
        axes.legend(**anchor, fontsize=10)


def spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Heights from `low` to `high`, at least `gap` apart and else as near as may be to the ones wanted, which rise."""
    blocks: list[list[float]] = []  # what touches shares the mean of where it would have its lowest
    for i, value in enumerate(wanted):
        blocks.append([value - i * gap])
        while len(blocks) > 1 and fmean(blocks[-2]) > fmean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    lowest = [fmean(block) for block in blocks for _ in block]
    room = max(low, high - (len(wanted) - 1) * gap)
    return [min(max(value, low), room) + i * gap for i, value in enumerate(lowest)]


class Lines:
    """Lines over images per class, doubling by doubling, with intervals as error bars; each is named at its right.

    A value without training is a star at 0, and a dotted line to compare the others with.
    """

    step, name_line = 56.0, 13.0  # from one number of shots to its double; from one name to the next

    def __init__(self, panel: Curves, looks: dict[str, Look]) -> None:
        self.panel, self.looks = panel, looks
        least = min((k for k in panel.shots if k), default=1)
        self.xs = {k: math.log2(k or least / 2) for k in panel.shots}
        self.left, self.right = min(self.xs.values()) - 0.5, max(self.xs.values()) + 0.5
        names = 48 + LETTER * max(map(len, panel.series))
        self.wide = max(self.step * (self.right - self.left), 1.3 * LETTER * len(panel.title) - names - LEFT)
        self.tall = max(PLOT, self.name_line * len(panel.series))
        self.box = (LEFT, names, 40.0, 40.0)
        self.width, self.height = LEFT + self.wide + names, self.tall + 80.0

    def draw(self, figure: Figure, place: Place) -> None:
        panel, axes = self.panel, figure.add_axes(place)
        rows = {
            name: {k: cell for k, cell in zip(panel.shots, row, strict=True) if cell and math.isfinite(cell.mean)}
            for name, row in panel.series.items()
        }
        lively = [name for name in rows if any(rows[name])]
        for name, row in rows.items():
            # A little aside: error bars over each other could not be read.
            aside = 0.24 * ((lively.index(name) + 0.5) / len(lively) - 0.5) if name in lively else 0.0
            self.draw_series(axes, self.looks[name], row, aside)
        cells = [cell for row in rows.values() for cell in row.values()]
        ends = [cell.mean + sign * (cell.half or 0) for cell in cells for sign in (-1, 1)]
        unit = 5 if ends and max(ends) - min(ends) <= 30 else 10
        low = max(0, unit * math.floor((min(ends, default=0) - 1) / unit))
        high = max(low + unit, min(100, unit * math.ceil((max(ends, default=99) + 1) / unit)))
        axes.set(xlim=(self.left, self.right), ylim=(low, high))
        axes.set_xticks([*self.xs.values()], [*map(str, self.xs)], fontsize=10)
        axes.set_yticks(range(low, high + 1, unit), [f"{value} %" for value in range(low, high + 1, unit)], fontsize=9)
        axes.set_xlabel("training images per class", fontsize=10)
        axes.tick_params(length=0)
        axes.grid(color=FAINT)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        head(axes, panel.title, 8 - LEFT, self.box[3] - 10, 13)
        self.write_names(axes, {name: row for name, row in rows.items() if row}, low, high)

    def draw_series(self, axes: Axes, look: Look, row: dict[int, Cell], aside: float) -> None:
        if 0 in row:
            axes.axhline(row[0].mean, color=look.colour, linestyle=":", linewidth=1, zorder=1)
            axes.plot(self.xs[0], row[0].mean, "*", color=look.colour, markersize=13, zorder=3)
        if learned := [k for k in row if k]:
            xs, means = [self.xs[k] + aside for k in learned], [row[k].mean for k in learned]
            halves = [row[k].half or math.nan for k in learned]
            # Many intervals at once would hide the lines.
            bars: dict[str, Any] = {"elinewidth": 0.9, "capsize": 2}
            if len(self.panel.series) > 8:
                bars = {"elinewidth": 0.6, "capsize": 0, "ecolor": (look.colour, 0.3)}
            axes.errorbar(xs, means, yerr=halves, **bars, **self.style(look))
        for k in row:
            if row[k].incomplete:
                at = (self.xs[k] + aside * bool(k), row[k].mean)
                axes.annotate("*", at, (4, 2), textcoords="offset points", fontsize=10)

    def style(self, look: Look) -> dict[str, Any]:
        """A line's look as matplotlib's arguments; markers of the second style and on are hollow."""
        face = look.colour if look.marker == STYLES[0][0] else "white"
        how: dict[str, Any] = {"color": look.colour, "linestyle": look.line, "linewidth": 1.6}
        return how | {"marker": look.marker, "markersize": 5, "markerfacecolor": face}

    def write_names(self, axes: Axes, rows: dict[str, dict[int, Cell]], low: float, high: float) -> None:
        """Writes each name beside the plot, as near to the end of its line as the others leave room."""
        names = sorted(rows, key=lambda name: rows[name][max(rows[name])].mean)
        ends = [rows[name][max(rows[name])].mean for name in names]
        heights = spread(ends, self.name_line * (high - low) / self.tall, low, high)
        point = (self.right - self.left) / self.wide
        for name, end, height in zip(names, ends, heights, strict=True):
            look, last = self.looks[name], max(rows[name])
            how = self.style(look) | ({} if last else {"marker": "*", "linestyle": ":", "markersize": 8})
            leader: dict[str, Any] = {"color": look.colour, "linewidth": 0.6, "clip_on": False, "zorder": 1}
            start = self.xs[last] if last else self.right
            axes.plot([start, self.right, self.right + 10 * point], [end, end, height], **leader)
            sample = [self.right + right * point for right in (10, 19, 28)]
            axes.plot(sample, [height] * 3, markevery=[1], clip_on=False, **how)
            axes.text(self.right + 33 * point, height, name, va="center", fontsize=9)


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


def pictures_of(panels: list[Panel | Curves | Heatmap], across: float) -> list[Bars | Lines | Matrix]:
    """What is drawn of the panels; bars are broken into charts of that width, in points."""
    looks = looks_of(panels)
    pictures: list[Bars | Lines | Matrix] = []
    for panel in panels:
        if isinstance(panel, Panel):
            pictures += Bars(panel, looks).parts(across)
        else:
            pictures.append(Lines(panel, looks) if isinstance(panel, Curves) else Matrix(panel))
    return pictures


def draw(panels: list[Panel | Curves | Heatmap]) -> Figure:
    """One figure with all panels, laid out in rows."""
    return lay_out(pictures_of(panels, ACROSS))


def lay_out(pictures: Sequence[Bars | Lines | Matrix]) -> Figure:
    from matplotlib.figure import Figure

    across = max(ACROSS, *(picture.width for picture in pictures))
    corners, x, y, row = [], 0.0, 0.0, 0.0
    for picture in pictures:
        if x and x + picture.width > across:
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


@contextmanager
def style() -> Iterator[None]:
    """Colours of what is written; a dollar sign in a class name is no formula."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False, "text.color": INK, "xtick.color": INK, "ytick.color": INK}):
        yield


def save(panels: list[Panel | Curves | Heatmap], path: Path) -> None:
    """Draws the panels into one file; its ending, .png or .pdf, chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure = draw(panels)
        if path.suffix.lower() != ".png":
            figure.savefig(path)
            return
        from PIL import Image

        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=144)
    with Image.open(content) as image:  # of few colours: with a palette a quarter of the size
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def svgs(panels: list[Panel | Curves | Heatmap], prefix: str) -> list[str]:
    """An SVG element for each chart of the panels, to stand in an HTML page: its letters are text, its ground is clear.

    Args:
        panels: What to draw.
        prefix: What all ids begin with, so that those of several on a page do not collide.
    """
    import matplotlib

    found, how = [], dict[Any, Any]()
    how |= {"svg.fonttype": "none", "svg.hashsalt": "the same for all", "font.sans-serif": ["DejaVu Sans"]}
    with style(), matplotlib.rc_context(how), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has letters that matplotlib's font lacks
        for number, picture in enumerate(pictures_of(panels, PAGE)):
            content, nothing = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
            lay_out([picture]).savefig(content, format="svg", transparent=True, metadata=nothing)
            found.append(inline(content.getvalue(), f"{prefix}-{number}-"))
    return found


def inline(document: str, prefix: str) -> str:
    """The svg element of a document, without what would reach beyond it: a style for everything, ids of others."""
    root = ET.fromstring(printable(document).encode())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, prefix + value)
            elif key == XLINK:
                del element.attrib[key]
                element.set("href", value.replace("#", f"#{prefix}", 1))
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{prefix}"))
    root.set("role", "img")
    ET.register_namespace("", SVG.strip("{}"))
    return ET.tostring(root, encoding="unicode")
