"""The scripts with real processes: the protocols in small, two benchmarks at once, a kill, real images."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protocols import definitions
from protocols.aggregate import TITLES, all_tables
from protocols.records import read_runs

ROOT = definitions.ROOT
REAL_IMAGES = os.environ.get("GOPRO_TEST_DATA", "")
SMALL = ["--shots", "1", "OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0"]
# The runner with few pictures per class, over the tasks that the first argument names.
DRIVER = """
import sys
from datasets import shapes
from protocols import runner
shapes.IMAGES.update(train=2, val=1, test=2)
sys.exit(max(runner.main(["benchmark", task, *sys.argv[2:]]) for task in sys.argv[1].split()))
"""
# The runner with a train.py that takes a moment and cannot bear company.
SLOW_FAKE = """
import json, multiprocessing, sys, time
from pathlib import Path
from protocols import runner
def work(argv):
    folder = Path(argv[argv.index("--output-dir") + 1])
    (folder / "at_work").touch(exist_ok=False)
    time.sleep(0.05)
    (folder / "learner").mkdir()
    (folder / "learner" / "checkpoint").touch()
    (folder / "results.json").write_text(json.dumps({"results": {"accuracy": 50.0}}))
    (folder / "done").touch()
    (folder / "at_work").unlink()
def launch(argv, quiet, share):
    child = multiprocessing.get_context("fork").Process(target=work, args=(argv,))
    child.start()
    return child
runner.launch = launch
sys.exit(runner.main(["benchmark", "base2new", *sys.argv[1:]]))
"""


def environment(tmp_path, **changes):
    env = {name: value for name, value in os.environ.items() if name not in {"CFG", "SHOTS", "TRAINER", "DRY_RUN"}}
    env |= {"DATA": str(tmp_path / "data"), "OUTPUT": str(tmp_path / "output"), "SEEDS": "1", "PYTHON": sys.executable}
    return env | changes


def start(command, env, **options):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes, **options)


def finish(process, status=0):
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, f"{out}\n{err}"
    return out, err


def script(name, *words):
    return ["bash", f"scripts/{name}.sh", *words]


def test_two_benchmarks_at_once_share_the_runs(tmp_path):
    env = environment(tmp_path, DATASETS="shapes counts", SEEDS="1 2 3 4")
    both = [start([sys.executable, "-c", SLOW_FAKE], env) for _ in range(2)]
    outs = [finish(process)[0] for process in both]
    assert all("16 of 16 runs are finished" in out for out in outs)
    assert sum(out.count("skipped: finished before") for out in outs) == 16  # each run was done by one of them


@pytest.mark.slow
def test_two_benchmarks_at_once_with_real_trainings(tmp_path):
    env = environment(tmp_path, SEEDS="1 2")
    command = script("benchmark", "base2new", "--datasets", "counts", *SMALL)
    outs = [finish(process)[0] for process in [start(command, env) for _ in range(2)]]
    assert sum(out.count("skipped: finished before") for out in outs) == 4
    runs, problems = read_runs(tmp_path / "output")
    assert len(runs) == 4
    assert not problems
    for run in runs:
        assert (run.folder / "log.txt").read_text().count("Run folder:") == 1
    assert not list((tmp_path / "data").glob(".*"))  # no half-drawn pictures are left


@pytest.mark.slow
def test_the_protocols_and_their_tables(tmp_path):
    env = environment(tmp_path, DATASETS="embedded", TRAINER="GOPro ZeroshotCLIP")
    out, _ = finish(start([sys.executable, "-c", DRIVER, " ".join(definitions.TASKS), *SMALL], env))
    assert re.findall(r"(\d+) of (\d+) runs are finished", out) == [("16", "16"), *[("8", "8")] * 3]
    runs, problems = read_runs(tmp_path / "output")
    assert not problems
    tables = all_tables(runs, tmp_path / "output", None)
    assert [table.title.partition(" from")[0] for table in tables] == list(TITLES.values())
    for table in tables[::3]:
        assert [row[0] for row in table.rows] == [n for n in (*definitions.RENDERED, "average of 4") for _ in range(2)]
    assert [table.header[1:] for table in tables[1:3]] == [
        ["shapes (source)", "patterns", "digits", "counts", "average of 3"],
        ["shapes-photo (source)", "shapes-sketch", "shapes-painting", "shapes-cartoon", "average of 3"],
    ]
    assert [[row[0] for row in table.rows] for table in tables[1:3]] == [["ZeroshotCLIP", "GOPro"]] * 2
    for table in tables:
        assert None not in [cell for row in table.rows for cell in row]
        assert not any("missing" in note for note in table.notes)


@pytest.mark.slow
def test_a_killed_training_is_not_tested_and_goes_on(tmp_path):
    env = environment(tmp_path)
    words = ["counts", "base2new", "DATALOADER.NUM_WORKERS", "0", "OPTIM.MAX_EPOCH", "6"]
    folder = tmp_path / "output/base2new/train_base/counts/shots_16/GOPro/tiny/seed1"
    process = start(script("train", *words), env, start_new_session=True)
    while not list(folder.glob("gopro/checkpoint")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "done").exists()
    _, err = finish(start(script("test", *words[:2]), env), 1)
    assert "is unfinished: run train.sh first (tests never train)" in err
    out, _ = finish(start(script("train", *words), env))
    assert re.search(r"Resuming from .* after epoch [1-5]", out)
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [step["step"] for step in steps if step["split"] == "train"]
    assert trained == sorted(set(trained))
    assert {step["epoch"] for step in steps} == {1, 2, 3, 4, 5, 6}
    out, _ = finish(start(script("test", *words[:2]), env))
    assert "tested at the end of training, accuracy" in out
    out, _ = finish(start(script("train", *words), env))
    assert "skipped: finished before" in out


@pytest.mark.slow
@pytest.mark.skipif(not REAL_IMAGES, reason="GOPRO_TEST_DATA names no folder of real images")
def test_pacs_leave_one_domain_out_from_a_read_only_folder(tmp_path):
    pacs = tmp_path / "data" / "pacs"
    pacs.mkdir(parents=True)
    (pacs / "images").symlink_to(Path(REAL_IMAGES, "pacs", "images").resolve())
    pacs.chmod(0o555)
    env = environment(tmp_path, CFG="tiny", DATASETS="pacs", TRAINER="GOPro ZeroshotCLIP")
    finish(start(script("train", "pacs", "domain-generalization", "--trainer", "GOPro", *SMALL), env))
    out, _ = finish(start(script("test", "pacs", "domain-generalization", "--trainer", "GOPro", "--shots", "1"), env))
    assert out.count("tested at the end of training") == 4
    out, _ = finish(start(script("benchmark", "domain-generalization", *SMALL), env))
    assert out.count("skipped: finished before") == 4
    assert "8 of 8 runs are finished" in out
    assert [path.name for path in pacs.iterdir()] == ["images"]
    command = [sys.executable, "scripts/report.py", str(tmp_path / "output"), "--format", "csv"]
    out, err = finish(start(command, env))
    header, *lines = csv.reader(out.splitlines())
    domains = ["pacs-art_painting", "pacs-cartoon", "pacs-photo", "pacs-sketch", "average of 4"]
    assert [name for name in header[2:] if not name.endswith((" ci95", " seeds"))] == domains
    assert [line[1] for line in lines] == ["ZeroshotCLIP", "GOPro"]
    columns = [header.index(name) for name in domains]
    assert all(0 <= float(line[column]) <= 100 for line in lines for column in columns)
    assert "missing" not in err and "not counted" not in err
