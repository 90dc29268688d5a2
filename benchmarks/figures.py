"""Records as tables: on the terminal after a run, and as Markdown in the documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reporting.tables import aligned

TITLES = {
    "text_encoder": "Text encoder",
    "training_step": "Training step",
    "sem_classes": "Training step with L_sem of some classes, beside that of all",
    "method_steps": "Training steps of other methods",
    "evaluation": "Testing",
    "prediction": "Prediction",
    "startup": "Start-up",
    "processes": "Several processes",
    "data_loading": "Data loading",
    "end_to_end": "A whole benchmark, runs that share and runs that do not",
}
OTHER = {"sem_classes": "all classes"}  # the side beside ours, where it is not the naive one


def label(case: Mapping[str, Any]) -> str:
    """What a row measured, e.g. `4 images x 50 classes, forward`."""
    if "what" in case:
        return str(case["what"])
    if "method" in case:
        batch = case["batch"]
        part = "text side" if batch is None else f"{batch} image{'s' if batch > 1 else ''}"
        return f"{case['method']}, {part}{', ' if batch is None else ' x '}{case['classes']} classes"
    parts = [f"{case['batch']} {'prompts' if 'mode' in case else 'images'} x {case['classes']} classes"]
    if "sem_classes" in case:
        parts.append(f"L_sem of {case['sem_classes']}")
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


def brief(text: str) -> str:
    """A written amount without a fraction of zeros."""
    return re.sub(r"[.]0+ ", " ", text)


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

    other = OTHER.get(record["benchmark"], "naive")
    header = ["", "ours", other, "ratio", "our peak", f"{other} peak", "error", "floor", "of the floor"]
    rows = []
    for row in record["rows"]:
        ours, naive, floor = row["ours"], row["naive"], row["floor"] or {}
        needs = row.get("needs_bytes")  # of a naive side that was not run
        rows.append(
            [
                label(row["case"]),
                time(ours),
                f"not measured: needs about {amount(needs / 1e9, 2)} GB" if needs else time(naive),
                "-" if row["ratio"] is None else f"{amount(row['ratio'])} x{'*' if starred(row) else ''}",
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
    sizes = "; ".join(sorted({row["naive"]["extrapolated_from"] for row in record["rows"] if starred(row)}))
    return [f"* does not fit or takes too long; in a straight line from what does: {sizes}."] if sizes else []


def starred(row: Mapping[str, Any]) -> bool:
    """Whether the naive side is extrapolated."""
    return bool(row["naive"] and row["naive"].get("extrapolated_from"))


def text(record: Mapping[str, Any]) -> str:
    """The record for a terminal."""
    header, rows = table(record)
    settings = record["settings"]
    chosen = ", ".join(str(settings[key]) for key in ("backbone", "dtype") if key in settings)
    title = f"{TITLES[record['benchmark']]}: {record['machine']['name']}" + (f"; {chosen}" if chosen else "")
    lines = [title, *(line.rstrip() for line in aligned([header, *rows], labels=1)), *notes(record)]
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
