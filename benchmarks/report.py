"""The performance section of docs/performance.md, written from the records in benchmarks/results.

    python -m benchmarks.report                               prints it
    python -m benchmarks.report --write docs/performance.md   puts it between the file's markers
    python -m benchmarks.report --check docs/performance.md   fails where the file says something else

What was not measured is called so.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import end_to_end, figures, plots, prediction, processes, startup, training_step
from benchmarks.record import RESULTS, ROOT, Records, read, rows_of
from reporting.readme import update

DOCS = ROOT / "docs"
SECTION = "performance"
NOT_MEASURED = "not measured"


class Figure(NamedTuple):
    """A figure that has a target."""

    of: Callable[[dict[str, Any]], float | None]  # its value in a record's row, None where it was not measured
    write: Callable[[float], str]
    sign: int = -1  # whether a target is a floor (1) or a ceiling (-1)


def _ratio(value: float) -> str:
    return f"{figures.amount(value)} x"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


RATIO = Figure(itemgetter("ratio"), _ratio, 1)
SHARE = Figure(lambda row: row["floor"] and row["floor"]["share"], _percent, 1)
TIME = Figure(lambda row: row["ours"]["seconds"], figures.seconds)
SPEED = Figure(lambda row: 1 / row["ours"]["seconds"], figures.images_per_second, 1)
PEAK = Figure(lambda row: row["ours"]["peak_bytes"], figures.gigabytes)
ERROR = Figure(itemgetter("error"), figures.error)

STEP50, STEP500, STEP1000 = ({"batch": 4, "classes": classes} for classes in (50, 500, 1000))
HEADLINE = {"batch": 12, "classes": 50, "context": 4, "mode": "forward"}
TINY, VIT, ALL = {"what": processes.TINY}, {"what": processes.WHOLE}, {"whole": end_to_end.WHOLE}
# What, its figure, benchmarks, cases (the largest value of all counts), target (None: told without one).
Targets = list[tuple[str, Figure, str, dict[str, Any], float | None]]


def _method(method: str, batch: int | None, classes: int) -> dict[str, Any]:
    """The case of another method's training step, or with batch None of its text side."""
    return {"method": method, "batch": batch, "classes": classes}


CPU: Targets = [
    ("text encoder: agreement of features and gradients, relative, fp32", ERROR, "text_encoder", {}, 1e-5),
    ("training step: agreement of loss and gradients", ERROR, "training_step", {}, training_step.LIMIT),
    ("text encoder, 12 prompts x 50 classes: naive / ours", RATIO, "text_encoder", HEADLINE, 15),
    ("its share of the floor", SHARE, "text_encoder", HEADLINE, 0.6),
    ("training step, 4 images x 50 classes: naive / ours", RATIO, "training_step", STEP50, 10),
    ("its memory", PEAK, "training_step", STEP50, 3.5e9),
    ("training step, 4 images x 500 classes: memory", PEAK, "training_step", STEP500, 6e9),
    ("its share of the floor", SHARE, "training_step", STEP500, 0.7),
    ("training step, 4 images x 1000 classes: memory", PEAK, "training_step", STEP1000, 6e9),
    ("its share of the floor", SHARE, "training_step", STEP1000, 0.7),
    ("training step, 4 images x 1000 classes, L_sem of all / of 100", RATIO, "sem_classes", STEP1000, 2),
    ("testing, 100 classes: ours / naive images/s", RATIO, "evaluation", {"classes": 100}, 25),
    ("CoOp, CoCoOp, MaPLe: agreement of losses and gradients", ERROR, "method_steps", {}, 1e-4),
    ("CoOp, text side, 100 classes: naive / ours", RATIO, "method_steps", _method("CoOp", None, 100), 5),
    ("MaPLe, text side, 100 classes: naive / ours", RATIO, "method_steps", _method("MaPLe", None, 100), 5),
    ("CoCoOp, training step, 1 image x 100 classes: naive / ours", RATIO, "method_steps", _method("CoCoOp", 1, 100), 5),
    ("CoOp, training step, 4 images x 1000 classes: memory", PEAK, "method_steps", _method("CoOp", 4, 1000), 4e9),
    ("CoCoOp, training step, 1 image x 1000 classes: memory", PEAK, "method_steps", _method("CoCoOp", 1, 1000), 4e9),
    ("MaPLe, training step, 4 images x 1000 classes: memory", PEAK, "method_steps", _method("MaPLe", 4, 1000), 4e9),
    (startup.HELP, TIME, "startup", {"what": startup.HELP}, 1),
    (startup.FIRST, TIME, "startup", {"what": startup.FIRST}, 10),
    (startup.ANSWER, TIME, "startup", {"what": startup.ANSWER}, 4),
    ("prediction: ours / test loop, images/s", RATIO, "prediction", {"what": prediction.TEST_LOOP}, 1),
    ("prediction: ours / one image at a time, images/s", RATIO, "prediction", {"what": prediction.ONE_BY_ONE}, 5),
    ("two processes, GOPro on the tiny CLIP: DistributedDataParallel / ours", RATIO, "processes", TINY, 0.95),
    ("two processes, GOPro on ViT-B/16: DistributedDataParallel / ours", RATIO, "processes", VIT, 0.95),
    ("`benchmark.sh base2new`, all methods: without / with sharing", RATIO, "end_to_end", ALL, 1.5),
]
GPU: Targets = [
    ("training step, 4 images x 50 classes", TIME, "training_step", STEP50, 0.025),
    ("training step, 4 images x 1000 classes: memory", PEAK, "training_step", STEP1000, 16e9),
    ("testing, 1000 classes", SPEED, "evaluation", {"classes": 1000}, 700),
    ("text encoder, 12 prompts x 50 classes: share of the floor", SHARE, "text_encoder", HEADLINE, 0.6),
    ("CoOp, training step, 4 images x 1000 classes", TIME, "method_steps", _method("CoOp", 4, 1000), None),
    ("CoCoOp, training step, 8 images x 100 classes", TIME, "method_steps", _method("CoCoOp", 8, 100), None),
    ("MaPLe, training step, 4 images x 1000 classes", TIME, "method_steps", _method("MaPLe", 4, 1000), None),
]


def targets_table(targets: Targets, group: Records, only_measured: bool = False) -> str:
    """Markdown table of what was aimed at and what was reached."""
    lines = ["| | target | measured | reached |", "|---|--:|--:|:-:|"]
    for what, figure, benchmarks, case, target in targets:
        found = [row for name in benchmarks.split() for row in rows_of(group, name, case)]
        values = {value: row for row in found if (value := figure.of(row)) is not None}
        if not values and only_measured:
            continue
        aim, measured, reached = "-", NOT_MEASURED, ""
        if target is not None:
            aim = f"{'at least' if figure.sign > 0 else 'below'} {figures.brief(figure.write(target))}"
        if values:
            got = max(values)
            measured = figure.write(got) + ("\\*" if figure is RATIO and figures.starred(values[got]) else "")
            if target is not None:
                reached = "yes" if figure.sign * (got - target) >= 0 else "no"
        lines.append(f"| {what} | {aim} | {measured} | {reached} |")
    return "\n".join(lines)


def machine_section(group: Records, results: Path, folder: Path) -> str:
    """All tables of one machine and precision; where few benchmarks ran, the others are not named."""
    few = len(group) * 2 < len(figures.TITLES)
    newest = max(group.values(), key=lambda record: record["date"])
    about, rates = newest["machine"], next((r["rates"] for r in group.values() if r["rates"]), None)
    dates = sorted(record["date"] for record in group.values())
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    settings: dict[str, Any] = next((r["settings"] for r in group.values() if "backbone" in r["settings"]), {})
    what = f"; {settings['backbone']} with random weights in {settings['dtype']}" if settings else ""
    gigabytes = f", {about['memory_bytes'] / 2**30:.0f} GiB" if about.get("memory_bytes") else ""
    parts = [
        f"**{about['name']}**{gigabytes}, PyTorch {about['torch']}, {when}{what}.",
        targets_table(CPU if about["device"] == "cpu" else GPU, group, only_measured=few),
    ]
    chart = plots.path(results, group)
    if chart.is_file():
        link = Path(os.path.relpath(chart, folder)).as_posix()
        parts.append(f"![Growth with classes, images and context tokens]({link})")
    parts.append("<details><summary>All figures</summary>")
    for name, title in figures.TITLES.items():
        if name in group:
            parts += [f"**{title}** (`{group[name]['command']}`)", figures.markdown(group[name])]
        elif not few:
            parts.append(f"**{title}**: {NOT_MEASURED}.")
    if rates:
        parts.append(figures.rate_note(rates))
    return "\n\n".join([*parts, "</details>"])


def section(results: Path = RESULTS, folder: Path = DOCS) -> str:
    """The whole section, without its markers; links are relative to `folder`."""
    groups = sorted(read(results), key=len, reverse=True)  # the most complete first, of equal ones the latest
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
    elif not update(file, SECTION, new, write=args.write is not None):
        sys.exit(f"{file}: the performance section is not that of {args.results}; run benchmarks.report --write {file}")


if __name__ == "__main__":
    main()
