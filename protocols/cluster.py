"""Runs as jobs of SLURM, submitted by submitit: a training with its tests is a job, all of a command are an array.

SLURM is the scheduler here. The command submits what has no job yet, then watches: a run is finished when its folder
says so (`done`), a job has ended when squeue does not list it any more; sacct, which submitit asks, is not on every
cluster. Each run's folder keeps the id of its job, so that the same command watches the jobs of the one before. On the
node a job is the `Runner` of one machine, with its locks and skip rules.

A job near its time limit or preempted by signal (USR2) is requeued by submitit and goes on from its last checkpoint;
SIGTERM (scancel) ends it at once, and its lock is free.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join, quote, split
from typing import Any

import yaml

from dassl.names import choose
from protocols import definitions, runner
from protocols.launch import SIGNALS, Stopped, listen, signals_later
from protocols.lock import hold
from protocols.plan import Job, Settings

RECORD = "job.json"  # in a run's folder: the id of its newest job, and the arguments that this has for train.py
POLL_SEC = 10  # between looks at the folders and calls of squeue
INTEGERS = ("cpus_per_task", "cpus_per_gpu", "signal_delay_s", "max_num_timeout")
LISTS, TRUTHS = ("setup", "teardown", "srun_args"), ("exclusive", "stderr_to_stdout", "use_srun")
OWNED = {
    "array_parallelism": "JOBS sets it",
    "nodes": "a job is one process",
    "ntasks_per_node": "a job is one process",
    "num_gpus": "its name is gpus_per_node",
}


@dataclass(frozen=True)
class Unit:
    """What a job does on its node: runs one after another, as one machine does it."""

    runs: tuple[Job, ...]
    opts: Settings

    def __call__(self) -> None:
        """Performs them; a RunError says that not all are finished."""
        listen()  # submitit is deaf to SIGTERM
        if cpus := os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE"):
            os.environ.setdefault("OMP_NUM_THREADS", cpus)  # without cgroups PyTorch sees all cores of the node
        if status := runner.perform(list(self.runs), self.opts, benchmark=True):
            raise runner.RunError(f"not all runs are finished (status {status}); what happened stands above")

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same, since a run goes on from its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        for each in SIGNALS:  # SLURM's own SIGTERM comes next; the end, which frees the locks, is under way
            signal.signal(each, signal.SIG_IGN)
        return DelayedSubmission(self)


def read_parameters(text: str) -> dict[str, Any]:
    """The parameters of submitit's SLURM executor, from words KEY=VALUE and FILE.yaml, of which later ones win.

    Raises:
        ValueError: Names a word that is neither, an unknown key, or a value that cannot be.
    """
    from submitit import SlurmExecutor

    try:
        words = split(text)
    except ValueError as error:
        raise ValueError(f"SLURM must be words as in a shell, got {text!r}: {error}") from None
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            given[key] = value
        elif word.endswith((".yaml", ".yml")):
            try:
                with open(Path(word).expanduser(), encoding="utf-8") as file:
                    tree = yaml.load(file, yaml.BaseLoader)  # all scalars as text: YAML takes 1:30:00 for a number
            except (OSError, yaml.YAMLError) as error:
                raise ValueError(f"SLURM cannot be read from {word}: {error}") from None
            if not isinstance(tree, dict):
                raise ValueError(f"SLURM: {word} must map keys to values")
            given |= tree
        else:
            raise ValueError(f"SLURM takes KEY=VALUE or FILE.yaml, got {word!r}")
    allowed = sorted({*SlurmExecutor._valid_parameters(), "max_num_timeout"} - OWNED.keys())
    for key in given:
        if key in OWNED:
            raise ValueError(f"SLURM cannot have {key}: {OWNED[key]}")
        choose(key, allowed, "key of SLURM")
    if not given.get("time"):  # submitit would ask for five minutes
        raise ValueError("SLURM needs time=..., for a training with its tests: minutes (90) or D-HH:MM:SS (1-12:00:00)")
    return {key: read_value(key, value) for key, value in given.items()}


def read_value(key: str, value: Any) -> Any:
    """A value as submitit takes it; a ValueError names the key of one that cannot be."""
    if key in LISTS or key == "additional_parameters":
        tree = yaml.load(value, yaml.BaseLoader) if isinstance(value, str) else value
        if key in LISTS:
            return tree if isinstance(tree, list) else [tree]
        if not isinstance(tree, dict):
            raise ValueError(f"SLURM: {key} must map options of sbatch to values, got {value!r}")
        return tree
    if not isinstance(value, str) or not value:
        raise ValueError(f"SLURM: {key} must be one value, got {value!r}")
    if key == "time":
        return minutes(value)
    if key in INTEGERS:
        if not re.fullmatch(r"\d+", value):
            raise ValueError(f"SLURM: {key} must be a whole number, got {value!r}")
        return int(value)
    return {"true": True, "false": False}.get(value.lower(), value) if key in TRUTHS else value


def minutes(text: str) -> int:
    """A time limit as sbatch takes it (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S) in whole minutes from 1; or a ValueError."""
    days, _, clock = text.rpartition("-")
    if re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        parts = [int(part) for part in clock.split(":")]
        units = (3600, 60, 1) if days or len(parts) == 3 else (60, 1)
        seconds = int(days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units, strict=False))
        if seconds:
            return -(-seconds // 60)
    raise ValueError(f"SLURM: time must be minutes or D-HH:MM:SS, more than none, got {text!r}")


def units_of(runs: Iterable[Job]) -> list[list[Job]]:
    """Runs in groups, each a training with its tests."""
    groups: dict[Path, list[Job]] = {}
    for run in runs:
        groups.setdefault(run.weights or run.folder, []).append(run)
    return list(groups.values())


def make_executor(folder: Path, jobs: int, parameters: dict[str, Any]) -> Any:
    """The executor of submitit; its files lie in `folder`. Without SLURM on this machine it is a RunError."""
    for program in ("sbatch", "srun", "squeue"):
        if not shutil.which(program):
            what = "LAUNCHER slurm is for a machine that submits to SLURM (local runs here)"
            raise runner.RunError(f"no {program} on PATH: {what}")
    from submitit import SlurmExecutor

    own: dict[str, Any] = {"job_name": "gopro", "array_parallelism": jobs, **parameters}
    # The node imports this package by name, from whatever folder the command was given in.
    own["setup"] = [f"export PYTHONPATH={quote(str(definitions.ROOT))}:$PYTHONPATH", *own.get("setup", [])]
    executor = SlurmExecutor(folder, max_num_timeout=own.pop("max_num_timeout", 3))
    executor.update_parameters(**own)
    return executor


def living(ids: set[str]) -> dict[str, str]:
    """Those of the jobs that wait or run, with their state as squeue names it; a RunError where it does not answer."""
    if not ids:
        return {}
    arrays = sorted({name.split("_")[0] for name in ids})
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode and "Invalid job id" not in answer.stderr:  # which is how it says that one job is over
        raise runner.RunError(f"squeue failed: {answer.stderr.strip()}")
    states = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if " " in line)
    return {name: state for name, state in states.items() if name in ids}


class Cluster:
    """Submits the runs that have no job yet, and watches until all have ended; takes what `Runner` takes."""

    def __init__(self, runs: list[Job], opts: Settings, benchmark: bool) -> None:
        self.opts, self.benchmark, self.folder = opts, benchmark, opts.output / "submitit"
        self.runs, self.units = runs, units_of(run for run in runs if run.argv)
        self.left = {run.folder: run for run in runs if run.argv}
        self.ids = dict[Path, str]()  # of the jobs that this command submitted: one for each run, then it has failed
        self.states, self.watched = dict[str, str](), set[str]()
        self.failures: dict[Path, str] = {}
        self.progress = runner.Progress(len(runs))
        self.latest, self.shown = time.monotonic(), ""
        try:
            self.parameters = read_parameters(opts.slurm)
        except ValueError as error:
            raise runner.RunError(str(error)) from None
        if "%" in str(opts.output):
            raise runner.RunError(f"OUTPUT must have no % in its path, which SLURM replaces: {opts.output}")

    def perform(self) -> int:
        """Performs all; returns the exit status, or raises a RunError where nothing can be submitted."""
        if self.opts.dry_run:
            return self.show()
        executor = make_executor(self.folder, self.opts.jobs, self.parameters)
        self.look("skipped: finished before, ")
        self.check()
        try:
            while self.left:
                if fresh := self.judge():
                    self.submit(executor, fresh)
                self.tell()
                time.sleep(POLL_SEC)
                self.look()
        except Stopped:
            if names := " ".join(sorted({name.split("_")[0] for name in self.states})):
                print(f"\nthe jobs go on; the same command watches them again, scancel {names} ends them", flush=True)
            raise
        return runner.conclude(self.runs, self.failures, self.opts)

    def show(self) -> int:
        """Shows the jobs, for DRY_RUN."""
        print(f"SLURM: {join(f'{key}={value}' for key, value in self.parameters.items())}; at once: {self.opts.jobs}")
        for number, unit in enumerate(self.units, 1):
            print(f"job {number} of {len(self.units)}:")
            for run in unit:
                self.progress.begin(run)
                print(f"  {join(['train.py', *run.argv])}")
        return 0

    def check(self) -> None:
        """Fails what no job could do: a test without finished weights."""
        for run in [run for run in self.runs if not run.argv or run.folder in self.left]:
            training = self.left.get(run.weights) if run.weights else None
            if why := "" if training else runner.obstacle(run, self.opts, self.failures):
                self.fail(run, why)
            elif not run.argv:
                self.end(run, "tested at the end of training, ")
        if self.failures and not self.benchmark:
            self.left.clear()

    def judge(self) -> list[list[Job]]:
        """Finds the jobs of what is left; fails runs whose job has ended; returns the units without a job so far."""
        found = {run.folder: read_record(run) for run in self.left.values()}
        try:
            self.states = living({name for name, _ in found.values() if name})
        except runner.RunError as error:
            if not self.watched:
                raise
            print(f"  {error}; asked again", flush=True)  # a controller may be away for a while
            return []
        fresh = []
        for unit in self.units:
            left = [run for run in unit if run.folder in self.left]
            at_work = [run for run in left if found[run.folder][0] in self.states]
            for name, argv in [found[run.folder] for run in at_work if found[run.folder][1] != list(run.argv)]:
                raise runner.RunError(
                    f"job {name} waits or runs with other arguments than these for train.py ({join(argv)}): "
                    "cancel it (scancel), or choose another OUTPUT"
                )
            if left and not at_work:
                for run in left:
                    with suppress(OSError):
                        os.utime(run.folder)  # an NFS client asks again what is in it
                    tried = run.folder in self.ids or run.weights in self.failures
                    if tried and not (run.folder / "done").exists():
                        self.fail(run, self.why(run))
                if rest := [run for run in left if run.folder not in self.ids and run.folder in self.left]:
                    fresh.append(rest)
        if others := sorted(self.states.keys() - self.watched - set(self.ids.values())):
            print(f"watched: {', '.join(others)}, submitted by another command", flush=True)
        self.watched |= self.states.keys()
        return fresh

    def why(self, run: Job) -> str:
        """Why a run whose job has ended is not done."""
        if run.weights in self.failures:
            return "left out, because its training failed"
        log = self.folder / f"{self.ids[run.folder]}_0_log.out"
        if not log.exists():
            return f"job {self.ids[run.folder]} ended without {log}: does every node see that folder?"
        return f"job {self.ids[run.folder]} ended before the run was done; see {log}, .err and {run.folder}/log.txt"

    def submit(self, executor: Any, units: Sequence[Sequence[Job]]) -> None:
        """Submits units, one array, unless another command did so meanwhile; a RunError says that sbatch refused."""
        from dassl.utils import write_json  # only here, because it takes seconds

        opts = replace(self.opts, launcher="local", jobs=1)
        while (lock := hold(self.folder / ".submitting")) is None:  # one command at a time submits
            time.sleep(1)
        with lock, signals_later():  # no job is submitted whose id is not noted
            units = [unit for unit in units if not living({read_record(run)[0] for run in unit} - {""})]
            if not units:
                return
            try:
                jobs = executor.submit_array([Unit(tuple(unit), opts) for unit in units])
            except Exception as error:  # submitit's own kinds
                raise runner.RunError(f"sbatch refused: {str(error).strip()}") from None
            for unit, job in zip(units, jobs, strict=True):
                for run in unit:
                    write_json({"id": job.job_id, "argv": list(run.argv)}, run.folder / RECORD)
                    self.ids[run.folder] = job.job_id
                self.states[job.job_id] = "PENDING"
            self.watched |= self.states.keys()
            print(f"submitted: job {jobs[0].job_id.split('_')[0]}, {len(jobs)} x training and tests", flush=True)

    def look(self, how: str = "") -> None:
        """Ends what is done."""
        for folder, run in tuple(self.left.items()):
            if (folder / "done").exists():
                self.end(run, how)

    def end(self, run: Job, how: str = "") -> None:
        self.left.pop(run.folder if run.argv else Path(), None)
        self.progress.begin(run)
        print(f"  {how}{runner.accuracy(run.folder)}", flush=True)
        self.progress.end(None if how else self.latest)
        self.latest, self.shown = time.monotonic(), ""

    def fail(self, run: Job, why: str) -> None:
        self.left.pop(run.folder, None)
        self.progress.begin(run)
        self.failures[run.folder] = runner.failed(run, why)
        self.progress.end()
        self.shown = ""

    def tell(self) -> None:
        """The line of overall progress, where it changed."""
        waiting = sum(state == "PENDING" for state in self.states.values())
        self.progress.run = f"jobs: {len(self.states) - waiting} at work, {waiting} waiting"
        if self.left and self.progress.run != self.shown:
            print(self.progress.line(), flush=True)
        else:
            self.progress.tick()
        self.shown = self.progress.run


def read_record(run: Job) -> tuple[str, list[str]]:
    """The id and the arguments of a run's newest job; "" if it never had one."""
    from protocols.records import read_object

    file = run.folder / RECORD
    record = read_object(file) if file.exists() else {}
    return str(record.get("id", "")), record.get("argv", [])
