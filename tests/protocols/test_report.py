import csv
import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from PIL import Image

from protocols import definitions, report
from reporting.charts import COLOURS, draw, looks_of, save, spread, wrap
from reporting.tables import Cell, Curves, Heatmap, Panel, Table, csv_text, latex, markdown, terminal


@pytest.fixture
def table():
    rows = [
        ["dtd", "GOPro", Cell(82.414, 1.5, 3), Cell(-0.5, signed=True)],
        ["dtd", "Zero_shot", Cell(50.0, None, 2, incomplete=True), None],
    ]
    return Table("Title", ["data set", "method", "Base", "diff"], 2, True, rows, ["a note"])


def test_terminal(table):
    lines = terminal(table).splitlines()
    assert lines[0] == "Title"
    assert lines[2].split() == ["data", "set", "method", "Base", "diff"]
    assert lines[4] == "dtd       GOPro      82.41 ± 1.50  -0.50"
    assert lines[5] == "          Zero_shot  50.00*         —"
    assert lines[-1] == "a note"


def test_markdown(table):
    assert markdown(table).splitlines()[2:] == [
        "| data set | method | Base | diff |",
        "| --- | --- | ---: | ---: |",
        "| dtd | GOPro | 82.41 ± 1.50 | -0.50 |",
        "|  | Zero_shot | 50.00* | — |",
        *("", "- a note"),
    ]


def test_latex(table):
    text = latex(table)
    assert r"\begin{tabular}{llrr}" in text
    assert r"dtd & GOPro & 82.41 $\pm$ 1.50 & -0.50 \\" in text
    assert r" & Zero\_shot & 50.00* & --- \\" in text
    assert text.count(r"\midrule") == 1


def test_latex_has_names_as_text():
    text = latex(Table("t", [r"a\b", "{$5}"], rows=[["x^~<>", "c & d_e"]]))
    assert r"a\textbackslash{}b & \{\$5\} \\" in text
    assert r"x\textasciicircum{}\textasciitilde{}$<$$>$ & c \& d\_e \\" in text


def test_csv_keeps_labels_and_splits_intervals(table):
    header, first, second = csv.reader(io.StringIO(csv_text(table)))
    assert header == ["table", "data set", "method", "Base", "Base ci95", "Base seeds", "diff"]
    assert first == ["Title", "dtd", "GOPro", "82.414", "1.5", "3", "-0.5"]
    assert second == ["Title", "dtd", "Zero_shot", "50.0", "", "2", ""]


@pytest.mark.parametrize("name", ["chart.png", "new/chart.pdf"])
def test_report_prints_and_draws(add_run, tmp_path, capsys, name):
    add_run("base2new", "train", "shapes", "GOPro", 1, 80.0, "base")
    add_run("base2new", "test", "shapes", "GOPro", 1, 60.0, "new")
    (add_run("base2new", "train", "shapes", "GOPro", 2, 60.0, "base") / "done").unlink()
    assert report.main([str(tmp_path), "--chart", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert "68.57" in out
    assert "not counted: base2new/train_base/shapes/shots_16/GOPro/tiny/seed2: unfinished" in out
    assert (tmp_path / name).stat().st_size > 1000


def test_tables_go_into_the_readmes_section(add_run, tmp_path, capsys):
    add_run("base2new", "train", "shapes", "GOPro", 1, 80.0, "base")
    add_run("base2new", "test", "shapes", "GOPro", 1, 60.0, "new")
    file = tmp_path / "README.md"
    begin, end = "<!-- mini:begin, from: a command -->", "<!-- mini:end -->"
    file.write_text(f"Before\n\n{begin}\nnot measured yet\n{end}\n\nAfter\n")
    assert report.main([str(tmp_path), "--readme", str(file), "--section", "mini"]) == 0
    before, content, after = re.split(f"{begin}\n|{end}", file.read_text())
    assert (before, after) == ("Before\n\n", "\n\nAfter\n")
    assert content.startswith("**Base-to-new generalization**\n\n| data set")
    assert "| shapes | GOPro | 80.00 | 60.00 | 68.57 |" in content
    assert "not measured" not in content
    written = file.read_text()
    assert report.main([str(tmp_path), "--readme", str(file), "--section", "mini"]) == 0
    assert file.read_text() == written
    assert report.main([str(tmp_path), "--check", str(file), "--section", "mini"]) == 0
    file.write_text(written.replace("68.57", "99.99"))
    capsys.readouterr()
    assert report.main([str(tmp_path), "--check", str(file), "--section", "mini"]) == 1
    assert f"section mini is not that of {tmp_path}" in capsys.readouterr().out
    assert "99.99" in file.read_text()
    for wrong in (written + written, written.replace(end, ""), "nothing"):
        file.write_text(wrong)
        assert report.main([str(tmp_path), "--readme", str(file), "--section", "mini"]) == 2
        assert "<!-- mini:begin --> and, after it, <!-- mini:end --> once" in capsys.readouterr().err
        assert file.read_text() == wrong
    assert report.main([str(tmp_path), "--readme", str(file)]) == 2  # the section is named after the folder
    assert f"<!-- {tmp_path.name}:begin -->" in capsys.readouterr().err


def test_bars_reach_their_values(tmp_path):
    panel = Panel("t", ["one", "two"], {"a": [Cell(80.0), None], "b": [Cell(40.0, 2.0), Cell(0.0)]}, {"b"})
    (axes,) = draw([panel]).axes
    bars = {(bar.get_facecolor()[:3], round(bar.get_x())): bar.get_height() for bar in axes.patches}
    blue, grey = ((0x2F / 255, 0x6D / 255, 0xB5 / 255), (0x98 / 255, 0xA1 / 255, 0xAD / 255))
    assert bars == {(blue, 0): 80.0, (grey, 0): 40.0, (grey, 1): 0.0}
    assert axes.get_ylim() == (0, 100)
    segments = [segment for lines in axes.collections for segment in lines.get_segments()]
    assert [s[:, 1].tolist() for s in segments if s.size and np.isfinite(s).all()] == [[38.0, 42.0]]
    save([panel], tmp_path / "bars.png")
    picture = np.asarray(Image.open(tmp_path / "bars.png").convert("RGB"))
    columns = (picture[120:] == (0x2F, 0x6D, 0xB5)).all(2).sum(0)  # per column, below the legend
    assert columns.max() == pytest.approx(500 * 0.8, abs=6)  # the axis goes to 100 over 500 pixels
    assert wrap("average of 10", 30).count("\n") >= 1


def test_legend_of_bars_has_the_looks_of_series_without_a_bar():
    panel = Panel("t", ["g"], {"a": [Cell(1.0)], "b": [None], "c": [Cell(2.0)]})
    (axes,) = draw([panel]).axes
    squares = axes.get_legend().get_patches()
    assert [square.get_label() for square in squares] == ["a", "b", "c"]
    assert [square.get_facecolor() for square in squares] == [to_rgba(colour) for colour in COLOURS[:3]]


def test_lines_have_their_values_at_doubling_shots(tmp_path):
    zero, one, four = Cell(30.0), Cell(40.0, 2.0), Cell(55.0)
    lines = {"zero": [zero, None, None, None], "a": [None, one, None, four], "b": [None, Cell(35.0), Cell(38.0), None]}
    panel = Curves("t", [0, 1, 2, 4], lines, {"zero"})
    (axes,) = draw([panel]).axes
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    assert [(tick, label.get_text()) for tick, label in ticks] == [(-1, "0"), (0, "1"), (1, "2"), (2, "4")]
    drawn = [(x.get_marker(), *np.round(np.array(x.get_data(), float)).tolist()) for x in axes.lines]
    assert ("*", [-1], [30.0]) in drawn
    assert ("o", [0, 2], [40.0, 55.0]) in drawn and ("o", [0, 1], [35.0, 38.0]) in drawn
    segments = [segment for bars in axes.collections for segment in bars.get_segments()]
    assert [s[:, 1].tolist() for s in segments if s.size and np.isfinite(s).all()] == [[38.0, 42.0]]
    assert [text.get_text() for text in axes.texts if text.get_text() != "t"] == ["zero", "b", "a"]  # as they end
    assert axes.get_ylim() == (25, 60)
    for ending in ("png", "pdf"):
        save([panel, Curves("empty", [1], {"a": [None]})], tmp_path / f"lines.{ending}")
    assert Image.open(tmp_path / "lines.png").width > 500


def test_seventeen_methods_look_different_and_alike_in_all_charts():
    names = [f"method {i}" for i in range(17)]
    lines = Curves("t", [0, 1], {name: [None, Cell(50.0)] for name in reversed(names)}, {names[0]})
    looks = looks_of([Panel("t", ["g"], {name: [Cell(50.0)] for name in names}, {names[0]}), lines])
    assert len({look.colour for look in looks.values()}) == len(set(looks.values())) == 17
    assert {look.line for look in looks.values()} == {"-", "--"} and len(set(COLOURS)) == 16
    figure = draw([Panel("t", ["g"], {name: [Cell(50.0)] for name in names}, {names[0]}), lines])
    bars, curves = figure.axes
    colours = {group.get_label(): group[0].get_facecolor() for group in bars.containers if len(group) == 1}
    assert [colours[name] for name in names] == [to_rgba(looks[name].colour) for name in names]
    assert {line.get_color() for line in curves.lines} == {look.colour for look in looks.values()}
    twice = looks_of([Panel("t", ["g"], {f"method {i}": [] for i in range(32)})])
    assert len(set(twice.values())) == 32


@pytest.mark.parametrize(
    ("wanted", "heights"),
    [
        ([], []),
        ([10.0, 50.0], [10.0, 50.0]),
        ([50.0, 50.0, 50.0], [40.0, 50.0, 60.0]),
        ([0.0, 1.0, 99.0, 100.0], [0.0, 10.0, 90.0, 100.0]),
        ([5.0] * 13, [i * 10.0 for i in range(13)]),  # more than there is room for
    ],
)
def test_names_are_spread_no_further_than_they_need(wanted, heights):
    assert spread(wanted, 10.0, 0.0, 100.0) == heights


def test_pdf_charts_are_vectors_and_names_are_no_formulas(tmp_path):
    names = ["$5", "a $_ b"]
    save(
        [Panel("t$^", names, {"x$": [Cell(1.0), None]}), Heatmap("m", names, [[100.0, 0.0], [0.0, 0.0]])],
        tmp_path / "a.pdf",
    )
    content = (tmp_path / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/Subtype /Image" not in content


def test_a_folder_of_seeds(add_run, tmp_path, capsys):
    for seed in (1, 2, 3):
        folder = add_run("base2new", "train", "shapes", "GOPro", seed, 79.0 + seed, "base")
    assert report.main([str(folder.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split()[:2] == ["seed1", "80.00"]
    assert lines[7].split()[:4] == ["mean", "81.00", "±", "2.48"]


def test_a_folder_of_seeds_of_which_some_know_their_calibration_error(add_run, tmp_path, capsys):
    def results(accuracy, **more):
        return {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": accuracy, **more}

    for seed, more in ((1, {}), (2, {"ece": 4.0}), (3, {"ece": 6.0})):
        accuracy = 79.0 + seed
        folder = add_run(
            "base2new", "train", "shapes", "GOPro", seed, accuracy, "base", results=results(accuracy, **more)
        )
    assert report.main([str(folder.parent)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["run", "accuracy", "error_rate", "macro_f1", "ece"]
    assert [line[-1] for line in lines[4:7]] == ["—", "4.00", "6.00"]
    assert lines[7][:4] == ["mean", "81.00", "±", "2.48"] and lines[7][-3:] == ["5.00", "±", "12.71*"]
    assert " ".join(lines[-1]) == "*: not all records hold this figure"


def test_runs_of_different_kinds_beside_each_other_are_no_seeds_of_one(add_run, tmp_path, capsys):
    for number, name in enumerate(("dtd", "shapes"), 1):
        add_run("own", "try", name, "GOPro", number, 50.0).rename(tmp_path / f"run{number}")
    assert report.main([str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "50.00" in line] == [["dtd", "GOPro", "50.00"], ["shapes", "GOPro", "50.00"]]
    assert not any("mean" in line for line in lines)


def test_runs_of_no_protocol_are_named_from_the_folder_given(add_run, tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        add_run(name, "train", "dtd", "CoOp", 1, 60.0, num_shots=-1, config=name)
    monkeypatch.chdir(tmp_path)
    for output, shown in (
        ([tmp_path], "one"),
        (["."], "one"),
        (["../" + tmp_path.name], "one"),
        (["one", "two"], "one"),
    ):
        assert report.main([*map(str, output)]) == 0
        assert f"\n{shown}/train_all/dtd/shots_-1/CoOp/one " in capsys.readouterr().out


def test_one_run_per_class_and_confusion(add_run, tmp_path, capsys):
    folder = add_run("base2new", "train", "shapes", "GOPro", 1, 80.0)
    assert report.main(["--run", str(folder)]) == 0
    assert "TEST.COMPUTE_CMAT" in capsys.readouterr().out
    torch.save(torch.tensor([[1, 1, 2], [0, 4, 0], [0, 0, 0]]), folder / "cmat.pt")
    chart = tmp_path / "run.png"
    assert report.main(["--run", str(folder), "--chart", str(chart)]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.startswith("a ")] == [
        *(["a", "1.00"], ["a", "25.0", "25.0", "50.0"])
    ]
    assert Image.open(chart).width > 300


def test_many_classes_show_the_largest_confusions(add_run, tmp_path, capsys):
    names = {f"class{i}": 50.0 for i in range(20)}
    folder = add_run("base2new", "train", "shapes", "GOPro", 1, 80.0, per_class=names)
    matrix = torch.eye(20) * 3
    matrix[4, 7] = 1
    torch.save(matrix, folder / "cmat.pt")
    assert report.main(["--run", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "largest confusions" in out
    assert ["class4", "class7", "25.00"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "no such folder: nowhere"),
        (["."], "no finished run under"),
        (["--run", "."], "no folder of a finished run"),
        ([".", "--chart", "x.gif"], "--chart must name a .png or .pdf file"),
    ],
)
def test_nothing_to_report(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert report.main(argv) == 2
    assert message in capsys.readouterr().err


def test_paper_on_the_command_line(add_run, tmp_path):
    add_run("base2new", "test", "dtd", "ZeroshotCLIP", 1, 50.0, "base")
    command = [sys.executable, definitions.ROOT / "scripts" / "report.py", tmp_path, "--paper", "--format", "csv"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "dtd,ZeroshotCLIP,50.0,,1,,,53.24,59.9,56.37,-3.24,," in result.stdout
    assert "missing: ZeroshotCLIP on dtd (new classes): all runs" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a confusion matrix: EOFError"),
        (b"PK\x03\x04 cut off", "cannot be read as a confusion matrix"),
        (pickle.dumps(Path, 2), "cannot be read as a confusion matrix: UnpicklingError"),
        ({"a": torch.eye(3)}, "holds no confusion matrix but a dict"),
        (torch.eye(3).to_sparse(), "holds no confusion matrix"),
        (torch.eye(4), "has shape (4, 4), but results.json has 3 classes"),
        (torch.ones(3), "has shape (3,)"),
        (torch.full((3, 3), torch.nan), "holds numbers that are no counts"),
        (-torch.eye(3), "holds numbers that are no counts"),
    ],
)
def test_a_damaged_or_hostile_matrix_is_named_in_one_line(add_run, capsys, content, message):
    folder = add_run("base2new", "train", "shapes", "GOPro", 1, 80.0)
    if isinstance(content, bytes):
        (folder / "cmat.pt").write_bytes(content)
    else:
        torch.save(content, folder / "cmat.pt")
    assert report.main(["--run", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder / 'cmat.pt'} ") and message in line


def test_start_loads_nothing_that_only_some_reports_need(add_run, tmp_path):
    add_run("base2new", "test", "dtd", "ZeroshotCLIP", 1, 50.0, "base")
    code = "import sys; from protocols import report; report.main([sys.argv[1]])\n"
    code += "sys.exit(bool({'torch', 'scipy', 'matplotlib'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, cwd=Path(report.__file__).parents[1], capture_output=True).returncode == 0
