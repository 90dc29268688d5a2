"""Charts of how time and memory grow with classes C, images B and context tokens M, from the records.

    python -m benchmarks.plots
    python -m benchmarks.plots FOLDER

One picture a machine, growth-<machine>.png, beside the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import figures
from benchmarks.record import RESULTS, USUAL_DTYPE, Records, read, rows_of

Point = tuple[float, float, bool]  # x, y, extrapolated
COLOURS = {"ours": "#2f6db5", "naive": "#e08a1e", "floor": "#98a1ad"}
AXES = {"classes": "classes C", "batch": "prompts B", "context": "context tokens M"}
# The case of a benchmark, but for the size on x.
CASES: dict[str, dict[str, Any]] = {
    "text_encoder": {"batch": 4, "classes": 50, "context": 4, "mode": "forward"},
    "training_step": {"batch": 4},
    "evaluation": {},
}
# Title, benchmark, key of the case on x, what is drawn.
WANTED = [
    ("Text encoder, 4 prompts", "text_encoder", "classes", "seconds"),
    ("Text encoder, 50 classes", "text_encoder", "batch", "seconds"),
    ("Text encoder, 4 prompts x 50 classes", "text_encoder", "context", "seconds"),
    ("Training step, 4 images", "training_step", "classes", "seconds"),
    ("Training step, 4 images: memory", "training_step", "classes", "peak_bytes"),
    ("Testing, time an image", "evaluation", "classes", "seconds"),
]


@dataclass
class Chart:
    """One chart: lines over a logarithmic x."""

    title: str
    axis: str  # what x is
    unit: Callable[[float], str]  # writes a y
    lines: dict[str, list[Point]]  # by name, x rising


def growth(group: Records, benchmark: str, along: str, fixed: dict[str, Any], value: str) -> dict[str, list[Point]]:
    """Lines of ours, naive and floor over the cases that vary in one size alone, `along`; those without points are out.

    The other sizes of the cases are `fixed`, and `value` is seconds or peak_bytes.
    """
    lines: dict[str, list[Point]] = {}
    for name in COLOURS:
        sides = [(row["case"][along], row[name]) for row in rows_of(group, benchmark, fixed) if row[name]]
        points = {(x, side[value], bool(side.get("extrapolated_from"))) for x, side in sides if side.get(value)}
        lines[name] = sorted(points)
    return {name: points for name, points in lines.items() if points}


def charts(group: Records) -> list[Chart]:
    """The charts that the records of a machine fill."""
    found = []
    for title, benchmark, along, value in WANTED:
        fixed = {key: size for key, size in CASES[benchmark].items() if key != along}
        lines = growth(group, benchmark, along, fixed, value)
        if any(len(points) > 1 for points in lines.values()):
            unit = figures.seconds if value == "seconds" else figures.gigabytes
            found.append(Chart(title, AXES[along], unit, lines))
    return found


def _tick(unit: Callable[[float], str], value: float, _: int) -> str:
    return figures.brief(unit(value))


def draw(found: Sequence[Chart], file: Path) -> None:
    """Save the charts, three a row; hollow points and dashed lines are extrapolated, the dotted line is the floor."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    rows = -(-len(found) // 3)
    picture = Figure(figsize=(13.5, 3.9 * rows), layout="constrained")
    for place, chart in enumerate(found, 1):
        axes = picture.add_subplot(rows, 3, place)
        for name, points in chart.lines.items():
            count = sum(not hollow for *_, hollow in points)  # measured; the extrapolated ones are larger
            known, beyond = points[:count], points[max(count - 1, 0) :]
            marker, style = ("", ":") if name == "floor" else ("o", "-")
            for part, line, face, label in ((beyond, "--", "white", None), (known, style, COLOURS[name], name)):
                xs, ys = [x for x, *_ in part], [y for _, y, _ in part]
                axes.plot(xs, ys, line, color=COLOURS[name], marker=marker, markerfacecolor=face, label=label)
        axes.set(title=chart.title, xlabel=chart.axis, xscale="log", yscale="log")
        xs = sorted({x for points in chart.lines.values() for x, *_ in points})
        ys = [y for points in chart.lines.values() for _, y, _ in points]
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if max(ys) > 100 * min(ys) else (1, 2, 5)))
        axes.yaxis.set_major_formatter(partial(_tick, chart.unit))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", alpha=0.4)
        axes.legend(title="hollow: extrapolated" if any(p[2] for p in sum(chart.lines.values(), [])) else None)
    picture.savefig(file, dpi=110)


def path(folder: Path, group: Records) -> Path:
    """Where the picture of a machine goes."""
    about = next(iter(group.values()))["machine"]
    kinds = {r["settings"].get("dtype", "") for r in group.values()} - {"", USUAL_DTYPE[about["device"]]}
    return folder / f"growth-{'-'.join([about['short'], *sorted(kinds)])}.png"


def main(argv: Sequence[str] | None = None) -> list[Path]:
    """Draw the charts of every machine; gives the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=RESULTS, help="folder of the records")
    args = parser.parse_args(argv)
    written = []
    for group in read(args.folder):
        if found := charts(group):
            written.append(path(args.folder, group))
            draw(found, written[-1])
            print(written[-1])
    return written


if __name__ == "__main__":
    main()
