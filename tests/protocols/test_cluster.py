"""Runs as jobs, by submitit's executor of one machine in place of SLURM's; test_slurm.py asks SLURM itself."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from protocols import ablate, cluster, definitions, lock, plan, runner

# What a job's Python finds before it looks for train.py: one that notes its call and does what files in HERE say.
FAKE = """
import json, os, sys, time, types
from pathlib import Path
def main(argv):
    folder = Path(argv[argv.index("--output-dir") + 1])
    name = "/".join(folder.parts[-6:-4]) + "/" + folder.name
    with open(HERE / "calls", "a") as file:
        file.write(f"{name} {os.getppid()} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\\n")
    (folder / "env.json").write_text("{}")
    if (HERE / "fail").exists() and (HERE / "fail").read_text() in name:
        raise ValueError("as the test asks")
    while (HERE / "wait").exists():
        time.sleep(0.02)
    (folder / "learner").mkdir(exist_ok=True)
    (folder / "learner" / "checkpoint").touch()
    (folder / "results.json").write_text(json.dumps({"results": {"accuracy": 50.0}}))
    (folder / "done").touch()
for module in ("train", "trainers", "datasets", "dassl.evaluation.pictures"):
    sys.modules[module] = types.ModuleType(module)
sys.modules["train"].main = main
"""
WORDS = ["--launcher", "slurm", "--slurm", "time=5"]
COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from protocols import runner
from tests.protocols import test_cluster
test_cluster.use_one_machine(setattr, Path(sys.argv[2]))
runner.listen()
sys.exit(runner.main(["benchmark", "base2new", *test_cluster.WORDS, *sys.argv[3:]]))
"""


def use_one_machine(put, here):
    """Puts submitit's local executor in the place of SLURM's."""
    import submitit

    def make_executor(folder, jobs, parameters):
        executor = submitit.LocalExecutor(folder)
        path = f"{here}/fakes:{definitions.ROOT}"
        executor.update_parameters(setup=[f"export PYTHONPATH={path}"], timeout_min=parameters["time"])
        return executor

    put(cluster, "make_executor", make_executor)
    put(cluster, "living", lambda ids: {name: "RUNNING" for name in ids if lock.alive(int(name))})
    put(cluster, "POLL_SEC", 0.1)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Three trainings with a test each, in OUTPUT; returns the folder with what tells the fake train.py what to do."""
    here = tmp_path / "here"
    (here / "fakes").mkdir(parents=True)
    (here / "fakes" / "sitecustomize.py").write_text(f"from pathlib import Path\nHERE = Path({str(here)!r})\n{FAKE}")
    for name in (*plan.DEFAULTS, "DRY_RUN", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv("DATASETS", "shapes")
    use_one_machine(monkeypatch.setattr, here)
    yield here
    (here / "wait").unlink(missing_ok=True)


def benchmark(*words):
    return runner.main(["benchmark", "base2new", *WORDS, *words])


def calls(here):
    """Which runs train.py was called for."""
    return [line.split()[0] for line in (here / "calls").read_text().splitlines()]


def jobs(here):
    return sorted((here.parent / "out" / "submitit").glob("*_submitted.pkl"))


def start(here, *words):
    """The command as a process of its own; what it prints goes to a file, which its jobs may keep open."""
    log = here / f"log{len(list(here.glob('log*')))}"
    command = [sys.executable, "-c", COMMAND, str(definitions.ROOT), str(here), *words]
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=here, stdout=file, stderr=subprocess.STDOUT)
    process.log = log
    return process


def end(command, status):
    """What it printed."""
    assert command.wait(300) == status, command.log.read_text()
    return command.log.read_text()


def wait_until(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


RUNS = [f"{kind}/shapes/seed{seed}" for kind in ("test_new", "train_base") for seed in (1, 2, 3)]


def test_a_job_is_a_training_with_its_tests(machine, capfd):
    assert benchmark() == 0
    assert sorted(calls(machine)) == RUNS
    assert len(jobs(machine)) == 3
    out = capfd.readouterr().out
    assert "submitted: job" in out and "3 x training and tests" in out
    assert "[6/6]" in out and "6 of 6 runs are finished" in out
    folder = machine.parent / "out/base2new/test_new/shapes/shots_16/GOPro/tiny/seed2"
    job = json.loads((folder / "job.json").read_text())["id"]
    log = (machine.parent / "out" / "submitit" / f"{job}_0_log.out").read_text()
    assert "[2/2] test shapes (new classes, 16 shots), GOPro/tiny, seed2" in log
    assert benchmark() == 0
    assert len(jobs(machine)) == 3
    assert capfd.readouterr().out.count("skipped: finished before, accuracy 50.00 %") == 6


def test_a_failure_is_named_and_the_same_command_ends_it(machine, capfd):
    (machine / "fail").write_text("train_base/shapes/seed2")
    assert benchmark() == 1
    out, err = capfd.readouterr()
    assert "4 of 6 runs are finished" in out
    folder = machine.parent / "out"
    assert f"ended before the run was done; see {folder}/submitit/" in err
    assert "left out, because its training failed" in err
    (machine / "fail").unlink()
    before = len(calls(machine))
    assert benchmark() == 0
    assert sorted(calls(machine)[before:]) == ["test_new/shapes/seed2", "train_base/shapes/seed2"]
    assert len(jobs(machine)) == 4


def test_ctrl_c_leaves_the_jobs_and_the_same_command_watches_them_again(machine, capfd):
    (machine / "wait").touch()
    command = start(machine)
    wait_until(lambda: (machine / "calls").exists() and len(calls(machine)) == 3)
    command.send_signal(signal.SIGINT)
    assert "the jobs go on; the same command watches them again, scancel " in end(command, 130)
    assert benchmark("OPTIM.LR", "0.1") == 2
    err = capfd.readouterr().err
    assert "waits or runs with other arguments than these for train.py (--root " in err
    assert err.endswith("cancel it (scancel), or choose another OUTPUT\n")
    again = start(machine)
    wait_until(lambda: ", submitted by another command" in again.log.read_text())
    (machine / "wait").unlink()
    assert "submitted: job" not in end(again, 0)
    assert sorted(calls(machine)) == RUNS
    assert len(jobs(machine)) == 3


def test_two_commands_at_once_submit_once(machine):
    (machine / "wait").touch()
    commands = [start(machine), start(machine)]
    wait_until(lambda: (machine / "calls").exists() and len(calls(machine)) == 3)
    (machine / "wait").unlink()
    for command in commands:
        end(command, 0)
    assert sorted(calls(machine)) == RUNS
    assert len(jobs(machine)) == 3


def start_and_hold(machine):
    """The command, whose only training has begun and does not end."""
    (machine / "wait").touch()
    command = start(machine, "--seeds", "1")
    wait_until(lambda: (machine / "calls").exists() and calls(machine))
    return command


@pytest.mark.slow
def test_a_job_that_is_killed_is_said_so_and_submitted_anew_by_the_same_command(machine):
    command = start_and_hold(machine)
    os.kill(int((machine / "calls").read_text().split()[1]), signal.SIGKILL)
    assert "ended before the run was done" in end(command, 1)
    (machine / "wait").unlink()
    assert benchmark("--seeds", "1") == 0
    assert calls(machine) == ["train_base/shapes/seed1", "train_base/shapes/seed1", "test_new/shapes/seed1"]


def test_near_its_time_limit_a_job_goes_into_the_queue_again(machine):
    command = start_and_hold(machine)
    _, job, run, _ = (machine / "calls").read_text().split()
    for each in (run, job):  # SLURM tells all processes
        os.kill(int(each), signal.SIGUSR2)
    wait_until(lambda: len(calls(machine)) == 2)
    (machine / "wait").unlink()
    end(command, 0)
    assert calls(machine) == ["train_base/shapes/seed1", "train_base/shapes/seed1", "test_new/shapes/seed1"]
    assert len(jobs(machine)) == 1


@pytest.mark.slow
def test_sigterm_ends_a_job_and_frees_its_run(machine):
    command = start_and_hold(machine)
    os.kill(int((machine / "calls").read_text().split()[1]), signal.SIGTERM)
    end(command, 1)
    assert list(machine.parent.glob("out/base2new/train_base/*/*/*/*/*/.lock.1/released"))


def test_a_job_that_only_trained_is_followed_by_one_that_tests(machine, capfd):
    assert runner.main(["train", "shapes", "base2new", *WORDS]) == 0
    assert len(calls(machine)) == 3
    assert runner.main(["test", "shapes", "base2new", *WORDS]) == 0
    assert sorted(calls(machine)) == RUNS
    assert capfd.readouterr().out.count("tested at the end of training") == 3
    assert len(jobs(machine)) == 6


def test_tests_without_weights_are_no_job(machine, capfd):
    assert runner.main(["test", "shapes", "base2new", *WORDS]) == 1
    assert "holds no checkpoint: run train.sh first" in capfd.readouterr().err
    assert not jobs(machine)


def test_threads_are_those_of_the_job(machine, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert benchmark("--seeds", "1") == 0
    assert {line.split()[3] for line in (machine / "calls").read_text().splitlines()} == {"3"}


def test_a_dry_run_shows_the_jobs(machine, monkeypatch, capfd):
    monkeypatch.setenv("DRY_RUN", "1")
    assert benchmark("--slurm", "partition=a100", "--jobs", "2") == 0
    out = capfd.readouterr().out
    assert "SLURM: time=5 partition=a100; at once: 2\njob 1 of 3:\n[1/6] train shapes (base classes" in out
    assert out.count("train.py --root") == 6
    assert not (machine.parent / "out").exists()


def test_ablations_are_jobs_too(machine, monkeypatch, capfd):
    monkeypatch.setenv("DRY_RUN", "1")
    assert ablate.main(["shapes", "base2new", "--seeds", "1", "2", *WORDS]) == 0
    factors = ablate.read_factors("GOPro")
    assert f"job 1 of {2 * (len(factors) + 1)}:" in capfd.readouterr().out


def test_what_learns_nothing_is_a_job_a_test():
    opts = plan.read_settings(["--trainer", "ZeroshotCLIP", "GOPro", "--seeds", "1"])
    units = cluster.units_of(plan.plan(opts, "cross-dataset", "shapes"))
    assert [len(unit) for unit in units] == [1, 1, 1, 1, 5]
    assert [run.kind for run in units[-1]] == ["train", "test", "test", "test", "test"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--launcher", "slrum"], "unknown launcher (LAUNCHER): 'slrum'. Did you mean slurm? Allowed: local, slurm"),
        (["--slurm", "time=5"], "--slurm is for LAUNCHER slurm, which is 'local'"),
        (["--launcher", "slurm"], "SLURM needs time=..., for a training with its tests: minutes (90) or D-HH:MM:SS"),
        ([*WORDS, "--slurm", "partion=a"], "unknown key of SLURM: 'partion'. Did you mean partition"),
        (
            [*WORDS, "--slurm", "gpus_per_nod=1"],
            "Allowed: account, additional_parameters, comment, constraint, cpus_per",
        ),
        ([*WORDS, "--slurm", "a100"], "SLURM takes KEY=VALUE or FILE.yaml, got 'a100'"),
        ([*WORDS, "nowhere.yaml"], "SLURM cannot be read from nowhere.yaml: "),
        ([*WORDS, "partition="], "SLURM: partition must be one value, got ''"),
        ([*WORDS, "cpus_per_task=two"], "SLURM: cpus_per_task must be a whole number, got 'two'"),
        ([*WORDS, "time=1h"], "SLURM: time must be minutes or D-HH:MM:SS, more than none, got '1h'"),
        ([*WORDS, "nodes=2"], "SLURM cannot have nodes: a job is one process"),
        ([*WORDS, "array_parallelism=2"], "SLURM cannot have array_parallelism: JOBS sets it"),
        ([*WORDS, "additional_parameters=1"], "SLURM: additional_parameters must map options of sbatch to values"),
        ([*WORDS, "--output", "/tmp/50%"], "OUTPUT must have no % in its path, which SLURM replaces: /tmp/50%"),
        ([*WORDS, "--output", "/dev/null/x"], "Not a directory: '/dev/null/x"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_submitted(machine, capfd, words, message):
    assert runner.main(["benchmark", "base2new", *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (machine.parent / "out").exists()


def test_settings_in_the_environment(monkeypatch, tmp_path):
    for name in plan.DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LAUNCHER", "slurm")
    monkeypatch.setenv("SLURM", "time=5 comment='two words'")
    opts = plan.read_settings([])
    assert cluster.read_parameters(opts.slurm) == {"time": 5, "comment": "two words"}
    assert (opts.jobs, plan.read_settings(["--jobs", "3"]).jobs) == (256, 3)
    opts = plan.read_settings(["--slurm", "time=6", "--seeds", "1", "--slurm", "comment=a b", "OPTIM.LR", "1"])
    assert cluster.read_parameters(opts.slurm) == {"time": 6, "comment": "a b"}
    assert plan.read_settings(["--launcher", "local"]).jobs == 1  # what SLURM holds then, nobody asks


def test_a_file_of_settings(tmp_path):
    file = tmp_path / "slurm.yaml"
    file.write_text("time: 1:30:00\npartition: on\nsetup: [module load cuda, nvidia-smi]\nexclusive: true\nmem: 16GB\n")
    expected = {"time": 90, "partition": "on", "setup": ["module load cuda", "nvidia-smi"], "exclusive": True}
    assert cluster.read_parameters(f"{file} mem=8GB") == {**expected, "mem": "8GB"}
    file.write_text("- time")
    with pytest.raises(ValueError, match="must map keys to values"):
        cluster.read_parameters(str(file))
    file.write_text("a: [")
    with pytest.raises(ValueError, match="SLURM cannot be read from"):
        cluster.read_parameters(str(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("90:30", 91), ("1:30:00", 90), ("1-2", 1560), ("1-2:30", 1590), ("1-02:30:01", 1591), ("0:30", 1)],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, expected):
    assert cluster.minutes(text) == expected


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program on an otherwise empty PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, script):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(stat.S_IRWXU)

    return put


def test_a_machine_without_slurm(program, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    assert runner.main(["train", "shapes", "base2new", *WORDS]) == 2
    assert "error: no sbatch on PATH: LAUNCHER slurm is for a machine that submits to" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_sbatch_gets_and_what_it_refuses(program, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OUTPUT", str(tmp_path / "an out"))
    for name in ("srun", "squeue"):
        program(name, "exit 0")
    program("sbatch", "echo 'sbatch: error: invalid partition specified: a100' >&2; exit 1")
    words = ["train", "shapes", "base2new", *WORDS, "partition=a100", "setup=[module load cuda]", "--jobs", "2"]
    assert runner.main(words) == 2
    assert "error: sbatch refused: sbatch: error: invalid partition specified: a100" in capfd.readouterr().err
    program("sbatch", f'/bin/cp "$1" {tmp_path}/script; echo "Submitted batch job 77"')
    monkeypatch.setattr(cluster, "POLL_SEC", 0)
    assert runner.main(words) == 1  # squeue knows of no job
    assert "job 77_0 ended without /" in capfd.readouterr().err
    script = (tmp_path / "script").read_text().splitlines()
    log = f"{tmp_path}/an out/submitit/%A_%a_0_log"
    expected = ["array=0-2%2", "partition=a100", "time=5", "job-name=gopro", "open-mode=append", f"output='{log}.out'"]
    assert {f"#SBATCH --{line}" for line in expected} <= set(script)
    assert script.index(f"export PYTHONPATH={definitions.ROOT}:$PYTHONPATH") < script.index("module load cuda")


def test_which_jobs_live(program):
    program("squeue", '[ "$*" = "--noheader --array --format=%i %T --jobs=7,9" ] && echo 7_0 RUNNING && echo 9 PENDING')
    assert cluster.living({"7_0", "7_1", "9"}) == {"7_0": "RUNNING", "9": "PENDING"}
    program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert cluster.living({"7_0"}) == {}
    program("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(runner.RunError, match="squeue failed: .* Unable to contact slurm controller"):
        cluster.living({"7_0"})
    assert cluster.living(set()) == {}


def test_submitit_is_imported_for_jobs_alone():
    code = "import sys; from protocols import runner; runner.main(sys.argv[1:]); print('submitit' in sys.modules)"
    command = [sys.executable, "-c", code, "train", "shapes", "base2new"]
    env = {**os.environ, "DRY_RUN": "1"}
    out = subprocess.run(command, cwd=definitions.ROOT, env=env, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "False"
