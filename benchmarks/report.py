"""The performance section of docs/performance.md, written from the records in benchmarks/results.

    python -m benchmarks.report                               prints it
    python -m benchmarks.report --write docs/performance.md   puts it between the file's markers
    python -m benchmarks.report --check docs/performance.md   fails where the file says something else

What was not measured is called so.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import figures, plots, startup
from benchmarks.record import RESULTS, ROOT, Records, find, read
from reporting.readme import put

DOCS = ROOT / "docs"
SECTION = "performance"
NOT_MEASURED = "not measured"
Value = Callable[[Records], tuple[float | None, bool]]  # None if not measured; whether it is extrapolated


def _row(benchmark: str, *path: str, **case: Any) -> Value:
    """A value inside the row of a case."""

    def value(group: Records) -> tuple[float | None, bool]:
        found: Any = find(group, benchmark, **case)
        naive = found["naive"] if found and path == ("ratio",) else None
        for key in path:
            found = found[key] if found else None
        return found, bool(naive and naive["extrapolated_from"])

    return value


def _error(*benchmarks: str) -> Value:
    """The largest error of some benchmarks."""

    def value(group: Records) -> tuple[float | None, bool]:
        rows = [row for name in benchmarks if name in group for row in group[name]["rows"]]
        return max((row["error"] for row in rows if row["error"] is not None), default=None), False

    return value


def _speed(group: Records) -> tuple[float | None, bool]:
    seconds, _ = _row("evaluation", "ours", "seconds", classes=1000)(group)
    return 1 / seconds if seconds else None, False


def _ratio(value: float) -> str:
    return f"{figures.amount(value)} x"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


STEP50, STEP500, STEP1000 = ({"batch": 4, "classes": classes} for classes in (50, 500, 1000))
HEADLINE = {"batch": 12, "classes": 50, "context": 4, "mode": "forward"}
PEAK, TIME, RATIO, SHARE = ("ours", "peak_bytes"), ("ours", "seconds"), ("ratio",), ("floor", "share")
SEC, GB = figures.seconds, figures.gigabytes
# What, value, how it is written, target (None: told without one), and whether it is a floor (1) or a ceiling (-1).
Targets = list[tuple[str, Value, Callable[[float], str], float | None, int]]


def _method(path: Sequence[str], method: str, batch: int | None, classes: int) -> Value:
    """A value of another method's training step, or with batch None of its text side."""
    return _row("method_steps", *path, method=method, batch=batch, classes=classes)


CPU: Targets = [
    (
        "agreement of features and gradients, relative, fp32",
        _error("text_encoder", "training_step"),
        figures.error,
        1e-5,
        -1,
    ),
    ("text encoder, 12 prompts x 50 classes: naive / ours", _row("text_encoder", *RATIO, **HEADLINE), _ratio, 15, 1),
    ("its share of the floor", _row("text_encoder", *SHARE, **HEADLINE), _percent, 0.6, 1),
    ("training step, 4 images x 50 classes: naive / ours", _row("training_step", *RATIO, **STEP50), _ratio, 10, 1),
    ("its memory", _row("training_step", *PEAK, **STEP50), GB, 3.5e9, -1),
    ("training step, 4 images x 500 classes: memory", _row("training_step", *PEAK, **STEP500), GB, 6e9, -1),
    ("testing, 100 classes: ours / naive images/s", _row("evaluation", *RATIO, classes=100), _ratio, 25, 1),
    ("CoOp, CoCoOp, MaPLe: agreement of losses and gradients", _error("method_steps"), figures.error, 1e-4, -1),
    ("CoOp, text side, 100 classes: naive / ours", _method(RATIO, "CoOp", None, 100), _ratio, 5, 1),
    ("MaPLe, text side, 100 classes: naive / ours", _method(RATIO, "MaPLe", None, 100), _ratio, 5, 1),
    ("CoCoOp, training step, 1 image x 100 classes: naive / ours", _method(RATIO, "CoCoOp", 1, 100), _ratio, 5, 1),
    ("CoOp, training step, 4 images x 1000 classes: memory", _method(PEAK, "CoOp", 4, 1000), GB, 4e9, -1),
    ("CoCoOp, training step, 1 image x 1000 classes: memory", _method(PEAK, "CoCoOp", 1, 1000), GB, 4e9, -1),
    ("MaPLe, training step, 4 images x 1000 classes: memory", _method(PEAK, "MaPLe", 4, 1000), GB, 4e9, -1),
    (startup.HELP, _row("startup", *TIME, what=startup.HELP), SEC, 1, -1),
    (startup.FIRST, _row("startup", *TIME, what=startup.FIRST), SEC, 10, -1),
]
GPU: Targets = [
    ("training step, 4 images x 50 classes", _row("training_step", *TIME, **STEP50), SEC, 0.025, -1),
    ("training step, 4 images x 1000 classes: memory", _row("training_step", *PEAK, **STEP1000), GB, 16e9, -1),
    ("testing, 1000 classes", _speed, figures.images_per_second, 700, 1),
    ("text encoder, 12 prompts x 50 classes: share of the floor", CPU[2][1], _percent, 0.6, 1),
    ("CoOp, training step, 4 images x 1000 classes", _method(TIME, "CoOp", 4, 1000), SEC, None, -1),
    ("CoCoOp, training step, 8 images x 100 classes", _method(TIME, "CoCoOp", 8, 100), SEC, None, -1),
    ("MaPLe, training step, 4 images x 1000 classes", _method(TIME, "MaPLe", 4, 1000), SEC, None, -1),
]


def targets_table(targets: Targets, group: Records) -> str:
    """Markdown table of what was aimed at and what was reached."""
    lines = ["| | target | measured | reached |", "|---|--:|--:|:-:|"]
    for what, value, write, target, sign in targets:
        got, extrapolated = value(group)
        aim, reached = "-", ""
        if target is not None:
            aim = f"{'at least' if sign > 0 else 'below'} {re.sub(r'[.]0+ ', ' ', write(target))}"
            reached = "" if got is None else "yes" if sign * (got - target) >= 0 else "no"
        measured = NOT_MEASURED if got is None else write(got) + ("\\*" if extrapolated else "")
        lines.append(f"| {what} | {aim} | {measured} | {reached} |")
    return "\n".join(lines)


def machine_section(group: Records, results: Path, folder: Path) -> str:
    """All tables of one machine and precision."""
    newest = max(group.values(), key=lambda record: record["date"])
    about, rates = newest["machine"], next((r["rates"] for r in group.values() if r["rates"]), None)
    dates = sorted({record["date"] for record in group.values()})
    settings: dict[str, Any] = next((r["settings"] for r in group.values() if "backbone" in r["settings"]), {})
    what = f"; {settings['backbone']} with random weights in {settings['dtype']}" if settings else ""
    gigabytes = f", {about['memory_bytes'] / 2**30:.0f} GiB" if about.get("memory_bytes") else ""
    parts = [
        f"**{about['name']}**{gigabytes}, PyTorch {about['torch']}, {' to '.join(dict.fromkeys(dates))}{what}.",
        targets_table(CPU if about["device"] == "cpu" else GPU, group),
    ]
    chart = plots.path(results, group)
    if chart.is_file():
        link = Path(os.path.relpath(chart, folder)).as_posix()
        parts.append(f"![Growth with classes, images and context tokens]({link})")
    parts.append("<details><summary>All figures</summary>")
    for name, title in figures.TITLES.items():
        if name in group:
            parts += [f"**{title}** (`{group[name]['command']}`)", figures.markdown(group[name])]
        else:
            parts.append(f"**{title}**: {NOT_MEASURED}.")
    if rates:
        parts.append(figures.rate_note(rates))
    return "\n\n".join([*parts, "</details>"])


def section(results: Path = RESULTS, folder: Path = DOCS) -> str:
    """The whole section, without its markers; links are relative to `folder`."""
    groups = read(results)
    on_gpu = [group for group in groups if next(iter(group.values()))["machine"]["device"] == "cuda"]
    parts = [
        "Medians beside the naive reference (`benchmarks/naive.py`, `naive_methods.py`: the published algorithms, "
        "image by image over 77 tokens, GOPro's three views also in testing), run in the same process on the same "
        "weights after checking that both agree. Repeat it with `make bench`.",
        *(machine_section(group, results, folder) for group in groups),
    ]
    if len(on_gpu) == len(groups):
        parts.append("**CPU**: not measured.")
    if not on_gpu:
        parts += ["**GPU of the H100 class, bf16**: not measured.", targets_table(GPU, {})]
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the section, put it into a file, or check that it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--write", "--readme", type=Path, help="file to write into, between its markers")
    parser.add_argument("--check", type=Path, help="file to compare with")
    args = parser.parse_args(argv)
    file = args.write or args.check
    new = section(args.results, file.parent if file else DOCS)
    if file is None:
        print(new)
        return
    old = file.read_text(encoding="utf-8")
    updated = put(old, SECTION, new)
    if args.write:
        from dassl.utils import write_text

        write_text(updated, file)
    elif updated != old:
        sys.exit(f"{file}: the performance section is not that of {args.results}; run benchmarks.report --write {file}")


if __name__ == "__main__":
    main()
