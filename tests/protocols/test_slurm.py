"""A benchmark on SLURM itself: a cluster of two nodes on this machine, of the packages slurmctld, slurmd and munge."""

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from protocols import definitions

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
PATH = f"{os.environ['PATH']}:/usr/sbin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(shutil.which(name, path=PATH) for name in PROGRAMS),
        reason="without SLURM: apt-get install slurmctld slurmd slurm-client munge",
    ),
]
CONF = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={here}/munge.sock
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/%n
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in taken]


def wait_until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.fixture
def slurm(tmp_path):
    """Calls a program in `slurm.env`; returns what it prints. `slurm.start` leaves it at work until the end."""
    here = tmp_path / "slurm"
    for name in ("state", "n1", "n2"):
        (here / name).mkdir(parents=True)
    (here / "munge.key").write_bytes(os.urandom(1024))
    (here / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (here / "slurm.conf").write_text(CONF.format(here=here, host=host, user=getpass.getuser(), ports=free_ports(3)))
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH"))}
    env |= {"PATH": PATH, "SLURM_CONF": str(here / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    munge = ["key-file=munge.key", "socket=munge.sock", "pid-file=munged.pid", "log-file=munged.log", "seed-file=seed"]
    daemons = []

    def start(*command):
        log = open(here / f"{len(daemons)}.log", "w")  # noqa: SIM115  as long as the process
        daemons.append(subprocess.Popen(command, env=env, cwd=here, stdout=log, stderr=log))
        daemons[-1].log = Path(log.name)
        return daemons[-1]

    def call(*command):
        answer = subprocess.run(command, env=env, capture_output=True, text=True)
        assert not answer.returncode, answer.stderr
        return answer.stdout

    def sinfo(*words):
        answer = subprocess.run(["sinfo", "--noheader", *words], env=env, capture_output=True, text=True)
        return set(answer.stdout.splitlines())  # none before slurmctld is up

    try:
        start("munged", "--foreground", "--force", *(f"--{word.replace('=', f'={here}/')}" for word in munge))
        wait_until((here / "munge.sock").exists)
        start("slurmctld", "-D", "-i")
        start("slurmd", "-D", "-N", "n1")
        start("slurmd", "-D", "-N", "n2")
        wait_until(lambda: sinfo("--format=%T") == {"idle"})
        call.env, call.start = env, start
        yield call
    finally:
        subprocess.run(["scancel", "--user", getpass.getuser()], env=env)
        time.sleep(1)
        wait_until(lambda: not subprocess.run(["squeue", "--noheader"], env=env, capture_output=True).stdout)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def test_jobs_that_are_killed_cancelled_or_without_a_node_change_no_result(slurm, tmp_path):
    words = ["base2new", "--datasets", "shapes", "--trainer", "CoOp", "--shots", "1", "OPTIM.MAX_EPOCH", "2"]
    command = ["bash", str(definitions.ROOT / "scripts" / "benchmark.sh"), *words, "DATALOADER.NUM_WORKERS", "0"]
    jobs = [*command, "--output", str(tmp_path / "jobs"), "--launcher", "slurm", "--slurm", "time=60", "partition=main"]
    serial = [*command, "--output", str(tmp_path / "serial")]
    training = "base2new/train_base/shapes/shots_1/CoOp/tiny"

    def folder(seed):
        """A run's folder, once it trains."""
        found = tmp_path / "jobs" / training / f"seed{seed}"
        wait_until(lambda: (found / "log.txt").exists())
        return found

    first = slurm.start(*jobs)
    killed = json.loads((folder(1) / ".lock.1" / "owner.json").read_text())["pid"]
    cancelled = json.loads((folder(2) / "job.json").read_text())["id"]
    states = slurm("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    assert sorted(line.split()[1] for line in states) == ["PENDING", "RUNNING", "RUNNING"]
    slurm("scontrol", "update", "nodename=n1", "state=drain", "reason=test")
    os.kill(killed, signal.SIGKILL)
    slurm("scancel", cancelled)
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130
    assert "the jobs go on; the same command watches them again" in first.log.read_text()
    second = subprocess.run(jobs, env=slurm.env, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "submitted by another command" in second.stdout and "submitted: job" in second.stdout
    assert "6 of 6 runs are finished" in second.stdout
    assert "n1 drained" in slurm("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
    subprocess.run(serial, env=slurm.env, check=True, capture_output=True)
    assert tables(tmp_path / "jobs", slurm.env) == tables(tmp_path / "serial", slurm.env)
    for folder in (tmp_path / "serial").rglob("seed*"):
        mine = tmp_path / "jobs" / folder.relative_to(tmp_path / "serial")
        assert (mine / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def tables(folder, env):
    script = definitions.ROOT / "scripts" / "report.py"
    python = definitions.ROOT / ".venv" / "bin" / "python"
    out = subprocess.run([python, script, folder], env=env, capture_output=True, text=True, check=True)
    assert "CoOp" in out.stdout
    return out.stdout
