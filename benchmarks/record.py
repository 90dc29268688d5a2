"""Records of the benchmarks, one JSON file a benchmark and machine.

A record is {"schema", "benchmark", "date", "command", "machine", "settings", "rates", "per", "rows"}; a row is {"case",
"ours", "naive", "ratio", "error", "floor"}. A side is {"seconds", "runs", "peak_bytes", "extrapolated_from"}: the
median, the single times, and for a size that does not fit where its cost was taken from. A floor is {"flops", "bytes",
"rates", "seconds", "share"}, with the rates of the same moments; the record's own rates are their medians. Times are
seconds per run, or per image where "per" says so. What was not measured is null; where that is a naive side for want of
memory, the row may say in "needs_bytes" how much it would take.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures, machine

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA = 1
KEYS = {"schema", "benchmark", "date", "command", "machine", "settings", "rates", "per", "rows"}
SIDE = {"seconds", "runs", "peak_bytes", "extrapolated_from"}
USUAL_DTYPE = {"cpu": "fp32", "cuda": "bf16"}  # of a device; other precisions are kept apart
Records = dict[str, dict[str, Any]]  # benchmark -> record


def row(case: dict[str, Any], ours: dict[str, Any], naive: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A record's row; adds the ratio naive / ours."""
    ratio = naive["seconds"] / ours["seconds"] if naive else None
    return {"case": case, "ours": ours, "naive": naive, "ratio": ratio, "error": None, "floor": None, **more}


def side(runs: list[float]) -> dict[str, Any]:
    """A measured side of a row, its memory still unknown."""
    return {"seconds": statistics.median(runs), "runs": runs, "peak_bytes": None, "extrapolated_from": None}


def per_image(side: dict[str, Any], images: int) -> dict[str, Any]:
    """A side whose times are of one image instead of a run over `images`."""
    return side | {"seconds": side["seconds"] / images, "runs": [seconds / images for seconds in side["runs"]]}


def finish(name: str, args: argparse.Namespace, rows: Iterable[dict[str, Any]], per: str = "run") -> Path:
    """Measure the rows, telling each; write the record, print its table and say where the file is.

    Args:
        name: The benchmark's module.
        args: From `options`.
        rows: From `row`, measured as they are asked for.
        per: What a time is of: run or image.
    """
    from dassl.utils import write_json

    done = []
    for one in rows:
        done.append(one)
        print(f"measured: {figures.label(one['case'])}", flush=True)
    about, usual = machine.describe(args.device), USUAL_DTYPE[args.device]
    measured = [one["floor"]["rates"] for one in done if one["floor"] and "rates" in one["floor"]]
    rates = {key: statistics.median(one[key] for one in measured) for key in measured[0]} if measured else None
    keys = ("backbone", "device", "dtype", "repeats", "quick")
    record = {
        "schema": SCHEMA,
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *args.argv]),
        "machine": about,
        "settings": {key: getattr(args, key) for key in keys if hasattr(args, key)},
        "rates": rates,
        "per": per,
        "rows": done,
    }
    dtype = getattr(args, "dtype", usual)
    suffix = "" if dtype == usual else f"-{dtype}"
    path: Path = args.out / f"{name}-{about['short']}{suffix}.json"
    write_json(record, path)
    print(f"\n{figures.text(record)}\n{path}")
    return path


def check(record: Any) -> dict[str, Any]:
    """Give back a record that has the documented form.

    Raises:
        ValueError: It has not; says where.
    """
    if not isinstance(record, dict) or set(record) != KEYS:
        raise ValueError(f"a record has the keys {sorted(KEYS)}, got {sorted(record)}")
    if record["schema"] != SCHEMA or record["benchmark"] not in figures.TITLES or record["per"] not in ("run", "image"):
        raise ValueError(f"unknown schema {record['schema']}, benchmark {record['benchmark']} or per {record['per']}")
    if not record["rows"]:
        raise ValueError("no rows")
    for row in record["rows"]:
        for side in filter(None, (row["ours"], row["naive"])):
            if not side.keys() >= SIDE or not side["seconds"] > 0:
                raise ValueError(f"row {row['case']}: a side has {sorted(SIDE)} and a positive time, got {side}")
    return record


def read(folder: Path = RESULTS) -> list[Records]:
    """The records of a folder by benchmark, one group per machine and precision, the latest first.

    Raises:
        ValueError: There is no such folder, or a file is no record; names it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder of records")
    groups: dict[tuple[str, str], Records] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = check(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
        # What has no precision of its own (start-up, data) belongs to the machine's usual one.
        about = record["machine"]
        key = (about["short"], record["settings"].get("dtype", USUAL_DTYPE[about["device"]]))
        groups.setdefault(key, {})[record["benchmark"]] = record
    return sorted(groups.values(), key=lambda group: max(r["date"] for r in group.values()), reverse=True)


def rows_of(group: Records, benchmark: str, case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a benchmark whose cases have these values; none where it was not measured."""
    rows = group[benchmark]["rows"] if benchmark in group else []
    return [row for row in rows if case.items() <= row["case"].items()]
