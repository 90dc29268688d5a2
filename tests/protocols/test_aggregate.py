import itertools
import math

import pytest

from protocols import aggregate, definitions
from protocols.records import Method, read_runs
from reporting.tables import Cell, Curves

GOPRO = Method("GOPro", "tiny", 16, "tiny")


def test_interval_is_students():
    assert aggregate.interval([5.0]) is None
    assert aggregate.interval([1.0, 3.0]) == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2))
    assert aggregate.interval([1.0, 2.0, 3.0]) == pytest.approx(4.30265 / math.sqrt(3))
    deviation = math.sqrt(40 * 0.25 / 39)
    assert aggregate.interval([0.0, 1.0] * 20) == pytest.approx(2.0227 * deviation / math.sqrt(40), rel=1e-3)


def test_harmonic_mean():
    assert aggregate.harmonic_mean(84.21, 77.32) == pytest.approx(80.62, abs=0.005)
    assert aggregate.harmonic_mean(0, 0) == 0


def test_labels_tell_methods_of_one_trainer_apart():
    zero = Method("ZeroshotCLIP", "tiny", 0, "tiny")
    assert list(aggregate.labels([GOPRO, zero]).values()) == ["ZeroshotCLIP", "GOPro"]
    four = GOPRO._replace(shots=4)
    assert aggregate.labels([GOPRO, zero, four]) == {
        **{zero: "ZeroshotCLIP", four: "GOPro (4 shots)", GOPRO: "GOPro (16 shots)"}
    }


def tables_of(tmp_path, paper=None):
    runs, _ = read_runs(tmp_path)
    return aggregate.all_tables(runs, tmp_path, paper)


def add_halves(add_run, name, trainer, seed, base, new):
    train = {"dataset": name, "num_shots": 16} if trainer != "ZeroshotCLIP" else None
    kind = "train" if train else "test"
    add_run("base2new", kind, name, trainer, seed, base, "base", train=train)
    add_run("base2new", "test", name, trainer, seed, new, "new", train=train)


def test_base2new_means_and_the_hm_of_averages(add_run, tmp_path):
    for seed, shift in ((1, -1), (2, 0), (3, 1)):
        add_halves(add_run, "dtd", "GOPro", seed, 80 + shift, 60 + shift)
        add_halves(add_run, "eurosat", "GOPro", seed, 90.0, 50.0)
    (table,) = tables_of(tmp_path)
    rows = {row[0]: row[2:] for row in table.rows}
    half = 4.30265 / math.sqrt(3)
    assert rows["dtd"][0] == Cell(80.0, pytest.approx(half), 3)
    assert rows["dtd"][1] == Cell(60.0, pytest.approx(half), 3)
    assert rows["dtd"][2].mean == pytest.approx(2 * 80 * 60 / 140)
    base, new, hm = rows["average of 2 (of 11)"]
    assert (base.mean, new.mean) == (85, 55)
    assert hm.mean == pytest.approx(2 * 85 * 55 / 140)
    assert any("not run by any method" in note and "imagenet" in note for note in table.notes)


def test_missing_seeds_are_marked_and_named_up_to_the_average(add_run, tmp_path):
    for seed in (1, 2, 3):
        add_halves(add_run, "shapes", "GOPro", seed, 80.0, 60.0)
    add_halves(add_run, "digits", "GOPro", 1, 70.0, 50.0)
    (table,) = tables_of(tmp_path)
    rows = {row[0]: row[2:] for row in table.rows}
    assert not rows["shapes"][0].incomplete
    assert all(cell.incomplete for cell in (*rows["digits"], *rows["average of 2 (of 4)"]))
    assert "missing: GOPro on digits (base classes): seed 2, 3" in table.notes


def test_no_average_over_a_missing_data_set(add_run, tmp_path):
    add_halves(add_run, "shapes", "GOPro", 1, 80.0, 60.0)
    for name in ("shapes", "digits"):
        add_halves(add_run, name, "ZeroshotCLIP", 1, 50.0, 40.0)
    (table,) = tables_of(tmp_path)
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert rows["average of 2 (of 4)", "GOPro"] == [None, None, None]
    assert rows["average of 2 (of 4)", "ZeroshotCLIP"][0].mean == 50
    assert "missing: GOPro on digits (new classes): all runs" in table.notes


def test_base_without_new_has_no_hm(add_run, tmp_path):
    add_run("base2new", "train", "shapes", "GOPro", 1, 80.0, "base")
    (table,) = tables_of(tmp_path)
    assert table.rows == [["shapes", "GOPro", Cell(80.0, None, 1), None, None]]


def test_paper_beside_and_difference(add_run, tmp_path):
    paper = {"base2new": {"GOPro": {"dtd": [82.41, 62.95, 71.38], "average": [1, 2, 3]}}}
    for name in definitions.REAL[:9]:
        add_halves(add_run, name, "GOPro", 1, 80.0, 60.0)
    (table,) = tables_of(tmp_path, paper)
    rows = {row[0]: row for row in table.rows}
    published, difference = rows["dtd"][5:8], rows["dtd"][8:]
    assert [cell.mean for cell in published] == [82.41, 62.95, 71.38]
    assert [round(cell.mean, 2) for cell in difference] == [-2.41, -2.95, round(2 * 80 * 60 / 140 - 71.38, 2)]
    assert rows["imagenet"][5:] == [""] * 6
    assert rows["average of 9 (of 11)"][5:] == [""] * 6  # the paper's average is over eleven
    for name in definitions.REAL[9:]:
        add_halves(add_run, name, "GOPro", 1, 80.0, 60.0)
    (table,) = tables_of(tmp_path, paper)
    assert [cell.mean for cell in table.rows[-1][5:8]] == [1, 2, 3]


def test_cross_dataset_averages_the_targets_only(add_run, tmp_path):
    source = {"dataset": "Shapes", "num_shots": 16}
    add_run("cross-dataset", "train", "shapes", "GOPro", 1, 90.0)
    for name, accuracy in (("patterns", 30.0), ("digits", 40.0), ("counts", 50.0)):
        add_run("cross-dataset", "test", name, "GOPro", 1, accuracy, train=source)
    (table,) = tables_of(tmp_path, {"cross_dataset": {"GOPro": {"average": 67.86}}})
    assert table.header == ["method", "shapes (source)", "patterns", "digits", "counts", "average of 3"]
    assert [[cell.mean for cell in row[1:]] for row in table.rows] == [[90, 30, 40, 50, 40]]
    assert "not in the paper" in table.title


def test_imagenets_training_serves_both_tables(add_run, tmp_path):
    source = {"dataset": "ImageNet", "num_shots": 16}
    add_run("cross-dataset", "train", "imagenet", "GOPro", 1, 73.0)
    assert [table.title for table in tables_of(tmp_path)] == ["Few-shot classification"]  # as long as nothing else is
    add_run("cross-dataset", "test", "dtd", "GOPro", 1, 48.0, train=source)
    add_run("domain-generalization", "test", "imagenetv2", "GOPro", 1, 65.0, train=source)
    cross, variants = tables_of(tmp_path, {"domain_generalization": {"GOPro": {"imagenetv2": 65.35}}})
    assert variants.header[:4] == ["method", "", "imagenet (source)", "imagenetv2"]
    assert cross.rows[0][:3] == variants.rows[0][:3] == ["GOPro", "", Cell(73.0, None, 1)]
    ours, theirs, difference = (row[3:] for row in variants.rows)
    assert (ours[0], theirs[0], difference[0].mean) == (Cell(65.0, None, 1), Cell(65.35), pytest.approx(-0.35))
    assert ours[1:] == [None] * 4 and theirs[1:] == difference[1:] == [""] * 4
    assert len(cross.rows) == 1  # of what has no published numbers there is nothing to show
    assert sum(note.startswith("missing") for note in variants.notes) == 3


def test_left_out_domains_have_no_source_row(add_run, tmp_path):
    for experiment in definitions.experiments("domain-generalization", "pacs"):
        domains = {"source_domains": [*experiment.train.sources], "target_domains": [*experiment.train.targets]}
        add_run("domain-generalization", "train", experiment.train.name("train"), "GOPro", 1, 80.0, **domains)
    (table,) = tables_of(tmp_path)
    assert table.header == [
        *("method", "pacs-art_painting", "pacs-cartoon", "pacs-photo", "pacs-sketch", "average of 4")
    ]


def test_runs_of_no_protocol_are_listed(add_run, tmp_path):
    for seed in (1, 2):
        add_run("mine", "train", "dtd", "CoOp", seed, 60.0 + seed, num_shots=-1)
    (table,) = tables_of(tmp_path)
    assert table.title == "Other runs"
    assert table.rows[0][-2].mean == 61.5
    assert table.rows[0][-1] == "1, 2"


def add_few_shot(add_run, name, trainer, accuracies, seeds=(1,), **changes):
    """A run of each number of shots and seed; the accuracies are by shots."""
    for (shots, accuracy), seed in itertools.product(accuracies.items(), seeds):
        task = definitions.experiments("few-shot", name)[0].home
        kind = "train" if shots else "test"
        add_run(task, kind, name, trainer, seed, accuracy, num_shots=shots, **changes)


def test_few_shot_joins_what_differs_in_shots_alone(add_run, tmp_path):
    for name, shift in (("shapes", 0.0), ("digits", 10.0)):
        add_few_shot(add_run, name, "ZeroshotCLIP", {0: 30 + shift})
        add_few_shot(add_run, name, "GOPro", {1: 40 + shift, 4: 50 + shift, 16: 60 + shift}, (1, 2))
    add_few_shot(add_run, "shapes", "CoOp", {16: 55.0})
    (table,) = tables_of(tmp_path)
    assert table.title == "Few-shot classification"
    assert table.header == ["data set", "method", "0", "1", "4", "16"]
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert rows["shapes", "ZeroshotCLIP"] == [Cell(30.0, None, 1), "", "", ""]
    assert rows["digits", "GOPro"] == ["", *(Cell(mean, 0.0, 2) for mean in (50.0, 60.0, 70.0))]
    assert rows["shapes", "CoOp"] == ["", None, None, Cell(55.0, None, 1)]
    average = rows["average of 2 (of 4)", "GOPro"]
    assert [cell.mean for cell in average[1:]] == [45, 55, 65]
    assert rows["average of 2 (of 4)", "ZeroshotCLIP"][0].mean == 35
    assert rows["average of 2 (of 4)", "CoOp"] == ["", None, None, None]
    assert [note for note in table.notes if note.startswith("missing")] == [
        "missing: CoOp on digits (16 shots): all runs"
    ]


def test_few_shot_curves_start_with_the_average(add_run, tmp_path):
    for name in ("shapes", "digits"):
        add_few_shot(add_run, name, "ZeroshotCLIP", {0: 30.0})
        add_few_shot(add_run, name, "GOPro", {1: 40.0, 16: 60.0})
    (table,) = tables_of(tmp_path)
    titles = [f"Few-shot classification: {name}" for name in ("average of 2 (of 4)", "shapes", "digits")]
    assert [panel.title for panel in table.panels] == titles
    one = Cell(30.0, None, 1)
    lines = {"ZeroshotCLIP": [one, None, None], "GOPro": [None, Cell(40.0, None, 1), Cell(60.0, None, 1)]}
    assert table.panels[1] == Curves(titles[1], [0, 1, 16], lines, {"ZeroshotCLIP"})


def test_few_shot_joins_runs_made_before_a_method_existed_and_parts_other_settings(add_known, tmp_path):
    old, new = {"TRAINER.GOPRO.W_CON": 0.1}, {"TRAINER.GOPRO.W_CON": 0.1, "TRAINER.LATER.N_CTX": 4}
    add_known("few-shot", "train", "digits", "GOPro", 1, 40.0, num_shots=1, settings=old)
    add_known("few-shot", "train", "digits", "GOPro", 1, 60.0, num_shots=16, settings=new)
    (table,) = tables_of(tmp_path)
    assert [[cell.mean for cell in row[2:]] for row in table.rows] == [[40.0, 60.0]]
    add_known("few-shot", "train", "digits", "GOPro", 1, 50.0, num_shots=4, settings=new | {"TRAINER.GOPRO.W_CON": 0.5})
    (table,) = tables_of(tmp_path)
    assert [row[1] for row in table.rows] == ["GOPro (W_CON 0.1)", "GOPro (W_CON 0.5)"]


def test_missing_seeds_are_those_of_any_number_of_shots(add_run, tmp_path):
    add_few_shot(add_run, "digits", "GOPro", {1: 40.0}, (1, 2, 3))
    add_few_shot(add_run, "digits", "GOPro", {4: 50.0}, (1, 2))
    (table,) = tables_of(tmp_path)
    assert table.rows[0][3].incomplete and not table.rows[0][2].incomplete
    assert "missing: GOPro on digits (4 shots): seed 3" in table.notes


def add_transfer(add_run, trainer, **changes):
    """What cross-dataset leaves of shapes, with 16 shots."""
    trained = None if trainer == "ZeroshotCLIP" else {"dataset": "Shapes", "num_shots": 16}
    if trained:
        add_run("cross-dataset", "train", "shapes", trainer, 1, 90.0, **changes)
    for name in definitions.RENDERED[1:]:
        add_run("cross-dataset", "test", name, trainer, 1, 40.0, train=trained, **changes)


def test_a_source_row_alone_makes_no_few_shot_table(add_run, tmp_path):
    add_transfer(add_run, "GOPro")
    assert [table.title for table in tables_of(tmp_path)] == ["Cross-dataset transfer from shapes"]


def test_a_training_on_the_source_serves_both_tables_and_other_shots_only_one(add_run, tmp_path):
    add_transfer(add_run, "GOPro")
    add_transfer(add_run, "CoOp", config="tiny_transfer")
    add_few_shot(add_run, "shapes", "GOPro", {1: 40.0, 4: 50.0})
    add_few_shot(add_run, "shapes", "CoOp", {1: 41.0}, config="tiny_few_shot")
    transfer, few_shot = tables_of(tmp_path)
    assert [row[0] for row in transfer.rows] == ["CoOp", "GOPro"]
    assert few_shot.header == ["data set", "method", "1", "4", "16"]
    rows = {row[1]: [cell and cell.mean for cell in row[2:]] for row in few_shot.rows}
    assert rows == {"CoOp": [41.0, None, None], "GOPro": [40.0, 50.0, 90.0]}
    assert not any(note.startswith("missing") for table in (transfer, few_shot) for note in table.notes)


def test_some_domains_of_a_set_are_no_few_shot_data_set(add_run, tmp_path):
    add_few_shot(add_run, "shapes", "GOPro", {1: 40.0})
    domains = {"source_domains": ["photo"], "target_domains": ["photo"]}
    add_run("domain-generalization", "train", "shapes-photo", "GOPro", 1, 80.0, **domains)
    domains["target_domains"] = ["cartoon"]
    train = {"dataset": "Shapes", "num_shots": 16, "source_domains": ["photo"], "target_domains": ["photo"]}
    add_run("domain-generalization", "test", "shapes-cartoon", "GOPro", 1, 70.0, train=train, **domains)
    domains, few_shot = tables_of(tmp_path)
    assert domains.title == "Domain generalization from shapes"
    assert [row[0] for row in few_shot.rows] == ["shapes"]


def test_a_zero_shot_test_that_two_tasks_made_is_no_problem_unless_they_disagree(add_run, tmp_path):
    add_transfer(add_run, "ZeroshotCLIP")
    add_few_shot(add_run, "digits", "GOPro", {1: 45.0})
    add_few_shot(add_run, "digits", "ZeroshotCLIP", {0: 40.0})
    runs, problems = read_runs(tmp_path)
    assert (len(runs), problems) == (4, [])
    _, few_shot = aggregate.all_tables(runs, tmp_path, None)
    assert few_shot.rows[0] == ["digits", "ZeroshotCLIP", Cell(40.0, None, 1), ""]
    add_few_shot(add_run, "counts", "ZeroshotCLIP", {0: 41.0})
    (problem,) = read_runs(tmp_path)[1]
    assert "holds the same run" in problem


def test_few_shot_beside_the_paper_shows_what_that_has(add_run, tmp_path):
    for name in definitions.REAL:
        add_few_shot(add_run, name, "ZeroshotCLIP", {0: 60.0})
        add_few_shot(add_run, name, "CoOp", {1: 61.0, 4: 66.0, 16: 70.0})
    (table,) = tables_of(tmp_path, {"base2new": {}})
    assert table.header[2:] == ["0", "1", "4", "16"]
    paper = {"few_shot": {"CLIP": {"average": {0: 58.5}}, "CoOp": {"average": {1: 60.5, 16: 73.0}, "dtd": {16: 69.0}}}}
    (table,) = tables_of(tmp_path, paper)
    added = [f"{what} {shots}" for what in ("paper", "diff") for shots in (0, 1, 16)]
    assert table.header[2:] == ["0", "1", "4", "16", *added]
    rows = {(row[0], row[1]): row[6:] for row in table.rows}
    zero, learned = rows["average of 11", "ZeroshotCLIP"], rows["average of 11", "CoOp"]
    assert zero == [Cell(58.5), "", "", Cell(1.5, signed=True), "", ""]
    assert learned == ["", Cell(60.5), Cell(73.0), "", Cell(0.5, signed=True), Cell(-3.0, signed=True)]
    assert rows["dtd", "CoOp"] == ["", "", Cell(69.0), "", "", Cell(1.0, signed=True)]
    assert rows["dtd", "ZeroshotCLIP"] == rows["eurosat", "CoOp"] == [""] * 6


def test_few_shot_on_sets_that_the_paper_does_not_have(add_run, tmp_path):
    add_few_shot(add_run, "shapes", "CoOp", {16: 70.0})
    (table,) = tables_of(tmp_path, {"few_shot": {"CoOp": {"average": {16: 73.0}}}})
    assert table.title == "Few-shot classification (not in the paper)"
    assert table.header == ["data set", "method", "16"]
