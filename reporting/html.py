"""One HTML page of tables and charts: it needs no network, runs no script, and shows every name as text."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

from reporting.charts import svgs
from reporting.tables import Cell, Table, printable

STYLE = """
:root { color-scheme: light dark; --ink: #22272e; --faint: #667080; --ground: #fff; --soft: #f3f5f7; --line: #d5dae0;
  --link: #1f5fae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe3e8; --faint: #98a2af; --ground: #15181c; --soft: #20252b; --line: #39414b; --link: #8ab8f2; }
  .chart svg { filter: invert(.87) hue-rotate(180deg); }
}
body { max-width: 77rem; margin: 0 auto; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
  color: var(--ink); background: var(--ground); }
h1, h2 { line-height: 1.2; }
h2 { margin: 2.5rem 0 .8rem; font-size: 1.3rem; }
a { color: var(--link); }
ul { padding-left: 1.2rem; }
nav ul { columns: 20rem; }
.notes { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; border-bottom: 2px solid var(--ink); font-size: .9rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; vertical-align: top; white-space: nowrap; font-weight: normal; }
thead { border-top: 2px solid var(--ink); }
thead th { font-weight: bold; }
tbody { border-top: 1px solid var(--line); }
tbody tr:hover > * { background: var(--soft); }
.label { text-align: left; }
th.first { padding-left: 0; }
.key { position: sticky; left: 0; background: var(--ground); }
.half { display: inline-block; min-width: var(--half); text-align: left; white-space: pre; color: var(--faint); }
details { margin: .5rem 0; }
details details { margin-left: 1rem; }
summary { cursor: pointer; }
.chart svg { display: block; }
.chart svg * { stroke-linejoin: round; stroke-linecap: butt; }
@media print {
  body { max-width: none; padding: 0; }
  nav, details:not([open]) { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: 0 .3rem; }
  tr, .chart { break-inside: avoid; }
  .key { position: static; }
  .chart svg { max-width: 100%; height: auto; filter: none; }
}
"""
# The policy forbids what the page does not have anyway, should a name ever slip through.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
FEW = 6  # of notes and charts that many are shown unasked


def text(value: object) -> str:
    """A value as text of the page or of an attribute, whatever characters are in it."""
    return html.escape(printable(str(value)))


def listing(lines: Iterable[str], style: str = "notes") -> str:
    return f'<ul class="{style}">{"".join(f"<li>{line}</li>" for line in lines)}</ul>'


def fold(summary: str, content: str, shown: bool = False) -> str:
    return f"<details{' open' if shown else ''}><summary>{text(summary)}</summary>\n{content}\n</details>"


def link(path: Path, folder: Path) -> str:
    """A link that leads from a page in `folder` to the file, also after both were moved together."""
    where = quote(Path(os.path.relpath(path, folder)).as_posix(), errors="surrogateescape")
    return f'<a href="{where}">{text(path.name)}</a>'


def best(table: Table) -> set[tuple[int, int]]:
    """Row and column of the best values among at least two rows that compete; all that print the same."""
    if table.best_of is None:
        return set()
    found: set[tuple[int, int]] = set()
    rivals: dict[tuple[Cell | str | None, ...], list[int]] = {}
    for i, row in enumerate(table.rows):
        rivals.setdefault(tuple(row[label] for label in table.best_of), []).append(i)
    for group in rivals.values():
        for column in range(table.labels, len(table.header)):
            cells = {i: cell for i in group if isinstance(cell := table.rows[i][column], Cell) and not cell.signed}
            values = {i: round(cell.mean, 2) for i, cell in cells.items()}
            if len(values) > 1:
                found |= {(i, column) for i, value in values.items() if value == max(values.values())}
    return found


def beside(cell: Cell | str | None) -> str:
    """What follows the mean of a cell: its interval, a star."""
    return cell.text()[len(replace(cell, half=None, incomplete=False).text()) :] if isinstance(cell, Cell) else ""


def figure(cell: Cell | str | None, wide: bool, strong: bool) -> str:
    """A value and what follows; `wide` where something follows others of the column, so that the means stay aligned."""
    rest = beside(cell)
    word = cell.text().removesuffix(rest) if isinstance(cell, Cell) else "—" if cell is None else text(cell)
    after = f'<span class="half">{rest}</span>' if wide else ""
    return f"<td>{f'<b>{word}</b>' if strong else word}{after}</td>"


def grid(table: Table, folder: Path) -> str:
    """A table in a box of its own that scrolls sideways where the page is narrower; the names of what competes stay."""
    key = max((j for j in range(table.labels) if j not in (table.best_of or ())), default=0)

    def label(word: object, j: int, more: str) -> str:
        kind = f"label{' first' if j == 0 else ''}{' key' if j == key else ''}"
        return f'<th class="{kind}" {more}>{text(word)}</th>'

    head = [label(word, j, 'scope="col"') for j, word in enumerate(table.header[: table.labels])]
    head += [f'<th scope="col">{text(word)}</th>' for word in table.header[table.labels :]]
    head += ['<th scope="col" class="label">files</th>'] if table.files else []
    following = [max(len(beside(cell)) for cell in column) for column in zip(*table.rows, strict=True)]
    strong, bodies = best(table), []
    for _, group in groupby(enumerate(table.rows), lambda item: item[1][0] if table.grouped else None):
        members, lines = list(group), []
        for place, (i, row) in enumerate(members):
            cells = [label(word, j, 'scope="row"') for j, word in enumerate(row[: table.labels])]
            if table.grouped:
                cells[0] = "" if place else label(row[0], 0, f'scope="rowgroup" rowspan="{len(members)}"')
            for j, cell in enumerate(row[table.labels :], table.labels):
                cells.append(figure(cell, following[j] > 0, (i, j) in strong))
            if table.files:
                cells.append(f'<td class="label">{" ".join(link(path, folder) for path in table.files[i])}</td>')
            lines.append(f"<tr>{''.join(cells)}</tr>")
        bodies.append("<tbody>" + "\n".join(lines) + "</tbody>")
    style = f' style="--half: {max(following)}ch"' if any(following) else ""
    content = "\n".join([f"<thead><tr>{''.join(head)}</tr></thead>", *bodies])
    return f'<div class="scroll"><table{style}>{content}</table></div>'


def section(table: Table, name: str, folder: Path) -> str:
    """A table with its notes and charts; what stands behind it is folded."""
    parts = [f'<section id="{name}">\n<h2>{text(table.title)}</h2>', grid(table, folder)]
    notes = [text(note) for note in table.notes]
    parts += [listing(notes[:FEW])] if notes else []
    parts += [fold(f"{len(notes) - FEW} more notes", listing(notes[FEW:]))] if notes[FEW:] else []
    charts = [f'<div class="scroll chart">{svg}</div>' for svg in svgs(table.panels, name)]
    parts += [fold(f"Charts ({len(charts)})", "\n".join(charts), len(charts) <= FEW)] if charts else []
    for what, tables in table.behind.items():
        shown = ["\n".join([*([grid(t, folder)] if t.rows else []), *map(text, t.notes)]) for t in tables]
        if len(tables) > 1:
            shown = [fold(t.title, content) for t, content in zip(tables, shown, strict=True)]
        parts.append(fold(what, "\n".join(shown)))
    return "\n".join([*parts, "</section>"])


def page(title: str, lead: Sequence[str], tables: Sequence[Table], problems: Sequence[str], folder: Path) -> str:
    """The page.

    Args:
        title: What it is headed with.
        lead: Lines below the heading.
        tables: In order, each a section with its charts.
        problems: What the tables leave out and why, a line each.
        folder: Where the page will lie: links to files start there.
    """
    names = {f"table-{number}": table for number, table in enumerate(tables, 1)}
    contents = [f'<a href="#{name}">{text(table.title)}</a>' for name, table in names.items()]
    sections = [section(table, name, folder) for name, table in names.items()]
    if problems:
        contents.append(f'<a href="#left-out">Not counted ({len(problems)})</a>')
        lines = listing(map(text, problems), "problems")
        sections.append(f'<section id="left-out">\n<h2>Not counted</h2>\n{lines}\n</section>')
    body = [*(f"<p>{text(line)}</p>" for line in lead), f"<nav>{listing(contents, 'contents')}</nav>", *sections]
    return PAGE.format(title=text(title), style=STYLE, body="\n".join(body))
