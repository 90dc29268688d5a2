"""Runs the protocols; train.sh, test.sh and benchmark.sh are its entry points.

    train.sh     DATASET TASK [settings] [train.py arguments]
    test.sh      DATASET TASK [settings] [train.py arguments]
    benchmark.sh TASK         [settings] [train.py arguments]

TASK is base2new (or basenew), cross-dataset, domain-generalization or few-shot. Settings stand in the environment
or are flags, which win: DATA=/data or --data /data; so OUTPUT, SEEDS ("1 2 3" or --seeds 1 2 3), SHOTS, TRAINER
(one, several or all), CFG and, for benchmarks, DATASETS. With DRY_RUN=1 the arguments of train.py are only shown. The
comments in each script say more.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dassl.config.free_keys import FREE_KEYS
from dassl.names import choose
from protocols import definitions
from protocols.plan import Job, Settings, chosen, plan, read_settings
from protocols.records import OWN_IMAGES, read_config, read_object

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_SEC = 20  # for a child to end by itself; schedulers send SIGKILL half a minute after SIGTERM


class RunError(RuntimeError):
    """A run that failed, or cannot start."""


class Stopped(BaseException):
    """A signal asks this process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop(number: int, _: FrameType | None) -> NoReturn:
    """The handler of SIGNALS: further ones change nothing, since the end is under way."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def listen() -> None:
    """Turns SIGNALS into Stopped; one that was ignored from the start, as under nohup, stays so."""
    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, stop)


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

    On Linux it is forked from this process, which imports the libraries once for all runs. The child ends with this
    process: it gets the SIGTERM that this one gets, and on Linux also one if this one is killed. With `tick`, which
    is called every second, what train.py prints goes to the run's log.txt only.
    """
    linux = sys.platform == "linux"
    for name in ("train", "trainers", "datasets") if linux else ():
        importlib.import_module(name)
    context: Any = multiprocessing.get_context("fork" if linux else "spawn")
    child = context.Process(target=call_train, args=(argv, tick is not None, os.getpid()))
    try:
        child.start()
        while child.is_alive():
            child.join(1)
            if tick:
                tick()
    except Stopped:
        if child.pid:  # else the signal came before it was started
            child.terminate()
            child.join(PATIENCE_SEC)
            child.kill()
            child.join()
        raise
    status: int = child.exitcode
    return status


def call_train(argv: tuple[str, ...], quiet: bool, parent: int) -> None:
    """What the child does: ends on SIGTERM as on Ctrl-C, and leaves every other signal to its parent."""

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt("stopped by SIGTERM")

    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was gone before that took hold
        sys.exit(1)
    if quiet:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  as long as the process
    try:
        importlib.import_module("train").main(list(argv))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


def perform(run: Job, opts: Settings, tick: Callable[[], None] | None = None) -> bool:
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
            check_finished(run)
            print(f"  skipped: finished before, {accuracy(run.folder)}", flush=True)
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


def check_finished(run: Job) -> None:
    """Compares a finished run's config with the one that it would get now, and the weights that a test was made with.

    A run without config.yaml is left alone.

    Raises:
        RunError: They differ in what changes a result, or cannot be compared.
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
    """The line of overall progress: which of all runs is on, time gone and time left.

    Args:
        total: Number of runs.
    """

    def __init__(self, total: int) -> None:
        self.total, self.terminal = total, sys.stdout.isatty()
        self.start, self.spent, self.number, self.performed = time.monotonic(), 0.0, 0, 0

    def begin(self, run: Job) -> None:
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


def perform_all(runs: list[Job], opts: Settings, benchmark: bool) -> int:
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


def left_out(opts: Settings, task: str, source: str) -> str:
    """The line that names the methods without a config; empty if all have one."""
    names = chosen(opts, task, source)[1]
    cfg = opts.cfg or definitions.backbone_config(source)
    return f"left out, without a config {cfg}: {', '.join(names)}\n" if names else ""


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def main(argv: list[str]) -> int:
    """Returns the exit status: 0 all finished, 1 a run failed, 2 wrong usage, 128 + n stopped by signal n."""
    if "-h" in argv or "--help" in argv:
        print(__doc__)
        return 0
    command, words = (argv[0] if argv else ""), argv[1:]
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
            runs = [run for run in plan(opts, task, source, bool(opts.extra)) if run.kind == command]
            runs = [run for run in runs if run.split.dataset == names[0]]
            if not runs:
                print(f"nothing to train: {', '.join(opts.trainers)} learns nothing; test.sh tests it")
        for text in dict.fromkeys(left_out(opts, task, name) for name in trained):
            print(text, end="")
        for run in runs if not opts.dry_run else []:  # before any long work
            if run.argv and (run.folder / "done").exists():
                check_finished(run)
    except (ValueError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return perform_all(runs, opts, benchmark=command == "benchmark")
    except Stopped as stopped:
        with suppress(OSError):  # the terminal may be gone
            name = signal.Signals(stopped.number).name
            print(f"\nstopped by {name}; the same command goes on from here", file=sys.stderr, flush=True)
        return 128 + stopped.number


if __name__ == "__main__":
    listen()
    sys.exit(main(sys.argv[1:]))
