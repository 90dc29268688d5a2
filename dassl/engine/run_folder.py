"""A run's folder: what was asked for, with what software, what came out, and whether it ended."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from yacs.config import CfgNode

from dassl.utils import collect_env_info, read_json, read_text, set_random_seed, write_json, write_text
from dassl.utils.distributed import (
    barrier,
    broadcast_object,
    get_world_size,
    init_distributed,
    is_main_process,
    lost_process,
    shutdown_distributed,
)
from dassl.utils.logger import Tee
from dassl.utils.tools import existing_folder, remove_stale_files, versions

from .checkpoint import OtherConfigError, check_same_config

_FILES = ("config.yaml", "env.json", "log.txt", "metrics.jsonl", "few_shot.json", "results.json", "failed.json", "done")


def git_commit() -> str:
    """Commit of the code, with "+" when files differ from it; empty outside git."""
    root = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", *args], cwd=root, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def settle_seed(cfg: CfgNode) -> None:
    """Draw SEED when it is negative; a run that was begun in the folder keeps its own, so that it can go on."""
    if cfg.SEED >= 0:
        return
    begun = Path(cfg.RESUME or cfg.OUTPUT_DIR, "env.json")
    seed = read_json(begun) if begun.is_file() else secrets.randbelow(2**31)
    if isinstance(seed, dict):
        seed = seed.get("seed")
    if not isinstance(seed, int):
        raise ValueError(f"{begun} holds no seed, so the run there cannot go on with SEED {cfg.SEED}; give its SEED")
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.SEED = broadcast_object(seed)
    if frozen:
        cfg.freeze()


class Run:
    """A run in progress. Until `begin`, nothing is written; a folder that holds a finished run keeps it.

    Args:
        cfg: Its config.
        config_name: Stem of the method's config file, for tables.
        argv: Command line, for the record.
    """

    def __init__(self, cfg: CfgNode, config_name: str = "", argv: Sequence[str] = ()) -> None:
        self.cfg, self.config_name = cfg, config_name
        self.dir = Path(cfg.OUTPUT_DIR)
        self.finished = (self.dir / "done").is_file()  # by an earlier process
        self.begun = False
        self.tee: Tee | None = None
        for name in _FILES:
            if (self.dir / name).is_dir():
                raise IsADirectoryError(errno.EISDIR, "a folder lies where a run keeps a file", str(self.dir / name))
        self.env = {
            "command": shlex.join(["python", "train.py", *argv]),
            "seed": cfg.SEED,
            "commit": git_commit(),
            "versions": versions(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "cpu_count": os.cpu_count(),
            "processes": get_world_size(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def begin(self, kind: str = "train", weights: str = "", free: Collection[str] = ()) -> None:
        """Make the folder this run's, after a look at what lies there; the trainer is built by now.

        Args:
            kind: `train`, or `test` for an evaluation of weights from elsewhere, or of a method that learns nothing.
            weights: For tests, where the weights come from.
            free: Config keys that may differ from those of the run that lies there, beside `FREE_KEYS`.

        Raises:
            OtherConfigError: A run of another kind or config lies there; it stays as it is.
        """
        self.env |= {"kind": kind, "weights": os.path.abspath(weights) if weights else ""}
        trained = any(self.dir.glob("*/model.pth.tar-*"))
        if self.finished or trained:
            self._check_earlier(kind, trained, free)
        self.begun = True
        if is_main_process():
            remove_stale_files(self.dir)
            if self.finished and kind == "train" and not trained:  # its models were removed: it starts over
                (self.dir / "done").unlink()
                self.finished = False
            if not self.finished:  # a finished run keeps its records until the new ones are complete
                (self.dir / "failed.json").unlink(missing_ok=True)
                self._write_records()
            self._open_log()
        barrier()

    def _check_earlier(self, kind: str, trained: bool, free: Collection[str]) -> None:
        earlier = "train" if trained or not self._read("results.json").get("eval_only") else "test"
        if kind != earlier:
            words = {"train": "training", "test": "test"}
            state = "a finished" if self.finished else "an unfinished"
            raise OtherConfigError(
                f"{self.dir} holds {state} {words[earlier]}, and this is a {words[kind]}; use another --output-dir"
            )
        config = self.dir / "config.yaml"
        if config.is_file():
            try:
                saved = yaml.safe_load(read_text(config))
            except yaml.YAMLError as error:
                raise ValueError(f"{config} of the run that lies there is no YAML: {error}") from error
            check_same_config(saved if isinstance(saved, dict) else {}, self.cfg, str(self.dir), free)
        tested = self._read("env.json").get("weights", self.env["weights"]) if kind == "test" else self.env["weights"]
        if tested != self.env["weights"]:
            raise OtherConfigError(
                f"{self.dir} holds the finished test of {tested or 'no weights'}, and this is one of "
                f"{self.env['weights'] or 'no weights'}; use another --output-dir"
            )

    def _read(self, name: str) -> dict[str, Any]:
        path = self.dir / name
        content = read_json(path) if path.is_file() else {}
        return content if isinstance(content, dict) else {}

    def _open_log(self) -> None:
        if self.tee is not None:
            self.tee.open(str(self.dir / "log.txt"))
            self.tee.write_file(f"{self.env['command']}\n{self.cfg}\n")

    def _write_records(self) -> None:
        write_text(self.cfg.dump(), self.dir / "config.yaml")
        write_json(self.env, self.dir / "env.json")

    def finish(self, record: dict[str, Any]) -> None:
        """Write results.json, then `done`: whoever sees `done` sees everything."""
        if is_main_process():
            self._write_records()
            write_json({"schema": 2, "config": self.config_name, **record}, self.dir / "results.json")
            write_text(time.strftime("%Y-%m-%dT%H:%M:%S%z\n"), self.dir / "done")
            print(f"Results are in {self.dir / 'results.json'}")

    def fail(self, error: BaseException) -> None:
        """Keep an error's traceback in the log, and the error in failed.json unless the folder is another run's."""
        if not self.begun:
            self._open_log()
        if self.tee is not None:
            self.tee.write_file("".join(traceback.format_exception(error)))
        if self.finished or isinstance(error, OtherConfigError):
            return
        if not (self.dir / "config.yaml").exists():
            self._write_records()
        failure = {"error": f"{type(error).__name__}: {error}", "when": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_json(failure, self.dir / "failed.json")


@contextmanager
def run(cfg: CfgNode, argv: Sequence[str] = (), config_name: str = "") -> Iterator[Run]:
    """Seed everything and collect what is printed for the log; an error is kept in failed.json.

    The block builds its trainer, calls `Run.begin`, trains or tests, and calls `Run.finish`.

    Args:
        cfg: The config; a SEED below 0 is replaced by a drawn one.
        argv: Command line, for the record.
        config_name: Stem of the method's config file.

    Raises:
        OSError: In place of what PyTorch raises, when a disk or the workers' shared memory is full, or when another
            process ended.
    """
    init_distributed(cfg.USE_CUDA)
    settle_seed(cfg)
    set_random_seed(cfg.SEED)
    this = Run(cfg, config_name, argv)
    main, stdout = is_main_process(), sys.stdout
    if main:
        this.tee = Tee()
        print(f"Run folder: {this.dir}\nSeed: {cfg.SEED}\n{collect_env_info()}")
    else:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  one process speaks
    try:
        yield this
    except BaseException as error:
        told = _about_space(error, this) or lost_process(error)
        if main:
            try:
                this.fail(told or error)
            except OSError as second:  # as on a full disk
                print(f"failed.json could not be written: {second}", file=sys.stderr)
        if told is not None:
            raise told from error
        raise
    finally:
        if this.tee is not None:
            with suppress(OSError):  # a full disk has been told by now
                this.tee.close()
        sys.stdout = stdout
        shutdown_distributed()


def _about_space(error: BaseException, this: Run) -> OSError | None:
    """What to say in place of an error that comes of a full disk or full shared memory; None for another error."""
    text = str(error)
    workers = re.search("shared memory|Bus error|/torch_|/dev/shm|DataLoader worker.*No space left", text, re.DOTALL)
    if isinstance(error, RuntimeError | OSError) and "Too many open files" in text:
        return OSError(errno.EMFILE, "too many open files: raise the limit (ulimit -n 4096), or take fewer NUM_WORKERS")
    if isinstance(error, RuntimeError | OSError) and workers:
        free = shutil.disk_usage("/dev/shm").free / 1e6 if os.path.isdir("/dev/shm") else 0
        return OSError(
            errno.ENOSPC,
            f"the loader's workers ran out of shared memory (/dev/shm, {free:,.0f} MB free): set "
            f"DATALOADER.NUM_WORKERS {this.cfg.DATALOADER.NUM_WORKERS} to fewer (0 needs none), or give it more "
            "(docker run --shm-size 8g)",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = existing_folder(this.dir)
        free = shutil.disk_usage(folder).free / 1e6
        return OSError(
            errno.ENOSPC,
            f"no space left on the disk ({free:,.1f} MB free in {folder}): {error.filename or text}. What was saved "
            "before stays; with more room, the same command goes on",
        )
    return None
