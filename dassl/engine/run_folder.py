"""A run's folder: what was asked for, with what software, what came out, and whether it ended."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.utils import collect_env_info, read_json, set_random_seed, setup_logger, write_json, write_text
from dassl.utils.distributed import broadcast_object, init_distributed, is_main_process, shutdown_distributed
from dassl.utils.tools import versions

from .checkpoint import OtherConfigError

_RECORDS = ("config.yaml", "env.json", "failed.json", "done")


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
    seed = read_json(begun)["seed"] if begun.is_file() else secrets.randbelow(2**31)
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.SEED = broadcast_object(seed)
    if frozen:
        cfg.freeze()


class Run:
    """A run in progress.

    Args:
        cfg: Its config.
        config_name: Stem of the method's config file, for tables.
    """

    def __init__(self, cfg: CfgNode, config_name: str) -> None:
        self.cfg, self.config_name = cfg, config_name
        self.dir = Path(cfg.OUTPUT_DIR)

    def write_config(self) -> None:
        """Keep the config as resolved so far."""
        if is_main_process():
            write_text(self.cfg.dump(), self.dir / "config.yaml")

    def finish(self, record: dict[str, Any]) -> None:
        """Write results.json, then `done`: whoever sees `done` sees everything."""
        if is_main_process():
            self.write_config()
            write_json({"schema": 1, "config": self.config_name, **record}, self.dir / "results.json")
            write_text(time.strftime("%Y-%m-%dT%H:%M:%S%z\n"), self.dir / "done")
            print(f"Results are in {self.dir / 'results.json'}")


@contextmanager
def run(cfg: CfgNode, argv: Sequence[str] = (), config_name: str = "") -> Iterator[Run]:
    """Seed everything, open the run's folder and log; an error is kept in failed.json.

    Args:
        cfg: The config; a SEED below 0 is replaced by a drawn one.
        argv: Command line, for the record.
        config_name: Stem of the method's config file.
    """
    init_distributed(cfg.USE_CUDA)
    settle_seed(cfg)
    set_random_seed(cfg.SEED)
    this = Run(cfg, config_name)
    before = {path: path.read_bytes() if path.is_file() else None for path in map(this.dir.joinpath, _RECORDS)}
    main, stdout = is_main_process(), sys.stdout
    tee = setup_logger(cfg.OUTPUT_DIR) if main else None
    try:
        if main:
            for name in ("done", "failed.json"):
                (this.dir / name).unlink(missing_ok=True)
            this.write_config()
            env = {
                "command": shlex.join(["python", "train.py", *argv]),
                "seed": cfg.SEED,
                "commit": git_commit(),
                "versions": versions(),
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                "cpu_count": os.cpu_count(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            write_json(env, this.dir / "env.json")
            print(f"Run folder: {this.dir}\nSeed: {cfg.SEED}\n{collect_env_info()}")
            assert tee is not None
            tee.write_file(f"{env['command']}\n{cfg}\n")
        else:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  one process speaks
        yield this
    except BaseException as error:
        if main:
            text = "".join(traceback.format_exception(error))
            if tee is not None:
                tee.write_file(text)
            if isinstance(error, OtherConfigError):  # the run that lies here is not this one: leave its records
                for path, content in before.items():
                    path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
                raise
            failure = {
                "error": f"{type(error).__name__}: {error}",
                "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            }
            write_json(failure, this.dir / "failed.json")
        raise
    finally:
        if tee is not None:
            tee.close()
        sys.stdout = stdout
        shutdown_distributed()
