"""The commands that a training ends with: they work when they are pasted."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import train


def told(capsys):
    """The commands by what they are for, split as a shell does."""
    lines = capsys.readouterr().out.splitlines()
    names = ("Test it", "New classes", "Predict", "TensorBoard")
    pairs = [line.split(":", 1) for line in lines if line.partition(":")[0] in names]
    assert lines[len(lines) - len(pairs) :] == [":".join(pair) for pair in pairs]  # the last thing that is said
    return {name: shlex.split(command) for name, command in pairs}


def results(folder):
    record = json.loads((Path(folder) / "results.json").read_text())
    return {key: record[key] for key in ("results", "per_class", "num_images", "test_images", "epoch")}


def argument(words, flag):
    return words[words.index(flag) + 1]


@pytest.mark.parametrize("method", ["CoOp", "GOPro"])
def test_the_test_that_is_told_gives_what_the_training_ended_with(run, backbones, image_root, tmp_path, capsys, method):
    root = shutil.copytree(image_root, tmp_path / "my images")  # a name to quote
    args = ("--source-domains", "photo", "--target-domains", "sketch", "DATASET.SUBSAMPLE_CLASSES", "base")
    _, folder = run("a run's folder", *args, root=root, trainer=method)
    steps = told(capsys)
    assert list(steps) == ["Test it", "New classes", "Predict", "TensorBoard"]
    for name in ("Test it", "New classes"):
        words = steps[name]
        assert shutil.which(words[0]) and Path(words[1]).samefile(train.__file__)
        assert argument(words, "--model-dir") == str(folder) and "--eval-only" in words
        train.main(words[2:])
    assert results(argument(steps["Test it"], "--output-dir")) == results(folder)
    new = results(argument(steps["New classes"], "--output-dir"))
    assert not set(new["per_class"]) & set(results(folder)["per_class"]) and len(new["per_class"]) == 2
    assert Path(steps["Predict"][1]).name == "predict.py"
    assert steps["Predict"][2:] == ["--model-dir", str(folder), "IMAGE_OR_FOLDER"]
    assert shutil.which(steps["TensorBoard"][0]) and steps["TensorBoard"][-2:] == ["--logdir", str(folder)]


def test_a_drawn_seed_and_keys_of_the_folders_are_settled(run, backbones, tmp_path, capsys):
    own = ("OUTPUT_DIR", str(tmp_path / "other"), "SEED", "-1", "OPTIM.LR", "0.01", "OPTIM.LR", "0.02")
    run("run", *own, trainer="CoOp")
    words = told(capsys)["Test it"]
    args = train.parse_args(words[2:])
    cfg = train.build_config(args)
    assert (args.model_dir, cfg.OUTPUT_DIR) == (str(tmp_path / "other"), str(tmp_path / "other" / "test"))
    assert cfg.SEED == json.loads((tmp_path / "other" / "env.json").read_text())["seed"] >= 0
    assert cfg.OPTIM.LR == 0.02 and words.count("OPTIM.LR") == 1
    train.main(words[2:])
    assert results(tmp_path / "other" / "test") == results(tmp_path / "other")


def test_tests_and_methods_that_learn_nothing_tell_no_steps(run, backbones, capsys):
    run("zero", trainer="ZeroshotCLIP")
    assert told(capsys) == {}
    _, folder = run("base", trainer="CoOp")
    assert list(told(capsys)) == ["Test it", "Predict", "TensorBoard"]  # all classes: none are new
    run("test", "--eval-only", "--model-dir", str(folder), trainer="CoOp")
    assert told(capsys) == {}


def test_where_nothing_is_printed_the_log_has_them(run, backbones, capsys):
    _, folder = run("run", trainer="CoOp")
    said = told(capsys)
    log = (folder / "log.txt").read_text().splitlines()
    assert shlex.split(log[-3].removeprefix("Test it:")) == said["Test it"]


def test_programs_are_named_as_the_shell_finds_them(tmp_path, monkeypatch):
    place = tmp_path / "env" / "bin"
    place.mkdir(parents=True)
    for name in ("python", "tensorboard"):
        (place / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setenv("PATH", str(place))  # an environment that is active
    assert train._program("python") == ["python"] and train._program("tensorboard") == ["tensorboard"]
    monkeypatch.setenv("PATH", "/usr/bin")
    assert train._program("tensorboard") == [str(place / "tensorboard")]
    monkeypatch.chdir(tmp_path)
    assert train._program("python") == ["env/bin/python"]
    (place / "tensorboard").unlink()  # installed elsewhere
    assert train._program("tensorboard") == ["env/bin/python", "-m", "tensorboard.main"]
