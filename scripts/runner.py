"""Runs the protocols; train.sh, test.sh and benchmark.sh are its entry points.

    python scripts/runner.py train     DATASET TASK [train.py arguments]
    python scripts/runner.py test      DATASET TASK [train.py arguments]
    python scripts/runner.py benchmark TASK         [train.py arguments]

The environment sets DATA, OUTPUT, SEEDS, SHOTS, TRAINER, CFG, DATASETS (benchmark) and DRY_RUN; the defaults
stand in `read_settings`. Every run has a folder of its own:
OUTPUT/<task>/<train|test>_<base|new|all>/<data set[-domains]>/shots_<k>/<trainer>/<config>/seed<n>.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts import protocols
from scripts.protocols import ROOT, Split, choose

# What the environment decides because the run's folder depends on it; not to be given to train.py by hand.
OWNED = {
    **{"--root": "DATA", "--seed": "SEEDS", "--trainer": "TRAINER", "--config-file": "CFG"},
    **{"--dataset-config-file": "DATASET", "--output-dir": "OUTPUT", "--model-dir": "OUTPUT"},
    **{"DATASET.NUM_SHOTS": "SHOTS", "DATASET.SUBSAMPLE_CLASSES": "TASK", "--eval-only": "test.sh"},
}
KEY = re.compile(r"[A-Z]\w*(\.\w+)+|USE_CUDA|VERBOSE")


USAGE = "usage: train.sh|test.sh DATASET TASK [...], benchmark.sh TASK [...]; tasks: " + ", ".join(protocols.TASKS)


class RunError(RuntimeError):
    """A run that failed, or cannot start."""


@dataclass(frozen=True)
class Settings:
    """What the environment and the command line choose; `extra` goes to train.py."""

    data: Path
    output: Path
    seeds: tuple[int, ...]
    shots: int
    trainers: tuple[str, ...]
    cfg: str
    dry_run: bool
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One call of train.py; a test with empty `argv` was done at the end of the training in `folder`."""

    kind: str
    split: Split
    folder: Path
    argv: tuple[str, ...]
    weights: Path | None = None  # the training folder that a test needs

    def __str__(self) -> str:
        trainer, cfg, seed = self.folder.parts[-3:]
        return f"{self.kind} {self.folder.parts[-5]} ({self.split.classes} classes), {trainer}/{cfg}, {seed}"


def read_settings(extra: list[str]) -> Settings:
    """Reads the environment.

    Raises:
        ValueError: a variable is no number, or an argument belongs to the environment.
    """
    for word in extra:
        if owner := OWNED.get(word.split("=")[0]):
            raise ValueError(f"{word} is set by {owner} here, because the run's folder depends on it")

    def numbers(name: str, default: str) -> list[int]:
        text = os.environ.get(name) or default
        if not re.fullmatch(r"\s*\d+(\s+\d+)*\s*", text):
            raise ValueError(f"{name} must be whole numbers with spaces between them, got {text!r}")
        return [int(word) for word in text.split()]

    return Settings(
        data=Path(os.environ.get("DATA") or ROOT / "data").absolute(),
        output=Path(os.environ.get("OUTPUT") or ROOT / "output").absolute(),
        seeds=tuple(dict.fromkeys(numbers("SEEDS", "1 2 3"))),
        shots=numbers("SHOTS", "16")[0],
        trainers=tuple((os.environ.get("TRAINER") or "GOPro").split()),
        cfg=os.environ.get("CFG", ""),
        dry_run=bool(os.environ.get("DRY_RUN")),
        extra=tuple(extra),
    )


def plan(opts: Settings, task: str, source: str, retest: bool = False) -> list[Run]:
    """All runs of `task` whose weights come from `source`, each training before its tests.

    With `retest`, the training's own split is tested once more instead of taken from the training's record.
    """
    runs = []
    for trainer in opts.trainers:
        configs = ROOT / "configs" / "trainers"
        choose(trainer, sorted(path.name for path in configs.iterdir() if path.is_dir()), "trainer (TRAINER)")
        cfg = opts.cfg or protocols.default_config(source)
        choose(
            cfg,
            sorted(path.stem for path in (configs / trainer).glob("*.yaml")),
            f"config (CFG) of {trainer}",
        )
        learns = trainer not in protocols.UNTRAINED
        tail = Path(f"shots_{opts.shots if learns else 0}", trainer, cfg)
        for experiment in protocols.experiments(task, source):
            for seed in opts.seeds if learns else opts.seeds[:1]:
                training = make_run(opts, "train", experiment.home, experiment.train, tail, seed)
                runs += [training] if learns else []
                for split in experiment.tests:
                    own = split == experiment.train
                    if own and learns and not retest:
                        runs.append(Run("test", split, training.folder, (), training.folder))
                        continue
                    home = experiment.home if own else task
                    weights = training.folder if learns else None
                    runs.append(make_run(opts, "test", home, split, tail, seed, weights))
    return runs


def make_run(
    opts: Settings, kind: str, task: str, split: Split, tail: Path, seed: int, weights: Path | None = None
) -> Run:
    """The folder and train.py's arguments of one run; `tail` is shots_<k>/<trainer>/<config>."""
    name = split.name(kind)
    folder = opts.output / task / f"{kind}_{split.classes}" / name / tail / f"seed{seed}"
    flags: dict[str, object] = {
        "--root": opts.data,
        "--seed": seed,
        "--trainer": tail.parts[1],
        "--dataset-config-file": ROOT / "configs" / "datasets" / f"{split.dataset}.yaml",
        "--config-file": ROOT / "configs" / "trainers" / tail.parts[1] / f"{tail.parts[2]}.yaml",
        "--output-dir": folder,
    }
    # User flags, then ours, then KEY VALUE pairs: a flag with several values must not stand before a key.
    cut = next((i for i, word in enumerate(opts.extra) if KEY.fullmatch(word)), len(opts.extra))
    argv = [*opts.extra[:cut]]
    if split.sources:
        argv += ["--source-domains", *split.sources, "--target-domains", *split.targets]
    argv += [str(word) for flag in flags.items() for word in flag]
    keys = ["DATASET.SUBSAMPLE_CLASSES", split.classes]
    if kind == "train":
        keys += ["DATASET.NUM_SHOTS", str(opts.shots)]
    else:
        argv += ["--eval-only", *(["--model-dir", str(weights)] if weights else [])]
    return Run(kind, split, folder, (*argv, *keys, *opts.extra[cut:]), weights)


# ----------------------------------------------------------------------------------------------------------
# Running


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
        return subprocess.run([sys.executable, str(ROOT / "train.py"), *argv]).returncode
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
                choose(names[0], protocols.sources(task), f"data set to train on for {task}")
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
