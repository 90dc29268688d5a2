"""Every benchmark at --quick sizes: it runs, both sides agree, and the record has the documented form."""

import importlib
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import end_to_end, measure, steps
from benchmarks.figures import TITLES, text
from benchmarks.record import RESULTS, check

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def quick(tmp_path):
    """quick(name, *args): a quick run; returns its record."""

    def run(name, *args):
        path = importlib.import_module(f"benchmarks.{name}").main(["--quick", "--out", str(tmp_path), *args])
        assert path.parent == tmp_path
        return check(json.loads(path.read_text()))

    return run


def check_models(record, limit):
    assert record["settings"]["backbone"] == "tiny" and record["settings"]["quick"] is True
    assert set(record["rates"]) == {"matmul_flops", "copy_bytes"}
    for row in record["rows"]:
        assert 0 <= row["error"] < limit, row["case"]
        assert row["ratio"] == pytest.approx(row["naive"]["seconds"] / row["ours"]["seconds"])
        floor = row["floor"]
        assert floor["flops"] > 0 and floor["bytes"] > 0
        assert 0 < floor["share"] == pytest.approx(floor["seconds"] / row["ours"]["seconds"])


def test_text_encoder(quick, capsys):
    record = quick("text_encoder")
    check_models(record, 1e-5)
    forward, backward, many, _ = record["rows"]
    assert many["naive"]["extrapolated_from"] == "2 prompts x 20 classes"
    assert all(row["naive"]["extrapolated_from"] is None for row in (forward, backward))
    assert all(row[side]["peak_bytes"] > 1e7 for row in (forward, backward) for side in ("ours", "naive"))
    assert text(record) in capsys.readouterr().out


def test_training_step(quick):
    record = quick("training_step")
    check_models(record, 1e-5)
    small, large = record["rows"]
    assert small["naive"]["extrapolated_from"] is None and small["naive"]["runs"]
    assert large["naive"]["extrapolated_from"] == "2 images x 8 classes" and not large["naive"]["runs"]
    assert large["naive"]["peak_bytes"] >= small["naive"]["peak_bytes"] * 0.9


def test_training_step_of_some_sizes_alone(quick):
    (row,) = quick("training_step", "--classes", "12")["rows"]
    assert row["case"]["classes"] == 12 and row["naive"] is None and row["error"] is None
    assert row["floor"]["share"] > 0 and row["ours"]["peak_bytes"] > 1e7


def test_parts_of_a_benchmark_do_not_replace_the_kept_record():
    options = partial(measure.options, "", classes=[5, 9])
    assert options([]).out == RESULTS and options([]).classes is None
    assert options(["--classes", "9"]).out == ROOT / "output" / "benchmarks"


def test_sem_classes(quick):
    record = quick("sem_classes")
    (row,) = record["rows"]
    assert row["case"] == {"batch": 2, "classes": 12, "sem_classes": 3}
    assert row["ratio"] == pytest.approx(row["naive"]["seconds"] / row["ours"]["seconds"])
    assert all(row[side]["peak_bytes"] > 1e7 for side in ("ours", "naive"))
    assert "2 images x 12 classes, L_sem of 3" in text(record) and "all classes" in text(record)
    args = measure.options("", ["--quick", "--device", "cpu"])
    some, all_ = (steps.Side(args, "ours", "GOPro", 2, 12, sem_classes=n) for n in (3, 0))
    assert some.loss().isfinite() and some.loss() != all_.loss()


def test_method_steps(quick):
    record = quick("method_steps")
    text, large, step = record["rows"]
    for row in (text, step):
        assert 0 <= row["error"] < 1e-4 and row["naive"]["runs"] and "needs_bytes" not in row
        assert row["ratio"] == pytest.approx(row["naive"]["seconds"] / row["ours"]["seconds"])
        assert all(row[side]["peak_bytes"] > 1e7 for side in ("ours", "naive"))
    assert large["naive"] is None and large["ratio"] is None and large["needs_bytes"] > 1e7
    assert large["ours"]["peak_bytes"] > 1e7


@pytest.mark.parametrize(
    ("method", "batch"), [("CoOp", 2), ("CoCoOp", 1), ("CoCoOp", 3), ("MaPLe", None), ("MaPLe", 2)]
)
def test_other_methods_agree_with_the_naive_references(method, batch, tmp_path):
    torch.manual_seed(0)  # the few hidden units of CoCoOp's small network may all be off for one image
    args = measure.options("", ["--quick", "--device", "cpu", "--out", str(tmp_path)])
    case = (method, batch, 9)
    assert steps.error_of(args, *case, limit=1e-4) < 1e-4
    _, gradients = steps.Side(args, "ours", *case).gradients()
    assert all(g.abs().max() > 0 for g in gradients)
    if batch:
        side = steps.Side(args, "ours", *case)
        first = float(side.loss().detach())
        step = side.step()
        step(), step()
        assert float(side.loss().detach()) < first


def test_evaluation(quick):
    record = quick("evaluation")
    check_models(record, 1e-5)
    assert record["per"] == "image" and "images/s" in text(record)


def test_prediction(quick):
    record = quick("prediction")
    loop, one_by_one = record["rows"]
    assert loop["error"] == 0 and 0 <= one_by_one["error"] < 1e-4
    assert loop["ours"] == one_by_one["ours"] and loop["naive"] != one_by_one["naive"]
    assert all(
        row["ratio"] == pytest.approx(row["naive"]["seconds"] / row["ours"]["seconds"]) for row in record["rows"]
    )
    assert "images/s" in text(record)


def test_half_precision_is_compared_with_a_wider_limit_and_kept_apart(quick, tmp_path):
    record = quick("evaluation", "--dtype", "bf16")
    assert all(row["error"] > 1e-5 for row in record["rows"])
    assert [path.stem[-5:] for path in tmp_path.iterdir()] == ["-bf16"]


@pytest.mark.slow
def test_processes(quick):
    record = quick("processes")
    assert len(record["rows"]) == 2
    for row in record["rows"]:
        assert 0 <= row["error"] < 1e-5 and len(row["ours"]["runs"]) == len(row["naive"]["runs"]) > 0
        assert row["ratio"] == pytest.approx(row["naive"]["seconds"] / row["ours"]["seconds"])


@pytest.mark.slow
def test_startup(quick):
    record = quick("startup")
    help_, first, _ = record["rows"]
    assert help_["naive"] and first["naive"] is None and first["ratio"] is None
    assert all(row["floor"]["seconds"] > 0 for row in record["rows"])


def test_data_loading(quick):
    record = quick("data_loading")
    assert all(row["error"] == 0 for row in record["rows"])  # the same pixels
    assert record["per"] == "image"


@pytest.mark.slow
def test_end_to_end(quick):
    whole, coop, vpt = quick("end_to_end")["rows"]
    assert whole["error"] == 0 and whole["case"]["what"] == "base2new, some methods (image_folder, 1 seed)"
    assert [row["case"]["what"] for row in (coop, vpt)] == ["of it training CoOp", "of it training VPT"]
    assert all(row["ours"]["seconds"] > 0 and row["naive"]["seconds"] > 0 for row in (whole, coop, vpt))


@pytest.mark.slow
def test_end_to_end_stops_where_figures_differ(quick, monkeypatch):
    monkeypatch.setattr(end_to_end, "WITHOUT", ("OPTIM.WARMUP_EPOCH", "0"))
    with pytest.raises(SystemExit, match="the figures differ .*: base2new/train_base/.*CoOp"):
        quick("end_to_end")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["text_encoder", "training_step", "method_steps", "evaluation"])
def test_gpu(quick, name):
    record = quick(name, "--device", "cuda", "--backbone", "ViT-B/32")
    assert record["machine"]["device"] == "cuda" and record["settings"]["dtype"] == "bf16"
    assert all(row["ours"]["seconds"] > 0 for row in record["rows"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_skipped_and_said(capsys):
    with pytest.raises(SystemExit) as end:
        measure.options("", ["--device", "cuda"])
    assert not end.value.code and "GPU: skipped" in capsys.readouterr().out
    assert measure.options("", []).device == "cpu"


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [("--repeats", "0", "must be at least 1, got 0"), ("--out", __file__, "that can be written: .*test_runs")],
)
def test_what_cannot_be_done_is_refused_before_the_work(flag, value, message, capsys):
    with pytest.raises(SystemExit) as end:
        measure.options("", [flag, value], models=False)
    assert end.value.code == 2 and re.search(f"{flag} .*{message}", capsys.readouterr().err)


@pytest.mark.parametrize("name", [*TITLES, "plots", "report"])
def test_help_from_any_folder_without_heavy_imports(name, tmp_path):
    path = ROOT / "benchmarks" / f"{name}.py"
    code = f"""import runpy, sys
sys.argv = ["{name}", "--help"]
sys.path[0] = "{path.parent}"
try:
    runpy.run_path("{path}", run_name="__main__")
except SystemExit:
    print("torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--help" in done.stdout and done.stdout.endswith("False\n")


def test_make_bench_runs_every_benchmark():
    lines = (ROOT / "Makefile").read_text().split("\nbench:")[1].split("\n\n")[0]
    for name in [*TITLES, "plots", "report"]:
        assert name in lines
