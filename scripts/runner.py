"""Runs the protocols; train.sh, test.sh and benchmark.sh are its entry points.

    python scripts/runner.py train     DATASET TASK [train.py arguments]
    python scripts/runner.py test      DATASET TASK [train.py arguments]
    python scripts/runner.py benchmark TASK         [train.py arguments]

The environment sets DATA, OUTPUT, SEEDS, SHOTS, TRAINER, CFG, DATASETS (benchmark) and DRY_RUN; the defaults
stand in `scripts.plan.read_settings`.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import protocols
from scripts.plan import Run, Settings, plan, read_settings

USAGE = (
    "usage: train.sh DATASET TASK [...], test.sh DATASET TASK [...] or benchmark.sh TASK [...]; TASK is one of "
    + ", ".join(protocols.TASKS)
)


class RunError(RuntimeError):
    """A run that failed, or cannot start."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the run's folder, so that two benchmarks on one output folder never write to the same run."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  another process is at work in {folder}; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def execute(argv: tuple[str, ...]) -> int:
    """Runs train.py in a process of its own and returns its exit status.

    On Linux it is forked from this process, which imports the libraries once for all runs. The child keeps
    the folder locked if only this process is killed.
    """
    if sys.platform != "linux":
        return subprocess.run([sys.executable, str(protocols.ROOT / "train.py"), *argv]).returncode
    for name in ("train", "trainers", "datasets"):
        importlib.import_module(name)
    child = multiprocessing.get_context("fork").Process(target=call_train, args=(argv,))
    child.start()
    child.join()
    return child.exitcode or 0


def call_train(argv: tuple[str, ...]) -> None:
    try:
        importlib.import_module("train").main(list(argv))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {type(error).__name__}: {error}")


def perform(run: Run, opts: Settings) -> bool:
    """Runs `run` unless it is finished; returns whether it did.

    Raises:
        RunError: no finished training for a test, or train.py failed.
    """
    if opts.dry_run:
        print("  " + (shlex.join(["train.py", *run.argv]) if run.argv else f"tested by the training in {run.folder}"))
        return False
    if run.weights and not (run.weights / "done").exists():
        state = "is unfinished" if any(run.weights.glob("*/checkpoint")) else "holds no checkpoint"
        if "--load-epoch" not in run.argv or state == "holds no checkpoint":
            raise RunError(f"{run.weights} {state}: run train.sh first (tests never train)")
    if not run.argv:
        print(f"  tested at the end of training, {accuracy(run.folder)}")
        return False
    with locked(run.folder):
        if (run.folder / "done").exists():
            print(f"  skipped: finished before, {accuracy(run.folder)}{changed_arguments(run)}", flush=True)
            return False
        status = execute(run.argv)
        if status or not (run.folder / "done").exists():
            raise RunError(f"train.py ended with status {status} before the run was done; see {run.folder}/log.txt")
    print(f"  {accuracy(run.folder)}", flush=True)
    return True


def accuracy(folder: Path) -> str:
    try:
        value = json.loads((folder / "results.json").read_text())["results"]["accuracy"]
        return f"accuracy {float(value):.2f} % ({folder})"
    except (OSError, ValueError, KeyError, TypeError):
        return f"but without a readable results.json ({folder})"


def changed_arguments(run: Run) -> str:
    """A note for a finished run that had other arguments than it would get now."""
    try:
        before = shlex.split(json.loads((run.folder / "env.json").read_text())["command"])[2:]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    gone, new = Counter(before) - Counter(run.argv), Counter(run.argv) - Counter(before)
    if not gone and not new:
        return ""
    words = [" ".join(side.elements()) or "nothing" for side in (gone, new)]
    return f"\n  note: it ran with other arguments ({words[0]} instead of {words[1]}); delete it to run it anew"


def perform_all(runs: list[Run], opts: Settings, keep_going: bool) -> int:
    """Performs `runs` in order, with a line of overall progress before each; returns the exit status.

    With `keep_going`, a failed run is named at the end and only what depends on it is left out.
    """
    failures: dict[Path, str] = {}
    start, spent, performed = time.monotonic(), 0.0, 0
    for number, run in enumerate(runs, 1):
        began = time.monotonic()
        left = f", about {clock(spent / performed * (len(runs) - number + 1))} left" if performed else ""
        print(f"[{number}/{len(runs)}] {run} · {clock(began - start)} gone{left}", flush=True)
        try:
            if run.weights in failures:
                raise RunError("left out, because its training failed")
            if perform(run, opts):
                spent, performed = spent + time.monotonic() - began, performed + 1
        except RunError as error:
            failures[run.folder] = f"{run}: {error}"
            print(f"  FAILED: {error}", file=sys.stderr, flush=True)
            if not keep_going:
                return 1
    if not opts.dry_run:
        print(f"{len(runs) - len(failures)} of {len(runs)} runs are finished ({opts.output})")
    for text in failures.values():
        print(f"FAILED {text}", file=sys.stderr)
    return bool(failures)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 all finished, 1 a run failed, 2 wrong usage, 130 interrupted."""
    try:
        command, *words = argv
        names = [words.pop(0) for _ in range(1 if command == "benchmark" else 2) if words]
        if command not in ("train", "test", "benchmark") or len(names) < (1 if command == "benchmark" else 2):
            raise ValueError(USAGE)
        task = protocols.find_task(names[-1])
        opts = read_settings(words)
        if command == "benchmark":
            trained = protocols.benchmark_sources(task, os.environ.get("DATASETS") or "paper")
            runs = [run for source in trained for run in plan(opts, task, source) if run.argv]
        else:
            source = protocols.source_of(task, names[0])
            if command == "train":
                protocols.choose(names[0], protocols.sources(task), f"data set to train on for {task}")
            runs = [run for run in plan(opts, task, source, bool(words)) if run.kind == command]
            runs = [run for run in runs if run.split.dataset == names[0]]
            if not runs:
                print(f"nothing to train: {', '.join(opts.trainers)} learns nothing; test.sh tests it")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return perform_all(runs, opts, keep_going=command == "benchmark")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
