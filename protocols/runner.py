"""Runs the protocols; train.sh, test.sh and benchmark.sh are its entry points.

    train.sh     DATASET TASK [settings] [train.py arguments]
    test.sh      DATASET TASK [settings] [train.py arguments]
    benchmark.sh TASK         [settings] [train.py arguments]

TASK is base2new (or basenew), cross-dataset or domain-generalization. Settings stand in the environment or are
flags, which win: DATA=/data or --data /data; so OUTPUT, SEEDS ("1 2 3" or --seeds 1 2 3), SHOTS, TRAINER, CFG
and, for benchmarks, DATASETS. With DRY_RUN=1 the arguments of train.py are only shown. The comments in each script
say more.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from protocols import definitions
from protocols.plan import Run, Settings, plan, read_settings


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


def execute(argv: tuple[str, ...], tick: Callable[[], None] | None = None) -> int:
    """Runs train.py in a process of its own and returns its exit status.

    On Linux it is forked from this process, which imports the libraries once for all runs. The child keeps
    the folder locked if only this process is killed. With `tick`, which is called every second, what train.py
    prints goes to the run's log.txt only.
    """
    if sys.platform != "linux":
        command = [sys.executable, str(definitions.ROOT / "train.py"), *argv]
        return subprocess.run(command, stdout=subprocess.DEVNULL if tick else None).returncode
    for name in ("train", "trainers", "datasets"):
        importlib.import_module(name)
    child = multiprocessing.get_context("fork").Process(target=call_train, args=(argv, tick is not None))
    child.start()
    while tick and child.is_alive():
        tick()
        child.join(1)
    child.join()
    return child.exitcode or 0


def call_train(argv: tuple[str, ...], quiet: bool) -> None:
    if quiet:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  as long as the process
    try:
        importlib.import_module("train").main(list(argv))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {type(error).__name__}: {error}")


def perform(run: Run, opts: Settings, tick: Callable[[], None] | None = None) -> bool:
    """Runs `run` unless it is finished; returns whether it did. `tick` is that of `execute`.

    Raises:
        RunError: no finished training for a test, or train.py failed.
    """
    if opts.dry_run:
        print("  " + (shlex.join(["train.py", *run.argv]) if run.argv else f"tested by the training in {run.folder}"))
        return False
    if run.weights:
        if not any(run.weights.glob("*/checkpoint")):
            raise RunError(f"{run.weights} holds no checkpoint: run train.sh first (tests never train)")
        if not (run.weights / "done").exists() and "--load-epoch" not in run.argv:
            raise RunError(f"{run.weights} is unfinished: run train.sh first (tests never train)")
    if not run.argv:
        print(f"  tested at the end of training, {accuracy(run.folder)}")
        return False
    with locked(run.folder):
        if (run.folder / "done").exists():
            print(f"  skipped: finished before, {accuracy(run.folder)}{changed_arguments(run)}", flush=True)
            return False
        status = execute(run.argv, tick)
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


class Progress:
    """The line of overall progress: which of all runs is on, time gone and time left.

    Args:
        total: Number of runs.
    """

    def __init__(self, total: int) -> None:
        self.total, self.terminal = total, sys.stdout.isatty()
        self.start, self.spent, self.number, self.performed = time.monotonic(), 0.0, 0, 0

    def begin(self, run: Run) -> None:
        self.number, self.run, self.began = self.number + 1, run, time.monotonic()
        print(self.line(), flush=True)

    def line(self) -> str:
        now = time.monotonic()
        text = f"[{self.number}/{self.total}] {self.run} · {clock(now - self.start)} gone"
        if self.performed:
            remaining = self.spent / self.performed * (self.total - self.number + 1) - (now - self.began)
            text += f", about {clock(max(remaining, 0))} left"
        return text[: shutil.get_terminal_size().columns - 1] if self.terminal else text

    def tick(self) -> None:
        if self.terminal:
            print(f"\033[A\r\033[K{self.line()}", flush=True)  # one line up: a bar of the run may stand in this one

    def end(self) -> None:
        """Notes that the run took its time; skipped ones do not count for the estimate."""
        self.spent, self.performed = self.spent + time.monotonic() - self.began, self.performed + 1


def perform_all(runs: list[Run], opts: Settings, benchmark: bool) -> int:
    """Performs `runs` in order, with a line of overall progress for each; returns the exit status.

    In a `benchmark`, what train.py prints goes to the logs only, a failed run is named at the end, and only what
    depends on it is left out.
    """
    failures: dict[Path, str] = {}
    progress = Progress(len(runs))
    for run in runs:
        progress.begin(run)
        try:
            if run.weights in failures:
                raise RunError("left out, because its training failed")
            if perform(run, opts, progress.tick if benchmark else None):
                progress.end()
        except RunError as error:
            failures[run.folder] = f"{run}: {error}"
            print(f"  FAILED: {error}", file=sys.stderr, flush=True)
            if not benchmark:
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
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        return 0
    command, words = (argv[0] if argv else ""), argv[1:]
    try:
        definitions.choose(command, ("train", "test", "benchmark"), "command")
        count = 1 if command == "benchmark" else 2
        names, words = words[:count], words[count:]
        if len(names) < count or any(name.startswith("-") for name in names):
            raise ValueError(f"{command}.sh needs {'TASK' if count == 1 else 'DATASET TASK'} first; --help says more")
        task = definitions.find_task(names[-1])
        opts = read_settings(words)
        if command == "benchmark":
            trained = definitions.benchmark_sources(task, opts.datasets)
            runs = [run for source in trained for run in plan(opts, task, source) if run.argv]
        else:
            source = definitions.source_of(task, names[0])
            if command == "train":
                definitions.choose(names[0], definitions.sources(task), f"data set to train on for {task}")
            runs = [run for run in plan(opts, task, source, bool(opts.extra)) if run.kind == command]
            runs = [run for run in runs if run.split.dataset == names[0]]
            if not runs:
                print(f"nothing to train: {', '.join(opts.trainers)} learns nothing; test.sh tests it")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return perform_all(runs, opts, benchmark=command == "benchmark")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
