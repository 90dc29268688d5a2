import math

import pytest
import yaml

from protocols import definitions, report
from protocols.records import read_runs
from protocols.verdicts import RULE, claims_table

CLAIMS = {"method": "GOPro", "rivals": ["CoOp"], "tasks": ["base2new"], "backbone": "tiny", "shots": 16}


def add_halves(add_run, trainer, bases, seeds, names=definitions.REAL, new=50.0, **changes):
    """Base accuracies by seed on every data set, and the same new accuracy everywhere."""
    for name in names:
        train = {"dataset": name, "num_shots": changes.get("num_shots", 16)}
        for seed, base in zip(seeds, bases, strict=True):
            add_run("base2new", "train", name, trainer, seed, base, "base", train=train, **changes)
            add_run("base2new", "test", name, trainer, seed, new, "new", train=train, **changes)


def judged(tmp_path, claims=CLAIMS):
    table = claims_table(read_runs(tmp_path)[0], claims)
    return table, table.rows


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([80.0, 82.0, 84.0], [70.0, 72.0, 74.0], "confirmed"),
        ([70.0, 72.0, 74.0], [80.0, 82.0, 84.0], "contradicted"),
        ([80.0, 70.0, 84.0], [70.0, 80.0, 74.0], "not decided"),  # the interval holds 0
        ([80.0, 80.0, 80.0], [80.0, 80.0, 80.0], "not decided"),
    ],
)
def test_verdict_follows_the_interval_of_the_paired_differences(add_run, tmp_path, ours, theirs, verdict):
    add_halves(add_run, "GOPro", ours, (1, 2, 3))
    add_halves(add_run, "CoOp", theirs, (1, 2, 3))
    table, ((task, where, claim, found, cell, seeds),) = judged(tmp_path)
    assert (task, where, claim) == ("Base-to-new generalization", "the paper's 11", "GOPro outperforms CoOp")
    assert (found, seeds) == (verdict, "1, 2, 3")
    hm = [[2 * base * 50 / (base + 50) for base in bases] for bases in (ours, theirs)]
    differences = [a - b for a, b in zip(*hm, strict=True)]
    mean = sum(differences) / 3
    assert cell.mean == pytest.approx(mean)
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    assert cell.half == pytest.approx(4.30265 * deviation / math.sqrt(3), rel=1e-4)
    assert table.notes == [RULE]


def test_pairing_by_seed_takes_out_what_seeds_have_in_common(add_run, tmp_path):
    add_halves(add_run, "GOPro", [51.0, 71.0, 91.0], (1, 2, 3))  # means differ by less than either interval
    add_halves(add_run, "CoOp", [50.0, 70.0, 90.0], (1, 2, 3))
    assert judged(tmp_path)[1][0][3] == "confirmed"


def test_one_seed_decides_nothing_however_large_the_difference(add_run, tmp_path):
    add_halves(add_run, "GOPro", [90.0], (1,))
    add_halves(add_run, "CoOp", [10.0], (1,))
    table, ((*_, verdict, cell, seeds),) = judged(tmp_path)
    assert (verdict, cell.half, seeds) == ("not decided", None, "1") and cell.mean > 0
    assert table.notes[1].endswith("GOPro outperforms CoOp: one seed has no interval")


def test_only_seeds_of_both_count(add_run, tmp_path):
    add_halves(add_run, "GOPro", [80.0, 82.0, 84.0, 0.0], (1, 2, 3, 4))
    add_halves(add_run, "CoOp", [100.0, 71.0, 72.0, 73.0], (9, 1, 2, 3))
    assert judged(tmp_path)[1][0][3::2] == ["confirmed", "1, 2, 3"]


def test_different_seeds_decide_nothing(add_run, tmp_path):
    add_halves(add_run, "GOPro", [80.0, 82.0], (1, 2))
    add_halves(add_run, "CoOp", [70.0, 72.0], (3, 4))
    table, ((*_, verdict, cell, seeds),) = judged(tmp_path)
    assert (verdict, cell, seeds) == ("not decided", None, "")
    assert "no seed that both have on all data sets" in table.notes[1]


def test_missing_sets_and_methods_are_named(add_run, tmp_path):
    add_halves(add_run, "GOPro", [80.0, 82.0], (1, 2))
    add_halves(add_run, "CoOp", [70.0, 72.0], (1, 2), definitions.REAL[1:])
    table, ((*_, verdict, cell, _seeds),) = judged(tmp_path)
    assert (verdict, cell) == ("not decided", None)
    assert table.notes[1].endswith("no runs of CoOp on imagenet (base classes), imagenet (new classes)")
    add_halves(add_run, "MaPLe", [70.0, 72.0], (1, 2), num_shots=4)
    table, rows = judged(tmp_path, CLAIMS | {"rivals": ["MaPLe", "CoCoOp"]})
    assert [row[2:5] for row in table.rows] == [
        ["GOPro outperforms MaPLe", "not decided", None],
        ["GOPro outperforms CoCoOp", "not decided", None],
    ]
    assert table.notes[1].endswith("MaPLe: no runs with the same backbone and shots")
    assert table.notes[2].endswith("CoCoOp: no runs of CoCoOp")


def test_transfer_is_judged_by_the_targets_without_the_source(add_run, tmp_path):
    for trainer, source, target in (("GOPro", 10.0, 60.0), ("CoOp", 90.0, 50.0)):
        for seed in (1, 2):
            train = {"dataset": "ImageNet", "num_shots": 16}
            add_run("cross-dataset", "train", "imagenet", trainer, seed, source)
            for name in definitions.REAL[1:]:
                add_run("cross-dataset", "test", name, trainer, seed, target + seed, train=train)
            for name in definitions.TARGETS["domain-generalization"]["imagenet"]:
                add_run("domain-generalization", "test", name, trainer, seed, 110 - target, train=train)
    claims = CLAIMS | {"tasks": ["cross-dataset", "domain-generalization"]}
    table = claims_table(read_runs(tmp_path)[0], claims)
    assert [(row[1], row[3], row[4].mean) for row in table.rows] == [
        ("the paper's 10", "confirmed", pytest.approx(10)),
        ("the paper's 4", "contradicted", pytest.approx(-10)),
    ]


def test_other_sets_and_another_setting_are_said_to_be_no_part_of_the_paper(add_run, tmp_path, capsys):
    add_halves(add_run, "GOPro", [80.0, 82.0], (1, 2), ("shapes", "digits"))
    add_halves(add_run, "CoOp", [70.0, 72.0], (1, 2), ("shapes", "digits"))
    assert report.main([str(tmp_path), "--paper"]) == 0
    out = capsys.readouterr().out
    found = [line for line in out.splitlines() if "GOPro outperforms CoOp " in line]
    assert "shapes, digits (not the paper's)" in found[1] and "confirmed" in found[1]
    assert "the paper's 11" in found[0] and "not decided" in found[0]
    assert out.count("outperforms MaPLe") == 4  # three tasks, and the rendered sets of one
    assert "tiny and 16 shots, where the paper has ViT-B/16 and 16 shots" in out
    assert "on the paper's 11, CoOp: no runs of GOPro, CoOp" in out


def test_claims_are_the_papers(add_run):
    claims = yaml.safe_load((definitions.ROOT / "configs" / "paper_results.yaml").read_text())["claims"]
    assert claims["tasks"] == ["base2new", "cross-dataset", "domain-generalization"]
    assert set(claims["rivals"]) | {claims["method"]} <= set(definitions.trainers())
    assert set(claims) == set(CLAIMS)
