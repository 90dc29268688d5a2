"""A whole benchmark, `scripts/benchmark.sh base2new` over all methods, with what runs share and without.

    python -m benchmarks.end_to_end                       one embedded set, one seed
    python -m benchmarks.end_to_end --datasets embedded --seeds 1 2 3
    python -m benchmarks.end_to_end --quick

Ours is the command as it is, in a new output folder: what the frozen image tower gives, and the pixels that methods
train on, are computed once, and CLIP's vocabulary is read once for all runs. The naive side is the same command with
TEST.FEATURE_CACHE "" and each run reading the vocabulary, and with nothing else changed. The figures of both are
compared: they must be the same to the last bit. Ours runs first, so that the disk is warm for the other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, record
from benchmarks.pictures import make_pictures

WITHOUT = ("TEST.FEATURE_CACHE", "")
RUNNER = ("protocols/runner.py",)
FORGETFUL = (  # each run, a fork of the runner, reads the vocabulary itself
    "-c",
    "import os, runpy, sys; sys.path.insert(0, '.'); from clip import tokenizer;"
    "os.register_at_fork(after_in_child=tokenizer._bpe.cache_clear);"
    "sys.argv[0] = 'protocols/runner.py'; runpy.run_path(sys.argv[0], run_name='__main__')",
)
WHOLE = "base2new, all methods"


def run(program: Sequence[str], folder: Path, settings: dict[str, str], *arguments: str) -> Path:
    """Run the benchmark in a new folder; returns it.

    Raises:
        RuntimeError: A run failed.
    """
    output = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, *program, "benchmark", "base2new", *arguments]
    env = os.environ | settings | {"OUTPUT": output}
    done = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Path(output)


def figures_of(output: Path) -> dict[str, str]:
    """The figures of every step and test, by run."""
    return {str(path.parent.relative_to(output)): path.read_text() for path in output.rglob("metrics.jsonl")}


def training_seconds(output: Path) -> dict[str, float]:
    """Seconds that the trainings of each method took."""
    spent: dict[str, float] = {}
    for path in sorted(output.glob("base2new/train_*/**/results.json")):
        found = json.loads(path.read_text())
        spent[found["trainer"]] = spent.get(found["trainer"], 0.0) + found["train_time_sec"]
    return spent


def options(parser: argparse.ArgumentParser) -> None:
    """What this benchmark alone asks for."""
    parser.add_argument("--datasets", default="shapes", help="as DATASETS of benchmark.sh (default shapes)")
    parser.add_argument("--seeds", nargs="+", default=["1"], help="as SEEDS (default 1)")
    parser.add_argument("--jobs", default="1", help="as JOBS, with DATALOADER.NUM_WORKERS 0 above 1 (default 1)")


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, models=False, more=options)
    arguments = ["DATALOADER.NUM_WORKERS", "0"] if args.jobs != "1" or args.quick else []
    settings = {"DATASETS": args.datasets, "SEEDS": " ".join(args.seeds), "JOBS": args.jobs, "TRAINER": "all"}
    settings |= {"SHOTS": "", "CFG": "", "DRY_RUN": "", "DATA": "data"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.quick:
            pictures = make_pictures(folder / "pictures", 4, 8, 64, 64)
            settings |= {"DATA": str(pictures), "DATASETS": "image_folder", "CFG": "tiny", "SHOTS": "2"}
            settings |= {"TRAINER": "ZeroshotCLIP CoOp VPT"}
            arguments += ["OPTIM.MAX_EPOCH", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "2"]
        # Draws pictures, where they are missing.
        run(RUNNER, folder, settings | {"TRAINER": "ZeroshotCLIP"}, *arguments)
        results: dict[str, Any] = {}
        sides = {
            "ours": partial(run, RUNNER, folder, settings, *arguments),
            "naive": partial(run, FORGETFUL, folder, settings, *arguments, *WITHOUT),
        }
        times = measure.measure(sides, args.repeats, results=results)
        figures = {side: figures_of(output) for side, output in results.items()}
        if not figures["ours"] or figures["ours"] != figures["naive"]:
            differ = [run for run, text in figures["naive"].items() if figures["ours"].get(run) != text]
            raise SystemExit(f"the figures differ with and without what runs share: {', '.join(differ) or 'no run'}")
        spent = {side: training_seconds(output) for side, output in results.items()}
    what = WHOLE if settings["TRAINER"] == "all" else "base2new, some methods"
    sets, seeds = settings["DATASETS"], f"{len(args.seeds)} seed{'s' * (len(args.seeds) > 1)}"
    jobs = f", {args.jobs} runs at once" if args.jobs != "1" else ""
    rows = [record.row({"what": f"{what} ({sets}, {seeds}{jobs})", "whole": what}, **times, error=0.0)]
    for method, seconds in spent["naive"].items():
        ours, naive = record.side([spent["ours"][method]]), record.side([seconds])
        rows.append(record.row({"what": f"of it training {method}"}, ours, naive, error=0.0))
    return record.finish("end_to_end", args, rows)


if __name__ == "__main__":
    main()
