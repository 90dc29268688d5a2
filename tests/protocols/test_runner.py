import json
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from protocols import runner
from protocols.plan import DEFAULTS, plan, read_settings, split_flags

SCRIPTS = runner.definitions.ROOT / "scripts"


@pytest.fixture
def fake_train(monkeypatch, tmp_path):
    """Replaces train.py; returns the folders it was called with. It fails on those in `calls.failing`."""

    class Calls(list):
        failing = ()

    calls = Calls()

    def execute(argv, tick=None):
        folder = Path(argv[argv.index("--output-dir") + 1])
        calls.append(folder)
        if any(word in str(folder) for word in calls.failing):
            return 1
        (folder / "prompt_learner").mkdir()
        (folder / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1")
        (folder / "results.json").write_text(json.dumps({"results": {"accuracy": 50.0}}))
        (folder / "done").touch()
        return 0

    for name in (*DEFAULTS, "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    monkeypatch.setattr(runner, "execute", execute)
    return calls


def names(calls, tmp_path):
    return [str(folder.relative_to(tmp_path)) for folder in calls]


def test_train_then_test_use_the_documented_folders(fake_train, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDS", "0 2")
    assert runner.main(["train", "shapes", "base2new"]) == 0
    assert runner.main(["test", "shapes", "basenew"]) == 0
    assert names(fake_train, tmp_path) == [
        "base2new/train_base/shapes/shots_16/GOPro/tiny/seed0",
        "base2new/train_base/shapes/shots_16/GOPro/tiny/seed2",
        "base2new/test_new/shapes/shots_16/GOPro/tiny/seed0",
        "base2new/test_new/shapes/shots_16/GOPro/tiny/seed2",
    ]


def test_finished_runs_are_skipped_and_said_so(fake_train, capsys):
    for _ in range(2):
        assert runner.main(["train", "shapes", "base2new"]) == 0
    assert len(fake_train) == 3
    assert capsys.readouterr().out.count("skipped: finished before, accuracy 50.00 %") == 3


def test_unfinished_runs_are_handed_to_train_py_again(fake_train, tmp_path):
    runner.main(["train", "shapes", "base2new"])
    (tmp_path / "base2new/train_base/shapes/shots_16/GOPro/tiny/seed2/done").unlink()
    (tmp_path / "base2new/train_base/shapes/shots_16/GOPro/tiny/seed2/prompt_learner/checkpoint").unlink()
    (tmp_path / "base2new/train_base/shapes/shots_16/GOPro/tiny/seed2/prompt_learner").rmdir()
    fake_train.clear()
    assert runner.main(["train", "shapes", "base2new"]) == 0
    assert [folder.name for folder in fake_train] == ["seed2"]


def test_tests_never_train(fake_train, tmp_path, capsys):
    assert runner.main(["test", "digits", "cross-dataset"]) == 1
    assert "holds no checkpoint: run train.sh first" in capsys.readouterr().err
    runner.main(["train", "shapes", "cross-dataset"])
    for seed in (1, 2, 3):
        (tmp_path / f"cross-dataset/train_all/shapes/shots_16/GOPro/tiny/seed{seed}/done").unlink()
    fake_train.clear()
    assert runner.main(["test", "digits", "cross-dataset"]) == 1
    assert "is unfinished" in capsys.readouterr().err
    assert not fake_train
    assert runner.main(["test", "digits", "cross-dataset", "--load-epoch", "1"]) == 0
    assert len(fake_train) == 3


def test_a_finished_training_whose_checkpoint_is_gone_is_an_error(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    runner.main(["train", "shapes", "base2new"])
    (tmp_path / "base2new/train_base/shapes/shots_16/GOPro/tiny/seed1/prompt_learner/checkpoint").unlink()
    assert runner.main(["test", "shapes", "base2new"]) == 1
    assert "holds no checkpoint: run train.sh first (tests never train)" in capsys.readouterr().err
    assert len(fake_train) == 1


def test_flags_do_what_the_environment_does_and_win(fake_train, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDS", "7")
    monkeypatch.setenv("DATA", "unused")
    flags = ["--seeds", "1", "2", "--data", "Here.now", "--shots=4", "--trainer", "GOPro", "--cfg", "vit_b16"]
    rest = ["--transforms", "random_flip", "normalize", "OPTIM.LR", "0.1"]
    opts = read_settings([*flags, "--output", str(tmp_path / "mine"), *rest])
    assert (opts.seeds, opts.shots, opts.trainers, opts.cfg) == ((1, 2), 4, ("GOPro",), "vit_b16")
    assert (opts.data, opts.output) == (Path.cwd() / "Here.now", tmp_path / "mine")
    assert opts.extra == tuple(rest)
    assert runner.main(["train", "shapes", "base2new", *flags, "--cfg", "tiny"]) == 0
    assert names(fake_train, tmp_path) == [f"base2new/train_base/shapes/shots_4/GOPro/tiny/seed{n}" for n in (1, 2)]
    fake_train.clear()
    assert runner.main(["benchmark", "cross-dataset", "--datasets", "embedded", "--trainer", "ZeroshotCLIP"]) == 0
    assert len(fake_train) == 4


def test_a_flag_ends_at_the_next_flag_or_key():
    assert split_flags(["OPTIM.LR", "1", "--seeds", "1", "2", "OPTIM.MAX_EPOCH", "3"]) == (
        *({"SEEDS": "1 2"}, ["OPTIM.LR", "1", "OPTIM.MAX_EPOCH", "3"]),
    )
    assert split_flags(["--trainer", "A", "B", "--load-epoch", "3"]) == ({"TRAINER": "A B"}, ["--load-epoch", "3"])


def test_help_says_what_the_settings_are(fake_train, capsys):
    assert runner.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in DEFAULTS)
    assert not fake_train


def test_further_arguments_test_the_base_classes_again(fake_train, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDS", "1")
    runner.main(["train", "shapes", "base2new"])
    fake_train.clear()
    assert runner.main(["test", "shapes", "base2new", "TEST.COMPUTE_CMAT", "True"]) == 0
    assert [name.split("/")[1] for name in names(fake_train, tmp_path)] == ["test_base", "test_new"]


def test_benchmark_goes_on_after_a_failure_and_says_so(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DATASETS", "embedded")
    fake_train.failing = ("train_base/digits/shots_16/GOPro/tiny/seed2",)
    assert runner.main(["benchmark", "base2new"]) == 1
    done = names(fake_train, tmp_path)
    assert len(done) == 4 * 3 * 2 - 1  # a training and a test of each, less the test without weights
    assert "base2new/test_new/digits/shots_16/GOPro/tiny/seed2" not in done
    out, err = capsys.readouterr()
    assert "22 of 24 runs are finished" in out
    assert "[24/24]" in out
    assert "its training failed" in err
    fake_train.failing = ()
    fake_train.clear()
    assert runner.main(["benchmark", "base2new"]) == 0
    assert len(fake_train) == 2


def test_what_learns_nothing_is_tested_once(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAINER", "ZeroshotCLIP")
    assert runner.main(["train", "shapes", "base2new"]) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert runner.main(["test", "shapes", "base2new"]) == 0
    assert names(fake_train, tmp_path) == [
        "base2new/test_base/shapes/shots_0/ZeroshotCLIP/tiny/seed1",
        "base2new/test_new/shapes/shots_0/ZeroshotCLIP/tiny/seed1",
    ]


def test_pacs_is_tested_by_its_trainings(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    assert runner.main(["benchmark", "domain-generalization"]) == 0  # the paper's: imagenet and its variants
    assert len(fake_train) == 5
    fake_train.clear()
    assert runner.main(["train", "pacs", "domain-generalization"]) == 0
    assert runner.main(["test", "pacs", "domain-generalization"]) == 0
    assert len(fake_train) == 4
    assert "domain-generalization/train_all/pacs-cartoon+photo+sketch" in names(fake_train, tmp_path)[0]
    assert capsys.readouterr().out.count("tested at the end of training") == 4


@pytest.mark.parametrize("command", ["train", "test"])
def test_arguments_are_what_train_py_reads(fake_train, monkeypatch, command):
    import train

    monkeypatch.setenv("DATA", "images")
    opts = read_settings(["--transforms", "random_flip", "normalize", "OPTIM.MAX_EPOCH", "2", "USE_CUDA", "False"])
    runs = plan(opts, "domain-generalization", "shapes")
    args = train.build_parser().parse_args(next(run for run in runs if run.kind == command and run.argv).argv)
    assert args.root == str(Path.cwd() / "images")
    assert (args.seed, args.trainer, args.eval_only) == (1, "GOPro", command == "test")
    assert args.source_domains == ["photo"]
    assert args.target_domains == ["photo" if command == "train" else "sketch"]
    assert args.transforms == ["random_flip", "normalize"]
    keys = ["DATASET.SUBSAMPLE_CLASSES", "all", *(["DATASET.NUM_SHOTS", "16"] if command == "train" else [])]
    assert args.opts == [*keys, "OPTIM.MAX_EPOCH", "2", "USE_CUDA", "False"]
    assert Path(args.config_file).exists()
    assert bool(args.model_dir) == (command == "test")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "unknown command"),
        (["fly", "shapes", "base2new"], "unknown command"),
        (["train", "shapes"], "train.sh needs DATASET TASK first"),
        (["benchmark", "--seeds", "1"], "benchmark.sh needs TASK first"),
        (["train", "shapes", "base2new", "--seeds", "--shots", "4"], "--seeds needs a value"),
        (["train", "shapes", "base2new", "--shots", "4", "8"], "SHOTS must be one whole number, got '4 8'"),
        (["train", "shape", "base2new"], "Did you mean shapes"),
        (["train", "shapes", "base"], "unknown task"),
        (["train", "dtd", "cross-dataset"], "Allowed: imagenet, shapes"),
        (["train", "shapes", "base2new", "--seed", "4"], "--seed is set by SEEDS"),
        (["train", "shapes", "base2new", "DATASET.NUM_SHOTS", "4"], "is set by SHOTS"),
    ],
)
def test_wrong_usage(fake_train, capsys, argv, message):
    assert runner.main(argv) == 2
    assert message in capsys.readouterr().err
    assert not fake_train


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SEEDS", "1,2", "SEEDS must be whole numbers"),
        ("SHOTS", "all", "SHOTS must be"),
        ("TRAINER", "GoPro", "Did you mean GOPro"),
        ("CFG", "vit_b61", "Did you mean vit_b16"),
    ],
)
def test_wrong_environment(fake_train, monkeypatch, capsys, name, value, message):
    monkeypatch.setenv(name, value)
    assert runner.main(["train", "shapes", "base2new"]) == 2
    assert message in capsys.readouterr().err


def test_a_busy_run_is_waited_for_and_then_skipped(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    folder = tmp_path / "base2new/train_base/shapes/shots_16/GOPro/tiny/seed1"
    with runner.locked(folder):
        other = threading.Thread(target=runner.main, args=(["train", "shapes", "base2new"],))
        other.start()
        time.sleep(0.2)
        assert other.is_alive()
        assert not fake_train
        (folder / "done").touch()
    other.join(5)
    assert not fake_train
    out = capsys.readouterr().out
    assert "another process is at work" in out
    assert "skipped" in out


def test_execute_runs_main_in_a_child_and_reports_errors(monkeypatch, capfd):
    def main(argv):
        print("called with", argv)
        if argv == ["bad"]:
            raise ValueError("no such key")

    for name in ("train", "trainers", "datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["train"].main = main
    if sys.platform == "linux":
        assert runner.execute(("good",)) == 0
        assert runner.execute(("bad",)) == 1
        out, err = capfd.readouterr()
        assert "called with ['good']" in out
        assert "train.py: ValueError: no such key" in err
        ticks = []
        assert runner.execute(("quiet",), lambda: ticks.append(1)) == 0
        assert runner.execute(("bad",), lambda: ticks.append(1)) == 1
        out, err = capfd.readouterr()
        assert len(ticks) >= 2
        assert "called with" not in out
        assert "train.py: ValueError: no such key" in err


def test_the_line_of_overall_progress(monkeypatch, capsys):
    seconds = iter([0, 0, 0, 60, 60, 60, 90])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(runner.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    progress = runner.Progress(3)
    progress.begin("one")
    progress.end()
    progress.begin("two")
    progress.tick()
    assert capsys.readouterr().out.removesuffix("\n").split("\n") == [
        "[1/3] one · 0:00:00 gone",
        "[2/3] two · 0:01:00 gone, abo",
        "\033[A\r\033[K[2/3] two · 0:01:30 gone, abo",
    ]
    monkeypatch.setenv("COLUMNS", "100")
    seconds = iter([100])
    assert progress.line() == "[2/3] two · 0:01:40 gone, about 0:01:20 left"


@pytest.mark.parametrize("script", ["train", "test"])
def test_shell_scripts_work_from_any_folder(tmp_path, script):
    env = {**os.environ, "PYTHON": sys.executable, "DRY_RUN": "1", "SEEDS": "1", "OUTPUT": "here"}
    command = ["bash", str(SCRIPTS / f"{script}.sh"), "shapes", "domain-generalization", "OPTIM.LR", "0.1"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"--output-dir {tmp_path}/here/domain-generalization/{script}_all/shapes-photo" in result.stdout
    assert not (tmp_path / "here").exists()


def test_shell_scripts_report_wrong_arguments(tmp_path):
    env = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(SCRIPTS / "benchmark.sh"), "base3new"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Allowed: base2new, cross-dataset, domain-generalization" in result.stderr
    result = subprocess.run(command, cwd=tmp_path, env={**env, "PYTHON": "/no/python"}, capture_output=True, text=True)
    assert result.returncode == 2
    assert "/no/python is not there" in result.stderr
