"""Turns the records of runs into the paper's tables, and names what is missing in them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from protocols import definitions
from protocols.records import TESTED_WITH, Method, Result, joined
from reporting.tables import Cell, Curves, Panel, Table

PAPER_NAMES = {  # our trainer -> the papers' method, where they differ
    "ZeroshotCLIP": "CLIP",
    "CLIPAdapter": "CLIP-Adapter",
    "TipAdapter": "Tip-Adapter",
    "TipAdapterF": "Tip-Adapter-F",
    "CLIPLoRA": "CLIP-LoRA",
}
TITLES = {
    "base2new": "Base-to-new generalization",
    "cross-dataset": "Cross-dataset transfer",
    "domain-generalization": "Domain generalization",
    "few-shot": "Few-shot classification",
}


def interval(values: list[float]) -> float | None:
    """Half-width of the 95 % interval of the mean (Student's t); None for a single value."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # only here, because it takes a while

    return float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))


def mean_cell(values: list[float], incomplete: bool = False, signed: bool = False) -> Cell | None:
    """The mean with its interval; None of no values."""
    return Cell(fmean(values), interval(values), len(values), incomplete, signed) if values else None


def harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def by_seed(parts: Sequence[Sequence[Mapping[int, float]]]) -> dict[int, float]:
    """Cells (seed -> accuracy) averaged seed by seed, of the seeds that all have; of two lists the HM of both means."""
    seeds = set.intersection(*(set(cell) for part in parts for cell in part))
    means = {seed: [fmean(cell[seed] for cell in part) for part in parts] for seed in sorted(seeds)}
    return {seed: harmonic_mean(*both) if len(both) == 2 else both[0] for seed, both in means.items()}


def paired(ours: Mapping[int, float], other: Mapping[int, float]) -> Cell | None:
    """The mean difference over the seeds that both have, with its interval; None without such a seed."""
    return mean_cell([ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys())], signed=True)


def labels(methods: Iterable[Method]) -> dict[Method, str]:
    """Short names in table order, those that learn nothing first; with what tells two of a trainer apart."""
    ordered = sorted(set(methods), key=lambda method: (method.shots != 0, method))
    result = {}
    for method in ordered:
        rivals = [other for other in ordered if other.trainer == method.trainer]
        details = enumerate((method.config, f"{method.shots} shots", method.backbone), 1)
        shown = [detail for i, detail in details if len({other[i] for other in rivals}) > 1]
        shown += settings_that_differ(method, [other for other in rivals if other[:4] == method[:4]])
        shown += [method.origin] if method.origin else []
        result[method] = f"{method.trainer} ({', '.join(shown)})" if shown else method.trainer
    return result


def settings_that_differ(method: Method, rivals: list[Method]) -> list[str]:
    """The settings of a method that tell it from its rivals, such as "W_CON 0.5"."""
    if not method.settings:
        return ["settings not recorded"] if any(rival.settings for rival in rivals) else []
    tables = [dict(rival.settings) for rival in rivals if rival.settings]
    keys = sorted({key for table in tables for key in table if len({other.get(key) for other in tables}) > 1})
    own, found = dict(method.settings), []
    for key in keys:
        if key in own or not key.startswith(TESTED_WITH):
            last = key.rpartition(".")[2]
            short = key if sum(other.endswith(f".{last}") for other in keys) > 1 else last
            prefix = TESTED_WITH if key.startswith(TESTED_WITH) and not short.startswith(TESTED_WITH) else ""
            found.append(f"{prefix}{short} {own.get(key, 'not set')}".replace('"', ""))
    return found


Key = tuple[Method, str, str]  # method, data set, and what it was tested on or trained with
Row = tuple[str, Method]  # data set, or "average of ...", and method


def by_classes(run: Result) -> Key:
    return run.method, run.name, f"{run.classes} classes"


def by_shots(run: Result) -> Key:
    return joined(run.method), run.name, f"{run.method.shots} shots"


class Cells:
    """The runs of one table, looked up by their keys; notes what is missing."""

    def __init__(self, runs: list[Result], key: Callable[[Result], Key] = by_classes) -> None:
        self.runs: dict[Key, dict[int, float]] = {}
        # What one cell of a method has, all should have; but one seed is enough where nothing is learned.
        self.seeds: dict[Method, set[int]] = {}
        for run in runs:
            self.runs.setdefault(key(run), {})[run.seed] = run.accuracy
            self.seeds.setdefault(key(run)[0], set()).update([run.seed] if run.method.shots else [])
        # Both halves of the classes should be there, but not every number of shots that another method has.
        self.made = None if key is by_classes else {(method, part) for method, _, part in self.runs}
        self.labels = labels(self.seeds)
        self.muted = {label for method, label in self.labels.items() if not method.shots}
        self.notes: list[str] = []

    def cell(self, method: Method, name: str, part: str) -> Cell | None:
        """Mean over seeds; None, and a note, where there is no run. A note also names missing seeds."""
        if self.made is not None and (method, part) not in self.made:
            return None
        found = self.runs.get((method, name, part), {})
        missing = sorted(self.seeds[method] - set(found)) if found else []
        if missing or not found:
            what = f"seed {', '.join(map(str, missing))}" if missing else "all runs"
            note = f"missing: {self.labels[method]} on {name} ({part}): {what}"
            self.notes += [note] if note not in self.notes else []
        return mean_cell([found[seed] for seed in sorted(found)], bool(missing))

    def by_set(self, names: Sequence[str], parts: list[str], averaged: bool) -> dict[Row, list[Cell | None]]:
        """The cells of `parts`, by which of the protocol's sets were run, and by method; their average stands last."""
        present = [name for name in names if any(name == other for _, other, _ in self.runs)]
        absent = [name for name in names if name not in present]
        rows = {(name, m): [self.cell(m, name, part) for part in parts] for name in present for m in self.labels}
        if len(present) > 1 and averaged:
            total = f"average of {len(present)}" + (f" (of {len(names)})" if absent else "")
            if absent:
                self.notes.append(f"not run by any method, so not in the average: {', '.join(absent)}")
            for method in self.labels:
                columns = zip(*(rows[name, method] for name in present), strict=True)
                rows[total, method] = [average(column) for column in columns]
        return rows


def legend(cells: Cells) -> str:
    """What the numbers of a table are."""
    seeds = sorted(set().union(*cells.seeds.values()))
    many = f", mean over seeds {', '.join(map(str, seeds))} ± 95 % interval" if len(seeds) > 1 else ""
    star = "; * where seeds are missing" if any(note.startswith("missing") for note in cells.notes) else ""
    return f"Accuracy in %{many}{star}."


def average(cells: Sequence[Cell | None], mean: Callable[[list[float]], float] = fmean) -> Cell | None:
    """Mean of all cells, None if one is missing; marked as incomplete if one of them is."""
    full = [cell for cell in cells if cell is not None]
    if not full or len(full) < len(cells):
        return None
    return Cell(mean([cell.mean for cell in full]), None, 0, any(cell.incomplete for cell in full))


def beside_paper(
    cells: Sequence[Cell | None], published: Sequence[float | None]
) -> tuple[list[Cell | str | None], list[Cell | str | None]]:
    """The paper's values, and the differences from them; empty where the paper has none."""
    theirs: list[Cell | str | None] = ["" if value is None else Cell(value) for value in published]
    differences = [
        "" if value is None else cell and Cell(cell.mean - value, None, 0, cell.incomplete, signed=True)
        for cell, value in zip(cells, published, strict=True)
    ]
    return theirs, differences


def published_by(paper: dict[str, Any] | None, task: str, method: Method) -> dict[str, Any]:
    """The published numbers of a method in a task, by data set; it need not have all of them."""
    methods: dict[str, dict[str, Any]] = (paper or {}).get(task.replace("-", "_"), {})
    return methods.get(PAPER_NAMES.get(method.trainer, method.trainer), {})


class Group(NamedTuple):
    """The runs of one table: of a task on the data sets that its protocol has, or trained on the one `names`."""

    task: str
    names: tuple[str, ...]
    runs: list[Result]

    @property
    def of_paper(self) -> bool:
        return self.names == definitions.GROUPS["paper"][self.task]

    def in_paper(self, name: str) -> str:
        """What the paper calls a row of a data set, or of the average: that is over all its sets."""
        return "average" if name == f"average of {len(self.names)}" else name


def base2new_table(group: Group, title: str, paper: dict[str, Any] | None) -> Table:
    """Base, new and HM per data set and method."""
    cells, columns = Cells(group.runs), ["Base", "New", "HM"]
    values = cells.by_set(group.names, ["base classes", "new classes"], averaged=True)
    header = ["data set", "method", *columns]
    if paper:
        header += [f"{what} {column}" for what in ("paper", "diff") for column in columns]
    table = Table(title, header, labels=2, grouped=True, best_of=(0,))
    for (name, method), row in values.items():
        row.append(average(row, lambda means: harmonic_mean(*means)))
        theirs = published_by(paper, group.task, method).get(group.in_paper(name), [None] * 3)
        beside = beside_paper(row, theirs) if paper else ()
        table.rows.append([name, cells.labels[method], *row, *itertools.chain(*beside)])
    table.notes = [legend(cells), "HM is that of the two means before it, in an average row of the averages."]
    table.notes += cells.notes
    names = list(dict.fromkeys(name for name, _ in values))
    if len(names) == 1:
        bars = {cells.labels[method]: row for (_, method), row in values.items()}
        table.panels = [Panel(f"{title}: {names[0]}", columns, bars, cells.muted)]
    else:
        for i, part in enumerate(columns):
            bars = {label: [values[name, m][i] for name in names] for m, label in cells.labels.items()}
            table.panels.append(Panel(f"{title}: {part}", names, bars, cells.muted))
    return table


def transfer_table(group: Group, title: str, paper: dict[str, Any] | None) -> Table:
    """Accuracy on the source and the targets of one training set, a row per method, as the papers print it."""
    trained, targets = definitions.tested_on(group.task, group.names[0])  # left-out domains have no column of a source
    columns = [*(f"{name} (source)" for name in trained), *targets, f"average of {len(targets)}"]
    cells, gap = Cells(group.runs), [""] if paper else []
    table = Table(title, ["method", *gap, *columns], 1 + len(gap), bool(paper), best_of=(1,) if paper else ())
    bars: dict[str, list[Cell | None]] = {}
    for method, label in cells.labels.items():
        found = [cells.cell(method, name, "all classes") for name in (*trained, *targets)]
        row = bars[label] = [*found, average(found[len(trained) :])]
        table.rows.append([label, *gap, *row])
        if numbers := published_by(paper, group.task, method):
            theirs, differences = beside_paper(row, [numbers.get(name) for name in (*trained, *targets, "average")])
            table.rows += [[label, "paper", *theirs], [label, "diff", *differences]]
    table.notes = [legend(cells), *cells.notes]
    table.panels = [Panel(title, columns, bars, cells.muted)]
    return table


def few_shot_table(group: Group, title: str, paper: dict[str, Any] | None) -> Table:
    """Accuracy by images per class, a row for each data set and method."""
    cells = Cells(group.runs, by_shots)
    shots = sorted({run.method.shots for run in group.runs})
    common = {*group.names} <= {*definitions.REAL, *definitions.RENDERED}  # others have nothing in common
    values = cells.by_set(group.names, [f"{k} shots" for k in shots], averaged=common)
    # Method -> data set -> shots -> the paper's accuracy.
    published = {method: published_by(paper, group.task, method) for method in cells.labels}
    printed = [k for k in shots if any(k in by_shots for rows in published.values() for by_shots in rows.values())]
    header = ["data set", "method", *map(str, shots), *(f"{what} {k}" for what in ("paper", "diff") for k in printed)]
    table = Table(title, header, labels=2, grouped=True, best_of=(0,))
    for (name, method), row in values.items():
        theirs = published[method].get(group.in_paper(name), {})
        beside = beside_paper([row[shots.index(k)] for k in printed], [theirs.get(k) for k in printed])
        # Nothing is missing without training in the rows of what trains, nor the other way round.
        own = ["" if bool(k) != bool(method.shots) else cell for k, cell in zip(shots, row, strict=True)]
        table.rows.append([name, cells.labels[method], *own, *itertools.chain(*beside)])
    table.notes = [legend(cells), "The columns are training images per class; 0 is without training.", *cells.notes]
    names = dict.fromkeys(name for name, _ in values)
    for name in sorted(names, key=lambda name: name in group.names):  # the average first, as CoOp's figure has it
        lines = {label: values[name, method] for method, label in cells.labels.items()}
        table.panels.append(Curves(f"{title}: {name}", shots, lines, cells.muted))
    return table


def list_table(title: str, runs: list[Result], root: Path) -> Table:
    """Mean accuracy per folder of seeds, for runs of no protocol."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for run in runs:
        folder = run.folder.parent if run.folder.name.startswith("seed") else run.folder
        groups.setdefault((folder, *run.group), []).append(run)
    names = labels(run.method for run in runs)
    table = Table(title, ["runs", "data set", "classes", "method", "accuracy", "seeds"], labels=4)
    for (folder, *_), members in sorted(groups.items(), key=lambda item: str(item[0])):
        first, seeds = members[0], ", ".join(map(str, sorted(run.seed for run in members)))
        cell = mean_cell([run.accuracy for run in members])
        where = str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
        table.rows.append([where, first.name, first.classes, names[first.method], cell, seeds])
    return table


RECORD_FILES = ("results.json", "log.txt", "config.yaml")
MOST_CELLS = 2500  # of a table of classes


def files_of(folder: Path) -> list[Path]:
    """What a reader may want to see of a run."""
    return [file for name in RECORD_FILES if (file := folder / name).is_file()]


def run_list(runs: list[Result]) -> Table:
    """A row for each run, with its files."""
    names = labels(run.method for run in runs)
    order, sets = list(names), list(dict.fromkeys(run.name for run in runs))
    table = Table("Runs", ["data set", "classes", "method", "seed", "accuracy"], labels=4, grouped=True)
    for run in sorted(runs, key=lambda run: (sets.index(run.name), run.classes, order.index(run.method), run.seed)):
        table.rows.append([run.name, run.classes, names[run.method], str(run.seed), Cell(run.accuracy)])
        table.files.append(files_of(run.folder))
    return table


def class_tables(runs: list[Result]) -> list[Table]:
    """The accuracy per class, a table for each part of a data set, a column for each method."""
    names = labels(run.method for run in runs)
    parts: dict[tuple[str, str], dict[Method, list[Result]]] = {}
    for run in runs:
        parts.setdefault((run.name, run.classes), {}).setdefault(run.method, []).append(run)
    tables = []
    for (name, classes), methods in parts.items():
        shown = [method for method in names if method in methods]
        table = Table(f"{name} ({classes} classes)", ["class", *(names[method] for method in shown)])
        found = list(dict.fromkeys(word for runs in methods.values() for run in runs for word in run.per_class))
        if len(found) * len(shown) > MOST_CELLS:
            table.header = ["class"]
            table.notes = [f"{len(found)} classes of {len(shown)} methods are too many; --run FOLDER shows one run"]
            found = []
        for word in found:
            columns = [[run.per_class[word] for run in methods[m] if word in run.per_class] for m in shown]
            cells = [Cell(fmean(column), None, len(column)) if column else None for column in columns]
            table.rows.append([word, *cells])
        tables.append(table)
    return tables


def groups_of(runs: list[Result]) -> list[Group]:
    """The tables that the runs fill; a run may be in several, or in none."""
    found: list[Group] = []
    halves = [run for run in runs if run.classes in ("base", "new") and is_test_of(run, "base2new", run.name)]
    found += by_sets("base2new", halves)
    transfers: list[Group] = []
    for task in ("cross-dataset", "domain-generalization"):
        for source in definitions.sources(task):
            members = [run for run in runs if is_test_of(run, task, source)]
            moved = {run.method for run in members if run.name != source}  # the others may be of few-shot
            transfers.append(Group(task, (source,), [run for run in members if run.method in moved]))
    fitting = few_shot_runs(runs, {run.folder for group in transfers for run in group.runs})
    single = {run.folder for run in fitting}
    # What nothing was trained for does not make the table of a task that was not run.
    found += [group for group in transfers if any(r.method.shots or r.folder not in single for r in group.runs)]
    return found + by_sets("few-shot", fitting)


def by_sets(task: str, runs: list[Result]) -> list[Group]:
    """The runs on the paper's data sets, on the rendered ones, and on others."""
    own = sorted({run.name for run in runs} - {*definitions.REAL, *definitions.RENDERED})
    groups = [(names, [r for r in runs if r.name in names]) for names in (definitions.REAL, definitions.RENDERED, own)]
    return [Group(task, tuple(names), members) for names, members in groups if members]


def all_tables(runs: list[Result], root: Path, paper: dict[str, Any] | None, behind: bool = False) -> list[Table]:
    """The tables that `runs`, which lie in `root`, fill; no run is left out.

    `paper` holds the published numbers to stand beside, if any; `behind` asks for the runs and the accuracies per class
    to stand behind the tables.
    """
    makers = {"base2new": base2new_table, "few-shot": few_shot_table}
    found: list[tuple[Table, list[Result]]] = []
    for group in groups_of(runs):
        title = TITLES[group.task] + (f" from {group.names[0]}" if group.task not in makers else "")
        title += " (not in the paper)" if paper and not group.of_paper else ""
        make = makers.get(group.task, transfer_table)
        found.append((make(group, title, paper if group.of_paper else None), group.runs))
    used = {run.folder for _, members in found for run in members}
    if rest := [run for run in runs if run.folder not in used]:
        found.append((list_table("Other runs", rest, root), rest))
    for table, members in found if behind else []:
        table.behind = {f"Runs ({len(members)})": [run_list(members)], "Accuracy per class": class_tables(members)}
    return [table for table, _ in found]


def few_shot_runs(runs: list[Result], used: set[Path]) -> list[Result]:
    """The runs of the few-shot tables: on all classes of one data set, of methods that not only served as a source.

    What cross-dataset trains on its source is one of them too, so it stands in both tables if the method has others
    with any number of shots; `used` are the folders of the transfer tables.
    """
    fitting = [run for run in runs if run.method.shots >= 0 and is_test_of(run, "few-shot", run.name)]
    fitting = [run for run in fitting if not run.name.startswith(f"{run.data.dataset}-")]  # some domains of it
    methods = {joined(run.method) for run in fitting if run.method.shots and run.folder not in used}
    learned = [run for run in fitting if joined(run.method) in methods]
    names = {run.name for run in learned}
    return learned + [run for run in fitting if not run.method.shots and run.name in names]


def is_test_of(run: Result, task: str, source: str) -> bool:
    """Whether a protocol has this test, with weights that were trained as it says, or with none."""
    return any(
        (run.name, run.classes) in [(test.name("test"), test.classes) for test in experiment.tests]
        and run.source in (None, experiment.train.name("train"))
        and run.source_classes in ("", experiment.train.classes)
        for experiment in definitions.experiments(task, source)
    )
