"""Prints the paper's tables from the records that runs leave (results.json), never from logs.

    python scripts/report.py output                       all tables that the runs under output/ fill
    python scripts/report.py output --paper               the paper's numbers beside, and verdicts on its claims
    python scripts/report.py output --format latex        also markdown, csv
    python scripts/report.py output --chart tables.png    bars, few-shot as lines; .pdf works too
    python scripts/report.py output --html results.html   one page of tables, charts, runs and what is missing
    python scripts/report.py output --pack results/NAME   the records alone, in a small folder to commit or send
    python scripts/report.py results/*                    several folders side by side
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
import itertools
import re
import sys
import warnings
from pathlib import Path

import yaml

from protocols import definitions
from protocols.aggregate import all_tables, files_of, mean_cell
from protocols.pack import check_target, pack
from protocols.records import Result, read_folder, read_object, read_runs
from protocols.verdicts import claims_table
from reporting import readme
from reporting.charts import save
from reporting.html import page
from reporting.tables import FORMATS, Cell, Heatmap, Panel, Table


def run_tables(folder: Path, every_pair: bool) -> list[Table]:
    """Accuracy per class and, if the run kept it, the confusion matrix (of many classes the largest entries).

    A ValueError says that `folder` holds no usable results.json, or its cmat.pt no confusion matrix of these classes.
    """
    try:
        run, dataset = read_folder(folder, {}), read_object(folder / "results.json")["dataset"]
    except ValueError as error:
        raise ValueError(f"{folder} is no folder of a finished run: {error}") from None
    title = f"{run.method.trainer} on {dataset} ({run.classes} classes), seed {run.seed}"
    table = Table(f"{title}: accuracy per class", ["class", "accuracy"])
    rising = sorted(run.per_class.items(), key=lambda item: item[1])
    table.rows = [[name, Cell(value)] for name, value in (*rising, ("all images", run.accuracy))]
    table.files = [[] for _ in rising] + [files_of(folder)]
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
        confusion.title, confusion.labels = f"{title}: largest confusions, % of the true class", 2
        confusion.header = ["true", "predicted", "share"]
        confusion.rows = [[t, p, Cell(share)] for share, t, p in sorted(pairs, reverse=True)[:15] if share]
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
    names = ["accuracy", "error_rate", "macro_f1"]
    if any("ece" in run.figures for run in runs):  # records that are older than it lack it
        names.append("ece")
    table = Table(f"Seeds in {folder}", ["run", *names])
    runs = sorted(runs, key=lambda run: run.seed)
    for run in runs:
        table.rows.append([run.folder.name, *(Cell(run.figures[n]) if n in run.figures else None for n in names)])
    columns = [[run.figures[name] for run in runs if name in run.figures] for name in names]
    means = [mean_cell(column, incomplete=len(column) < len(runs)) for column in columns]
    table.panels = [Panel(table.title, table.header[1:], {"mean over seeds": means})]
    table.rows.append(["mean", *means])
    table.files = [*(files_of(run.folder) for run in runs), []]
    if any(cell and cell.incomplete for cell in means):
        table.notes.append("*: not all records hold this figure")
    return table


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ValueError for what cannot be done, before any long work."""
    for flag, file, endings in (("--chart", args.chart, (".png", ".pdf")), ("--html", args.html, (".html", ".htm"))):
        if not file:
            continue
        if file.suffix.lower() not in endings:
            raise ValueError(f"{flag} must name a {' or '.join(endings)} file, got {file}")
        if file.is_dir():
            raise ValueError(f"{file} is a folder, not a file to write")
        if not (above := next(place for place in file.absolute().parents if place.exists())).is_dir():
            raise ValueError(f"{file} cannot be written: {above} is no folder")
    if args.run:
        if args.pack:
            raise ValueError("--pack takes folders of runs, not --run")
        return
    for folder in args.output:
        if not folder.is_dir():
            raise ValueError(f"no such folder: {folder}")
    for one, other in itertools.permutations(args.output, 2):
        if one.resolve().is_relative_to(other.resolve()):
            raise ValueError(f"{one} lies in {other}, so its runs would count twice; give one of them")
    if len(args.output) > 1 and args.pack:
        raise ValueError(f"--pack takes one folder of runs, got {' '.join(map(str, args.output))}")
    if len(args.output) > 1 and (args.readme or args.check) and not args.section:
        raise ValueError("--section must name the section where there are several folders")
    if args.pack:
        check_target(args.output[0], args.pack)


def summary(runs: list[Result]) -> str:
    """What a page says first."""
    stamps = [(run.folder / "done").read_text(encoding="utf-8", errors="replace").strip() for run in runs]
    newest = max(filter(re.compile(r"\d{4}-\d\d-\d\d").match, stamps), default="")[:10]
    trainers, names = {run.method.trainer for run in runs}, {run.name for run in runs}
    text = f"{len(runs)} runs of {len(trainers)} methods on {len(names)} data sets"
    return f"{text}, the newest of {newest}." if newest else f"{text}."


def main(argv: list[str] | None = None) -> int:
    """Prints what the command line asks for; returns 0, 1 if a checked file says something else, 2 for an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [definitions.ROOT / "output"]
    parser.add_argument("output", nargs="*", type=Path, default=default, help="folders of runs (default: output)")
    parser.add_argument("--paper", action="store_true", help="the paper's numbers beside, and verdicts on its claims")
    parser.add_argument("--format", choices=FORMATS, default="terminal")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the tables into a .png or .pdf file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page of tables, charts and links to runs")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="put the records alone into a new folder, to share")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="one run: per class, confusion matrix")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write Markdown into a section of this file")
    parser.add_argument("--check", type=Path, metavar="FILE", help="only say whether the file's section is up to date")
    parser.add_argument("--section", metavar="NAME", help="its name (default: that of the output folder)")
    args = parser.parse_args(argv)
    paper = yaml.safe_load((definitions.ROOT / "configs" / "paper_results.yaml").read_text()) if args.paper else None
    folders = " ".join(map(str, args.output))
    problems: list[str] = []
    try:
        check_arguments(args)
        if args.run:
            tables, title, lead = run_tables(args.run, args.format == "csv"), f"Run {args.run.resolve().name}", []
        else:
            runs, problems = read_runs(*args.output)
            if not runs:
                raise ValueError(f"no finished run under {folders}")
            if {(run.folder.parent, run.group) for run in runs} == {(args.output[0], runs[0].group)}:
                tables = [seed_table(args.output[0], runs)]
            else:
                root = args.output[0] if len(args.output) == 1 else Path()
                tables = all_tables(runs, root, paper, behind=bool(args.html))
                tables += [claims_table(runs, paper["claims"])] if paper else []
            title = f"Results: {', '.join(folder.resolve().name for folder in args.output)}"
            lead = [summary(runs)]
        if args.html:
            content = page(title, lead, tables, problems, args.html.parent)
        tables[-1].notes += [f"not counted: {problem}" for problem in problems]
        if file := args.readme or args.check:
            section = args.section or args.output[0].resolve().name
            if not readme.update(file, section, "\n\n".join(map(FORMATS["markdown"], tables)), write=bool(args.readme)):
                print(f"{file}: section {section} is not that of {folders}; --readme {file} writes it")
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
        if args.html:
            from dassl.utils import write_text  # only here, because it takes seconds

            write_text(content, args.html)
            print(f"Page: {args.html}", file=sys.stderr)
        if args.pack:
            print(f"Packed {pack(args.output[0], args.pack)} finished runs into {args.pack}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"error: {error}", *problems, sep="\n  ", file=sys.stderr)
        return 2
    return 0
