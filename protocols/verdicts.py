"""Judges what the paper claims by the runs at hand alone; its printed numbers decide nothing.

The difference of two methods is taken seed by seed, in the average over the same data sets (of base-to-new in the HM of
the two averages). A claim is confirmed where the 95 % interval of its mean (paired Student's t) lies above 0,
contradicted where it lies below, and else not decided.
"""

from __future__ import annotations

import itertools
from typing import Any

from protocols import definitions
from protocols.aggregate import PAPER_NAMES, TITLES, Cells, Group, by_seed, groups_of, paired
from protocols.records import Method, Result
from reporting.tables import Cell, Table

RULE = (
    "Difference in the average over the data sets (base-to-new: in its HM), paired by seed, ± 95 % interval (Student's "
    "t): confirmed where all of it is above 0, contradicted where all is below; each claim by itself."
)
Part = tuple[str, str]  # data set and classes of a cell


def parts_of(group: Group) -> list[list[Part]]:
    """The cells that a claim averages; of base-to-new two lists, the averages of which make the HM."""
    if group.task == "base2new":
        # A benchmark of the paper must be complete; of others what there is.
        names = [n for n in group.names if group.of_paper or any(run.name == n for run in group.runs)]
        return [[(name, f"{classes} classes") for name in names] for classes in ("base", "new")]
    return [[(name, "all classes") for name in definitions.tested_on(group.task, group.names[0])[1]]]


def judge(
    cells: Cells, ours: Method, other: Method, parts: list[list[Part]]
) -> tuple[str, Cell | None, list[int], str]:
    """Verdict, difference, the seeds behind it, and why nothing is decided (empty where the difference says it)."""
    for method in (ours, other):
        if lacking := [part for group in parts for part in group if (method, *part) not in cells.runs]:
            what = ", ".join(f"{name} ({classes})" for name, classes in lacking)
            return "not decided", None, [], f"no runs of {cells.labels[method]} on {what}"
    values = [by_seed([[cells.runs[(method, *part)] for part in group] for group in parts]) for method in (ours, other)]
    seeds, cell = sorted(values[0].keys() & values[1].keys()), paired(*values)
    if cell is None:
        return "not decided", None, [], "no seed that both have on all data sets"
    if cell.half is None:
        return "not decided", cell, seeds, "one seed has no interval"
    sign = (cell.mean > cell.half) - (cell.mean < -cell.half)
    return {1: "confirmed", -1: "contradicted", 0: "not decided"}[sign], cell, seeds, ""


def claims_table(runs: list[Result], claims: dict[str, Any]) -> Table:
    """A row for each claim on the paper's data sets, and on others that the runs have, with each pair of methods.

    Args:
        runs: What was read.
        claims: Who (`method`) outperforms whom (`rivals`) in which `tasks`, with which `backbone` and `shots`.
    """
    table = Table("The paper's claims by these runs", ["task", "data sets", "claim", "verdict"], labels=4, grouped=True)
    table.header += ["difference", "seeds"]
    table.notes = [RULE]
    groups = groups_of(runs)
    for task in claims["tasks"]:
        same = [group for group in groups if group.task == task]
        if not any(group.of_paper for group in same):  # where it has runs, it stands first
            same.insert(0, Group(task, definitions.GROUPS["paper"][task], []))
        for group in same:
            add_rows(table, group, claims)
    table.notes = list(dict.fromkeys(table.notes))
    return table


def add_rows(table: Table, group: Group, claims: dict[str, Any]) -> None:
    cells, parts = Cells(group.runs), parts_of(group)
    title, sets = TITLES[group.task], ", ".join(name for name, _ in parts[0])
    where = f"the paper's {len(parts[0])}" if group.of_paper else f"{sets} (not the paper's)"
    names = {method: PAPER_NAMES.get(method.trainer, method.trainer) for method in cells.labels}
    for rival in claims["rivals"]:
        pairs = [
            (ours, other)
            for ours, other in itertools.permutations(names, 2)
            if (names[ours], names[other]) == (claims["method"], rival)
            and (ours.shots, ours.backbone) == (other.shots, other.backbone)
            and (ours.origin == other.origin or not (ours.origin and other.origin))
        ]
        if not pairs:
            absent = [name for name in (claims["method"], rival) if name not in names.values()]
            why = f"no runs of {', '.join(absent)}" if absent else "no runs with the same backbone and shots"
            table.rows.append([title, where, f"{claims['method']} outperforms {rival}", "not decided", None, ""])
            table.notes.append(f"not decided: {title} on {where}, {rival}: {why}")
        for ours, other in pairs:
            verdict, cell, seeds, why = judge(cells, ours, other, parts)
            claim = f"{cells.labels[ours]} outperforms {cells.labels[other]}"
            table.rows.append([title, where, claim, verdict, cell, ", ".join(map(str, seeds))])
            if why:
                table.notes.append(f"not decided: {title} on {where}, {claim}: {why}")
            if (ours.backbone, ours.shots) != (claims["backbone"], claims["shots"]):
                papers = f"where the paper has {claims['backbone']} and {claims['shots']} shots"
                table.notes.append(f"{title} on {where}: {ours.backbone} and {ours.shots} shots, {papers}")
