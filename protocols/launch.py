"""Calls of train.py as processes of this machine, each with its share of it."""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# By these a cluster tells the process that started the runs, not the runs, that time is up.
NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
PATIENCE_SEC = 20  # for children to end by themselves; schedulers send SIGKILL half a minute after SIGTERM


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
def signals_later() -> Iterator[None]:
    """Signals that come within are heard at the end: a child is never started without being known to its parent."""
    heard: list[int] = []
    every = SIGNALS + NOTICES
    handlers = {each: signal.getsignal(each) for each in every if signal.getsignal(each) is not signal.SIG_IGN}
    for each in handlers:
        signal.signal(each, lambda number, _: heard.append(number))  # a thread of torch may get it: no mask holds there
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, every)  # for the child, until its own handlers stand
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if heard:
            signal.raise_signal(heard[0])


@dataclass(frozen=True)
class Share:
    """What one of several runs at once has of the machine: CPU threads, and a GPU of its own where there are some.

    None leaves both as they are.
    """

    threads: int | None = None
    gpu: str | None = None


def shares(jobs: int) -> list[Share]:
    """The shares of `jobs` runs at once."""
    if jobs == 1:
        return [Share()]
    from dassl.utils import usable_cores

    gpus = visible_gpus()
    return [Share(max(1, usable_cores() // jobs), gpus[i % len(gpus)] if gpus else None) for i in range(jobs)]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]  # does not start CUDA, which no fork survives


def launch(argv: Sequence[str], quiet: bool, share: Share) -> Any:
    """Starts train.py in a process of its own with a share of the machine; ends with this process.

    On Linux it is forked from this process, which imports the libraries once for all runs. It gets the SIGTERM that
    this one gets, and on Linux also one if this one is killed. If `quiet`, what it prints goes to its log.txt only.

    Returns:
        The process, a multiprocessing.Process.
    """
    linux = sys.platform == "linux"
    if linux:
        for name in ("train", "trainers", "datasets", "dassl.evaluation.pictures"):
            importlib.import_module(name)
        importlib.import_module("clip").encode("")  # its vocabulary takes longer to read than a test of a tiny CLIP
    context: Any = multiprocessing.get_context("fork" if linux else "spawn")
    child = context.Process(target=call_train, args=(argv, quiet, os.getpid(), share))
    child.start()
    return child


def call_train(argv: Sequence[str], quiet: bool, parent: int, share: Share) -> None:
    """What the child does: ends on SIGTERM as on Ctrl-C, and leaves every other signal to its parent."""

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt("stopped by SIGTERM")

    for each in SIGNALS + NOTICES:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS + NOTICES)  # it may have been forked within `signals_later`
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was gone before that took hold
        sys.exit(1)
    if quiet:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  as long as the process
    if share.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpu
    if share.threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(share.threads)
        torch.set_num_threads(share.threads)
    try:
        importlib.import_module("train").main(list(argv))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)


def end_all(children: Sequence[Any]) -> None:
    """Ends processes that `launch` gave: asks all, waits, then kills what is left."""
    for child in children:
        child.terminate()
    deadline = time.monotonic() + PATIENCE_SEC
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        child.kill()
        child.join()
