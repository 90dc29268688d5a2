import json

import pytest

from protocols import report
from protocols.aggregate import all_tables
from protocols.records import Method, method_settings, read_runs, trained_settings

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


@pytest.mark.parametrize(
    ("sources", "targets", "name"),
    [
        (["sketch"], ["sketch"], "shapes"),  # as configs/datasets/shapes.yaml has it
        (["photo"], ["sketch"], "shapes-sketch"),
        (["sketch"], ["photo"], "shapes-photo"),
    ],
)
def test_the_usual_domains_of_a_data_set_are_not_named(add_run, tmp_path, sources, targets, name):
    domains = {"source_domains": sources, "target_domains": targets}
    add_run("base2new", "train", "shapes", "GOPro", 1, 80.0, "base", **domains)
    ((run,), _) = read_runs(tmp_path)
    assert run.name == name
    assert run.source == ("shapes" if name == "shapes" else f"shapes-{sources[0]}")


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
    (folder / ".lock.1").mkdir()


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


@pytest.mark.parametrize(
    ("first", "second", "problems"),
    [
        ({"accuracy": 50.0}, {"accuracy": 50.0, "ece": 3.0}, 0),  # before there was a calibration error, and after
        ({"accuracy": 50.0, "ece": 3.0}, {"accuracy": 50.0, "ece": 3.00001}, 0),  # rounding of the logits
        ({"accuracy": 50.0, "ece": 3.0}, {"accuracy": 50.0, "ece": 4.0}, 1),
        ({"accuracy": 50.0, "ece": 3.0}, {"accuracy": 50.01, "ece": 3.0}, 1),
    ],
)
def test_a_run_that_two_tasks_share_has_one_outcome(add_run, tmp_path, first, second, problems):
    for task, figures in (("cross-dataset", first), ("few-shot", second)):
        add_run(task, "test", "dtd", "ZeroshotCLIP", 1, 50.0, results=figures)
    runs, told = read_runs(tmp_path)
    assert (len(runs), len(told)) == (1, problems)


def test_a_run_of_ones_own_does_not_replace_that_of_a_script(add_run, tmp_path):
    folder = add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    own = tmp_path / "a" / "seed1"
    write_run(own, json.loads((folder / "results.json").read_text()) | {"results": {"accuracy": 99.0}})
    runs, (problem,) = read_runs(tmp_path)
    assert len(runs) == 1
    assert problem == f"a/seed1: left out, because {folder} holds the same run"


def own(root, **more):
    return {"DATASET.NAME": "ImageFolder", "DATASET.ROOT": str(root), "OPTIM.LR": 0.1, **more}


def accuracies(table):
    """Text of the first label columns -> means."""
    return {tuple(row[: table.labels]): [cell and cell.mean for cell in row[table.labels :]] for row in table.rows}


def test_two_folders_of_ones_own_are_two_data_sets_named_by_what_differs(add_known, tmp_path):
    for seed, (root, accuracy) in enumerate((("/a/cats/images", 100.0), ("/a/birds/images", 12.5)), 1):
        add_known(*("mine", "train", "image_folder", "GOPro", seed, accuracy, "base"), settings=own(root)).rename(
            tmp_path / f"run{seed}"
        )
    runs, problems = read_runs(tmp_path)
    assert problems == []
    (table,) = all_tables(runs, tmp_path, None)
    assert {key[0]: value[0] for key, value in accuracies(table).items() if "average" not in key[0]} == {
        "image_folder (cats/images)": 100.0,
        "image_folder (birds/images)": 12.5,
    }


def test_seeds_in_one_folder_of_two_image_folders_are_not_averaged(add_known, tmp_path, capsys):
    for seed, (root, accuracy) in enumerate((("/a/cats", 100.0), ("/a/birds", 12.5)), 1):
        folder = add_known("mine", "train", "image_folder", "GOPro", seed, accuracy, settings=own(root))
    assert report.main([str(folder.parent)]) == 0
    out = capsys.readouterr().out
    assert "56.25" not in out
    assert "image_folder (cats)" in out and "image_folder (birds)" in out


def test_a_split_file_is_part_of_a_folder_of_ones_own(add_known, tmp_path):
    for seed, split in enumerate(("", "/s/mine.json"), 1):
        add_known(
            *("mine", "train", "image_folder", "GOPro", seed, 50.0),
            settings=own("/a/cats", **{"DATASET.SPLIT_FILE": split}),
        )
    runs, _ = read_runs(tmp_path)
    assert {run.name for run in runs} == {"image_folder (its own split)", "image_folder (mine.json)"}


def test_where_the_images_of_a_benchmark_lie_counts_only_if_they_are_others(add_known, tmp_path):
    for seed, root in enumerate(("/data", "/scratch"), 1):
        settings = {"DATASET.NAME": "DescribableTextures", "DATASET.ROOT": root}
        add_known("base2new", "train", "dtd", "GOPro", seed, 70.0, "base", settings=settings, test_images="aa")
    runs, _ = read_runs(tmp_path)
    assert {run.name for run in runs} == {"dtd"}
    folder = add_known("base2new", "train", "dtd", "GOPro", 3, 70.0, "base", settings=settings, test_images="bb")
    runs, _ = read_runs(tmp_path)
    assert {run.seed: run.name for run in runs} == {
        **{1: "dtd (data)", 2: "dtd (scratch, images aa)", 3: "dtd (scratch, images bb)"}
    }
    edit(folder, test_images="aa")
    assert {run.name for run in read_runs(tmp_path)[0]} == {"dtd"}


def test_an_ablation_has_rows_named_by_what_differs(add_known, tmp_path):
    for i, weight in enumerate((0.1, 0.5)):
        settings = {"TRAINER.GOPRO.W_CON": weight, "TRAINER.GOPRO.PREC": "fp32", "DATALOADER.NUM_WORKERS": i}
        for kind, classes in (("train", "base"), ("test", "new")):
            add_known("base2new", kind, "dtd", "GOPro", 1, 70.0 + i, classes, settings=settings)
        (tmp_path / "base2new").rename(tmp_path / f"try{i}")
    runs, problems = read_runs(tmp_path)
    assert problems == []
    (table,) = all_tables(runs, tmp_path, None)
    found = {key: value[:2] for key, value in accuracies(table).items()}
    assert found == {("dtd", "GOPro (W_CON 0.1)"): [70, 70], ("dtd", "GOPro (W_CON 0.5)"): [71, 71]}


def test_a_test_in_another_way_has_its_row_and_the_trainings_words_need_no_repeating(add_known, tmp_path):
    trained = {"TRAINER.GOPRO.PREC": "fp16", "OPTIM.MAX_EPOCH": 10, "TEST.FINAL_MODEL": "last_step", "OPTIM.LR": 1}
    add_known("base2new", "train", "dtd", "GOPro", 1, 70.0, "base", settings=trained)
    plain = {**trained, "OPTIM.MAX_EPOCH": 50, "OPTIM.LR": 2}  # what only a training reads
    add_known("base2new", "test", "dtd", "GOPro", 1, 60.0, "new", settings=plain, trained=trained)
    (tmp_path / "base2new").rename(tmp_path / "one")
    other = {**plain, "TRAINER.GOPRO.PREC": "fp32"}
    add_known("base2new", "test", "dtd", "GOPro", 1, 61.0, "new", settings=other, trained=trained)
    (tmp_path / "base2new").rename(tmp_path / "two")
    add_known("base2new", "test", "dtd", "GOPro", 1, 55.0, "new", settings=plain, trained=trained, epoch=5)
    runs, problems = read_runs(tmp_path)
    assert problems == []
    (table,) = all_tables(runs, tmp_path, None)
    assert {key[1]: value[:2] for key, value in accuracies(table).items()} == {
        "GOPro": [70, 60],
        "GOPro (tested with PREC fp32)": [None, 61],
        "GOPro (tested with EPOCH 5)": [None, 55],
    }


def test_epochs_that_a_limit_in_batches_gave_are_no_other_way_of_testing():
    settings = {"OPTIM.MAX_EPOCH": 10, "OPTIM.MAX_ITER": 0, "TEST.FINAL_MODEL": "last_step"}
    for limit, told in ((0, True), (700, False)):
        settings["OPTIM.MAX_ITER"] = limit
        found = method_settings(settings, settings, {"eval_only": True, "epoch": 5})
        assert (("tested with EPOCH", "5") in found) == told


def test_weights_of_another_training_set_do_not_enter_base_to_new(add_run, tmp_path):
    add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    add_run("base2new", "test", "dtd", "GOPro", 1, 60.0, "new")
    far = {"dataset": "ImageNet", "num_shots": 16, "subsample_classes": "all"}
    folder = add_run("base2new", "test", "dtd", "GOPro", 2, 10.0, "new")
    edit(folder, train=far)
    tables = all_tables(read_runs(tmp_path)[0], tmp_path, None)
    assert [table.title for table in tables] == ["Base-to-new generalization", "Other runs"]
    assert tables[0].rows[0][3].mean == 60


def test_weights_of_two_seeds_tested_with_one_are_two_runs(add_run, tmp_path):
    for seed in (1, 2):
        folder = add_run("base2new", "test", "dtd", "GOPro", 1, 60.0 + seed, "new")
        train = json.loads((folder / "results.json").read_text())["train"]
        edit(folder, train={**train, "seed": seed})
        folder.rename(tmp_path / f"test{seed}")
    runs, problems = read_runs(tmp_path)
    assert sorted(run.seed for run in runs) == [1, 2]
    assert problems == []


def test_a_method_that_came_later_changes_nothing(add_known, tmp_path):
    old = {"TRAINER.GOPRO.W_CON": 0.1, "OPTIM.LR": 1}
    add_known("base2new", "train", "dtd", "GOPro", 1, 70.0, "base", settings=old)
    add_known("base2new", "train", "dtd", "GOPro", 2, 70.0, "base", settings={**old, "TRAINER.NEW.KEY": 1})
    runs, _ = read_runs(tmp_path)
    assert len({run.method for run in runs}) == 1


def test_older_records_take_their_settings_from_config_yaml(add_run, tmp_path):
    for seed, rate in ((1, 0.1), (2, 0.1), (3, 0.5)):
        folder = add_run("base2new", "train", "dtd", "GOPro", seed, 70.0, "base")
        (folder / "config.yaml").write_text(f"SEED: {seed}\nOPTIM: {{LR: {rate}}}\nDATASET: {{ROOT: /data}}\n")
        if seed == 2:
            add_run("base2new", "test", "dtd", "GOPro", seed, 60.0, "new")
            runs, _ = read_runs(tmp_path)
            (table,) = all_tables(runs, tmp_path, None)
            assert list(accuracies(table)) == [("dtd", "GOPro")]  # the test's training can only be this one
    runs, _ = read_runs(tmp_path)
    (table,) = all_tables(runs, tmp_path, None)
    assert [key[1] for key in accuracies(table)] == [
        *("GOPro (settings not recorded)", "GOPro (LR 0.1)", "GOPro (LR 0.5)"),
    ]
    (folder / "config.yaml").write_text("a: [")
    _, (problem,) = read_runs(tmp_path)
    assert "seed3: config.yaml cannot be read: while parsing" in problem


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": ["GOPro"]},
        {"trainer": None},
        {"seed": 1.5},
        {"seed": True},
        {"train": []},
        {"train": {"dataset": 3, "num_shots": 16}},
        {"eval_only": "no"},
        {"results": []},
        {"results": {"accuracy": "70"}},
        {"results": {"accuracy": 70.0, "macro_f1": None}},
        {"results": {"accuracy": 10**400}},
        {"per_class": {"a": None}},
        {"per_class": [1]},
        {"source_domains": [3]},
        {"schema": 2},
        {"schema": 2, "settings": [1]},
    ],
)
def test_odd_records_are_named_and_end_nothing(add_run, tmp_path, change):
    edit(add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base"), **change)
    runs, (problem,) = read_runs(tmp_path)
    assert runs == []
    assert problem.startswith("base2new/train_base/dtd/shots_16/GOPro/tiny/seed1: results.json has no usable field")


@pytest.mark.parametrize("text", ["[" * 100000, "1", '"a"', ""])
def test_odd_files_are_named(add_run, tmp_path, text):
    folder = add_run("base2new", "train", "dtd", "GOPro", 1, 70.0, "base")
    (folder / "results.json").write_text(text)
    _, (problem,) = read_runs(tmp_path)
    assert "seed1: results.json" in problem


def test_what_a_recipe_chooses_tells_no_methods_apart(add_known, tmp_path):
    for name, epochs in (("dtd", 200), ("imagenet", 50)):
        settings = {"OPTIM.MAX_EPOCH": epochs, "RECIPE": ["OPTIM.MAX_EPOCH"]}
        add_known("base2new", "train", name, "CoOp", 1, 70.0, "base", settings=settings)
    by_hand = {"OPTIM.MAX_EPOCH": 7, "RECIPE": []}
    add_known("base2new", "train", "oxford_pets", "CoOp", 1, 60.0, "base", settings=by_hand)
    (table,) = all_tables(read_runs(tmp_path)[0], tmp_path, None)
    rows = {(row[0], row[1]) for row in table.rows if row[2] is not None}
    assert rows == {
        ("dtd", "CoOp (MAX_EPOCH by recipe)"),
        ("imagenet", "CoOp (MAX_EPOCH by recipe)"),
        ("oxford_pets", "CoOp (MAX_EPOCH 7)"),
    }


def test_a_key_that_an_older_record_lacks_had_its_default():
    assert trained_settings({"OPTIM.LR": 0.1})["OPTIM.AVERAGE"] == '""'
    assert trained_settings({}) == {}
