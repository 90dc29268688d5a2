"""A training step of GOPro whose L_sem is of some classes (TRAINER.GOPRO.SEM_CLASSES), beside that of all.

    python -m benchmarks.sem_classes
    python -m benchmarks.sem_classes --classes 1000 --repeats 1
    python -m benchmarks.sem_classes --quick

The other side is our own step, so that the ratio tells what the setting saves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, record

CASES = [(4, 500, 100), (4, 1000, 100)]  # images, classes, of which L_sem
QUICK = [(2, 12, 3)]


def measure_case(args: argparse.Namespace, batch: int, classes: int, some: int) -> dict[str, Any]:
    """A row of the record: times and peaks of memory of both."""
    from benchmarks import steps

    sides = {"ours": ("ours", "GOPro", batch, classes, some), "naive": ("ours", "GOPro", batch, classes)}
    return record.row({"batch": batch, "classes": classes, "sem_classes": some}, **steps.measured(args, sides))


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, classes=sorted({case[1] for case in [*CASES, *QUICK]}))
    cases = [case for case in (QUICK if args.quick else CASES) if args.classes is None or case[1] in args.classes]
    return record.finish("sem_classes", args, (measure_case(args, *case) for case in cases))


if __name__ == "__main__":
    main()
