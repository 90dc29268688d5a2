import os
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from protocols import aggregate, definitions
from protocols.records import Method, read_runs

FILE = definitions.ROOT / "configs" / "paper_results.yaml"
TASKS = {"base2new", "cross_dataset", "domain_generalization"}
VARIANTS = {"imagenet", *definitions.TARGETS["domain-generalization"]["imagenet"]}
COMPLETE = {"CLIP", "SLIP", "CoOp", "CoCoOp", "MaPLe", "StyLIP", "GOPro"}  # those of the GOPro paper
PRINTED_SO = {("CoCoOp", "oxford_flowers"), ("PRE", "average_of_8")}  # an HM that is not that of its base and new


@pytest.fixture(scope="module")
def paper():
    return yaml.safe_load(FILE.read_text())


def test_paper_results_name_a_source_for_every_method_of_every_task(paper):
    assert set(paper) == {*TASKS, "few_shot", "claims", "sources"}
    entries = {f"{task}/{method}" for task in {*TASKS, "few_shot"} for method in paper[task]}
    assert set(paper["sources"]) == entries
    assert all(text.strip() for text in paper["sources"].values())


def test_paper_results_name_the_protocols_data_sets(paper):
    everything = {*definitions.REAL, "average"}
    for method, rows in paper["base2new"].items():
        assert set(rows) == everything if method in COMPLETE else set(rows) <= {*everything, "average_of_8"}, method
    for method, rows in paper["cross_dataset"].items():
        assert set(rows) == everything, method
    for method, rows in paper["domain_generalization"].items():
        assert set(rows) == VARIANTS, method
    for method, rows in paper["few_shot"].items():
        assert set(rows) <= everything, method
        assert all(set(row) == {1, 2, 4, 8, 16} for row in rows.values()), method
    for task in TASKS:
        assert set(paper[task]) >= COMPLETE


def test_every_harmonic_mean_of_the_paper_results_is_that_of_its_base_and_new(paper):
    wrong = set()
    for method, rows in paper["base2new"].items():
        for name, (base, new, hm) in rows.items():
            if abs(hm - aggregate.harmonic_mean(base, new)) > 0.02:
                wrong.add((method, name))
    assert wrong == PRINTED_SO


def test_averages_of_the_paper_results_are_those_of_the_data_sets(paper):
    for method, rows in paper["base2new"].items():
        if set(rows) >= set(definitions.REAL):
            means = [fmean(rows[name][i] for name in definitions.REAL) for i in (0, 1)]
            assert rows["average"][:2] == pytest.approx(means, abs=0.1), method
    for method, rows in paper["cross_dataset"].items():
        mean = fmean(rows[name] for name in definitions.REAL[1:])
        assert rows["average"] == pytest.approx(mean, abs=0.011), method


def test_paper_results_are_percentages(paper):
    def numbers(node):
        if isinstance(node, dict | list):
            for value in node.values() if isinstance(node, dict) else node:
                yield from numbers(value)
        else:
            yield node

    assert all(0 < number < 100 for task in {*TASKS, "few_shot"} for number in numbers(paper[task]))


@pytest.mark.skipif(not os.environ.get("GOPRO_TEST_DATA"), reason="GOPRO_TEST_DATA names no folder")
def test_paper_results_are_those_that_were_transcribed(paper):
    published = Path(os.environ["GOPRO_TEST_DATA"], "paper_results.yaml")
    if not published.exists():
        pytest.skip(f"no {published}")
    for task, methods in yaml.safe_load(published.read_text()).items():
        for method, rows in methods.items():
            assert paper[task][method] == rows, (task, method)


@pytest.mark.parametrize(
    ("trainer", "printed"), [("CLIPLoRA", "CLIP-LoRA"), ("ZeroshotCLIP", "CLIP"), ("KgCoOp", "KgCoOp")]
)
def test_paper_results_of_a_trainer_go_by_the_papers_name(paper, trainer, printed):
    method = Method(trainer, "vit_b16", 16, "ViT-B/16")
    assert aggregate.published_by(paper, "base2new", method) == paper["base2new"][printed]


def test_papers_names_of_trainers_are_in_the_paper_results(paper):
    methods = {method for task in {*TASKS, "few_shot"} for method in paper[task]}
    assert set(aggregate.PAPER_NAMES.values()) <= methods


def test_tables_of_methods_with_few_paper_results_leave_the_rest_empty(add_run, paper, tmp_path):
    for trainer in ("CLIPLoRA", "KgCoOp"):
        train = {"dataset": "DescribableTextures", "num_shots": 16}
        add_run("base2new", "train", "dtd", trainer, 1, 80.0, "base", train=train)
        add_run("base2new", "test", "dtd", trainer, 1, 60.0, "new", train=train)
    runs, _ = read_runs(tmp_path)
    (table,) = aggregate.all_tables(runs, tmp_path, paper)
    rows = {row[1]: row for row in table.rows}
    assert rows["CLIPLoRA"][5:] == [""] * 6
    assert [cell.mean for cell in rows["KgCoOp"][5:8]] == paper["base2new"]["KgCoOp"]["dtd"]
