"""Bar charts and confusion matrices drawn with Pillow, saved as PNG or PDF."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from reporting.tables import Heatmap, Panel

COLOURS = ("#2f6db5", "#e08a1e", "#3a9d6e", "#b5527a", "#7b61a8", "#5b3d2e")
INK, GREY, FAINT, PAPER = "#22272e", "#98a1ad", "#dde1e6", "#ffffff"
SCALE = 2  # pixels per unit below, so that print and high-resolution screens stay sharp


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * SCALE)


class Canvas:
    """A white picture measured in units of SCALE pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (round(width * SCALE), round(height * SCALE)), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: float = 12, anchor: str = "mm", colour: str = INK) -> None:
        self.pen.multiline_text((x * SCALE, y * SCALE), text, colour, font(size), anchor, align="center")

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str = INK, width: float = 1) -> None:
        self.pen.line([v * SCALE for v in (x0, y0, x1, y1)], colour, round(width * SCALE))

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        self.pen.rectangle([round(v * SCALE) for v in (x0, y0, x1, y1)], colour)


def width_of(text: str, size: float = 12) -> float:
    return font(size).getlength(text) / SCALE


def wrap(text: str, width: float, size: float = 12) -> str:
    """Breaks `text` at spaces, hyphens and underscores into lines of at most `width`, where it can."""
    lines = [""]
    for word in text.replace("_", " ").replace("-", "- ").split():
        joined = f"{lines[-1]} {word}".replace("- ", "-").strip()
        lines = [*lines[:-1], joined] if width_of(joined, size) <= width or not lines[-1] else [*lines, word]
    return "\n".join(lines)


def draw_bars(panel: Panel) -> Image.Image:
    """Grouped bars with intervals as error bars and the values above; an empty place is a missing value."""
    names, count = list(panel.series), len(panel.series)
    bar, gap, left, top, plot = 34.0, 26.0, 56.0, 84.0, 250.0
    group = max(bar * count, 48)
    width = max(left + len(panel.groups) * (group + gap) + gap, width_of(panel.title, 16) + 2 * gap, 420)
    gap = (width - left - len(panel.groups) * group) / (len(panel.groups) + 1)
    captions = [wrap(name, group + gap - 8) for name in panel.groups]
    bottom = top + plot
    canvas = Canvas(width, bottom + 22 + 15 * max(caption.count("\n") + 1 for caption in captions))
    cells = [cell for row in panel.series.values() for cell in row if cell]
    highest = max((cell.mean + (cell.half or 0) for cell in cells), default=100)
    limit = min(100, 20 * math.ceil((highest + 5) / 20))

    def height(value: float) -> float:
        return bottom - plot * max(0, min(value, limit)) / limit

    canvas.text(left, 22, panel.title, 16, "lm")
    x, lively = left, [name for name in names if name not in panel.muted]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(lively)}
    for name in names:
        canvas.box(x, 42, x + 12, 54, colours.get(name, GREY))
        canvas.text(x + 18, 48, name, 12, "lm")
        x += width_of(name) + 40
    for value in range(0, limit + 1, 20):
        canvas.line(left, height(value), width - gap / 2, height(value), FAINT)
        canvas.text(left - 8, height(value), f"{value} %", 11, "rm")
    for g, caption in enumerate(captions):
        start = left + gap + g * (group + gap)
        canvas.text(start + group / 2, bottom + 8, caption, 12, "ma")
        for i, name in enumerate(names):
            cell = panel.series[name][g]
            if cell is None:
                continue
            x = start + (group - bar * count) / 2 + i * bar
            canvas.box(x + 2, height(cell.mean), x + bar - 2, bottom, colours.get(name, GREY))
            upper, middle = cell.mean + (cell.half or 0), x + bar / 2
            if cell.half:
                low, high = height(cell.mean - cell.half), height(upper)
                canvas.line(middle, low, middle, high, width=1.5)
                canvas.line(middle - 5, high, middle + 5, high, width=1.5)
                canvas.line(middle - 5, low, middle + 5, low, width=1.5)
            canvas.text(middle, height(upper) - 9, f"{cell.mean:.1f}{'*' if cell.incomplete else ''}", 11)
    canvas.line(left, bottom, width - gap / 2, bottom)
    return canvas.image


def draw_matrix(heatmap: Heatmap) -> Image.Image:
    """A confusion matrix: the darker, the larger the share of the true class."""
    count = len(heatmap.names)
    cell = max(4.0, min(40.0, 720 / count))
    size = min(12.0, cell * 0.8)
    named = size >= 6  # smaller letters cannot be read
    margin = 24 + (max(width_of(name, size) for name in heatmap.names) if named else 30)
    canvas = Canvas(max(margin + cell * count + 24, width_of(heatmap.title, 14) + 32), margin + cell * count + 70)
    canvas.text(16, 20, heatmap.title, 14, "lm")
    canvas.text(16, 38, "rows: true classes, columns: predicted classes", 11, "lm")
    top = margin + 50
    for i, (name, row) in enumerate(zip(heatmap.names, heatmap.matrix, strict=True)):
        if named:
            canvas.text(margin - 6, top + (i + 0.5) * cell, name, size, "rm")
            label = Image.new("RGB", (round(margin * SCALE), round(cell * SCALE)), PAPER)
            ImageDraw.Draw(label).text((0, label.height / 2), name, INK, font(size), "lm")
            x = round((margin + i * cell) * SCALE)
            canvas.image.paste(label.rotate(90, expand=True), (x, round((top - 6 - margin) * SCALE)))
        for j, value in enumerate(row):
            share = min(max(value / 100, 0), 1) ** 0.6  # lifts the small shares, which are what one looks for
            colour = "#" + "".join(f"{round(255 + (c - 255) * share):02x}" for c in (0x1F, 0x4E, 0x8C))
            canvas.box(margin + j * cell, top + i * cell, margin + (j + 1) * cell, top + (i + 1) * cell, colour)
            if cell >= 24 and value >= 0.5:
                ink = PAPER if share > 0.5 else INK
                canvas.text(margin + (j + 0.5) * cell, top + (i + 0.5) * cell, f"{value:.0f}", 11, colour=ink)
    return canvas.image


def draw(panel: Panel | Heatmap) -> Image.Image:
    """The picture of a panel."""
    return draw_bars(panel) if isinstance(panel, Panel) else draw_matrix(panel)


def save(images: list[Image.Image], path: Path, across: int = 1280 * SCALE) -> None:
    """Lays the pictures out in rows in one file; its ending, .png or .pdf, chooses the format."""
    places, x, y, row = [], 0, 0, 0
    for image in images:
        if x and x + image.width > across:
            x, y, row = 0, y + row, 0
        places.append((x, y))
        x, row = x + image.width, max(row, image.height)
    width = max(x + image.width for (x, _), image in zip(places, images, strict=True))
    whole = Image.new("RGB", (width, y + row), PAPER)
    for image, place in zip(images, places, strict=True):
        whole.paste(image, place)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path, resolution=72 * SCALE)
