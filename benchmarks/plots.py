"""Charts of how time and memory grow with classes C, images B and context tokens M, from the records.

    python -m benchmarks.plots
    python -m benchmarks.plots FOLDER

One picture a machine, growth-<machine>.png, beside the records.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from benchmarks import tables
from benchmarks.common import RESULTS
from benchmarks.records import Records, read
from reporting.charts import COLOURS, FAINT, GREY, PAPER, Canvas, save, width_of

Point = tuple[float, float, bool]  # x, y, extrapolated


@dataclass
class Chart:
    """One chart: lines over a logarithmic x.

    Attributes:
        title: Above it.
        axis: What x is.
        unit: Writes a y.
        lines: Points by name of the line.
    """

    title: str
    axis: str
    unit: Callable[[float], str]
    lines: dict[str, list[Point]]


def growth(group: Records, benchmark: str, along: str, fixed: dict[str, Any], value: str) -> dict[str, list[Point]]:
    """Lines of ours, naive and floor over the cases that vary in one size alone.

    Args:
        group: Records of a machine.
        benchmark: Which record.
        along: Key of the case on x.
        fixed: Values of the other keys.
        value: seconds or peak_bytes.

    Returns:
        Points by line, x rising; lines without points are left out.
    """
    lines: dict[str, list[Point]] = {"ours": [], "naive": [], "floor": []}
    for row in group.get(benchmark, {"rows": []})["rows"]:
        if not fixed.items() <= row["case"].items():
            continue
        for name in lines:
            side = row[name]
            if side and side.get(value):
                lines[name].append((row["case"][along], side[value], bool(side.get("extrapolated_from"))))
    return {name: sorted(set(points)) for name, points in lines.items() if points}


def charts(group: Records) -> list[Chart]:
    """The charts that the records of a machine fill."""
    forward = {"mode": "forward"}
    wanted = [
        ("Text encoder, 4 prompts", "text_encoder", "classes", {"batch": 4, "context": 4, **forward}, "seconds"),
        ("Text encoder, 50 classes", "text_encoder", "batch", {"classes": 50, "context": 4, **forward}, "seconds"),
        (
            "Text encoder, 4 prompts x 50 classes",
            "text_encoder",
            "context",
            {"batch": 4, "classes": 50, **forward},
            "seconds",
        ),
        ("Training step, 4 images", "training_step", "classes", {"batch": 4}, "seconds"),
        ("Training step, 4 images: memory", "training_step", "classes", {"batch": 4}, "peak_bytes"),
        ("Testing, time an image", "evaluation", "classes", {}, "seconds"),
    ]
    axes = {"classes": "classes C", "batch": "prompts B", "context": "context tokens M"}
    found = []
    for title, benchmark, along, fixed, value in wanted:
        lines = growth(group, benchmark, along, fixed, value)
        if any(len(points) > 1 for points in lines.values()):
            unit = tables.seconds if value == "seconds" else tables.gigabytes
            found.append(Chart(title, axes[along], unit, lines))
    return found


def ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or 1-2-5 steps where those are fewer than three, that hold [low, high] between them."""
    for steps in ((1,), (1, 2, 5)):
        values = [
            s * 10.0**e for e in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2) for s in steps
        ]
        below, above = max(v for v in values if v <= low * 1.0001), min(v for v in values if v >= high * 0.9999)
        inside = [v for v in values if below <= v <= above]
        if len(inside) >= 3:
            break
    return inside if len(inside) > 1 else [inside[0], inside[0] * 10]


def draw(chart: Chart) -> Image.Image:
    """The chart with logarithmic axes; hollow points and their line are extrapolated, the dashed line is the floor."""
    left, top, width, height = 74.0, 84.0, 300.0, 210.0
    canvas = Canvas(left + width + 26, top + height + 56)
    points = [point for line in chart.lines.values() for point in line]
    xs, ys = sorted({x for x, _, _ in points}), ticks(min(y for _, y, _ in points), max(y for _, y, _ in points))
    span_x = math.log(xs[-1] / xs[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        up = math.log(y / ys[0]) / math.log(ys[-1] / ys[0])
        return left + 12 + (width - 24) * math.log(x / xs[0]) / span_x, top + height * (1 - up)

    canvas.text(16, 20, chart.title, 15, "lm")
    for y in ys:
        canvas.line(left, place(xs[0], y)[1], left + width, place(xs[0], y)[1], FAINT)
        canvas.text(left - 8, place(xs[0], y)[1], re.sub(r"[.]0+ ", " ", chart.unit(y)), 11, "rm")
    for x in xs:
        canvas.text(place(x, ys[0])[0], top + height + 8, f"{x:g}", 11, "ma")
    canvas.text(left + width / 2, top + height + 36, chart.axis, 12)
    canvas.line(left, top + height, left + width, top + height)
    legend = 16.0
    for name, line in chart.lines.items():
        colour = {"ours": COLOURS[0], "naive": COLOURS[1]}.get(name, GREY)
        canvas.line(legend, 48, legend + 18, 48, colour, 3)
        canvas.text(legend + 24, 48, name, 12, "lm")
        legend += 48 + width_of(name)
        placed = [(*place(x, y), hollow) for x, y, hollow in line]
        for (x0, y0, _), (x1, y1, hollow) in zip(placed, placed[1:], strict=False):
            dashes = 24 if hollow or name == "floor" else 1
            for i in range(0, dashes, 2):
                a, b = i / dashes, (i + 1) / dashes if dashes > 1 else 1.0
                canvas.line(x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0), colour, 2)
        for x, y, hollow in placed:
            if name != "floor":
                canvas.box(x - 4, y - 4, x + 4, y + 4, colour)
            if hollow:
                canvas.box(x - 2.5, y - 2.5, x + 2.5, y + 2.5, PAPER)
    if any(hollow for _, _, hollow in points):
        canvas.text(legend, 48, "hollow: extrapolated", 11, "lm", GREY)
    return canvas.image


def path(folder: Path, group: Records) -> Path:
    """Where the picture of a machine goes."""
    record = next(iter(group.values()))
    usual = "fp32" if record["machine"]["device"] == "cpu" else "bf16"
    kinds = {r["settings"]["dtype"] for r in group.values() if "dtype" in r["settings"]} - {usual}
    return folder / f"growth-{'-'.join([record['machine']['short'], *sorted(kinds)])}.png"


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Draw the charts of every machine; gives the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS, help="folder of the records")
    args = parser.parse_args(argv)
    written = []
    for group in read(args.folder):
        if found := charts(group):
            written.append(path(args.folder, group))
            save([draw(chart) for chart in found], written[-1])
            print(written[-1])
    return written


if __name__ == "__main__":
    main()
