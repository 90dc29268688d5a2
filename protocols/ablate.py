"""Ablations: changes one factor of a method's config at a time and says what it does. Entry point: scripts/ablate.sh.

    ablate.sh DATASET TASK [--factor NAME]... [settings] [train.py arguments]

The factors are data, configs/ablations/<method>.yaml: name -> config keys with their values; --factor, once for each,
leaves out all others. A factor's runs lie below OUTPUT/ablation/<method>/<factor>, made and skipped like those of the
other scripts, whose settings hold (TRAINER names one method, SHOTS one number). The table has each factor's accuracy
and its difference from the config as it is, paired by seed, with the 95 % interval (Student's t); it is written beside
the runs, as <task>-<data set>.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dassl.names import choose
from protocols import definitions
from protocols.aggregate import TITLES, by_seed, mean_cell, paired
from protocols.plan import Settings, plan, read_settings
from protocols.records import read_runs
from protocols.runner import perform
from reporting.tables import FORMATS, Cell, Table

AS_IT_IS = "as configured"
FOLDER = definitions.ROOT / "configs" / "ablations"
# Cells (data set, classes) whose mean is taken; two lists: the harmonic mean of both means.
Parts = list[list[tuple[str, str]]]


def read_factors(trainer: str) -> dict[str, dict[str, Any]]:
    """The factors of a method: name -> config keys with their values; a ValueError names a file that is not that."""
    path = FOLDER / f"{trainer}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise ValueError(f"no factors for {trainer}: {path} is not there (there are those of {there})")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict) or not all(isinstance(keys, dict) and keys for keys in tree.values()):
        raise ValueError(f"{path} must map names of factors to config keys with their values")
    names = {folder_name(str(name)): name for name in tree}
    if len(names) < len(tree) or folder_name(AS_IT_IS) in names:
        raise ValueError(f"{path}: two factors have the same letters in their names, or one is called {AS_IT_IS!r}")
    return {str(name): keys for name, keys in tree.items()}


def take_factors(words: list[str]) -> tuple[list[str], list[str]]:
    """The names that follow --factor, and the other words; a ValueError where a name is missing."""
    names, rest, remaining = [], [], iter(words)
    for word in remaining:
        flag, equals, name = word.partition("=")
        if flag != "--factor":
            rest.append(word)
        elif name := name if equals else next(remaining, ""):
            names.append(name)
        else:
            raise ValueError("--factor needs the name of a factor")
    return names, rest


def folder_name(factor: str) -> str:
    """A factor's name as that of a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", factor).strip("_")


def settings_of(opts: Settings, factor: str, keys: Mapping[str, Any]) -> Settings:
    """The settings with a factor's folder and keys; keys that stand on the command line too go last and win."""
    output = opts.output / "ablation" / opts.trainers[0] / folder_name(factor)
    pairs = [
        word for key, value in keys.items() for word in (key, repr(tuple(value) if isinstance(value, list) else value))
    ]
    return replace(opts, output=output, pairs=(*pairs, *opts.pairs))


def columns_of(task: str, source: str) -> dict[str, Parts]:
    """What the table shows: name -> cells."""
    if task == "base2new":
        base, new = [(source, "base")], [(source, "new")]
        return {"Base": [base], "New": [new], "HM": [base, new]}
    trained, targets = definitions.tested_on(task, source)
    found: dict[str, Parts] = {f"{name} (source)": [[(name, "all")]] for name in trained}
    found[f"average of {len(targets)}" if len(targets) > 1 else targets[0]] = [[(name, "all") for name in targets]]
    return found


def read_columns(folder: Path, columns: Mapping[str, Parts]) -> dict[str, dict[int, float]]:
    """Accuracy by column and seed, of the seeds that have all cells of a column."""
    cells: dict[tuple[str, str], dict[int, float]] = {}
    for run in read_runs(folder)[0] if folder.is_dir() else []:
        cells.setdefault((run.name, run.classes), {})[run.seed] = run.accuracy
    return {
        column: by_seed([[cells.get(cell, {}) for cell in part] for part in parts]) for column, parts in columns.items()
    }


def ablation_table(title: str, values: Mapping[str, Mapping[str, Mapping[int, float]]], columns: list[str]) -> Table:
    """The table of factors; `values` is factor -> column -> seed -> accuracy, with the config as it is first."""
    table = Table(title, ["factor", *(word for column in columns for word in (column, "difference"))])
    reference = next(iter(values.values()))
    for factor, found in values.items():
        row: list[Cell | str | None] = [factor]
        for column in columns:
            own, base = found[column], reference[column]
            row += [mean_cell(list(own.values())), "" if found is reference else paired(own, base)]
            if missing := sorted(base.keys() - own.keys()):
                table.notes.append(f"missing: {factor}, {column}: seed {', '.join(map(str, missing))}")
        table.rows.append(row)
    seeds = sorted({seed for found in values.values() for column in found.values() for seed in column})
    table.notes[:0] = [
        f"Accuracy in %, mean over seeds {', '.join(map(str, seeds))} ± 95 % interval (Student's t); the difference "
        "from the first row is paired by seed.",
        "One factor at a time; with as many rows, about one in twenty intervals misses 0 by chance.",
    ]
    return table


def main(words: list[str]) -> int:
    """Runs the ablation and prints its table; the exit statuses are those of `runner.main`."""
    if "-h" in words or "--help" in words:
        print(__doc__)
        return 0
    try:
        if len(words) < 2 or any(word.startswith("-") for word in words[:2]):
            raise ValueError("ablate.sh needs DATASET TASK first; --help says more")
        task = definitions.find_task(words[1])
        source = definitions.source_of(task, words[0])
        names, rest = take_factors(words[2:])
        opts = read_settings(rest)
        if len(opts.trainers) != 1 or opts.trainers[0] not in definitions.trainers():
            raise ValueError(f"TRAINER must be one method for an ablation, got {' '.join(opts.trainers)!r}")
        if len(shots := opts.shots or (16,)) != 1:
            raise ValueError(f"SHOTS must be one whole number for an ablation, got {' '.join(map(str, shots))!r}")
        opts = replace(opts, shots=shots)
        known = read_factors(opts.trainers[0])
        chosen = {choose(name, known, "factor (--factor)"): known[name] for name in names} or known
        factors: dict[str, dict[str, Any]] = {AS_IT_IS: {}, **chosen}
        settings = {factor: settings_of(opts, factor, keys) for factor, keys in factors.items()}
        runs = [run for own in settings.values() for run in plan(own, task, source) if run.argv]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    status = perform(runs, opts, benchmark=True)
    if opts.dry_run or status > 1:
        return status
    columns = columns_of(task, source)
    values = {factor: read_columns(own.output, columns) for factor, own in settings.items()}
    title = f"Ablation of {opts.trainers[0]}: {TITLES[task].lower()}, {source}"
    table = ablation_table(title, values, list(columns))
    print(FORMATS["terminal"](table))
    from dassl.utils import write_text  # only here, because it takes seconds

    file = next(iter(settings.values())).output.parent / f"{task}-{source}.md"
    write_text(FORMATS["markdown"](table) + "\n", file)
    print(f"Table: {file}", file=sys.stderr)
    return status
