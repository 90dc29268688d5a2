"""Several processes with torchrun's environment, forked from the test: they start at once and keep what is patched."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def in_child(job: Callable[[], Any], **environ: str) -> int:
    """Start a process that does `job`; returns its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ.update(environ)
        job()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def start(job: Callable[[], Any], count: int = 2) -> list[int]:
    """Do `job` in several processes; their ids, by rank."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [in_child(job, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]


def wait(pids: list[int], seconds: float, at_failure: bool = False) -> list[int]:
    """Exit codes, minus a signal's number; those still running after the time, or `at_failure` of one, are killed."""
    codes: dict[int, int] = {}
    deadline = time.time() + seconds
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        late = time.time() > deadline
        if late or (at_failure and any(codes.values())):
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            assert not late, f"the processes hang; those that ended gave {list(codes.values())}"
            break
        time.sleep(0.01)
    return [codes.get(pid, -signal.SIGKILL) for pid in pids]


def together(job: Callable[[], Any], count: int = 2, seconds: float = 120) -> None:
    """Do `job` in several processes; fails if one of them does."""
    codes = wait(start(job, count), seconds, at_failure=True)
    assert not any(codes), f"a process failed, see stderr: {codes}"
