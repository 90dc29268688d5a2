"""Reading the benchmarks' records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, SCHEMA
from benchmarks.tables import TITLES

Records = dict[str, dict[str, Any]]  # benchmark -> record
KEYS = {"schema", "benchmark", "date", "command", "machine", "settings", "rates", "per", "rows"}
SIDE = {"seconds", "runs", "peak_bytes", "extrapolated_from"}


def check(record: Any) -> dict[str, Any]:
    """Give back a record that has the documented form.

    Raises:
        ValueError: It has not; says where.
    """
    if not isinstance(record, dict) or set(record) != KEYS:
        raise ValueError(f"a record has the keys {sorted(KEYS)}, got {sorted(record)}")
    if record["schema"] != SCHEMA or record["benchmark"] not in TITLES or record["per"] not in ("run", "image"):
        raise ValueError(f"unknown schema {record['schema']}, benchmark {record['benchmark']} or per {record['per']}")
    if not record["rows"]:
        raise ValueError("no rows")
    for row in record["rows"]:
        for side in filter(None, (row["ours"], row["naive"])):
            if not side.keys() >= SIDE or not side["seconds"] > 0:
                raise ValueError(f"row {row['case']}: a side has {sorted(SIDE)} and a positive time, got {side}")
    return record


def read(folder: Path = RESULTS) -> list[Records]:
    """The records of a folder, one group per machine and precision, the latest first.

    Args:
        folder: Where the JSON files are.

    Returns:
        Groups of records by benchmark.

    Raises:
        ValueError: A file is no record; names it.
    """
    groups: dict[tuple[str, str], Records] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = check(json.loads(path.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None
        # What has no precision of its own (start-up, data) belongs to the machine's usual one.
        usual = "fp32" if record["machine"]["device"] == "cpu" else "bf16"
        key = (record["machine"]["short"], record["settings"].get("dtype", usual))
        groups.setdefault(key, {})[record["benchmark"]] = record
    return sorted(groups.values(), key=lambda group: max(r["date"] for r in group.values()), reverse=True)


def find(group: Records, benchmark: str, **case: Any) -> dict[str, Any] | None:
    """The row of a benchmark whose case has these values; None where it was not measured."""
    rows: Sequence[dict[str, Any]] = group[benchmark]["rows"] if benchmark in group else []
    return next((row for row in rows if case.items() <= row["case"].items()), None)
