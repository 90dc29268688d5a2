import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import yaml

from dassl.config import flatten
from protocols import definitions, launch, runner
from protocols.plan import DEFAULTS, plan, read_settings, split_flags

SCRIPTS = runner.definitions.ROOT / "scripts"


@pytest.fixture
def fake_train(monkeypatch, tmp_path):
    """Replaces train.py; returns the folders it was called with. It fails on those in `calls.failing`."""

    class Calls(list):
        failing = ()

    calls = Calls()
    calls.shares = []

    def train(argv):
        folder = Path(argv[argv.index("--output-dir") + 1])
        calls.append(folder)
        if any(word in str(folder) for word in calls.failing):
            return 1
        (folder / "prompt_learner").mkdir()
        (folder / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1")
        (folder / "results.json").write_text(json.dumps({"results": {"accuracy": 50.0}}))
        (folder / "done").touch()
        return 0

    def launch(argv, quiet, share):
        calls.shares.append(share)
        ended, writer = multiprocessing.Pipe(duplex=False)
        writer.close()
        return types.SimpleNamespace(exitcode=train(argv), sentinel=ended)

    for name in (*DEFAULTS, "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OUTPUT", str(tmp_path))
    monkeypatch.setattr(runner, "launch", launch)
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
    assert (opts.seeds, opts.shots, opts.trainers, opts.cfg) == ((1, 2), (4,), ("GOPro",), "vit_b16")
    assert (opts.data, opts.output) == (Path.cwd() / "Here.now", tmp_path / "mine")
    assert (*opts.flags, *opts.pairs) == tuple(rest)
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


def test_few_shot_trains_once_for_each_number_of_shots(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    assert runner.main(["train", "digits", "few-shot"]) == 0
    shots = [1, 2, 4, 8, 16]
    assert names(fake_train, tmp_path) == [f"few-shot/train_all/digits/shots_{k}/GOPro/tiny/seed1" for k in shots]
    assert "train digits (all classes, 1 shot), GOPro/tiny, seed1" in capsys.readouterr().out
    assert runner.main(["test", "digits", "few-shot"]) == 0
    assert capsys.readouterr().out.count("tested at the end of training") == 5
    assert runner.main(["test", "digits", "few-shot", "--shots", "4", "8", "TEST.COMPUTE_CMAT", "True"]) == 0
    tests = [name for name in names(fake_train, tmp_path) if "/test_" in name]
    assert tests == [f"few-shot/test_all/digits/shots_{k}/GOPro/tiny/seed1" for k in (4, 8)]
    (run,) = [run for run in plan(read_settings(["--shots=2"]), "few-shot", "digits") if run.kind == "train"]
    assert run.argv[run.argv.index("DATASET.NUM_SHOTS") + 1] == "2"


def test_few_shot_benchmark(fake_train, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEDS", "1")
    words = ["--datasets", "shapes", "counts", "--trainer", "ZeroshotCLIP", "GOPro", "--shots", "1", "16"]
    assert runner.main(["benchmark", "few-shot", *words]) == 0
    assert names(fake_train, tmp_path) == [
        "cross-dataset/test_all/shapes/shots_0/ZeroshotCLIP/tiny/seed1",  # where cross-dataset finds it
        "cross-dataset/train_all/shapes/shots_1/GOPro/tiny/seed1",
        "cross-dataset/train_all/shapes/shots_16/GOPro/tiny/seed1",
        "few-shot/test_all/counts/shots_0/ZeroshotCLIP/tiny/seed1",
        "few-shot/train_all/counts/shots_1/GOPro/tiny/seed1",
        "few-shot/train_all/counts/shots_16/GOPro/tiny/seed1",
    ]
    fake_train.clear()
    assert runner.main(["train", "shapes", "cross-dataset"]) == 0
    assert not fake_train


@pytest.fixture
def made_up_methods(monkeypatch, tmp_path):
    """A folder of configs: Learner has configs of its own, Tiny no vit_b16, Zero learns nothing."""
    root = tmp_path / "root"
    for name in ("Learner/tiny", "Learner/tiny_transfer", "Learner/vit_b16", "Tiny/tiny", "Zero/tiny", "Zero/vit_b16"):
        path = root / "configs" / "trainers" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name.startswith("Zero") else "OPTIM: {LR: 1}")
    for name in ("shapes", "dtd"):
        (root / "configs" / "datasets").mkdir(exist_ok=True)
        (root / "configs" / "datasets" / f"{name}.yaml").touch()
    definitions.learns.cache_clear()
    for module in (definitions, sys.modules["protocols.plan"]):
        monkeypatch.setattr(module, "ROOT", root)
    yield
    definitions.learns.cache_clear()


@pytest.mark.usefixtures("made_up_methods")
def test_all_methods_and_the_configs_that_fit_the_task(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    assert runner.main(["benchmark", "cross-dataset", "--datasets", "shapes", "--trainer", "all"]) == 0
    kinds = [name.split("/")[1:6] for name in names(fake_train, tmp_path)]
    own = [kind for kind in kinds if kind[1] == "shapes"]
    assert own == [
        ["test_all", "shapes", "shots_0", "Zero", "tiny"],
        ["train_all", "shapes", "shots_16", "Learner", "tiny_transfer"],
        ["train_all", "shapes", "shots_16", "Tiny", "tiny"],
    ]
    assert "left out" not in capsys.readouterr().out
    fake_train.clear()
    assert runner.main(["benchmark", "base2new", "--datasets", "dtd", "--trainer=all"]) == 0
    assert {name.split("/")[4] for name in names(fake_train, tmp_path)} == {"Zero", "Learner"}
    assert "left out, without a config vit_b16: Tiny\n" in capsys.readouterr().out


@pytest.mark.usefixtures("made_up_methods")
def test_all_methods_with_a_config_of_ones_choice(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAINER", "all")
    monkeypatch.setenv("CFG", "tiny_transfer")
    assert runner.main(["train", "shapes", "base2new", "--seeds", "1"]) == 0
    assert names(fake_train, tmp_path) == ["base2new/train_base/shapes/shots_16/Learner/tiny_transfer/seed1"]
    assert "left out, without a config tiny_transfer: Zero, Tiny\n" in capsys.readouterr().out
    monkeypatch.setenv("CFG", "tiny_tranfser")
    assert runner.main(["train", "shapes", "base2new"]) == 2
    assert "unknown config (CFG): 'tiny_tranfser'. Did you mean tiny_transfer" in capsys.readouterr().err
    monkeypatch.setenv("TRAINER", "Tiny")
    monkeypatch.setenv("CFG", "vit_b16")
    assert runner.main(["train", "shapes", "base2new"]) == 2
    assert "unknown config (CFG) of Tiny: 'vit_b16'. Allowed: tiny" in capsys.readouterr().err


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
    keys = ["DATASET.SUBSAMPLE_CLASSES", "all", "TEST.FEATURE_CACHE", str(opts.output / "features")]
    keys += ["DATASET.NUM_SHOTS", "16"] if command == "train" else []
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
        (
            ["train", "shapes", "base2new", "--shots", "4", "8"],
            "one whole number for base2new, got '4 8'",
        ),
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
        ("SEEDS", " ", "SEEDS must be whole numbers from 0 with spaces between them, got ' '"),
        ("SHOTS", "all", "SHOTS must be whole numbers from 1 with spaces between them, got 'all'"),
        ("SHOTS", "0", "SHOTS must be whole numbers from 1 with spaces between them, got '0'"),
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
    with runner.hold(folder):
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


def test_a_child_runs_main_and_reports_errors(monkeypatch, capfd):
    def main(argv):
        print("called with", argv)
        if argv == ["bad"]:
            raise ValueError("no such key")

    for name in ("train", "trainers", "datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["train"].main = main
    if sys.platform == "linux":
        assert status_of(launch.launch(("good",), False, launch.Share())) == 0
        assert status_of(launch.launch(("bad",), False, launch.Share())) == 1
        out, err = capfd.readouterr()
        assert "called with ['good']" in out
        assert "train.py: ValueError: no such key" in err
        assert status_of(launch.launch(("quiet",), True, launch.Share())) == 0
        assert status_of(launch.launch(("bad",), True, launch.Share())) == 1
        out, err = capfd.readouterr()
        assert "called with" not in out
        assert "train.py: ValueError: no such key" in err


def status_of(child):
    child.join(30)
    return child.exitcode


@pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux")
def test_a_run_has_its_share_of_the_machine(monkeypatch, capfd):
    import torch

    def main(argv):
        print(os.environ.get("CUDA_VISIBLE_DEVICES"), torch.get_num_threads())

    for name in ("train", "trainers", "datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["train"].main = main
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-7")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert launch.shares(1) == [launch.Share()]
    assert launch.shares(3) == [launch.Share(2, "4"), launch.Share(2, "GPU-7"), launch.Share(2, "4")]
    assert launch.shares(8)[0].threads == 1
    for share in launch.shares(3)[1:]:
        assert status_of(launch.launch((), False, share)) == 0
    assert capfd.readouterr().out.split() == ["GPU-7", "2", "4", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch.shares(2) == [launch.Share(3), launch.Share(3)]


def test_several_runs_at_once_end_as_one_after_another(monkeypatch, tmp_path, capsys):
    """Never more than JOBS at once, and no test before its training is done."""
    started, at_work, most = [], set(), [0]

    class Child:
        def __init__(self, argv):
            self.folder, self.left, self.status = Path(argv[argv.index("--output-dir") + 1]), len(started) % 3, None
            self.reader, writer = multiprocessing.Pipe(duplex=False)
            writer.close()
            if "--model-dir" in argv:
                assert (Path(argv[argv.index("--model-dir") + 1]) / "done").exists()
            started.append(self.folder)
            at_work.add(self.folder)
            most[0] = max(most[0], len(at_work))

        sentinel = property(lambda self: self.reader)

        @property
        def exitcode(self):
            self.left -= 1
            if self.left < 0 and self.folder in at_work:
                at_work.remove(self.folder)
                self.status = int("digits" in str(self.folder) and "seed2" in str(self.folder))
                if not self.status:
                    (self.folder / "learner").mkdir()
                    (self.folder / "learner" / "checkpoint").touch()
                    (self.folder / "results.json").write_text(json.dumps({"results": {"accuracy": 50.0}}))
                    (self.folder / "done").touch()
            return self.status

    for name in (*DEFAULTS, "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runner, "launch", lambda argv, quiet, share: Child(argv))
    words = ["benchmark", "base2new", "--output", str(tmp_path), "--datasets", "embedded", "--jobs", "3"]
    assert runner.main(words) == 1
    assert most == [3]
    assert len(started) == len(set(started)) == 4 * 3 * 2 - 1
    out, err = capsys.readouterr()
    assert "22 of 24 runs are finished" in out
    assert err.count("\nFAILED") == 2


def test_a_run_that_another_process_took_over_is_ended(monkeypatch, tmp_path, capsys):
    class Child:
        exitcode, sentinel = None, multiprocessing.Pipe(duplex=False)[0]

        def terminate(self):
            self.exitcode = 1

        def join(self, *_):
            assert self.exitcode

        kill = terminate

    def hold_and_lose(folder):
        lock = hold(folder)
        lock.lost = True
        return lock

    for name in (*DEFAULTS, "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    hold = runner.hold
    monkeypatch.setattr(runner, "hold", hold_and_lose)
    monkeypatch.setattr(runner, "launch", lambda *_: Child())
    assert runner.main(["train", "shapes", "base2new", "--seeds", "1", "--output", str(tmp_path)]) == 1
    assert "seed1 over, because this one was away for too long" in capsys.readouterr().err


def test_the_line_of_overall_progress(monkeypatch, capsys):
    seconds = iter([0, 0, 60, 60, 90])
    monkeypatch.setattr(runner.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(runner.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    progress = runner.Progress(3)
    progress.begin("one")
    progress.end(began=0)
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
    progress.jobs, seconds = 2, iter([80])
    assert progress.line() == "[2/3] two · 0:01:20 gone, about 0:00:40 left"


def config_of(run):
    """What train.py keeps of a run that these arguments start."""
    import train

    cfg = train.build_config(train.parse_args(list(run.argv)))
    return yaml.safe_load(cfg.dump())


@pytest.fixture
def finished(fake_train, tmp_path, monkeypatch):
    """The folder of a finished training with a config.yaml, and how to change a key of that file."""
    monkeypatch.setenv("SEEDS", "1")
    assert runner.main(["train", "shapes", "base2new"]) == 0
    (run,) = [run for run in plan(read_settings([]), "base2new", "shapes") if run.kind == "train"]

    def change(**keys):
        tree = config_of(run)
        for key, value in keys.items():
            *path, leaf = key.split("__")
            node = tree
            for part in path:
                node = node[part]
            node.pop(leaf) if value is None else node.__setitem__(leaf, value)
        (run.folder / "config.yaml").write_text(yaml.safe_dump(tree))

    change(INPUT__SIZE=[32, 32])  # as the backbone has it
    fake_train.clear()
    return change


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["DATALOADER.NUM_WORKERS", "0"],
        ["--data", "/elsewhere"],
        ["OPTIM.LR", "0.002"],
        ["OPTIM.LR", "2e-3", "--output", "{}"],
    ],
)
def test_words_that_change_nothing_leave_a_finished_run(finished, tmp_path, capsys, words):
    assert runner.main(["train", "shapes", "base2new", *(word.format(tmp_path) for word in words)]) == 0
    assert "skipped: finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["train", "shapes", "base2new"], ["benchmark", "base2new", "--datasets", "shapes"]]
)
def test_other_arguments_for_a_finished_run_are_refused_before_any_work(finished, fake_train, capsys, command):
    words = ["--seeds", "2", "1", "OPTIM.LR", "0.5", "--transforms", "normalize"]
    assert runner.main([*command, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "seed1 holds a finished run with another config" in line
    assert "OPTIM.LR was 0.002, is 0.5 now" in line
    assert "INPUT.TRANSFORMS was ['random_resized_crop', 'random_flip', 'normalize'], is ['normalize'] now" in line
    assert line.endswith("choose another OUTPUT, or remove that folder to run it anew")
    assert not fake_train


def test_an_edited_config_file_is_noticed_and_a_key_that_came_later_had_its_default(finished, capsys):
    finished(OPTIM__LR=0.7, OPTIM__GAMMA=None, TRAINER__ZSCLIP=None)
    assert runner.main(["train", "shapes", "base2new"]) == 2
    assert "(OPTIM.LR was 0.7, is 0.002 now)" in capsys.readouterr().err
    finished(OPTIM__GAMMA=None, TRAINER__ZSCLIP=None)
    assert runner.main(["train", "shapes", "base2new"]) == 0
    assert runner.main(["train", "shapes", "base2new", "OPTIM.GAMMA", "0.3"]) == 2
    assert "(OPTIM.GAMMA was 0.1, is 0.3 now)" in capsys.readouterr().err


def test_normalize_which_a_trainer_adds_makes_no_other_run(finished, capsys):
    finished()
    words = ["train", "shapes", "base2new", "--transforms", "random_resized_crop", "random_flip"]
    assert runner.main(words) == 0 and "skipped: finished before" in capsys.readouterr().out
    assert runner.main(words[:-1]) == 2


def test_a_test_of_weights_that_were_trained_anew_in_another_way_is_refused(finished, fake_train, tmp_path, capsys):
    assert runner.main(["test", "shapes", "base2new"]) == 0
    jobs = [run for run in plan(read_settings([]), "base2new", "shapes") if run.argv and run.split.classes == "new"]
    folder = jobs[0].folder
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(jobs[0])))
    trained = flatten(yaml.safe_load((jobs[0].weights / "config.yaml").read_text()))
    (folder / "results.json").write_text(json.dumps({"train": {"settings": trained}, "results": {"accuracy": 50.0}}))
    assert runner.main(["test", "shapes", "base2new"]) == 0
    finished(OPTIM__LR=0.7)
    assert runner.main(["test", "shapes", "base2new"]) == 2
    assert "in its weights' training, OPTIM.LR was 0.002, is 0.7 now" in capsys.readouterr().err


def test_a_folder_of_ones_own_images_is_what_was_trained_on(fake_train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEEDS", "1")
    words = ["image_folder", "base2new", "--cfg", "tiny", "--data"]
    link = tmp_path / "link"
    link.symlink_to("/a/cats")
    assert runner.main(["train", *words, "/a/cats"]) == 0
    (run,) = [r for r in plan(read_settings(words[2:] + ["/a/cats"]), "base2new", "image_folder") if r.kind == "train"]
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config_of(run)))
    assert runner.main(["train", *words, "/a/cats"]) == 0
    assert runner.main(["train", *words, str(link)]) == 0
    assert runner.main(["train", *words, "/a/birds"]) == 2
    assert "DATASET.ROOT was '/a/cats', is '/a/birds' now" in capsys.readouterr().err


def test_a_run_that_another_process_finished_meanwhile_is_compared_too(finished, tmp_path, capsys):
    done = tmp_path / "base2new/train_base/shapes/shots_16/GOPro/tiny/seed1/done"
    done.unlink()
    with runner.hold(done.parent):
        status = []
        words = ["train", "shapes", "base2new", "OPTIM.LR", "0.5"]
        other = threading.Thread(target=lambda: status.append(runner.main(words)))
        other.start()
        time.sleep(0.3)
        done.touch()
    other.join(10)
    assert status == [1]
    assert "OPTIM.LR was 0.002, is 0.5 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["OPTIM.LR"], "OPTIM.LR needs a value"),
        (["OUTPUT_DIR", "x"], "OUTPUT_DIR is set by OUTPUT"),
        (["OPTIM.LR", "1", "SEED", "3"], "SEED is set by SEEDS"),
        (["--data", ""], "--data needs a value"),
        (["--output=~nobody-here/x"], "OUTPUT names the home folder of no user: '~nobody-here/x'"),
    ],
)
def test_wrong_words_are_refused(fake_train, capsys, words, message):
    assert runner.main(["train", "shapes", "base2new", *words]) == 2
    assert message in capsys.readouterr().err


def test_flags_may_follow_keys_and_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OUTPUT", "~/out")
    words = ["OPTIM.LR", "0.1", "--backbone", "RN50.pt", "USE_CUDA", "False", "--load-epoch", "3", "--data=~/images"]
    opts = read_settings(words)
    assert opts.flags == ("--backbone", "RN50.pt", "--load-epoch", "3")
    assert opts.pairs == ("OPTIM.LR", "0.1", "USE_CUDA", "False")
    assert (opts.data, opts.output) == (tmp_path / "images", tmp_path / "out")


# A train.py that notes its start, its end, and what ended it; a deaf one hears no signal.
STOPPABLE = """
import os, signal, sys, time, types
from pathlib import Path
from protocols import launch, runner
here, deaf = Path(sys.argv[1]), sys.argv[2] == "deaf"
def main(argv):
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (here / "pid").write_text(str(os.getpid()))
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.3)  # what it writes at its end
        (here / "ended").touch()
        raise
for name in ("train", "trainers", "datasets"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["train"].main = main
if deaf:
    launch.PATIENCE_SEC = 1
runner.listen()
sys.exit(runner.main(["benchmark", "base2new"]))
"""


def start_stoppable(tmp_path, how=""):
    env = {**os.environ, "OUTPUT": str(tmp_path / "out"), "DATASETS": "shapes", "SEEDS": "1"}
    command = [sys.executable, "-c", STOPPABLE, str(tmp_path), how]
    process = subprocess.Popen(command, cwd=runner.definitions.ROOT, env=env, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    return process, int((tmp_path / "pid").read_text())


def wait_until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_child_waited_for(tmp_path, number):
    process, child = start_stoppable(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert (tmp_path / "ended").exists()
    assert not alive(child)
    assert err.splitlines()[-1] == f"stopped by {number.name}; the same command goes on from here"
    assert "Traceback" not in err


def test_a_signal_while_a_child_is_started_ends_it_too(monkeypatch, tmp_path):
    """It is heard when the child is known, not before."""
    ended = []

    def launch_and_hear(argv, quiet, share):
        os.kill(os.getpid(), signal.SIGTERM)  # as if it came right after the fork
        time.sleep(0.2)
        return types.SimpleNamespace(terminate=lambda: ended.append("asked"), join=lambda *_: None, kill=lambda: None)

    for name in (*DEFAULTS, "DRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runner, "launch", launch_and_hear)
    before = {number: signal.getsignal(number) for number in launch.SIGNALS}
    over = threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()  # the system may hand it the signal, as torch's threads
    try:
        launch.listen()
        assert runner.main(["train", "shapes", "base2new", "--output", str(tmp_path)]) == 128 + signal.SIGTERM
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended == ["asked"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_that_hears_nothing_is_killed_in_time(tmp_path):
    process, child = start_stoppable(tmp_path, "deaf")
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert not alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_the_child_of_a_killed_parent_ends_too(tmp_path):
    process, child = start_stoppable(tmp_path)
    process.kill()
    process.communicate(timeout=120)
    wait_until(lambda: not alive(child))
    assert (tmp_path / "ended").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hangup_is_not_heard_under_nohup(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process, child = start_stoppable(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert alive(child)
    process.terminate()
    process.communicate(timeout=120)
    assert process.returncode == 143


@pytest.mark.parametrize("shell", [name for name in ("sh", "bash", "dash", "zsh") if shutil.which(name)])
def test_scripts_work_in_any_shell_by_any_path(tmp_path, shell):
    link = tmp_path / "a link"
    link.symlink_to(SCRIPTS / "train.sh")
    env = {
        **os.environ,
        "PYTHON": sys.executable,
        "DRY_RUN": "1",
        "SEEDS": "1",
        "CDPATH": f"{SCRIPTS.parent}:{tmp_path}",
    }
    words = ["shapes", "base2new", "OPTIM.LR", "0.1", "--backbone", "tiny"]
    for path, cwd in ((link, tmp_path), ("train.sh", SCRIPTS), ("scripts/train.sh", SCRIPTS.parent)):
        out = subprocess.run([shell, path, *words], cwd=cwd, env=env, capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
        assert "train.py --backbone tiny --root" in out.stdout
    with open(SCRIPTS / "train.sh") as script:
        out = subprocess.run([shell], stdin=script, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (
        *(2, "error: call this script by its path, as in: bash scripts/train.sh --help\n"),
    )


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
