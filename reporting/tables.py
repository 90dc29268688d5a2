"""Tables of numbers, and how to print them: terminal text, Markdown, CSV, LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """A mean with the half-width of its interval, both in percent (or points, when `signed`).

    Args:
        mean: The value.
        half: Half-width of the 95 % interval; None when there is one value only.
        count: Number of seeds behind it.
        incomplete: Whether seeds are missing.
        signed: Whether it is a difference, printed with its sign.
    """

    mean: float
    half: float | None = None
    count: int = 0
    incomplete: bool = False
    signed: bool = False

    def text(self) -> str:
        """The cell as it stands in a table; a star marks missing seeds."""
        half = "" if self.half is None else f" ± {self.half:.2f}"
        return f"{self.mean:{'+' if self.signed else ''}.2f}{half}{'*' if self.incomplete else ''}"


@dataclass
class Panel:
    """One bar chart: for every group of bars, the value of each series; those `muted` are drawn in grey."""

    title: str
    groups: list[str]
    series: dict[str, list[Cell | None]]
    muted: set[str] = field(default_factory=set)


@dataclass
class Curves:
    """One chart of lines over images per class: for every number of `shots` the value of each series.

    The values at 0 shots stand alone, as stars; the series that are `muted` are drawn in grey.
    """

    title: str
    shots: list[int]
    series: dict[str, list[Cell | None]]
    muted: set[str] = field(default_factory=set)


@dataclass
class Heatmap:
    """A confusion matrix in percent: rows are true classes, columns predicted ones."""

    title: str
    names: list[str]
    matrix: list[list[float]]


@dataclass
class Table:
    """Rows under a header; the first `labels` columns hold text, None is a missing value.

    The rows of a `grouped` table belong together as long as their first label stays the same. `best_of` names the label
    columns in which rows agree that compete for the best value of a column; None where none do. Only a page has a place
    for the `files` of each row, and for the tables `behind` this one, by what they are.
    """

    title: str
    header: list[str]
    labels: int = 1
    grouped: bool = False
    rows: list[list[Cell | str | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    panels: list[Panel | Curves | Heatmap] = field(default_factory=list)
    best_of: tuple[int, ...] | None = None
    files: list[list[Path]] = field(default_factory=list)
    behind: dict[str, list[Table]] = field(default_factory=dict)


def printable(text: str) -> str:
    """The text with a sign for every control character and half of a pair, which neither XML nor UTF-8 can hold."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


def texts(table: Table) -> list[list[str]]:
    """Header and rows as text; the first label of a group stands once."""
    lines = [list(table.header)]
    above: list[Cell | str | None] = [None]
    for row in table.rows:
        line = ["—" if cell is None else cell if isinstance(cell, str) else cell.text() for cell in row]
        if table.grouped and row[0] == above[0]:
            line[0] = ""
        lines.append(line)
        above = row
    return lines


def aligned(lines: Sequence[Sequence[str]], labels: int) -> list[str]:
    """Cells under each other, two spaces apart: the first `labels` columns begin at the same place, the others end."""
    columns = []
    for i, column in enumerate(zip(*lines, strict=True)):
        width = max(map(len, column))
        columns.append([word.ljust(width) if i < labels else word.rjust(width) for word in column])
    return ["  ".join(line) for line in zip(*columns, strict=True)]


def terminal(table: Table) -> str:
    """Aligned columns, with a rule between groups of rows."""
    lines = texts(table)
    for i in range(table.labels, len(table.header)):  # the decimal points stand under each other
        tails = [len(line[i]) - line[i].find(".") if "." in line[i] else 0 for line in lines[1:]]
        for line, tail in zip(lines[1:], tails, strict=True):
            line[i] += " " * (max(tails) - tail)
    written = aligned(lines, table.labels)
    rule = "─" * len(written[0])
    out = [table.title, rule]
    for number, line in enumerate(lines):
        if number == 1 or (number > 1 and table.grouped and line[0]):
            out.append(rule)
        out.append(written[number].rstrip())
    return "\n".join([*out, rule, *table.notes])


def markdown(table: Table) -> str:
    """A pipe table under a bold title; notes as a list."""
    header, *rows = ([word.replace("|", "\\|") for word in line] for line in texts(table))
    align = ["---" if i < table.labels else "---:" for i in range(len(header))]
    lines = [f"| {' | '.join(line)} |" for line in (header, align, *rows)]
    return "\n".join(
        [f"**{table.title}**", "", *lines, *([""] if table.notes else []), *(f"- {n}" for n in table.notes)]
    )


LATEX = str.maketrans(
    {char: "\\" + char for char in "&%#_{}$"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": "$<$", ">": "$>$"}
    | {"±": r"$\pm$", "—": "---"}
)


def latex(table: Table) -> str:
    """A booktabs tabular; notes as comments."""
    header, *rows = ([word.translate(LATEX) for word in line] for line in texts(table))
    lines = [rf"% {table.title}; needs \usepackage{{booktabs}}", *(f"% {note}" for note in table.notes)]
    lines += [rf"\begin{{tabular}}{{{'l' * table.labels}{'r' * (len(header) - table.labels)}}}", r"\toprule"]
    lines += [" & ".join(header) + r" \\", r"\midrule"]
    for number, row in enumerate(rows):
        if number and table.grouped and row[0]:
            lines.append(r"\midrule")
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def csv_text(table: Table) -> str:
    """One line per row, every label repeated; a mean is followed by its interval and its number of seeds."""
    counts = [[cell.count if isinstance(cell, Cell) else 0 for cell in row] for row in table.rows]
    measured = [any(column) for column in zip(*counts, strict=True)] or [False] * len(table.header)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["table"]
    for name, wide in zip(table.header, measured, strict=True):
        header += [name, f"{name} ci95", f"{name} seeds"] if wide else [name]
    writer.writerow(header)
    for row in table.rows:
        line: list[object] = [table.title]
        for cell, wide in zip(row, measured, strict=True):
            if isinstance(cell, Cell):
                half = "" if cell.half is None else round(cell.half, 4)
                line += [round(cell.mean, 4), half, cell.count or ""] if wide else [round(cell.mean, 4)]
            else:
                line += [cell or "", "", ""] if wide else [cell or ""]
        writer.writerow(line)
    return out.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Table], str]] = {
    "terminal": terminal,
    "markdown": markdown,
    "csv": csv_text,
    "latex": latex,
}
