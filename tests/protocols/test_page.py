import csv
import io
import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from protocols import definitions, report
from protocols.aggregate import all_tables
from protocols.records import read_runs
from reporting.charts import pictures_of, svgs
from reporting.html import best, page
from reporting.tables import Cell, Curves, Heatmap, Panel, Table, csv_text

HOSTILE = [
    "<script>alert(1)</script>",
    "\"&'",
    '"><img src=x onerror=alert(1)>',
    "</svg></table><b>",
    'url(#m1) id="x"',
    "é 漢 \x07",
]
VOID = {"meta", "img", "br", "link", "input"}


class Parsed(HTMLParser):
    """Elements with their attributes, the text, and the first table of each section as rows of text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open, self.tables, self.spans = [], [], [], {}, {}
        self.section = self.rows = self.cell = None
        self.feed(text)
        self.close()
        assert self.open == [], "elements that are not closed"

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open += [tag] if tag not in VOID else []
        if tag == "section":
            self.section = dict(attrs)["id"]
        elif tag == "table":
            self.rows, self.spans = [], {}
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            for label in [label for label, left in self.spans.items() if left and not self.rows[-1]]:
                self.rows[-1].append(label)
                self.spans[label] -= 1
            self.cell, self.span = "", int(dict(attrs).get("rowspan", 1))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("th", "td"):
            self.rows[-1].append(self.cell)
            if self.span > 1:
                self.spans = {self.cell: self.span - 1}
            self.cell = None
        elif tag == "table":
            self.tables.setdefault(self.section, self.rows)

    def handle_data(self, data):
        self.texts.append(data)
        if self.cell is not None:
            self.cell += data


def fill(add_run, trainers=("ZeroshotCLIP", "CoOp", "GOPro"), per_class=None):
    """Base-to-new and cross-dataset runs on the rendered sets, two seeds, one of them missing."""
    changes = {"per_class": per_class} if per_class else {}
    for number, trainer in enumerate(trainers):
        zero = trainer == "ZeroshotCLIP"
        for seed in (1,) if zero else (1, 2):
            for name in ("shapes", "digits"):
                train = None if zero else {"dataset": name.title(), "num_shots": 16}
                kind, accuracy = "test" if zero else "train", 50.0 + 7 * number + seed
                if (trainer, name, seed) != ("CoOp", "digits", 2):
                    add_run("base2new", kind, name, trainer, seed, accuracy, "base", train=train, **changes)
                add_run("base2new", "test", name, trainer, seed, accuracy - 9, "new", train=train, **changes)
            train = None if zero else {"dataset": "Shapes", "num_shots": 16}
            for name in definitions.RENDERED[1:]:
                add_run("cross-dataset", "test", name, trainer, seed, 40.0 + number * seed, train=train, **changes)


def write_page(folder, *arguments):
    file = folder / "sub folder" / "page.html"
    assert report.main([str(folder), "--html", str(file), *arguments]) == 0
    return file, Parsed(file.read_text(encoding="utf-8"))


def test_tables_of_the_page_are_those_of_the_csv_format(add_run, tmp_path):
    fill(add_run)
    _, parsed = write_page(tmp_path, "--paper")
    tables = all_tables(read_runs(tmp_path)[0], tmp_path, None)
    assert len(tables) == 2
    for number, table in enumerate(tables, 1):
        shown = parsed.tables[f"table-{number}"]
        header, *lines = csv.reader(io.StringIO(csv_text(table)))
        kept = [i for i, name in enumerate(header) if i and not name.endswith((" ci95", " seeds"))]
        assert shown[0] == [header[i] for i in kept]
        assert len(shown) == len(lines) + 1 > 3
        for row, line in zip(shown[1:], lines, strict=True):
            numbers = [word if i < table.labels else word.split()[0].rstrip("*") for i, word in enumerate(row)]
            values = [line[i] for i in kept]
            assert numbers[: table.labels] == values[: table.labels]
            for word, value, i in zip(
                numbers[table.labels :], values[table.labels :], kept[table.labels :], strict=True
            ):
                assert word == (f"{float(value):.2f}" if value else "—")
                half = line[i + 1] if header[i + 1 : i + 2] == [f"{header[i]} ci95"] else ""
                assert f"± {float(half):.2f}" in " ".join(row) if half else True


def test_links_lead_to_files_that_are_there_and_survive_moving_everything(add_run, tmp_path):
    fill(add_run)
    odd = tmp_path / "base2new" / "train_base" / "shapes" / "shots_16" / "GOPro" / "a #1%?&ü" / "seed7"
    shutil.copytree(next((tmp_path / "base2new" / "train_base" / "shapes").rglob("GOPro/tiny/seed1")), odd)
    record = json.loads((odd / "results.json").read_text()) | {"seed": 7}
    record["train"]["seed"] = 7
    (odd / "results.json").write_text(json.dumps(record))
    (odd / "log.txt").touch()
    file, _ = write_page(tmp_path)
    moved = tmp_path.with_name(tmp_path.name + " moved")
    tmp_path.rename(moved)
    parsed = Parsed((moved / "sub folder" / "page.html").read_text(encoding="utf-8"))
    links = [attrs["href"] for tag, attrs in parsed.elements if tag == "a"]
    files = [link for link in links if not link.startswith("#")]
    assert len(files) > 20 and not any(":" in link or link.startswith("/") for link in files)
    assert all(os.path.isfile(moved / "sub folder" / unquote(link)) for link in files)
    assert sum("log.txt" in link for link in files) == 1  # what a run did not leave is not linked
    ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    moved.rename(tmp_path)


def test_names_are_text_everywhere(add_run, tmp_path):
    fill(add_run, per_class={name: 50.0 for name in HOSTILE})
    for number, name in enumerate(HOSTILE[:4], 1):
        folder = add_run("own", "train", "mine", f"trainer{number}", 1, 40.0)
        record = json.loads((folder / "results.json").read_text()) | {"dataset": name, "trainer": name, "config": name}
        record["train"] |= {"dataset": name}
        folder = folder.rename(tmp_path / f"odd{number}")  # where the folder's name says nothing
        (folder / "results.json").write_text(json.dumps(record))
    bad = add_run("own", "train", "dtd", "CoOp", 9, 40.0)
    (bad / "done").unlink()
    (bad / "failed.json").write_text(json.dumps({"error": f"ValueError: {HOSTILE[0]}"}))
    file, parsed = write_page(tmp_path)
    assert not {tag for tag, _ in parsed.elements} & {"script", "img"}
    assert not any(name.startswith("on") for _, attrs in parsed.elements for name in attrs)
    shown = " ".join(parsed.texts)
    for name in HOSTILE[:5]:
        assert name in shown
    assert "\x07" not in file.read_text() and "é 漢 \ufffd" in shown
    assert "failed: ValueError: <script>" in shown


def test_page_asks_nothing_of_the_network_and_is_the_same_each_time(add_run, tmp_path):
    fill(add_run)
    file, parsed = write_page(tmp_path)
    first = file.read_bytes()
    asked = [
        value for tag, attrs in parsed.elements for name, value in attrs.items() if name in ("src", "href", "data")
    ]
    assert asked and not any(re.match(r"\w+:|//", value) for value in asked)
    assert "@import" not in first.decode() and not {"script", "link", "iframe"} & {tag for tag, _ in parsed.elements}
    assert write_page(tmp_path)[0].read_bytes() == first


def test_page_says_what_is_missing(add_run, tmp_path):
    fill(add_run)
    (add_run("base2new", "train", "counts", "CoOp", 1, 60.0, "base") / "done").unlink()
    _, parsed = write_page(tmp_path)
    shown = " ".join(parsed.texts)
    assert "missing: CoOp on digits (base classes): seed 2" in shown
    assert "base2new/train_base/counts/shots_16/CoOp/tiny/seed1: unfinished" in shown
    assert "Not counted (1)" in shown
    assert re.search(r"\d+ runs of 3 methods on 4 data sets", shown)


def test_best_values_of_a_column_are_bold_among_those_that_compete(tmp_path):
    rows = [["a", "x", Cell(1.0), Cell(2.004)], ["a", "y", Cell(3.0), Cell(2.0)], ["b", "x", Cell(9.0), None]]
    table = Table("t", ["set", "method", "one", "two"], 2, True, rows, best_of=(0,))
    assert best(table) == {(1, 2), (0, 3), (1, 3)}  # a lone value is no best one; those that print the same both are
    table.best_of = None
    assert best(table) == set()
    signed = Table("t", ["m", "diff"], 1, rows=[["x", Cell(1, signed=True)], ["y", Cell(2, signed=True)]], best_of=())
    assert best(signed) == set()
    for table.best_of, sticky in (((1,), "set"), (None, "method"), ((0,), "method")):
        assert re.findall(r'key" scope="col">(.*?)<', page("p", [], [table], [], tmp_path)) == [sticky]
    assert re.findall(r"<b>(.*?)</b>", page("p", [], [table], [], tmp_path)) == ["2.00", "3.00", "2.00"]


PANELS = [
    Panel("p", ["g", HOSTILE[0]], {HOSTILE[4]: [Cell(50.0, 2.0), None], "$x": [Cell(10.0), Cell(20.0)]}),
    Curves("c", [0, 1], {HOSTILE[1]: [Cell(5.0), Cell(20.0)]}),
    Heatmap("m", HOSTILE, [[10.0] * len(HOSTILE)] * len(HOSTILE)),
]


def test_charts_of_a_page_share_no_ids_and_keep_their_text():
    found = svgs(PANELS, "one") + svgs(PANELS, "two")
    ids, texts = [], []
    for svg in found:
        root = ET.fromstring(svg)
        own = [element.get("id") for element in root.iter() if element.get("id")]
        ids += own
        texts += [element.text for element in root.iter() if element.tag.endswith("}text")]
        used = re.findall(r"url\(#([^)]+)\)", " ".join(v for e in root.iter() for v in e.attrib.values()))
        used += [element.get("href")[1:] for element in root.iter() if element.get("href")]
        assert used and set(used) <= set(own)
        assert not any(element.tag.endswith(("}style", "}metadata", "}script")) for element in root.iter())
    assert len(ids) == len(set(ids)) > 50
    assert {*HOSTILE[:5], "$x"} <= set(texts)


def test_wide_bars_are_broken_into_charts_of_one_scale():
    series = {f"m{i}": [Cell(10.0 * (g % 9 + 1)) for g in range(12)] for i in range(17)}
    panel = Panel("t", [f"set {g}" for g in range(12)], series)
    parts = pictures_of([panel], 1280)
    assert [part.panel.groups for part in parts] == [panel.groups[i : i + 3] for i in (0, 3, 6, 9)]
    assert [cell for part in parts for cell in part.panel.series["m3"]] == series["m3"]
    assert max(part.width for part in parts) <= 1280 and len({part.limit for part in parts}) == 1
    assert parts[0].panel.title == "t (1 of 4)"
    (alone,) = pictures_of([Panel("t", ["one"], {f"m{i}": [Cell(1.0)] for i in range(99)})], 100)
    assert alone.panel.title == "t"  # a single group cannot be broken


def test_one_run_and_a_folder_of_seeds_make_a_page_too(add_run, tmp_path):
    folder = add_run("base2new", "train", "shapes", "GOPro", 1, 80.0)
    assert report.main(["--run", str(folder), "--html", str(tmp_path / "run.htm")]) == 0
    parsed = Parsed((tmp_path / "run.htm").read_text())
    rows = [["a", "1.00", ""], ["b", "50.00", ""], ["c", "100.00", ""], ["all images", "80.00", "results.json"]]
    assert parsed.tables["table-1"][1:] == rows
    assert report.main([str(folder.parent), "--html", str(tmp_path / "seeds.html")]) == 0
    parsed = Parsed((tmp_path / "seeds.html").read_text())
    assert [row[0] for row in parsed.tables["table-1"]] == ["run", "seed1", "mean"]
    (found,) = [attrs["href"] for tag, attrs in parsed.elements if tag == "a" and "json" in attrs["href"]]
    assert (tmp_path / found).samefile(folder / "results.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pdf", "--html must name a .html or .htm file, got"),
        ("d.html", "is a folder"),
        ("f/new/x.html", "f is no folder"),
    ],
)
def test_page_that_cannot_be_written(add_run, tmp_path, capsys, name, message):
    fill(add_run, ("GOPro",))
    (tmp_path / "d.html").mkdir()
    (tmp_path / "f").write_text("")
    assert report.main([str(tmp_path), "--html", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_a_browser_shows_the_page_without_complaint_and_without_scrolling_sideways(add_run, tmp_path):
    methods = [f"Method{i}" for i in range(16)]
    fill(add_run, ("ZeroshotCLIP", *methods), per_class={name: 50.0 for name in HOSTILE})
    file, _ = write_page(tmp_path)
    file.write_text(file.read_text().replace("<details>", "<details open>"))
    measure = (
        "<script>onload=()=>{let d=frames[0].document,t=d.querySelector('.scroll');document.title=[d.documentElement."
    )
    measure += (
        "scrollWidth,d.body.scrollWidth,t.scrollWidth>t.clientWidth,d.scripts.length,d.querySelectorAll('svg').length]}"
    )
    for width in (360, 1280):
        frame = f"<iframe src='page.html' style='width:{width}px;height:900px;border:0'></iframe>{measure}</script>"
        (file.parent / "frame.html").write_text(frame)
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=9000"]
        command += ["--dump-dom", (file.parent / "frame.html").as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        page_width, body_width, table_scrolls, scripts, drawn = re.search("<title>(.*?)</title>", result.stdout)[
            1
        ].split(",")
        assert int(page_width) <= width and int(body_width) <= width
        assert (table_scrolls == "true") == (width == 360)
        assert int(scripts) == 0 and int(drawn) > 3
        assert "CONSOLE" not in result.stderr
