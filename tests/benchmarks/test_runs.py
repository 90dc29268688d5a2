"""Every benchmark at --quick sizes: it runs, both sides agree, and the record has the documented form."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measure, method_steps
from benchmarks.figures import TITLES, text
from benchmarks.record import check

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
    args = measure.options("", ["--quick", "--device", "cpu", "--out", str(tmp_path)])
    case = (method, batch, 9)
    assert method_steps.error_of(args, case) < 1e-4
    _, gradients = method_steps.Side(args, "ours", case).gradients()
    assert all(g.abs().max() > 0 for g in gradients)
    if batch:
        side = method_steps.Side(args, "ours", case)
        first = float(side.loss().detach())
        step = side.step()
        step(), step()
        assert float(side.loss().detach()) < first


def test_evaluation(quick):
    record = quick("evaluation")
    check_models(record, 1e-5)
    assert record["per"] == "image" and "images/s" in text(record)


def test_half_precision_is_compared_with_a_wider_limit_and_kept_apart(quick, tmp_path):
    record = quick("evaluation", "--dtype", "bf16")
    assert all(row["error"] > 1e-5 for row in record["rows"])
    assert [path.stem[-5:] for path in tmp_path.iterdir()] == ["-bf16"]


@pytest.mark.slow
def test_startup(quick):
    record = quick("startup")
    help_, first = record["rows"]
    assert help_["naive"] and first["naive"] is None and first["ratio"] is None
    assert all(row["floor"]["seconds"] > 0 for row in record["rows"])


def test_data_loading(quick):
    record = quick("data_loading")
    assert all(row["error"] == 0 for row in record["rows"])  # the same pixels
    assert record["per"] == "image"


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
