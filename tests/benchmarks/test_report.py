"""Tables, charts and the performance section from made-up records."""

import copy
import json

import pytest
from PIL import Image

from benchmarks import figures, plots, processes, report, startup
from benchmarks.record import check, read, rows_of
from reporting.readme import put

MACHINE = {"name": "Fast Chip, 2 cores", "short": "fast-chip-2-cores", "device": "cpu", "cpu": "Fast Chip", "cores": 2}
MACHINE |= {"threads": 2, "memory_bytes": 24 * 2**30, "system": "Linux", "python": "3.11.1", "torch": "2.6.0"}
GPU = MACHINE | {"name": "NVIDIA H100", "short": "nvidia-h100", "device": "cuda"}
RATES = {"matmul_flops": 2e11, "copy_bytes": 2e10}


def side(seconds, peak=None, source=None):
    return {"seconds": seconds, "runs": [] if source else [seconds], "peak_bytes": peak, "extrapolated_from": source}


def row(case, ours, naive, error=2e-7, share=0.7):
    floor = {"rates": RATES, "flops": 1e9, "bytes": 1e6, "seconds": ours["seconds"] * share, "share": share}
    ratio = naive["seconds"] / ours["seconds"] if naive else None
    return {"case": case, "ours": ours, "naive": naive, "ratio": ratio, "error": error, "floor": floor}


def record(benchmark, rows, machine=MACHINE, per="run", **settings):
    dtype = "fp32" if machine["device"] == "cpu" else "bf16"
    settings = {"backbone": "ViT-B/16", "device": machine["device"], "dtype": dtype, "repeats": 5} | settings
    made = {"schema": 1, "benchmark": benchmark, "date": "2026-02-03", "command": f"python -m benchmarks.{benchmark}"}
    return made | {"machine": machine, "settings": settings, "rates": RATES, "per": per, "rows": rows}


def text_case(batch=12, classes=50, context=4, mode="forward"):
    return {"batch": batch, "classes": classes, "context": context, "mode": mode}


def method_case(method, batch, classes):
    return {"method": method, "batch": batch, "classes": classes}


def all_records(machine=MACHINE):
    text = [row(text_case(), side(1.25, 1e9), side(25.0, 2e9))]
    text += [row(text_case(4, c), side(c / 100), side(c / 8, None, "4 x 9" if c > 50 else None)) for c in (10, 50, 90)]
    text += [row(text_case(4, 50, m), side(0.5), side(6.0)) for m in (1, 16)]
    step = [
        row({"batch": 4, "classes": 50}, side(4.0, 3e9), side(44.0, 30e9, "4 images x 20 classes")),
        row({"batch": 4, "classes": 500}, side(30.0, 7e9), None, error=None),
    ]
    methods = [
        row(method_case("CoOp", None, 100), side(0.5), side(6.0)),
        row(method_case("CoCoOp", 1, 100), side(2.0, 1e9), side(8.0, 5e9), error=2e-5),
        row(method_case("MaPLe", 4, 1000), side(9.0, 2e9), None, error=None) | {"needs_bytes": 41.7e9},
    ]
    test = [row({"batch": 32, "classes": c}, side(0.001 * c, 2e9), side(0.02 * c, 3e9)) for c in (100, 1000)]
    return {
        "text_encoder": record("text_encoder", text, machine),
        "training_step": record("training_step", step, machine),
        "method_steps": record("method_steps", methods, machine),
        "evaluation": record("evaluation", test, machine, per="image"),
        "startup": record("startup", [row({"what": startup.HELP}, side(0.0712), side(6.0), None)], machine),
    }


def write(folder, records):
    for made in records.values():
        (folder / f"{made['benchmark']}-{made['machine']['short']}.json").write_text(json.dumps(made))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (12.34, "12.3 s"), (1.0, "1.00 s"), (0.0712, "71.2 ms"), (1234.5, "1,234 s"), (2.5e-5, "0.025 ms")],
)
def test_seconds(value, text):
    assert figures.seconds(value) == text


def test_text_table_has_stars_notes_and_no_empty_columns():
    text = figures.text(all_records()["training_step"])
    assert text.splitlines()[0] == "Training step: Fast Chip, 2 cores; ViT-B/16, fp32"
    first, second = text.splitlines()[2:4]
    assert " ".join(first.split()) == "4 images x 50 classes 4.00 s 44.0 s* 11.0 x* 3.00 GB 30.0 GB* 2e-7 2.80 s 70 %"
    assert " ".join(second.split()) == "4 images x 500 classes 30.0 s - - 7.00 GB - - 21.0 s 70 %"
    assert "* does not fit or takes too long; in a straight line from what does: 4 images x 20 classes." in text
    assert "200 GFLOP/s" in text and "20.0 GB/s" in text
    assert "peak" not in figures.text(all_records()["startup"])


def test_what_a_naive_side_that_does_not_fit_would_take_is_said():
    _, rows = figures.table(all_records()["method_steps"])
    assert [cells[0] for cells in rows] == [
        "CoOp, text side, 100 classes",
        "CoCoOp, 1 image x 100 classes",
        "MaPLe, 4 images x 1000 classes",
    ]
    assert rows[1][1:6] == ["2.00 s", "8.00 s", "4.00 x", "1.00 GB", "5.00 GB"]
    assert rows[2][1:6] == ["9.00 s", "not measured: needs about 42 GB", "-", "2.00 GB", "-"]


def test_testing_is_in_images_per_second():
    header, rows = figures.table(all_records()["evaluation"])
    assert rows[0][:4] == ["32 images x 100 classes", "10.0 images/s", "0.5 images/s", "20.0 x"]


def test_of_a_machine_with_few_benchmarks_only_these_are_named_and_last(tmp_path):
    write(tmp_path, all_records())
    other = MACHINE | {"name": "Small Chip", "short": "small-chip"}
    write(tmp_path, {"processes": record("processes", [row({"what": processes.TINY}, side(1), side(2))], other)})
    text = report.section(tmp_path, tmp_path)
    first, last = text.split("**Small Chip**")
    assert "**Data loading**: not measured" in first and "**Fast Chip" in first
    assert "DistributedDataParallel / ours | at least 0.95 x | 2.00 x | yes |" in last
    assert "not measured" not in last.partition("</details>")[0]


def test_section_names_machine_date_command_targets_and_what_was_not_measured(tmp_path):
    write(tmp_path, all_records())
    text = report.section(tmp_path, tmp_path)
    assert text.startswith("Medians beside the naive reference")
    for part in ("**Fast Chip, 2 cores**, 24 GiB, PyTorch 2.6.0, 2026-02-03; ViT-B/16", "`make bench`", "30.0 GB\\*"):
        assert part in text, part
    lines = text.splitlines()
    for line in (
        "| text encoder: agreement of features and gradients, relative, fp32 | below 1e-5 | 2e-7 | yes |",
        "| training step: agreement of loss and gradients | below 3e-5 | 2e-7 | yes |",
        "| text encoder, 12 prompts x 50 classes: naive / ours | at least 15 x | 20.0 x | yes |",
        "| training step, 4 images x 50 classes: naive / ours | at least 10 x | 11.0 x\\* | yes |",
        "| its share of the floor | at least 60 % | 70 % | yes |",
        "| training step, 4 images x 500 classes: memory | below 6 GB | 7.00 GB | no |",
        "| testing, 100 classes: ours / naive images/s | at least 25 x | 20.0 x | no |",
        "| CoOp, CoCoOp, MaPLe: agreement of losses and gradients | below 1e-4 | 2e-5 | yes |",
        "| CoOp, text side, 100 classes: naive / ours | at least 5 x | 12.0 x | yes |",
        "| MaPLe, text side, 100 classes: naive / ours | at least 5 x | not measured |  |",
        "| CoCoOp, training step, 1 image x 100 classes: naive / ours | at least 5 x | 4.00 x | no |",
        "| MaPLe, training step, 4 images x 1000 classes: memory | below 4 GB | 2.00 GB | yes |",
        "| `python train.py --help` | below 1 s | 71.2 ms | yes |",
        "| first training step of the demo, from the start of python | below 10 s | not measured |  |",
        "| training step, 4 images x 50 classes | below 25 ms | not measured |  |",
        "| CoCoOp, training step, 8 images x 100 classes | - | not measured |  |",
        "**GPU of the H100 class, bf16**: not measured.",
        "**Data loading**: not measured.",
    ):
        assert line in lines, line


def test_section_with_a_gpu_and_with_nothing(tmp_path):
    write(tmp_path, all_records(GPU))
    text = report.section(tmp_path, tmp_path)
    assert "**CPU**: not measured." in text and "GPU of the H100 class" not in text
    assert "| testing, 1000 classes | at least 700 images/s | 1.00 images/s | no |" in text
    assert "| MaPLe, training step, 4 images x 1000 classes | - | 9.00 s |  |" in text
    (tmp_path / "empty").mkdir()
    text = report.section(tmp_path / "empty", tmp_path)
    assert "**CPU**: not measured." in text and "**GPU of the H100 class, bf16**: not measured." in text


def test_the_page_is_written_and_checked(tmp_path, capsys):
    results, page = tmp_path / "results", tmp_path / "performance.md"
    results.mkdir()
    write(results, all_records())
    page.write_text("# Title\n\n<!-- performance:begin -->\nold\n<!-- performance:end -->\n\nAfter.\n")
    options = ["--results", str(results)]
    with pytest.raises(SystemExit, match="not that of"):
        report.main([*options, "--check", str(page)])
    report.main([*options, "--write", str(page)])
    report.main([*options, "--check", str(page)])
    text = page.read_text()
    assert text.startswith("# Title\n\n<!-- performance:begin") and text.endswith("performance:end -->\n\nAfter.\n")
    assert "old" not in text
    report.main(options)
    assert capsys.readouterr().out.strip() in text
    for bad in ("no markers", text + text):
        with pytest.raises(ValueError, match="once"):
            put(bad, report.SECTION, "x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("date"), "a record has the keys"),
        (lambda r: r.update(schema=2), "unknown schema 2"),
        (lambda r: r.update(rows=[]), "no rows"),
        (lambda r: r["rows"][0]["ours"].update(seconds=0), "positive time"),
        (lambda r: r["rows"][0]["naive"].pop("runs"), "a side has"),
        (lambda r: r["rows"][0].pop("ours"), "'ours'"),
    ],
)
def test_broken_records_are_named(tmp_path, change, message):
    made = copy.deepcopy(all_records()["text_encoder"])
    change(made)
    (tmp_path / "broken.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match=rf"broken\.json: .*{message}"):
        read(tmp_path)


def test_a_folder_that_is_not_there_overwrites_nothing(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("<!-- performance:begin -->\nold\n<!-- performance:end -->\n")
    with pytest.raises(ValueError, match="gone: there is no such folder of records"):
        report.main(["--results", str(tmp_path / "gone"), "--write", str(page)])
    assert "old" in page.read_text()


def test_records_group_by_machine_and_precision(tmp_path):
    write(tmp_path, all_records())
    half = record("text_encoder", all_records()["text_encoder"]["rows"], dtype="bf16")
    (tmp_path / "half.json").write_text(json.dumps(half))
    write(tmp_path, {"one": record("startup", all_records()["startup"]["rows"], GPU)})
    groups = read(tmp_path)
    assert sorted(len(group) for group in groups) == [1, 1, 5]
    assert rows_of(groups[0], "data_loading", {"batch": 1}) == []
    assert check(half) is half


def test_growth_picks_the_cases_that_vary_in_one_size(tmp_path):
    group = all_records()
    lines = plots.growth(group, "text_encoder", "classes", {"batch": 4, "context": 4}, "seconds")
    assert lines["ours"] == [(10, 0.1, False), (50, 0.5, False), (90, 0.9, False)]
    assert [hollow for _, _, hollow in lines["naive"]] == [False, False, True]
    titles = [chart.title for chart in plots.charts(group)]
    assert titles == [
        "Text encoder, 4 prompts",
        "Text encoder, 50 classes",
        "Text encoder, 4 prompts x 50 classes",
        "Training step, 4 images",
        "Training step, 4 images: memory",
        "Testing, time an image",
    ]


def test_charts_are_drawn_beside_the_records_and_shown_in_the_section(tmp_path):
    write(tmp_path, all_records())
    (path,) = plots.main([str(tmp_path)])
    assert path == tmp_path / "growth-fast-chip-2-cores.png"
    with Image.open(path) as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(10**6)) > 5
    assert "(growth-fast-chip-2-cores.png)" in report.section(tmp_path, tmp_path)
