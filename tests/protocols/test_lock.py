"""Locks with real processes; one that names another PLACE stands for one on another machine."""

import os
import signal
import subprocess
import sys
import time

import pytest

from protocols import definitions, lock

PREAMBLE = """
import fcntl, os, random, signal, sys, time
from pathlib import Path
from protocols import lock
folder = Path(sys.argv[1])
lock.RENEW_SEC, lock.STALE_SEC = 0.1, 2.5
"""
HOLDER = (
    PREAMBLE
    + """
if sys.argv[2] == "elsewhere":
    lock.PLACE = "another machine"
held = lock.hold(folder)
if sys.argv[2] == "parent" and os.fork() == 0:
    time.sleep(1)  # a run that ends after its parent
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
print("lost" if held.lost else "kept", flush=True)
"""
)


def start(code, *words):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=definitions.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the folder until its input ends."""
    started = []

    def hold(how="here"):
        process = start(HOLDER, tmp_path, how)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SEC", 0.1)
    monkeypatch.setattr(lock, "STALE_SEC", 1.5)


def wait_for(folder):
    """Holds the folder as soon as that goes; returns the seconds that it took."""
    began = time.monotonic()
    while (held := lock.hold(folder)) is None:
        assert time.monotonic() - began < 30
        time.sleep(0.02)
    held.close()
    return time.monotonic() - began


def test_a_folder_is_held_once_until_it_is_freed(tmp_path):
    folder = tmp_path / "a" / "run"
    with lock.hold(folder):
        assert lock.hold(folder) is None
    for _ in range(3):
        held = lock.hold(folder)
        held.close()
        held.close()
    assert os.listdir(folder) == [".lock.4"]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_what_a_living_process_holds_is_busy_however_long(tmp_path, holder, quick, where):
    holder(where)
    end = time.monotonic() + 2 * lock.STALE_SEC
    while time.monotonic() < end:
        assert lock.hold(tmp_path) is None
        time.sleep(0.05)


def test_a_process_killed_on_this_machine_frees_the_folder_at_once(tmp_path, holder):
    process = holder()
    process.kill()
    wait_for(tmp_path)  # with STALE_SEC as it is; even before its parent, which is this test, asks how it ended


def test_a_child_holds_what_its_killed_parent_held(tmp_path, holder):
    process = holder("parent")
    process.kill()
    process.wait()
    assert lock.hold(tmp_path) is None
    wait_for(tmp_path)


def test_a_process_killed_on_another_machine_holds_until_it_was_not_seen_for_long(tmp_path, holder, quick):
    process = holder("elsewhere")
    process.kill()
    process.wait()
    assert lock.hold(tmp_path) is None
    wait_for(tmp_path)


def test_a_file_server_whose_clock_is_wrong(tmp_path, monkeypatch, holder, quick):
    """Ages are differences of its own times: here it is a day behind, and a holder elsewhere was seen just before."""
    process = holder("elsewhere")
    process.kill()
    process.wait()
    yesterday, utime = time.time() - 86400, os.utime
    (owner,) = tmp_path.glob(".lock.*/owner.json")
    os.utime(owner, (yesterday, yesterday))
    monkeypatch.setattr(lock.os, "utime", lambda path: utime(path, (yesterday + age, yesterday + age)))
    age = lock.STALE_SEC - 0.1
    assert lock.hold(tmp_path) is None
    age = lock.STALE_SEC + 0.1
    lock.hold(tmp_path).close()


def test_who_was_away_for_too_long_is_told(tmp_path, holder, quick):
    process = holder("elsewhere")
    process.send_signal(signal.SIGSTOP)
    wait_for(tmp_path)
    process.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert process.communicate()[0] == "lost\n"


def test_a_holder_that_died_before_it_said_who_it_is_is_not_there_for_ever(tmp_path, quick):
    (tmp_path / ".lock.7").mkdir()
    assert lock.hold(tmp_path) is None
    wait_for(tmp_path)
    assert os.listdir(tmp_path) == [".lock.8"]


def test_who_decided_on_what_is_long_past_gets_nothing(tmp_path, monkeypatch):
    """Between its look at a holder that is gone and its own mkdir, others held and freed the folder."""
    lock.hold(tmp_path).close()
    gone, kept = lock.gone, []

    def look_and_sleep(*words):
        monkeypatch.setattr(lock, "gone", gone)
        assert gone(*words)
        lock.hold(tmp_path).close()
        kept.append(lock.hold(tmp_path))
        return True

    monkeypatch.setattr(lock, "gone", look_and_sleep)
    assert lock.hold(tmp_path) is None
    assert os.listdir(tmp_path) == [".lock.3"]
    kept[0].close()
    lock.hold(tmp_path).close()


def test_where_flock_does_not_work_a_holder_is_gone_by_time_alone(tmp_path, monkeypatch, quick):
    def refuse(*_):
        raise OSError("not on this file system")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    held = lock.hold(tmp_path)
    assert lock.hold(tmp_path) is None
    held.over.set()
    wait_for(tmp_path)


# Takes the folder again and again; now and then it is killed or stopped with it. Whether two hold it at once is seen by
# flock, which the kernel frees when a process dies.
CONTENDER = (
    PREAMBLE
    + """
here, seed = sys.argv[2] == "here", int(sys.argv[3])
lock.PLACE = lock.PLACE if here else f"machine {seed}"
dice, end = random.Random(seed), time.monotonic() + 4
while time.monotonic() < end:
    held = lock.hold(folder)
    if held is None:
        time.sleep(dice.random() / 100)
        continue
    inside = open(folder / "inside", "w")
    try:
        fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (folder / "TWICE").touch()
        sys.exit(1)
    with open(folder / "taken", "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(dice.random() / 50)
    if dice.random() < 0.05:
        os.kill(os.getpid(), signal.SIGKILL)
    inside.close()
    held.close()
"""
)


@pytest.mark.parametrize("where", ["here", pytest.param("elsewhere", marks=pytest.mark.slow)])
def test_of_many_processes_that_die_one_holds_it_at_a_time(tmp_path, where):
    folder, end = tmp_path / "run", time.monotonic() + (4 if where == "here" else 12)
    folder.mkdir()
    started = [start(CONTENDER, folder, where, seed) for seed in range(6)]
    running, killed = list(started), 0
    while running:
        time.sleep(0.02)
        for process in [each for each in running if each.poll() is not None]:
            running.remove(process)
            killed += process.returncode == -signal.SIGKILL
            if time.monotonic() < end:
                started.append(start(CONTENDER, folder, where, len(started)))
                running.append(started[-1])
    for process in started:
        process.communicate()
    assert not (folder / "TWICE").exists()
    assert {process.returncode for process in started} <= {0, -signal.SIGKILL}
    assert killed > 1 and len(set((folder / "taken").read_text().split())) >= killed  # one after the other
    assert len([name for name in os.listdir(folder) if name.startswith(".lock.")]) == 1
