"""predict.py: answers in every format, what is refused, exit statuses, and how little it holds and imports."""

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import predict
import train
import trainers.loaded_run
from datasets.rendered.render import render
from trainers import load_run
from trainers.export import main as export

REPO = Path(__file__).parents[1]
CLASSES = ["fish", "house", "star"]
ZERO = ["--backbone", "tiny", "--classes", *CLASSES]


def draw(path, name, key):
    path.parent.mkdir(parents=True, exist_ok=True)
    render("Shapes", name, "photo", random.Random(f"{name}/{key}"), 64).save(path)


@pytest.fixture(scope="module")
def own_images(tmp_path_factory):
    """A small folder of one's own images."""
    root = tmp_path_factory.mktemp("own") / "my_images"
    for name in CLASSES:
        for i in range(10):
            draw(root / name / f"{i}.png", name, i)
    return root


@pytest.fixture(scope="module")
def mine(own_images):
    """Folder of a run that was trained on them."""
    folder = own_images.parent / "mine"
    argv = ["--root", str(own_images), "--seed", "1", "--output-dir", str(folder)]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
    argv += ["--config-file", "configs/trainers/CoOp/tiny.yaml", "OPTIM.MAX_EPOCH", "3", "DATALOADER.NUM_WORKERS", "0"]
    train.main(argv)
    return folder


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder of images that nothing was trained on, with what is no image."""
    root = tmp_path_factory.mktemp("asked")
    for path, name in (("b/2.png", "star"), ("b/10.png", "fish"), ("a.JPG", "house"), ("c/d/e.png", "star")):
        draw(root / path, name, "asked")
    for path in ("b/.hidden.png", ".git/x.png", "__MACOSX/x.png"):
        draw(root / path, "star", "hidden")
    (root / "b" / "notes.txt").write_text("no image")
    (root / "b" / "loop").symlink_to(root)
    return root


ORDER = ["a.JPG", "b/10.png", "b/2.png", "c/d/e.png"]


@pytest.fixture
def broken(asked, tmp_path):
    """The same folder, and a broken image in front of the others."""
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    return [str(tmp_path / "0.png"), str(asked)]


def test_trained_on_a_folder_then_asked_about_images_not_trained_on(mine, asked, capsys):
    capsys.readouterr()
    assert predict.main(["--model-dir", str(mine), str(asked), "--top", "2"]) == 0
    out, err = capsys.readouterr()
    note, *lines = out.splitlines()
    assert note == predict.NOTE and "not calibrated" in note and predict.NOTE in err
    assert lines[::3] == [str(asked / name) for name in ORDER]
    assert [line.split("%")[1].strip() for line in lines[1::3]] == ["house", "fish", "star", "star"]
    shares = [[float(line.split("%")[0]) for line in lines[i : i + 2]] for i in range(1, len(lines), 3)]
    assert all(100 >= first >= second >= 0 for first, second in shares)
    assert "CoOp on tiny, 3 classes" in err and err.count("The tiny CLIP knows rendered pictures only") == 1


def test_training_on_own_images_with_the_tiny_clip_says_what_it_is_for(mine):
    assert (mine / "log.txt").read_text().count("The tiny CLIP knows rendered pictures only") == 1


def answers(form, text):
    """{image: [(class, label, probability)] or the error} of what predict.py wrote."""
    if form == "csv":
        found = {}
        for row in csv.DictReader(io.StringIO(text)):
            if row["error"]:
                found[row["image"]] = row["error"]
                continue
            one = found.setdefault(row["image"], [])
            one.append((row["class"], int(row["label"]), float(row["raw_probability"])))
            assert int(row["rank"]) == len(one)
        return found
    records = json.loads(text)["images"] if form == "json" else [json.loads(line) for line in text.splitlines()]
    return {
        r["image"]: r.get("error") or [(c["class"], c["label"], c["raw_probability"]) for c in r["classes"]]
        for r in records
    }


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_formats_hold_the_same_answers(mine, asked, broken, form, capsys, tmp_path):
    run = load_run(mine)
    expected = {str(asked / name): run.predict(asked / name)[0] for name in ORDER}
    capsys.readouterr()
    out_file = tmp_path / "sub" / "out"
    argv = ["--model-dir", str(mine), *broken, "--format", form]
    assert predict.main(argv) == 3
    text, err = capsys.readouterr()
    assert predict.main([*argv, "--out", str(out_file)]) == 3
    assert out_file.read_text() == text and capsys.readouterr().out == ""
    found = answers(form, text)
    assert list(found) == [broken[0], *expected]
    assert "cannot read image" in found.pop(broken[0])
    for path, best in expected.items():
        assert [(p.classname, p.label) for p in best] == [one[:2] for one in found[path]]
        assert [p.probability for p in best] == pytest.approx([one[2] for one in found[path]], rel=1e-4)
    assert f"not read: cannot read image {broken[0]}" in err
    assert "1 of what was given could not be read; 5 images were seen" in err
    if form == "json":
        head = json.loads(text)
        assert "not calibrated" in head["note"]
        assert (head["model"], head["trainer"], head["backbone"], head["classes"]) == (str(mine), "CoOp", "tiny", 3)


def test_other_classes_files_exports_and_epochs(mine, asked, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_bytes("\ufeffred star\r\n\r\n  blue fish \r\n".encode("utf-8"))
    picture = str(asked / "b" / "2.png")

    def said(*argv):
        capsys.readouterr()
        assert predict.main([*argv, "--format", "jsonl"]) == 0
        return [(c["class"], c["raw_probability"]) for c in json.loads(capsys.readouterr().out)["classes"]]

    by_file = said(picture, "--model-dir", str(mine), "--classes-file", str(names))
    assert {name for name, _ in by_file} == {"red star", "blue fish"}
    assert said(picture, "--model-dir", str(mine), "--classes", "red star", "blue fish") == by_file
    export([str(mine), str(tmp_path / "export")])
    whole = said(picture, "--model-dir", str(mine))
    assert said(picture, "--model-dir", str(tmp_path / "export")) == whole
    assert said(picture, "--model-dir", str(mine), "--load-epoch", "3", "--device", "cpu", "--batch-size", "1") == whole
    assert sum(share for _, share in whole) == pytest.approx(1, abs=1e-4)
    zero = said(picture, "--trainer", "ZeroshotCLIP", *ZERO)
    assert zero == said(picture, *ZERO) != whole


def test_classes_that_share_a_name_stay_as_they_were_trained(own_images, asked, tmp_path, capsys):
    root = tmp_path / "twins"
    shutil.copytree(own_images, root, ignore=shutil.ignore_patterns("*.json"))
    (root / "classnames.txt").write_text("fish thing\nhouse thing\nstar star\n")
    argv = ["--root", str(root), "--seed", "1", "--output-dir", str(tmp_path / "run"), "OPTIM.MAX_EPOCH", "1"]
    argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml", "DATALOADER.NUM_WORKERS", "0"]
    train.main([*argv, "--config-file", "configs/trainers/CoOp/tiny.yaml"])
    capsys.readouterr()
    assert predict.main([str(asked), "--model-dir", str(tmp_path / "run"), "--format", "jsonl"]) == 0
    out, err = capsys.readouterr()
    first = json.loads(out.splitlines()[0])["classes"]
    assert sorted((c["label"], c["class"]) for c in first) == [(0, "thing"), (1, "thing"), (2, "star")]
    assert "Warning: CLIP reads the same words for 'thing' (0) = 'thing' (1)" in err


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "error", "message"),
    [
        (["--model-dir", "{mine}"], ValueError, "no images given$"),
        (["--model-dir", "{mine}", "--classes", "a", "{asked}"], ValueError, "put them before --classes, which took a"),
        (
            ["{png}", "--model-dir", "{mine}", "--classes", "a", "{png}"],
            ValueError,
            "also the file .*2.png: put images",
        ),
        (["{asked}", "--model-dir", "{tmp}/nowhere"], FileNotFoundError, "no run at .*nowhere: there is no such"),
        (["{asked}", "--model-dir", "{asked}"], ValueError, "is no run's folder"),
        (["{asked}", "--model-dir", "{unfinished}"], ValueError, "is not finished: no file done"),
        (["{asked}", "--model-dir", "{mine}", "--load-epoch", "9"], FileNotFoundError, r"epochs in .*: \[3\]"),
        (["{tmp}/nowhere.png", "--model-dir", "{mine}"], FileNotFoundError, "no such image or folder: .*nowhere.png"),
        (["{tmp}", "--model-dir", "{mine}"], ValueError, "the folder .* holds no images that Pillow reads"),
        (["{asked}", "--model-dir", "{mine}", "--top", "0"], ValueError, "--top must be at least 1, got 0"),
        (
            ["{asked}", "--model-dir", "{mine}", "--batch-size", "0"],
            ValueError,
            "--batch-size must be at least 1, got 0",
        ),
        (["{asked}", "--model-dir", "{mine}", "--device", "gpu"], ValueError, "device 'gpu' cannot be used here"),
        (["{asked}", "--model-dir", "{mine}", "--trainer", "CoOp"], ValueError, "--trainer has no effect beside"),
        (["{asked}", "--backbone", "tiny"], ValueError, "give --model-dir, or for zero-shot CLIP the class names"),
        (["{asked}", "--load-epoch", "1", *ZERO], ValueError, "--load-epoch has no effect without --model-dir"),
        (["{asked}", "--overwrite", *ZERO], ValueError, "--overwrite has no effect without --out"),
        (["{asked}", "--trainer", "CoOp", *ZERO], ValueError, "CoOp learns: load the folder of a run of it"),
        (["{asked}", "--trainer", "CoOpp", *ZERO], ValueError, "unknown TRAINER: 'CoOpp'.* Did you mean CoOp"),
        (["{asked}", "--classes-file", "{names}", *ZERO], ValueError, "take one of them"),
        (["{asked}", "--backbone", "tiny", "--classes-file", "{empty}"], ValueError, "holds no class names"),
        (["{asked}", "--backbone", "tiny", "--classes-file", "{tmp}/no"], FileNotFoundError, "no'"),
        (["{asked}", *ZERO, "star"], ValueError, "class names come twice: star"),
        (["{asked}", "--model-dir", "{mine}", "--classes", "a", "a"], ValueError, "class names come twice: a"),
        (["{asked}", *ZERO, "very " * 40 + "long"], ValueError, "very very very"),
        (["{asked}", "--model-dir", "{mine}", "--classes", "very " * 40 + "long"], ValueError, "very very very"),
        (["{asked}", "--model-dir", "{mine}", "--out", "{names}"], FileExistsError, "exists; --overwrite replaces it"),
        (["{asked}", "--model-dir", "{mine}", "--out", "{tmp}"], IsADirectoryError, "is a folder; give a file"),
    ],
)
def test_wrong_input_is_one_error_before_any_image_is_read(
    mine, asked, tmp_path, argv, error, message, monkeypatch, capsys
):
    (tmp_path / "unfinished" / "prompt_learner").mkdir(parents=True)
    (tmp_path / "unfinished" / "prompt_learner" / "model.pth.tar-1").touch()
    (tmp_path / "names.txt").write_text("a\n")
    (tmp_path / "empty.txt").write_text(" \n\n")
    places = {"mine": mine, "asked": asked, "tmp": tmp_path, "unfinished": tmp_path / "unfinished"}
    places |= {"names": tmp_path / "names.txt", "empty": tmp_path / "empty.txt", "png": asked / "b" / "2.png"}
    monkeypatch.setattr(trainers.loaded_run, "read_image", lambda *_: pytest.fail("an image was read"))
    if "very " * 40 + "long" not in argv:  # how long a name may be, the backbone says
        monkeypatch.setattr(trainers.base.clip, "load", lambda *_: pytest.fail("the backbone was loaded"))
    with pytest.raises(error, match=message):
        predict.main([word.format(**places) for word in argv])
    assert capsys.readouterr().out == "" and (tmp_path / "names.txt").read_text() == "a\n"


def test_an_output_file_is_replaced_when_told_and_kept_when_the_work_breaks_off(mine, asked, tmp_path, monkeypatch):
    out = tmp_path / "out.csv"
    out.write_text("old")
    argv = ["--model-dir", str(mine), str(asked), "--out", str(out), "--overwrite"]
    with monkeypatch.context() as patch:
        patch.setattr(predict.Answers, "end", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict.main(argv)
    assert out.read_text() == "old" and not list(tmp_path.glob(".*.tmp"))
    assert predict.main(argv) == 0 and out.read_text().startswith(predict.NOTE)


def test_a_folder_that_cannot_be_listed_is_counted(mine, asked, monkeypatch, capsys):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert predict.main(["--model-dir", str(mine), str(asked), "--format", "jsonl"]) == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "not read: [Errno 13] Permission denied" in err


# -------------------------------------------------------------------------------------------- how much, how little


def test_images_and_answers_stream(mine, tmp_path, monkeypatch):
    count, batch = 60, 4
    picture = Image.new("RGB", (20, 20), "red")
    for i in range(count):
        path = tmp_path / "many" / f"{i // 20}" / f"{i % 20:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    out = tmp_path / "stdout"
    read = trainers.loaded_run.read_image
    seen, ahead, listed = [], [], []

    def counting(path, as_people_see):
        seen.append(path)
        ahead.append(len(seen) - len(out.read_text().splitlines()))
        return read(path, as_people_see)

    scandir = os.scandir
    monkeypatch.setattr(trainers.loaded_run, "read_image", counting)
    monkeypatch.setattr(os, "scandir", lambda path: listed.append((str(path), len(seen))) or scandir(path))
    with open(out, "w", buffering=1) as file:
        monkeypatch.setattr(sys, "stdout", file)
        argv = ["--model-dir", str(mine), str(tmp_path / "many"), "--format", "jsonl", "--batch-size", str(batch)]
        assert predict.main(argv) == 0
        monkeypatch.undo()
    assert len(seen) == len(out.read_text().splitlines()) == count
    assert max(ahead) <= 2 * batch + 1  # of what was read and not answered yet
    last = next(at for path, at in reversed(listed) if path.endswith("2"))
    assert last >= 40 - 2 * batch - 1  # the third folder is listed when its images are near


def test_a_prediction_imports_no_more_than_it_needs(mine, asked):
    code = f"""import json, sys
import predict
predict.main(["--model-dir", {str(mine)!r}, {str(asked)!r}, "--format", "json"])
print(json.dumps(sorted(sys.modules)), file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["images"]) == len(ORDER)
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert {"torch", "open_clip", "trainers.loaded_run"} <= modules
    unwanted = {"tensorboard", "torch.utils.tensorboard", "scipy", "matplotlib", "datasets", "train", "protocols"}
    unwanted |= {"reporting", "benchmarks", "transformers", "pandas", "dassl.config.rules", "trainers.export"}
    assert modules & unwanted == set()


def test_the_command_answers_on_stdout_alone_and_says_how_it_ended(mine, broken, asked):
    def command(*args, **kwargs):
        return subprocess.run([sys.executable, "predict.py", *args], cwd=REPO, capture_output=True, text=True, **kwargs)

    done = command(*broken, "--model-dir", str(mine), "--format", "json")
    assert done.returncode == 3 and len(json.loads(done.stdout)["images"]) == 1 + len(ORDER)
    assert "Traceback" not in done.stderr
    assert command("--no-such-flag").returncode == 2
    wrong = command(str(asked), "--model-dir", "/nowhere")
    assert wrong.returncode == 1 and wrong.stdout == ""
    assert wrong.stderr == "predict.py: FileNotFoundError: no run at /nowhere: there is no such folder\n"


def test_help_answers_without_pytorch():
    code = """import sys, predict
try:
    predict.main(["--help"])
except SystemExit:
    print("torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert "--classes-file" in done.stdout and done.stdout.endswith("False\n")


def test_a_picture_of_every_answer_in_a_folder_that_was_empty(mine, broken, tmp_path, capsys):
    folder = tmp_path / "pictures"
    argv = ["--model-dir", str(mine), *broken, "--explain", str(folder), "--format", "json"]
    assert predict.main(argv) == 3
    answers = json.loads(capsys.readouterr().out)["images"]
    readable = [(i, Path(a["image"]).stem) for i, a in enumerate(answers, 1) if "classes" in a]
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:05d}_{name}.png" for i, name in readable]
    assert len(readable) == len(ORDER)
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    with pytest.raises(FileExistsError, match="--explain .*pictures is not empty"):
        predict.main(argv)
    assert predict.main([*argv, "--overwrite"]) == 3
    with pytest.raises(NotADirectoryError, match="--explain .*file is no folder"):
        (tmp_path / "file").write_text("")
        predict.main([*argv[:-3], str(tmp_path / "file")])
