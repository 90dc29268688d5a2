"""Prints the paper's tables from the records that runs leave (results.json), never from logs.

    python scripts/report.py output                       all tables that the runs under output/ fill
    python scripts/report.py output --paper               the paper's numbers and the differences beside
    python scripts/report.py output --format latex        also markdown, csv
    python scripts/report.py output --chart tables.png    bars, few-shot as lines; .pdf works too
    python scripts/report.py FOLDER                       where FOLDER holds seed1, seed2, ...: their mean
    python scripts/report.py --run FOLDER                 accuracy per class and confusion matrix of one run
    python scripts/report.py output/mini --readme FILE    puts the tables between the file's markers
                                                          <!-- mini:begin --> and <!-- mini:end -->
    python scripts/report.py output/mini --check FILE     exit status 1 where the file says something else

Values are means over seeds with the half-width of the 95 % interval (Student's t). HM is the harmonic mean of
the mean base and the mean new accuracy; in an average row, of the two averages, as published. Runs that differ in
anything that changes a result have rows of their own, named by what differs; in the few-shot table, columns by shots.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from pathlib import Path
from statistics import fmean

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from protocols import definitions
from protocols.aggregate import all_tables, interval
from protocols.records import Result, read_folder, read_object, read_runs
from reporting import readme
from reporting.charts import save
from reporting.tables import FORMATS, Cell, Heatmap, Panel, Table


def run_tables(folder: Path, every_pair: bool) -> list[Table]:
    """Accuracy per class and, if the run kept it, the confusion matrix (of many classes the largest entries).

    Raises:
        ValueError: `folder` holds no usable results.json, or its cmat.pt is no confusion matrix of these classes.
    """
    try:
        run, dataset = read_folder(folder, {}), read_object(folder / "results.json")["dataset"]
    except ValueError as error:
        raise ValueError(f"{folder} is no folder of a finished run: {error}") from None
    title = f"{run.method.trainer} on {dataset} ({run.classes} classes), seed {run.seed}"
    table = Table(f"{title}: accuracy per class", ["class", "accuracy"])
    rising = sorted(run.per_class.items(), key=lambda item: item[1])
    table.rows = [[name, Cell(value)] for name, value in rising]
    table.rows.append(["all images", Cell(run.accuracy)])
    shown = rising[:30]  # more bars than that cannot be read
    least = f" (the {len(shown)} lowest of {len(rising)})" if len(shown) < len(rising) else ""
    bars: dict[str, list[Cell | None]] = {"accuracy": [Cell(value) for _, value in shown]}
    table.panels = [Panel(table.title + least, [name for name, _ in shown], bars)] if shown else []
    if not (folder / "cmat.pt").exists():
        table.notes = ["no confusion matrix: test with TEST.COMPUTE_CMAT True to get one"]
        return [table]
    names, matrix = list(run.per_class), read_matrix(folder / "cmat.pt", len(run.per_class))
    confusion = Table(f"{title}: confusion matrix, % of the true class", ["true \\ predicted", *names])
    confusion.rows = [[name, *(f"{v:.1f}" for v in row)] for name, row in zip(names, matrix, strict=True)]
    confusion.panels = [Heatmap(confusion.title, names, matrix)]
    if len(names) > 12 and not every_pair:
        pairs = [(matrix[i][j], t, p) for i, t in enumerate(names) for j, p in enumerate(names) if i != j]
        worst = [(share, t, p) for share, t, p in sorted(pairs, reverse=True)[:15] if share]
        confusion.title, confusion.labels = f"{title}: largest confusions, % of the true class", 2
        confusion.header = ["true", "predicted", "share"]
        confusion.rows = [[t, p, Cell(share)] for share, t, p in worst]
    return [table, confusion]


def read_matrix(path: Path, classes: int) -> list[list[float]]:
    """The confusion matrix of a run in percent of each true class (its rows).

    Raises:
        ValueError: The file is damaged, holds anything but a tensor of numbers, or has another shape; names it.
    """
    import torch  # only here, because it takes seconds

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are refused below
            matrix = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged file, or one with code in it, raises whatever torch stumbles over
        raise ValueError(f"{path} cannot be read as a confusion matrix: {type(error).__name__}") from None
    if not isinstance(matrix, torch.Tensor) or matrix.layout != torch.strided or matrix.is_complex():
        raise ValueError(f"{path} holds no confusion matrix but a {type(matrix).__name__}")
    if tuple(matrix.shape) != (classes, classes):
        raise ValueError(f"{path} has shape {tuple(matrix.shape)}, but results.json has {classes} classes")
    matrix = matrix.double()
    if not bool(((matrix >= 0) & matrix.isfinite()).all()):
        raise ValueError(f"{path} holds numbers that are no counts")
    percent: list[list[float]] = (100 * matrix / matrix.sum(1, keepdim=True).clamp(min=1e-12)).tolist()
    return percent


def seed_table(folder: Path, runs: list[Result]) -> Table:
    """Each seed's results and their mean, as CoOp's parse_test_res.py gives them for a folder of seeds."""
    table = Table(f"Seeds in {folder}", ["run", "accuracy", "error_rate", "macro_f1"])
    runs = sorted(runs, key=lambda run: run.seed)
    columns = [[run.figures.get(name, math.nan) for run in runs] for name in table.header[1:]]
    table.rows = [[run.folder.name, *(Cell(column[i]) for column in columns)] for i, run in enumerate(runs)]
    means = [Cell(fmean(column), interval(column), len(column)) for column in columns]
    table.panels = [Panel(table.title, table.header[1:], {"mean over seeds": list(means)})]
    table.rows.append(["mean", *means])
    return table


def main(argv: list[str] | None = None) -> int:
    """Prints what the command line asks for; returns 0, 1 if a checked file says something else, 2 for an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=definitions.ROOT / "output", help="folder of runs")
    parser.add_argument("--paper", action="store_true", help="the paper's numbers and the differences beside")
    parser.add_argument("--format", choices=FORMATS, default="terminal")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the tables into a .png or .pdf file")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="one run: per class, confusion matrix")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write Markdown into a section of this file")
    parser.add_argument("--check", type=Path, metavar="FILE", help="only say whether the file's section is up to date")
    parser.add_argument("--section", metavar="NAME", help="its name (default: that of the output folder)")
    args = parser.parse_args(argv)
    paper = yaml.safe_load((definitions.ROOT / "configs" / "paper_results.yaml").read_text()) if args.paper else None
    problems: list[str] = []
    try:
        if args.chart and args.chart.suffix.lower() not in (".png", ".pdf"):
            raise ValueError(f"--chart must name a .png or .pdf file, got {args.chart}")
        if args.run:
            tables = run_tables(args.run, args.format == "csv")
        else:
            if not args.output.is_dir():
                raise ValueError(f"no such folder: {args.output}")
            runs, problems = read_runs(args.output)
            if not runs:
                raise ValueError(f"no finished run under {args.output}")
            seeds_only = len({(run.folder.parent, run.group) for run in runs}) == 1
            seeds_only = seeds_only and runs[0].folder.parent == args.output
            tables = [seed_table(args.output, runs)] if seeds_only else all_tables(runs, args.output, paper)
        tables[-1].notes += [f"not counted: {problem}" for problem in problems]
        if file := args.readme or args.check:
            section = args.section or args.output.resolve().name
            if not readme.update(file, section, "\n\n".join(map(FORMATS["markdown"], tables)), write=bool(args.readme)):
                print(f"{file}: section {section} is not that of {args.output}; --readme {file} writes it")
                return 1
            if args.check:
                return 0
        print("\n\n".join(FORMATS[args.format](table) for table in tables))
        if args.format == "csv":  # has no place for them
            print(*(note for table in tables for note in table.notes), sep="\n", file=sys.stderr)
        panels = [panel for table in tables for panel in table.panels]
        if args.chart and panels:
            save(panels, args.chart)
            print(f"Chart: {args.chart}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"error: {error}", *problems, sep="\n  ", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
