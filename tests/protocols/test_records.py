import json

import pytest

from protocols.records import Method, read_runs

from .conftest import write_run


def test_reads_what_a_run_says(add_run, tmp_path):
    folder = add_run("base2new", "train", "oxford_pets", "GOPro", 3, 91.5, "base")
    (run,), problems = read_runs(tmp_path)
    assert problems == []
    assert (run.folder, run.name, run.classes, run.seed, run.accuracy) == (folder, "oxford_pets", "base", 3, 91.5)
    assert run.method == Method("GOPro", "tiny", 16, "tiny")
    assert run.source == "oxford_pets"


def test_a_method_that_learns_nothing_has_no_source(add_run, tmp_path):
    add_run("base2new", "test", "dtd", "ZeroshotCLIP", 1, 50.0, "new")
    (run,), _ = read_runs(tmp_path)
    assert run.source is None
    assert run.method.shots == 0


def test_a_training_on_some_domains_is_named_after_those_it_was_tested_on(add_run, tmp_path):
    domains = {"source_domains": ["cartoon", "photo"], "target_domains": ["sketch"]}
    add_run("domain-generalization", "train", "pacs-cartoon+photo", "GOPro", 1, 80.0, **domains)
    (run,), _ = read_runs(tmp_path)
    assert run.name == "pacs-sketch"


def test_a_separate_test_replaces_the_trainings_own(add_run, tmp_path):
    add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    add_run("base2new", "test", "dtd", "GOPro", 1, 71.0, "base")
    (run,), problems = read_runs(tmp_path)
    assert run.accuracy == 71.0
    assert problems == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "done").unlink(), "unfinished"),
        (lambda folder: only_locked(folder), "unfinished"),
        (lambda folder: (folder / "results.json").unlink(), "finished, but without results.json"),
        (lambda folder: (folder / "results.json").write_text("{"), "Expecting"),
        (lambda folder: (folder / "results.json").write_text("[1]"), "no record of schema 1"),
        (lambda folder: (folder / "results.json").write_text('{"schema": 3}'), "no record of schema 1"),
        (lambda folder: (folder / "results.json").write_text('{"schema": 1}'), "no usable field 'train'"),
        (lambda folder: (folder / "results.json").write_bytes(b"\xff\xfe"), "decode"),
        (lambda folder: edit(folder, results={"accuracy": None}), "no usable field"),
        (lambda folder: edit(folder, results={"accuracy": float("nan")}), "an accuracy of nan"),
        (lambda folder: edit(folder, results={"accuracy": 120}), "an accuracy of 120"),
        (lambda folder: edit(folder, seed=7), "of another run: GOPro, seed 7"),
        (lambda folder: edit(folder, source_domains=3), "no usable field"),
        (lambda folder: fail(folder, '{"error": "ValueError: NaN loss\\nmore", "when": "now"}'), "NaN loss"),
        (lambda folder: fail(folder, "[]"), "failed.json holds a list"),
    ],
)
def test_wrong_files_are_named_and_do_not_count(add_run, tmp_path, change, reason):
    add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    change(add_run("base2new", "train", "dtd", "GOPro", 2, 72.0, "base"))
    (run,), (problem,) = read_runs(tmp_path)
    assert run.seed == 1
    assert problem.startswith("base2new/train_base/dtd/shots_16/GOPro/tiny/seed2: ")
    assert reason in problem


def edit(folder, **changes):
    record = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(record | changes))


def only_locked(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / ".lock").touch()


def fail(folder, text):
    (folder / "done").unlink()
    (folder / "failed.json").write_text(text)


def test_the_same_run_twice_counts_once(add_run, tmp_path):
    add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    (tmp_path / "base2new").rename(tmp_path / "copy")
    add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    runs, (problem,) = read_runs(tmp_path)
    assert len(runs) == 1
    assert "holds the same run" in problem


def test_a_run_of_ones_own_does_not_replace_that_of_a_script(add_run, tmp_path):
    folder = add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    own = tmp_path / "a" / "seed1"
    write_run(own, json.loads((folder / "results.json").read_text()) | {"results": {"accuracy": 99.0}})
    runs, (problem,) = read_runs(tmp_path)
    assert len(runs) == 1
    assert problem == f"a/seed1: left out, because {folder} holds the same run"
