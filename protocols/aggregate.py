"""Turns the records of runs into the paper's tables, and names what is missing in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from protocols import definitions
from protocols.records import TESTED_WITH, Method, Result
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


def harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def labels(methods: Iterable[Method]) -> dict[Method, str]:
    """Short names in table order, those that learn nothing first; with what tells two of a trainer apart."""
    ordered = sorted(set(methods), key=lambda method: (method.shots != 0, method))
    result = {}
    for method in ordered:
        rivals = [other for other in ordered if other.trainer == method.trainer]
        details = [method.config, f"{method.shots} shots", method.backbone]
        differs = [len({other[i] for other in rivals}) > 1 for i in (1, 2, 3)]
        shown = [detail for detail, differ in zip(details, differs, strict=True) if differ]
        shown += settings_that_differ(method, [other for other in rivals if other[:4] == method[:4]])
        result[method] = f"{method.trainer} ({', '.join(shown)})" if shown else method.trainer
    return result


def settings_that_differ(method: Method, rivals: list[Method]) -> list[str]:
    """The settings of a method that tell it from its rivals, such as "W_CON 0.5"."""
    if not method.settings:
        return ["settings not recorded"] if len(rivals) > 1 else []
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


def by_classes(run: Result) -> Key:
    return run.method, run.name, f"{run.classes} classes"


def by_shots(run: Result) -> Key:
    return joined(run.method), run.name, f"{run.method.shots} shots"


def joined(method: Method) -> Method:
    """What methods that differ in nothing but shots have in common."""
    return method._replace(shots=min(method.shots, 1))


class Cells:
    """The runs of one table, looked up by their keys; notes what is missing."""

    def __init__(self, runs: list[Result], key: Callable[[Result], Key] = by_classes) -> None:
        self.runs: dict[Key, dict[int, float]] = {}
        # What one cell of a method has, all should have; but one seed is enough where nothing is learned.
        self.seeds: dict[Method, set[int]] = {}
        for run in runs:
            self.runs.setdefault(key(run), {})[run.seed] = run.accuracy
            self.seeds.setdefault(key(run)[0], set()).update([run.seed] if run.method.shots else [])
        self.labels = labels(self.seeds)
        self.notes: list[str] = []

    def cell(self, method: Method, name: str, part: str) -> Cell | None:
        """Mean over seeds; None, and a note, where there is no run. A note also names missing seeds."""
        found = self.runs.get((method, name, part), {})
        missing = sorted(self.seeds[method] - set(found)) if found else []
        if missing or not found:
            what = f"seed {', '.join(map(str, missing))}" if missing else "all runs"
            self.note(f"missing: {self.labels[method]} on {name} ({part}): {what}")
        values = [found[seed] for seed in sorted(found)]
        return Cell(fmean(values), interval(values), len(values), bool(missing)) if values else None

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def legend(cells: Cells) -> str:
    """What the numbers of a table are."""
    seeds = sorted(set().union(*cells.seeds.values()))
    many = f", mean over seeds {', '.join(map(str, seeds))} ± 95 % interval" if len(seeds) > 1 else ""
    star = "; * where seeds are missing" if any(note.startswith("missing") for note in cells.notes) else ""
    return f"Accuracy in %{many}{star}."


def average(cells: Iterable[Cell | None]) -> Cell | None:
    """Mean of all cells, None if one is missing; marked as incomplete if one of them is."""
    cells = list(cells)
    full = [cell for cell in cells if cell is not None]
    if not full or len(full) < len(cells):
        return None
    return Cell(fmean(cell.mean for cell in full), None, 0, any(cell.incomplete for cell in full))


def harmonic(base: Cell | None, new: Cell | None) -> Cell | None:
    if base is None or new is None:
        return None
    return Cell(harmonic_mean(base.mean, new.mean), None, 0, base.incomplete or new.incomplete)


def beside_paper(cells: Sequence[Cell | None], published: Sequence[float | None] | None) -> list[Cell | str | None]:
    """`cells`, then the paper's values, then the differences (empty where the paper has none)."""
    published = published or [None] * len(cells)
    differences = [
        "" if value is None else cell and Cell(cell.mean - value, None, 0, cell.incomplete, signed=True)
        for cell, value in zip(cells, published, strict=True)
    ]
    return [*cells, *["" if value is None else Cell(value) for value in published], *differences]


def published_by(paper: dict[str, Any], task: str, method: Method) -> dict[str, Any]:
    """The published numbers of a method in a task, by data set; it need not have all of them."""
    methods: dict[str, dict[str, Any]] = paper.get(task.replace("-", "_"), {})
    return methods.get(PAPER_NAMES.get(method.trainer, method.trainer), {})


def base2new_table(runs: list[Result], names: list[str], paper: dict[str, Any] | None) -> Table:
    """Base, new and HM per data set and method; `names` are the data sets that the protocol has."""
    cells = Cells(runs)
    title = TITLES["base2new"]
    if paper and tuple(names) != definitions.REAL:
        paper, title = None, f"{title} (not in the paper)"
    present = [name for name in names if any(run.name == name for run in runs)]
    header = ["data set", "method", "Base", "New", "HM"]
    if paper:
        header += ["paper Base", "paper New", "paper HM", "diff Base", "diff New", "diff HM"]
    table = Table(title, header, labels=2, grouped=True)
    absent = [name for name in names if name not in present]
    total = f"average of {len(present)}" + (f" (of {len(names)})" if absent else "")
    values: dict[tuple[str, Method], list[Cell | None]] = {}
    for name in present:
        for method in cells.labels:
            base, new = (cells.cell(method, name, f"{classes} classes") for classes in ("base", "new"))
            values[name, method] = [base, new, harmonic(base, new)]
    if len(present) > 1:
        if absent:
            cells.note(f"not run by any method, so not in the average: {', '.join(absent)}")
        for method in cells.labels:
            base, new = (average(values[name, method][i] for name in present) for i in (0, 1))
            values[total, method] = [base, new, harmonic(base, new)]
    for (name, method), row in values.items():
        numbers: list[Cell | str | None] = list(row)
        if paper:
            whole = "average" if name == total and not absent else name  # the paper's is over all its sets
            numbers = beside_paper(row, published_by(paper, "base2new", method).get(whole))
        table.rows.append([name, cells.labels[method], *numbers])
    table.notes = [legend(cells), "HM is that of the two means before it, in an average row of the averages."]
    table.notes += cells.notes
    muted = {label for method, label in cells.labels.items() if not method.shots}
    groups = list(dict.fromkeys(name for name, _ in values))
    if len(groups) == 1:
        bars = {cells.labels[method]: row for (_, method), row in values.items()}
        table.panels = [Panel(f"{table.title}: {groups[0]}", ["Base", "New", "HM"], bars, muted)]
    else:
        for i, part in enumerate(("Base", "New", "HM")):
            bars = {label: [values[g, m][i] for g in groups] for m, label in cells.labels.items()}
            table.panels.append(Panel(f"{table.title}: {part}", groups, bars, muted))
    return table


def transfer_table(runs: list[Result], task: str, source: str, paper: dict[str, Any] | None) -> Table:
    """Accuracy on the source and the targets of one training set, one column per method."""
    experiments = definitions.experiments(task, source)
    names = list(dict.fromkeys(test.name("test") for experiment in experiments for test in experiment.tests))
    trained = [names[0]] if len(experiments[0].tests) > 1 else []  # left-out domains have no source row
    targets = [name for name in names if name not in trained]
    cells = Cells(runs)
    title = f"{TITLES[task]} from {source}"
    if paper and source != definitions.REAL[0]:
        paper, title = None, f"{title} (not in the paper)"
    table = Table(title, ["", "data set"], labels=2, grouped=True)
    columns: dict[Method, list[Cell | None]] = {}
    for method, label in cells.labels.items():
        table.header += [label, "paper", "diff"] if paper else [label]
        column = [cells.cell(method, name, "all classes") for name in names]
        columns[method] = [*column, average(column[len(trained) :])]
    for i, name in enumerate([*names, "average"]):
        last = f"average of {len(targets)}"
        line: list[Cell | str | None] = [
            "source" if name in trained else "targets",
            name if i < len(names) else last,
        ]
        for method, column in columns.items():
            value = published_by(paper, task, method).get(name) if paper else None
            line += beside_paper([column[i]], value and [value]) if paper else [column[i]]
        table.rows.append(line)
    table.notes = [legend(cells), *cells.notes]
    bars = {cells.labels[method]: column for method, column in columns.items()}
    muted = {label for method, label in cells.labels.items() if not method.shots}
    table.panels = [Panel(table.title, [*names, "average"], bars, muted)]
    return table


def few_shot_table(runs: list[Result], names: list[str], paper: dict[str, Any] | None) -> Table:
    """Accuracy by images per class, a row for each data set and method; `names` are the sets that the protocol has."""
    cells = Cells(runs, by_shots)
    title = TITLES["few-shot"]
    if paper and tuple(names) != definitions.REAL:
        paper, title = None, f"{title} (not in the paper)"
    shots = sorted({run.method.shots for run in runs})
    present = [name for name in names if any(run.name == name for run in runs)]
    absent = [name for name in names if name not in present]
    total = f"average of {len(present)}" + (f" (of {len(names)})" if absent else "")
    made = {(method, part) for method, _, part in cells.runs}
    values: dict[tuple[str, Method], list[Cell | None]] = {}
    for name in present:
        for method in cells.labels:
            parts = [(part := f"{k} shots", (method, part) in made) for k in shots]
            values[name, method] = [cells.cell(method, name, part) if known else None for part, known in parts]
    if len(present) > 1 and {*names} <= {*definitions.REAL, *definitions.RENDERED}:  # others have nothing in common
        if absent:
            cells.note(f"not run by any method, so not in the average: {', '.join(absent)}")
        for method in cells.labels:
            values[total, method] = [average(values[n, method][i] for n in present) for i in range(len(shots))]
    # Method -> data set -> shots -> the paper's accuracy.
    published = {method: published_by(paper, "few-shot", method) if paper else {} for method in cells.labels}
    printed = [k for k in shots if any(k in by_shots for rows in published.values() for by_shots in rows.values())]
    header = ["data set", "method", *(f"{what}{k}" for what in ("paper ", "diff ") for k in printed)]
    table = Table(title, [*header[:2], *map(str, shots), *header[2:]], labels=2, grouped=True)
    for (name, method), row in values.items():
        whole = "average" if name == total and not absent else name  # the paper's is over all its sets
        theirs = published[method].get(whole, {})
        beside = beside_paper([row[shots.index(k)] for k in printed], [theirs.get(k) for k in printed])
        # Nothing is missing without training in the rows of what trains, nor the other way round.
        own = ["" if bool(k) != bool(method.shots) else cell for k, cell in zip(shots, row, strict=True)]
        table.rows.append([name, cells.labels[method], *own, *beside[len(printed) :]])
    table.notes = [legend(cells), "The columns are training images per class; 0 is without training.", *cells.notes]
    muted = {label for method, label in cells.labels.items() if not method.shots}
    groups = list(dict.fromkeys(name for name, _ in values))
    for group in sorted(groups, key=lambda name: name != total):  # the average first, as CoOp's figure has it
        lines = {label: values[group, method] for method, label in cells.labels.items()}
        table.panels.append(Curves(f"{title}: {group}", shots, lines, muted))
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
        values = [run.accuracy for run in members]
        first, seeds = members[0], ", ".join(str(seed) for seed in sorted(run.seed for run in members))
        cell = Cell(fmean(values), interval(values), len(values))
        where = str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)
        table.rows.append([where, first.name, first.classes, names[first.method], cell, seeds])
    return table


def all_tables(runs: list[Result], root: Path, paper: dict[str, Any] | None) -> list[Table]:
    """The tables that `runs` fill; no run is left out."""
    tables: list[Table] = []
    used: set[Path] = set()

    def add(table: Table, members: list[Result]) -> None:
        used.update(run.folder for run in members)
        tables.append(table)

    halves = [run for run in runs if run.classes in ("base", "new") and is_test_of(run, "base2new", run.name)]
    known = {*definitions.REAL, *definitions.RENDERED}
    own = sorted({run.name for run in halves} - known)
    for names in (definitions.REAL, definitions.RENDERED, own):
        if members := [run for run in halves if run.name in names]:
            add(base2new_table(members, list(names), paper), members)
    transfers: dict[tuple[str, str], list[Result]] = {}
    for task in ("cross-dataset", "domain-generalization"):
        for source in definitions.sources(task):
            members = [run for run in runs if is_test_of(run, task, source)]
            moved = {run.method for run in members if run.name != source}  # the others may be of few-shot
            transfers[task, source] = [run for run in members if run.method in moved]
    fitting = few_shot_runs(runs, {run.folder for members in transfers.values() for run in members})
    single = {run.folder for run in fitting}
    for (task, source), members in transfers.items():
        # What nothing was trained for does not make the table of a task that was not run.
        if any(run.method.shots or run.folder not in single for run in members):
            add(transfer_table(members, task, source, paper), members)
    own = sorted({run.name for run in fitting} - known)
    for names in (definitions.REAL, definitions.RENDERED, own):
        if members := [run for run in fitting if run.name in names]:
            add(few_shot_table(members, list(names), paper), members)
    if rest := [run for run in runs if run.folder not in used]:
        add(list_table("Other runs", rest, root), rest)
    return tables


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
