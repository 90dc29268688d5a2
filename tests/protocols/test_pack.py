import json
import os
import re
import shutil

import pytest
import yaml

from protocols import pack, report
from protocols.records import read_runs

HOME = "/home/jane.doe"


def add_known_halves(add_known, trainer="GOPro", seeds=(1, 2), shift=0.0, root=f"{HOME}/data"):
    """Runs of schema 2 with all that a run's folder may hold."""
    for seed in seeds:
        for kind, classes, accuracy in (("train", "base", 80.0), ("test", "new", 60.0)):
            settings = {"DATASET.ROOT": root, "TRAINER.GOPRO.W_CON": 0.1, "OUTPUT_DIR": f"{HOME}/out/{classes}/{seed}"}
            settings |= {"MODEL.INIT_WEIGHTS": "", "DATASET.SPLIT_FILE": ""}
            train = {"dataset": "Shapes", "num_shots": 16, "seed": seed, "subsample_classes": "base"}
            folder = add_known(
                *("base2new", kind, "shapes", trainer, seed, accuracy + seed + shift, classes),
                **{"settings": settings, "train": train},
            )
            (folder / "config.yaml").write_text(
                yaml.safe_dump({"DATASET": {"ROOT": root}, "OUTPUT_DIR": f"{HOME}/out"})
            )
            env = {
                "command": f"python train.py --root {root}",
                "weights": f"{HOME}/w",
                "versions": {"torch": "2"},
                "seed": seed,
            }
            (folder / "env.json").write_text(json.dumps(env))
            (folder / "log.txt").write_text(HOME)
            (folder / "done").write_text("2026-01-02T03:04:05+0000\n")


def printed(capsys, *arguments):
    assert report.main(list(map(str, arguments))) == 0
    return capsys.readouterr().out


def test_tables_of_a_packed_folder_are_those_of_the_runs(add_known, add_run, tmp_path, capsys):
    add_known_halves(add_known)
    for seed in (1, 2):
        add_run("base2new", "train", "digits", "CoOp", seed, 70.0 + seed, "base")  # of schema 1, nothing beside
        add_run("mine", "train", "dtd", "CoOp", seed, 60.0, num_shots=-1)
    target = tmp_path.with_name(tmp_path.name + "_packed") / "jane"
    whole = printed(capsys, tmp_path, "--paper", "--pack", target)
    assert printed(capsys, target, "--paper") == whole and "70.10" in whole
    runs, _ = read_runs(target)
    assert len(runs) == 8
    shutil.rmtree(target.parent)


def test_pack_holds_the_records_and_no_path_of_the_machine(add_known, tmp_path, capsys):
    add_known_halves(add_known)
    add_known_halves(add_known, "CoOp", root=f"{HOME}/elsewhere/data")
    (tmp_path / "base2new" / "train_base" / "shapes" / "shots_16" / "CoOp" / "tiny" / "seed2" / "done").unlink()
    target = tmp_path.with_name(tmp_path.name + "_packed")
    assert report.main([str(tmp_path), "--pack", str(target)]) == 0
    assert f"Packed 7 finished runs into {target}" in capsys.readouterr().err
    files = [path for path in target.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"results.json", "config.yaml", "env.json", "done"} and len(files) == 28
    for path in files:
        assert "jane" not in path.read_text() and str(tmp_path) not in path.read_text()
    roots = {json.loads(path.read_text())["settings"]["DATASET.ROOT"] for path in files if path.name == "results.json"}
    assert roots == {"data", "elsewhere/data"}  # what told the data apart still does
    env = json.loads(next(path for path in files if path.name == "env.json").read_text())
    assert set(env) == {"versions", "seed"}
    shutil.rmtree(target)


def test_pack_refuses_what_lies_there_and_what_would_count_twice(add_known, tmp_path, capsys):
    add_known_halves(add_known)
    full = tmp_path.with_name(tmp_path.name + "_full")
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    other = tmp_path.with_name(tmp_path.name + "_other")
    for arguments, message in (
        ([tmp_path, "--pack", full], "--pack needs a folder that does not exist yet or is empty"),
        ([tmp_path, "--pack", full / "mine.txt"], "--pack needs a folder"),
        ([tmp_path, "--pack", tmp_path / "inner"], "lies in"),
        ([tmp_path, full, "--pack", other], "--pack takes one folder"),
        (["--run", tmp_path, "--pack", other], "--pack takes folders of runs, not --run"),
    ):
        assert report.main(list(map(str, arguments))) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.out == ""
    assert [path.name for path in full.iterdir()] == ["mine.txt"] and not other.exists()
    (full / "mine.txt").unlink()
    assert report.main([str(tmp_path), "--pack", str(full)]) == 0  # an empty one will do
    shutil.rmtree(full)


def test_interrupted_packing_leaves_nothing_that_counts(add_known, tmp_path, monkeypatch):
    source, target = tmp_path / "base2new", tmp_path / "packs" / "jane"
    add_known_halves(add_known)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            pack.pack(source, target)
        assert list(target.parent.iterdir()) == []
        patch.setattr(pack.shutil, "rmtree", lambda *_, **__: None)  # a kill cannot clean up either
        with pytest.raises(KeyboardInterrupt):
            pack.pack(source, target)
    (left,) = target.parent.iterdir()
    assert left.name.startswith(".jane.") and read_runs(target.parent) == ([], [])
    assert pack.pack(source, target) == 4
    assert len(read_runs(target.parent)[0]) == 4 and os.stat(target).st_mode & 0o777 == 0o755


@pytest.fixture
def two_packs(add_known, tmp_path):
    """Packs of one method by jane and joe, who also has another; returns the folder that holds both."""
    add_known_halves(add_known)
    pack.pack(tmp_path / "base2new", tmp_path / "packs" / "jane")
    shutil.rmtree(tmp_path / "base2new")
    add_known_halves(add_known, shift=5.0)
    add_known_halves(add_known, "CoOp")
    pack.pack(tmp_path / "base2new", tmp_path / "packs" / "joe")
    return tmp_path / "packs"


def test_same_runs_of_several_folders_have_rows_named_by_folder(two_packs, capsys):
    out = printed(capsys, two_packs / "jane", two_packs / "joe")
    names = re.findall(r"\S+Op|GOPro(?: \(\w+\))?", out)
    assert names == ["CoOp", "GOPro (jane)", "GOPro (joe)"]
    assert "81.50" in out and "86.50" in out and "not counted" not in out


def test_seeds_of_several_folders_add_up(two_packs, tmp_path, capsys):
    for folder in (two_packs / "joe").rglob("GOPro/tiny/seed*"):
        record = json.loads((folder / "results.json").read_text())
        record["seed"] = record["train"]["seed"] = record["seed"] + 2
        (folder / "results.json").write_text(json.dumps(record))
        folder.rename(folder.with_name(f"seed{record['seed']}"))
    out = printed(capsys, two_packs / "jane", two_packs / "joe")
    assert "mean over seeds 1, 2, 3, 4" in out and "(jane)" not in out
    assert "missing: CoOp" not in out


def test_several_folders_that_make_no_sense_are_refused(two_packs, tmp_path, capsys):
    for arguments, message in (
        ([two_packs, two_packs / "joe"], "so its runs would count twice"),
        ([two_packs / "joe", two_packs / "joe"], "so its runs would count twice"),
        ([two_packs / "jane", two_packs / "nobody"], "no such folder"),
        ([two_packs / "jane", two_packs / "joe", "--check", tmp_path / "x.md"], "--section must name the section"),
    ):
        assert report.main(list(map(str, arguments))) == 2
        assert message in capsys.readouterr().err


def test_problems_of_several_folders_are_told_apart(two_packs, capsys):
    next((two_packs / "joe").rglob("CoOp/tiny/seed1/done")).unlink()
    out = printed(capsys, two_packs / "jane", two_packs / "joe")
    assert "not counted: joe/t" in out and "CoOp/tiny/seed1: unfinished" in out
