"""The lock of a folder, among processes of one machine and of several that share a file system.

flock alone does not do: network file systems may refuse it or keep it to one machine, and it tells nobody whether a
holder elsewhere lives. Here holders are numbered: that of `.lock.7` made this folder, which only one process can do
(mkdir is exclusive on NFS too), and a thread touches the file in it. Who finds the newest holder gone makes `.lock.8`,
so that of several takers one wins; nothing is removed that one of them could still mistake for its own. A holder is
gone if it said so, if it was not seen for STALE_SEC by the clock of the file server, or, on one machine, as soon as
its process and the children of that have ended; those are asked by flock, which is of the kernel there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

RENEW_SEC = 15
STALE_SEC = 120  # a file server may be away for a minute
OWNER, RELEASED = "owner.json", "released"


def place() -> str:
    """What has process numbers and locks of its own: a container on one kernel, until that is started anew."""
    found = [socket.gethostname()]
    with suppress(OSError):  # on Linux
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


PLACE = place()


class Lock:
    """A folder that this process and its children hold, until it is closed; `entry` is the holder's own, just made."""

    def __init__(self, entry: Path) -> None:
        self.entry, self.owner = entry, entry / OWNER
        self.lost = False  # another process took it over, because this one was away for too long
        self.handle = open(self.owner, "x", encoding="utf-8")  # noqa: SIM115  as long as the lock
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flock = True
        except OSError:  # not on this file system
            flock = False
        json.dump({"place": PLACE, "pid": os.getpid(), "flock": flock}, self.handle)
        self.handle.flush()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.renew, daemon=True)
        self.thread.start()

    def renew(self) -> None:
        """Says again and again that this process lives."""
        seen = time.monotonic()
        while not self.lost and not self.over.wait(RENEW_SEC):
            try:
                os.utime(self.owner)  # the server's clock, not this machine's
                seen = time.monotonic()
            except FileNotFoundError:
                self.lost = True
            except OSError:
                self.lost = time.monotonic() - seen > STALE_SEC

    def close(self) -> None:
        """Frees the folder; further calls do nothing."""
        if not self.over.is_set():
            self.over.set()
            self.thread.join()
            with suppress(OSError):  # the folder was removed, or the lock is lost
                self.owner.rename(self.entry / RELEASED)
            self.handle.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(folder: Path) -> Lock | None:
    """Holds a folder, which is made if need be; None where another process holds it, an OSError where none can."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)  # so that its own time is now, and what an NFS client remembers of it is out of date
    newest = max(holders(os.listdir(folder)), default=0)
    if newest and not gone(folder / f".lock.{newest}", os.stat(folder).st_mtime):
        return None
    entry = folder / f".lock.{newest + 1}"
    try:
        entry.mkdir()
    except FileExistsError:
        return None
    others = set(holders(os.listdir(folder))) - {newest + 1}
    if max(others, default=0) > newest:  # what was seen before is long past
        shutil.rmtree(entry, ignore_errors=True)
        return None
    lock = Lock(entry)
    for number in others:
        shutil.rmtree(folder / f".lock.{number}", ignore_errors=True)
    return lock


def holders(names: Iterable[str]) -> list[int]:
    """The numbers of the holders among the names in a folder."""
    return [int(name[6:]) for name in names if re.fullmatch(r"\.lock\.\d+", name)]


def gone(entry: Path, now: float) -> bool:
    """Whether a holder holds no more; `now` is the file server's time, in seconds."""
    try:
        if (entry / RELEASED).exists():
            return True
        owner: dict[str, Any] = {}
        seen = os.stat(entry).st_mtime
        with suppress(FileNotFoundError), open(entry / OWNER, encoding="utf-8") as file:
            seen = os.fstat(file.fileno()).st_mtime  # fresh even on NFS, since the file was just opened
            with suppress(ValueError):  # half written
                owner = json.load(file)
            old = now - seen > STALE_SEC
            if owner.get("place") != PLACE or not owner.get("flock"):
                return old
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return False
            return old or not alive(int(owner["pid"]))
        return now - seen > STALE_SEC
    except FileNotFoundError:  # another process takes it over right now
        return False


def alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
