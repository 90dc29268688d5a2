"""`python -m datasets.check` on complete, incomplete and damaged sets."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datasets import check
from datasets.dtd import DescribableTextures


@pytest.fixture
def dtd(tmp_path, image, monkeypatch):
    """A complete set of three classes; what is published is made to fit."""
    folder = tmp_path / "data" / "dtd"
    names = [f"{c}/{i}.jpg" for c in ("banded", "dotted", "woven") for i in range(10)]
    for i, name in enumerate(names):
        image(folder / "images" / name, i)
    rows = [[name, i // 10, name.split("/")[0]] for i, name in enumerate(names)]
    content = {"train": rows[::2], "val": rows[1::4], "test": rows[3::4]}
    (folder / "split_zhou_DescribableTextures.json").write_text(json.dumps(content))
    monkeypatch.setattr(DescribableTextures, "official", {"classes": 3, "train": 15, "val": 8, "test": 7})
    return folder


@pytest.fixture
def run(tmp_path, capsys):
    def command(*args, root=None):
        capsys.readouterr()
        status = check.main([*args, "--root", str(root or tmp_path / "data")])
        return status, capsys.readouterr().out

    return command


def state(folder):
    return {str(p): p.stat().st_mtime_ns for p in [folder, *folder.rglob("*")]}


def test_all_is_well(dtd, run):
    before = state(dtd)
    status, out = run("dtd")
    assert status == 0
    assert "3 classes, 15 train, 8 val, 7 test: as published" in out
    assert "30 of 30 decode" in out
    assert out.endswith("All is well.\n")
    assert state(dtd) == before


@pytest.mark.parametrize("workers", ["1", "2"])
def test_broken_images_are_named(dtd, run, monkeypatch, workers):
    monkeypatch.setattr(check, "INLINE_IMAGES", 2)
    good = (dtd / "images" / "banded" / "1.jpg").read_bytes()
    (dtd / "images" / "banded" / "3.jpg").write_bytes(good[:-10])
    (dtd / "images" / "woven" / "0.jpg").write_bytes(b"")
    (dtd / "images" / "woven" / "5.jpg").write_text("not an image")
    status, out = run("dtd", "--workers", workers)
    assert status == 1
    assert "27 of 30 decode" in out
    broken = [line.split()[2] for line in out.splitlines() if line.startswith("  broken image")]
    assert broken == [str(dtd / "images" / n) for n in ("banded/3.jpg", "woven/0.jpg", "woven/5.jpg")]
    assert "truncated" in out
    assert "Not ready: dtd" in out
    assert run("dtd", "--no-decode")[0] == 0


def test_all_cores_and_a_progress_bar(dtd, monkeypatch, capsys):
    asked = []

    class Pool:
        def __init__(self, workers):
            asked.append(workers)

        def __enter__(self):
            return self

        def __exit__(self, *_args):
            pass

        def imap_unordered(self, function, items, chunksize):
            return map(function, items)

    monkeypatch.setattr(check, "INLINE_IMAGES", 2)
    monkeypatch.setattr(check.multiprocessing, "Pool", Pool)
    monkeypatch.setattr(check.os, "sched_getaffinity", lambda _: range(7), raising=False)
    assert check.main(["dtd", "--root", str(dtd.parent)]) == 0
    assert asked == [7]
    assert "Reading dtd: 100%" in capsys.readouterr().err


def test_many_broken_images_are_counted(dtd, run):
    for i in range(8):
        for c in ("banded", "dotted", "woven"):
            (dtd / "images" / c / f"{i}.jpg").write_bytes(b"")
    out = run("dtd")[1]
    assert out.count("broken image:") == 20
    assert "... and 4 more broken images" in out


def test_numbers_that_differ(dtd, run, monkeypatch):
    monkeypatch.setattr(DescribableTextures, "official", {"classes": 47, "train": 15, "val": 8, "test": 1692})
    status, out = run("dtd")
    assert status == 1
    assert "classes: 3 found, 47 published" in out
    assert "test: 7 found, 1,692 published" in out
    assert "train:" not in out


def test_missing_split_file(dtd, run):
    file = dtd / "split_zhou_DescribableTextures.json"
    file.unlink()
    status, out = run("dtd", "--no-decode")
    assert status == 1
    assert f"missing: {file} (without it a split is drawn" in out
    assert "python -m datasets.prepare dtd --root" in out
    assert not file.exists()


def test_missing_images(dtd, run):
    (dtd / "images" / "banded" / "4.jpg").unlink()
    status, out = run("dtd")
    assert status == 1
    assert f"names 1 of 30 images that are not there: {dtd}/images/banded/4.jpg" in out


def test_missing_set(run, tmp_path):
    status, out = run("food101", "dtd")
    assert status == 1
    assert f"missing: {tmp_path}/data/food-101/images" in out
    assert "food-101/\n" in out
    assert "Not ready: food101, dtd" in out
    assert not (tmp_path / "data").exists()


def test_rendered_sets_are_made_later(run, tmp_path):
    status, out = run("shapes")
    assert (status, "rendered at the first use" in out) == (0, True)
    assert not (tmp_path / "data").exists()


def test_own_folder(run, tmp_path, image):
    for i in range(8):
        image(tmp_path / "own" / "ab"[i % 2] / f"{i}.png", i)
    status, out = run("image_folder", root=tmp_path / "own")
    assert status == 0
    assert "8 of 8 decode" in out
    assert {p.name for p in (tmp_path / "own").iterdir()} == {"a", "b"}


def test_own_folder_with_special_images(run, tmp_path, image):
    own = tmp_path / "own"
    for i in range(8):
        image(own / "ab"[i % 2] / f"{i}.png", i)
    Image.new("I;16", (8, 8), 1000).save(own / "a" / "deep.png")
    Image.new("RGBA", (8, 8)).save(own / "b" / "clear.png")
    (own / "b" / "x.heic").touch()
    status, out = run("image_folder", root=own)
    assert status == 0
    assert f"note: 1 images have more than 8 bits a channel, shown as people see them, such as {own}/a/deep.png" in out
    assert f"note: 1 images have transparent parts, shown as people see them, such as {own}/b/clear.png" in out
    assert "note: 1 files that Pillow cannot read are left out (.heic: 1)" in out
    assert "All is well" not in out


def test_own_folder_with_the_same_picture_in_train_and_test(run, tmp_path, image):
    own = tmp_path / "own"
    for part, c, i, seed in [("Train", "a", 0, 0), ("Train", "b", 1, 1), ("Test", "a", 2, 0), ("Test", "b", 3, 3),
                             ("Train", "a", 4, 4), ("Train", "b", 5, 4), ("Test", "b", 6, 3)]:  # fmt: skip
        image(own / part / c / f"{i}.png", seed)
    status, out = run("image_folder", root=own)
    assert status == 1
    pair = f"{own}/Train/a/0.png = {own}/Test/a/2.png"
    assert f"1 pictures are there in train and in test, such as {pair}" in out
    assert f"1 pictures are there under two labels, such as {own}/Train/a/4.png = {own}/Train/b/5.png" in out
    assert f"note: 1 pictures are there more than once, such as {own}/Test/b/3.png = {own}/Test/b/6.png" in out


def test_published_sets_are_what_they_are(dtd, run):
    """Their repetitions and sideways photos are told, not held against them."""
    good = (dtd / "images" / "banded" / "0.jpg").read_bytes()
    (dtd / "images" / "banded" / "3.jpg").write_bytes(good)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(dtd / "images" / "woven" / "0.jpg", exif=exif)
    status, out = run("dtd")
    assert status == 0
    assert "note: 1 pictures are there in train and in test" in out
    assert "note: 1 images lie on their side (EXIF), left as the published numbers have them" in out


def test_split_file_with_leaks(run, tmp_path, image):
    own = tmp_path / "own"
    for i in range(4):
        image(own / "ab"[i % 2] / f"{i}.png", i)
    rows = [["a/0.png", 0, "a"], ["b/1.png", 1, "b"], ["b/1.png", 1, "b"]]
    rest = [["a/2.png", 0, "a"], ["b/3.png", 1, "b"]]
    split = own / "split_ImageFolder.json"
    split.write_text(json.dumps({"train": rows, "val": [], "test": rest}))
    status, out = run("image_folder", root=own)
    assert (status, "1 images more than once in train" in out, "All is well" in out) == (0, True, False)
    split.write_text(json.dumps({"train": rows, "val": [], "test": rows}))
    status, out = run("image_folder", root=own)
    assert (status, "2 images in train and in test" in out) == (1, True)


def test_pacs_counts_all_files(run, tmp_path, image, monkeypatch):
    from datasets.pacs import PACS

    for domain in PACS.domains:
        for i in range(8):
            image(tmp_path / "data" / "pacs" / "images" / domain / "ab"[i % 2] / f"{i}.png", i)
    monkeypatch.setattr(PACS, "official", {"classes": 2, "images": 32})
    out = run("pacs")[1]
    assert "32 images: as published" in out


def test_names(run):
    assert run("dtdd")[0] == 2


def test_as_a_program(dtd, run):
    import subprocess
    import sys

    command = [sys.executable, "-m", "datasets.check", "dtd", "--root", str(dtd.parent), "--no-decode"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # the numbers are those of the whole set here
    assert "classes: 3 found, 47 published" in done.stdout
