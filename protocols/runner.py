"""Runs the protocols; train.sh, test.sh and benchmark.sh are its entry points.

    train.sh     DATASET TASK [settings] [train.py arguments]
    test.sh      DATASET TASK [settings] [train.py arguments]
    benchmark.sh TASK         [settings] [train.py arguments]

TASK is base2new (or basenew), cross-dataset, domain-generalization or few-shot. Settings stand in the environment
or are flags, which win: DATA=/data or --data /data; so OUTPUT, SEEDS ("1 2 3" or --seeds 1 2 3), SHOTS, TRAINER
(one, several or all), CFG, JOBS (how many runs at once), LAUNCHER (local or slurm), SLURM ("time=90 KEY=VALUE ..." or a
YAML file) and, for benchmarks, DATASETS. With DRY_RUN=1 the arguments of train.py are only shown. The comments in each
script say more.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing.connection
import os
import shlex
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.config.free_keys import FREE_KEYS
from dassl.names import choose
from protocols import definitions
from protocols.launch import Share, Stopped, end_all, launch, listen, shares, signals_later
from protocols.lock import Lock, hold
from protocols.plan import Job, Settings, chosen, plan, read_settings
from protocols.records import OWN_IMAGES, read_config, read_object


class RunError(RuntimeError):
    """A run that failed, or cannot start."""


@dataclass(eq=False)
class Active:
    """A run at work: its process, the lock of its folder, its share of the machine and when it began."""

    run: Job
    child: Any
    lock: Lock
    share: Share
    began: float


def obstacle(run: Job, opts: Settings, failures: dict[Path, str]) -> str:
    """Why a run cannot start, now or later; empty if nothing is in its way."""
    if run.weights in failures:
        return "left out, because its training failed"
    if run.weights and not opts.dry_run:
        if not any(run.weights.glob("*/checkpoint")):
            return f"{run.weights} holds no checkpoint: run train.sh first (tests never train)"
        if not (run.weights / "done").exists() and "--load-epoch" not in run.argv:
            return f"{run.weights} is unfinished: run train.sh first (tests never train)"
    return ""


def finish(active: Active) -> None:
    """Looks at a run whose process ended; a RunError says that it failed, or went to another process."""
    folder, status = active.run.folder, active.child.exitcode
    active.lock.close()
    if active.lock.lost:
        raise RunError(f"another process took {folder} over, because this one was away for too long")
    if status or not (folder / "done").exists():
        raise RunError(f"train.py ended with status {status} before the run was done; see {folder}/log.txt")
    print(f"  {accuracy(folder)}", flush=True)


def accuracy(folder: Path) -> str:
    try:
        value = json.loads((folder / "results.json").read_text())["results"]["accuracy"]
        return f"accuracy {float(value):.2f} % ({folder})"
    except (OSError, ValueError, KeyError, TypeError):
        return f"but without a readable results.json ({folder})"


def check_finished(run: Job) -> None:
    """Compares a finished run's config with the one that it would get now, and the weights that a test was made with.

    A RunError says that they differ in what changes a result, or cannot be compared; without config.yaml there is none.
    """
    try:
        before = read_config(run.folder)
        if not before:
            return
        from dassl.config import flatten, get_cfg_default

        train, trainers = importlib.import_module("train"), importlib.import_module("trainers")
        defaults = get_cfg_default()
        trainers.add_config(defaults)
        now = flatten(train.build_config(train.parse_args(list(run.argv))))
        # A key that the code got later had its default.
        differs = differences({**flatten(defaults), **before}, now)
        if run.weights and not differs:
            tested = (read_object(run.folder / "results.json").get("train") or {}).get("settings", {})
            differs = differences(tested, read_config(run.weights), "in its weights' training, ")
    except (ValueError, OSError, AttributeError) as error:
        raise RunError(f"{run.folder} is finished, but cannot be compared with this command: {error}") from None
    if differs:
        raise RunError(
            f"{run.folder} holds a finished run with another config ({'; '.join(differs)}): "
            "choose another OUTPUT, or remove that folder to run it anew"
        )


def differences(before: dict[str, Any], now: dict[str, Any], where: str = "") -> list[str]:
    """The keys of two configs that differ and change a result, with both values."""
    free = FREE_KEYS | {"INPUT.SIZE", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"}  # a trainer sets the backbone's own
    if now.get("DATASET.NAME") == OWN_IMAGES:
        free -= {"DATASET.ROOT", "DATASET.SPLIT_FILE"}
    old, new = ({k: list(v) if isinstance(v, tuple) else v for k, v in config.items()} for config in (before, now))
    for config in (old, new):
        config["DATASET.ROOT"] = os.path.realpath(str(config.get("DATASET.ROOT", "")))
    return [
        f"{where}{key} was {old[key]!r}, is {new[key]!r} now"
        for key in sorted((old.keys() & new.keys()) - free)
        if without_normalize(key, old[key]) != without_normalize(key, new[key])
    ]


def without_normalize(key: str, value: Any) -> Any:
    """A value to compare: a trainer adds normalize to the transforms where it is not given."""
    return [name for name in value if name != "normalize"] if key == "INPUT.TRANSFORMS" else value


class Progress:
    """The line of overall progress: which of `total` runs is on, time gone and time left; `jobs` run at once."""

    def __init__(self, total: int, jobs: int = 1) -> None:
        self.total, self.jobs, self.terminal = total, jobs, sys.stdout.isatty()
        self.start, self.spent, self.number, self.ended = time.monotonic(), 0.0, 0, 0
        self.performed = 0

    def begin(self, run: Job | str) -> None:
        self.number, self.run = self.number + 1, run
        print(self.line(), flush=True)

    def line(self) -> str:
        now = time.monotonic()
        text = f"[{self.number}/{self.total}] {self.run} · {clock(now - self.start)} gone"
        if self.performed:
            mean = self.spent / self.performed
            remaining = mean * (self.total - self.ended) / self.jobs - (now - self.last)
            text += f", about {clock(max(remaining, 0))} left"
        return text[: shutil.get_terminal_size().columns - 1] if self.terminal else text

    def tick(self) -> None:
        if self.terminal:
            print(f"\033[A\r\033[K{self.line()}", flush=True)  # one line up: a bar of the run may stand in this one

    def end(self, began: float | None = None) -> None:
        """Notes that a run ended that took its time since `began`; skipped ones do not count for the estimate."""
        self.ended, self.last = self.ended + 1, time.monotonic()
        if began is not None:
            self.spent, self.performed = self.spent + self.last - began, self.performed + 1


class Runner:
    """Performs runs in their order, several at once where that is asked for, trainings before their tests.

    A run that another process holds is left for later; what that process finished is skipped.

    Args:
        runs: The runs.
        opts: The settings.
        benchmark: What train.py prints goes to the logs only, a failed run is named at the end, and only what depends
            on it is left out; otherwise nothing is begun after a failure.
    """

    def __init__(self, runs: list[Job], opts: Settings, benchmark: bool) -> None:
        self.runs, self.opts, self.benchmark = runs, opts, benchmark
        self.quiet = benchmark or opts.jobs > 1
        self.waiting, self.active = list(runs), list[Active]()
        self.free = shares(opts.jobs)
        self.failures: dict[Path, str] = {}
        self.told: set[Path] = set()
        self.progress = Progress(len(runs), opts.jobs)

    def perform(self) -> int:
        """Performs all; returns the exit status."""
        try:
            while self.waiting or self.active:
                if not self.begin_some() and (self.waiting or self.active):
                    self.await_one()
        except BaseException:
            end_all([active.child for active in self.active])
            for active in self.active:
                active.lock.close()
            raise
        return 1 if self.failures and not self.benchmark else conclude(self.runs, self.failures, self.opts)

    def begin_some(self) -> bool:
        """Goes once through what waits, and begins what can be; returns whether anything changed."""
        before = len(self.waiting)
        for run in tuple(self.waiting):
            if not self.free or not self.waiting:
                break
            ahead = {other.folder for other in self.waiting if other.kind == "train"}
            if run.weights not in ahead | {active.run.folder for active in self.active}:
                self.begin(run)
        return len(self.waiting) < before

    def begin(self, run: Job) -> None:
        """Begins a run, or ends it where nothing is to be done; leaves it where another process holds it."""
        why, lock = obstacle(run, self.opts, self.failures), None
        if not why and run.argv and not self.opts.dry_run and (lock := hold(run.folder)) is None:
            if run.folder not in self.told:
                print(f"  another process is at work in {run.folder}; it is left for later", flush=True)
            self.told.add(run.folder)
            return
        self.waiting.remove(run)
        self.progress.begin(run)
        if why:
            self.fail(run, why)
        elif self.opts.dry_run:
            call = shlex.join(["train.py", *run.argv])
            print(f"  {call if run.argv else f'tested by the training in {run.folder}'}")
        elif lock is None:
            print(f"  tested at the end of training, {accuracy(run.folder)}")
        elif (run.folder / "done").exists():
            lock.close()
            try:
                check_finished(run)
                print(f"  skipped: finished before, {accuracy(run.folder)}", flush=True)
            except RunError as error:
                self.fail(run, str(error))
        else:
            share = self.free.pop(0)
            with signals_later():
                child = launch(run.argv, self.quiet, share)
                self.active.append(Active(run, child, lock, share, time.monotonic()))
            return
        self.progress.end()

    def await_one(self) -> None:
        """Waits until a process ends, or a second."""
        end_all([active.child for active in self.active if active.lock.lost])
        sentinels = [active.child.sentinel for active in self.active]
        if sentinels:
            multiprocessing.connection.wait(sentinels, 1)
        else:
            time.sleep(1)  # all that waits is held by other processes
        for active in [each for each in self.active if each.child.exitcode is not None]:
            self.active.remove(active)
            self.free.append(active.share)
            try:
                finish(active)
                self.progress.end(active.began)
            except RunError as error:
                self.fail(active.run, str(error))
                self.progress.end()
            if self.active and self.progress.terminal:  # the line that `tick` renews stands last
                print(self.progress.line(), flush=True)
        if self.benchmark and self.active:
            self.progress.tick()

    def fail(self, run: Job, why: str) -> None:
        """Notes a failure; without a benchmark nothing else is begun."""
        self.failures[run.folder] = failed(run, why)
        if not self.benchmark:
            self.waiting.clear()


def failed(run: Job, why: str) -> str:
    """Says that a run failed; returns the line for the end."""
    print(f"  FAILED: {why}", file=sys.stderr, flush=True)
    return f"{run}: {why}"


def conclude(runs: list[Job], failures: dict[Path, str], opts: Settings) -> int:
    """Says how it ended; returns the exit status."""
    if not opts.dry_run:
        print(f"{len(runs) - len(failures)} of {len(runs)} runs are finished ({opts.output})")
    for text in failures.values():
        print(f"FAILED {text}", file=sys.stderr)
    return bool(failures)


def left_out(opts: Settings, task: str, source: str) -> str:
    """The line that names the methods without a config; empty if all have one."""
    names = chosen(opts, task, source)[1]
    cfg = opts.cfg or definitions.backbone_config(source)
    return f"left out, without a config {cfg}: {', '.join(names)}\n" if names else ""


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 all finished, 1 a run failed, 2 wrong usage, 128 + n stopped by signal n."""
    command, words = (argv[0] if argv else ""), argv[1:]
    if command == "ablate":
        from protocols import ablate  # only here, because it imports this

        return ablate.main(words)
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        return 0
    try:
        choose(command, ("train", "test", "benchmark"), "command")
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
            trained = (source,)
            if command == "train":
                choose(names[0], definitions.sources(task), f"data set to train on for {task}")
            runs = [run for run in plan(opts, task, source, bool(opts.flags or opts.pairs)) if run.kind == command]
            runs = [run for run in runs if run.split.dataset == names[0]]
            if not runs:
                print(f"nothing to train: {', '.join(opts.trainers)} learns nothing; test.sh tests it")
        for text in dict.fromkeys(left_out(opts, task, name) for name in trained):
            print(text, end="")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return perform(runs, opts, benchmark=command == "benchmark")


def perform(runs: list[Job], opts: Settings, benchmark: bool) -> int:
    """Checks what is finished, before any long work, then performs the rest as `Runner`; returns the exit status."""
    try:
        for run in runs if not opts.dry_run else []:
            if run.argv and (run.folder / "done").exists():
                check_finished(run)
        if opts.launcher == "slurm":
            from protocols.cluster import Cluster  # only here, because it is rarely wanted

            return Cluster(runs, opts, benchmark).perform()
        return Runner(runs, opts, benchmark).perform()
    except (RunError, OSError) as error:  # of the system: OUTPUT cannot be written
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        with suppress(OSError):  # the terminal may be gone
            name = signal.Signals(stopped.number).name
            print(f"\nstopped by {name}; the same command goes on from here", file=sys.stderr, flush=True)
        return 128 + stopped.number


if __name__ == "__main__":
    from protocols import runner  # a job's runs are read by this module's name, which is another one than __main__

    listen()
    sys.exit(runner.main(sys.argv[1:]))
