"""Records as tables: on the terminal after a run, and as Markdown in the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "text_encoder": "Text encoder",
    "training_step": "Training step",
    "method_steps": "Training steps of other methods",
    "evaluation": "Testing",
    "startup": "Start-up",
    "data_loading": "Data loading",
}


def label(case: Mapping[str, Any]) -> str:
    """What a row measured, e.g. `4 images x 50 classes, forward`."""
    if "what" in case:
        return str(case["what"])
    if "method" in case:
        batch = case["batch"]
        part = "text side" if batch is None else f"{batch} image{'s' if batch > 1 else ''}"
        return f"{case['method']}, {part}{', ' if batch is None else ' x '}{case['classes']} classes"
    parts = [f"{case['batch']} {'prompts' if 'mode' in case else 'images'} x {case['classes']} classes"]
    if "batch" in case and case.get("context", 4) != 4:
        parts.append(f"{case['context']} context tokens")
    return ", ".join([*parts, *([case["mode"]] if "mode" in case else [])])


def amount(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, without exponents."""
    if value is None:
        return "-"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    if whole:
        return f"{value:,.{max(0, digits - whole)}f}"
    return f"{float(f'{value:.{digits}g}'):f}".rstrip("0").rstrip(".") or "0"


def seconds(value: float | None) -> str:
    """A time with its unit."""
    if value is None:
        return "-"
    return f"{amount(value)} s" if value >= 1 else f"{amount(value * 1000)} ms"


def gigabytes(value: float | None) -> str:
    """Bytes in GB (1e9)."""
    return "-" if value is None else f"{amount(value / 1e9)} GB"


def images_per_second(value: float) -> str:
    """A speed."""
    return f"{amount(value)} images/s"


def error(value: float | None) -> str:
    """A relative error, e.g. 2.1e-7."""
    if value is None:
        return "-"
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}" if value else "0"


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a record; columns that no row fills are left out, extrapolated figures have a star."""

    def time(side: Mapping[str, Any] | None) -> str:
        if side is None:
            return "-"
        text = images_per_second(1 / side["seconds"]) if record["per"] == "image" else seconds(side["seconds"])
        return text + ("*" if side.get("extrapolated_from") else "")

    def memory(side: Mapping[str, Any] | None) -> str:
        star = "*" if side and side.get("extrapolated_from") and side.get("peak_bytes") else ""
        return (gigabytes(side.get("peak_bytes")) if side else "-") + star

    header = ["", "ours", "naive", "ratio", "our peak", "naive peak", "error", "floor", "of the floor"]
    rows = []
    for row in record["rows"]:
        ours, naive, floor = row["ours"], row["naive"], row["floor"] or {}
        needs = row.get("needs_bytes")  # of a naive side that was not run
        rows.append(
            [
                label(row["case"]),
                time(ours),
                f"not measured: needs about {amount(needs / 1e9, 2)} GB" if needs else time(naive),
                "-" if row["ratio"] is None else f"{amount(row['ratio'])} x{'*' if _starred(row) else ''}",
                memory(ours),
                memory(naive),
                error(row["error"]),
                time(floor) if floor else "-",
                f"{100 * floor['share']:.0f} %" if floor else "-",
            ]
        )
    filled = [i for i in range(len(header)) if i == 0 or any(cells[i] != "-" for cells in rows)]
    return [header[i] for i in filled], [[cells[i] for i in filled] for cells in rows]


def notes(record: Mapping[str, Any]) -> list[str]:
    """Where starred figures come from."""
    sizes = sorted({row["naive"]["extrapolated_from"] for row in record["rows"] if _starred(row)})
    return (
        [f"* does not fit or takes too long; in a straight line from what does: {'; '.join(sizes)}."] if sizes else []
    )


def _starred(row: Mapping[str, Any]) -> bool:
    return bool(row["naive"] and row["naive"].get("extrapolated_from"))


def text(record: Mapping[str, Any]) -> str:
    """The record for a terminal."""
    header, rows = table(record)
    widths = [max(len(cells[i]) for cells in [header, *rows]) for i in range(len(header))]

    def aligned(cells: Sequence[str]) -> str:
        places = zip(cells, widths, strict=True)
        return "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(places)).rstrip()

    settings = record["settings"]
    chosen = ", ".join(str(settings[key]) for key in ("backbone", "dtype") if key in settings)
    title = f"{TITLES[record['benchmark']]}: {record['machine']['name']}" + (f"; {chosen}" if chosen else "")
    lines = [title, aligned(header), *map(aligned, rows), *notes(record)]
    if record["rates"]:
        lines.append(rate_note(record["rates"]))
    return "\n".join(lines)


def rate_note(rates: Mapping[str, float]) -> str:
    """The measured rates in words."""
    return (
        "Floor: the least operations at the rate of large matrix products, or bytes at that of copies, whichever takes "
        f"longer; both measured between the runs (median {amount(rates['matmul_flops'] / 1e9)} GFLOP/s and "
        f"{amount(rates['copy_bytes'] / 1e9)} GB/s)."
    )


def markdown(record: Mapping[str, Any]) -> str:
    """The record as a Markdown table with its notes."""
    header, rows = table(record)
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    body = "\n".join("| " + " | ".join(cell.replace("*", "\\*") for cell in cells) + " |" for cells in lines)
    after = [note.replace("*", "\\*", 1) for note in notes(record)]
    return "\n\n".join([body, *after])
