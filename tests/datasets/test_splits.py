"""Split files, and splits drawn by CoOp's rules, which are written anew here."""

import json
import random
from collections import defaultdict

import pytest

from dassl.data.datasets import Datum
from datasets import splits
from tests.datasets.lists import made_up, paths


class TestSplits:
    def test_trainval_is_coops(self):
        items = made_up(150, 6, 3)
        random.seed(2)
        positions = defaultdict(list)
        for i, d in enumerate(items):
            positions[d.label].append(i)
        train, val = [], []
        for found in positions.values():
            n = round(len(found) * 0.2)
            random.shuffle(found)
            val += found[:n]
            train += found[n:]
        got = splits.split_trainval(items, rng=random.Random(2))
        assert paths(got[0]) == [items[i].impath for i in train]
        assert paths(got[1]) == [items[i].impath for i in val]

    def test_of_a_tree_is_coops(self, tmp_path, touch):
        sizes = {"Beta": 11, "alpha": 24, "gamma": 10, "skip": 5}
        for name, n in sizes.items():
            touch(tmp_path, [f"{name}/{i:02d}.jpg" for i in reversed(range(n))])
        random.seed(4)
        expected = [[], [], []]
        for label, name in enumerate(["Beta", "alpha", "gamma"]):
            images = [f"{name}/{i:02d}.jpg" for i in range(sizes[name])]
            random.shuffle(images)
            a, b = round(len(images) * 0.5), round(len(images) * 0.2)
            title = {"gamma": "third letter"}.get(name, name)
            for part, chosen in zip(expected, (images[:a], images[a : a + b], images[a + b :]), strict=True):
                part += [(str(tmp_path / p), label, title) for p in chosen]
        got = splits.read_and_split_data(
            str(tmp_path), ignored=["skip"], new_cnames={"gamma": "third letter"}, rng=random.Random(4)
        )
        assert [[(d.impath, d.label, d.classname) for d in part] for part in got] == expected

    def test_class_too_small(self, tmp_path, touch):
        touch(tmp_path, ["a/1.jpg", "a/2.jpg", "a/3.jpg"])
        with pytest.raises(ValueError, match="'a' has 3 image"):
            splits.read_and_split_data(str(tmp_path))
        with pytest.raises(ValueError, match="'c0' has 2 training image"):
            splits.split_trainval([Datum("x", 0, 0, "c0")] * 2)

    def test_empty_class(self, tmp_path, touch):
        touch(tmp_path, [f"a/{i}.jpg" for i in range(9)])
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / ".DS_Store").touch()
        with pytest.raises(ValueError, match="/b holds no image"):
            splits.read_and_split_data(str(tmp_path))

    def test_round_trip(self, tmp_path, touch):
        (tmp_path / "images").mkdir()
        touch(tmp_path / "images", [f"a/{i}.jpg" for i in range(6)])
        items = [Datum(str(tmp_path / "images" / "a" / f"{i}.jpg"), 0, 0, "a") for i in range(6)]
        file, prefix = str(tmp_path / "split.json"), str(tmp_path / "images")
        assert splits.save_split(items[:3], items[3:4], items[4:], file, prefix)
        content = json.loads((tmp_path / "split.json").read_text())
        assert content["val"] == [["a/3.jpg", 0, "a"]]
        assert [len(content[k]) for k in ("train", "val", "test")] == [3, 1, 2]
        got = splits.read_split(file, prefix)
        assert [paths(p) for p in got] == [paths(items[:3]), paths(items[3:4]), paths(items[4:])]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            '{"train": []}',
            '{"train": [["a", 0]], "val": [], "test": []}',
            '{"train": [[1, 0, "a"]], "val": [], "test": []}',
            '{"train": [["a", "x", "a"]], "val": [], "test": []}',
            '{"train": [["a", -1, "a"]], "val": [], "test": []}',
        ],
    )
    def test_unreadable(self, tmp_path, text):
        (tmp_path / "split.json").write_text(text)
        with pytest.raises(ValueError, match=r"Unreadable split file .*split\.json.*train"):
            splits.read_split(str(tmp_path / "split.json"), str(tmp_path))

    @pytest.mark.parametrize("label", [0.5, 1.0, True, "1", None, -1, [0]])
    def test_labels_are_whole_numbers(self, tmp_path, touch, label):
        touch(tmp_path, ["a/1.jpg", "a/2.jpg"])
        rows = [["a/1.jpg", 0, "a"], ["a/2.jpg", label, "b"]]
        (tmp_path / "s.json").write_text(json.dumps({"train": [], "val": rows, "test": []}))
        with pytest.raises(ValueError, match=r"Unreadable split file .*s\.json .*entry 2 of \"val\" is .*a/2\.jpg"):
            splits.read_split(str(tmp_path / "s.json"), str(tmp_path))

    def lists(self, tmp_path, touch, **parts):
        touch(tmp_path, [f"{c}/{i}.jpg" for c in "ab" for i in range(3)])
        content = {part: [[f"{name[0]}/{name[1]}.jpg", "ab".index(name[0]), name[0]] for name in parts.get(part, [])]
                   for part in ("train", "val", "test")}  # fmt: skip
        (tmp_path / "s.json").write_text(json.dumps(content))
        return splits.read_split(str(tmp_path / "s.json"), str(tmp_path))

    def test_training_on_test_images(self, tmp_path, touch):
        with pytest.raises(ValueError, match=r"s\.json has 2 images in train and in test, such as .*a/0\.jpg"):
            self.lists(tmp_path, touch, train=["a0", "a1", "b0"], test=["a2", "b0", "a0"])

    def test_the_same_image_written_otherwise(self, tmp_path, touch):
        touch(tmp_path, ["a/0.jpg"])
        rows = {"train": [["a/0.jpg", 0, "a"]], "val": [], "test": [["./a//../a/0.jpg", 0, "a"]]}
        (tmp_path / "s.json").write_text(json.dumps(rows))
        with pytest.raises(ValueError, match="1 images in train and in test"):
            splits.read_split(str(tmp_path / "s.json"), str(tmp_path))

    def test_repetitions_that_harm_less_are_told(self, tmp_path, touch, capsys):
        self.lists(tmp_path, touch, train=["a0", "a0", "b0"], val=["a1", "b0"], test=["a1", "b1", "b1"])
        told = [line.partition("s.json has ")[2] for line in capsys.readouterr().out.splitlines() if "Warning" in line]
        assert told == [
            f"1 images in train and in val, such as {tmp_path}/b/0.jpg",
            f"1 images in val and in test, such as {tmp_path}/a/1.jpg",
            f"1 images more than once in train, such as {tmp_path}/a/0.jpg",
            f"1 images more than once in test, such as {tmp_path}/b/1.jpg",
        ]

    def test_two_labels_of_an_image(self, tmp_path, touch):
        touch(tmp_path, ["a/0.jpg"])
        rows = {"train": [["a/0.jpg", 0, "a"]], "val": [["a/0.jpg", 1, "b"]], "test": []}
        (tmp_path / "s.json").write_text(json.dumps(rows))
        with pytest.raises(ValueError, match=r"gives .*a/0\.jpg two labels: 0 and 1"):
            splits.read_split(str(tmp_path / "s.json"), str(tmp_path))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_written_on_another_system(self, tmp_path, touch, encoding):
        """Back-slashes, byte-order marks, Windows' line ends, and names in the other form of Unicode."""
        images = touch(tmp_path / "im", ["a/1.jpg", "cafe\u0301/2.jpg", "caf\u00e9s/cre\u0300me.jpg"])
        rows = {
            "train": [["a\\1.jpg", 0, "a"], ["caf\u00e9\\2.jpg", 1, "cafe\u0301"]],
            "val": [],
            "test": [["cafe\u0301s/cr\u00e8me.jpg", 0, "a"]],
        }
        text = json.dumps(rows, indent=1, ensure_ascii=False).replace("\n", "\r\n")
        (tmp_path / "s.json").write_bytes(text.encode(encoding))
        train, _, test = splits.read_split(str(tmp_path / "s.json"), str(tmp_path / "im"))
        assert paths(train + test) == images
        assert train[1].classname == "caf\u00e9"

    def test_names_files_that_are_gone(self, tmp_path, touch):
        touch(tmp_path, ["a/1.jpg"])
        rows = [["a/1.jpg", 0, "a"], ["a/2.jpg", 0, "a"], ["b/1.jpg", 1, "b"]]
        (tmp_path / "split.json").write_text(json.dumps({"train": rows, "val": [], "test": []}))
        with pytest.raises(FileNotFoundError, match=r"2 of 3 images.*a/2\.jpg, .*b/1\.jpg"):
            splits.read_split(str(tmp_path / "split.json"), str(tmp_path))

    def test_drawn_once_and_kept(self, config, tmp_path, touch):
        touch(tmp_path / "im", [f"{c}/{i}.jpg" for c in "ab" for i in range(10)])
        calls = []

        def make(rng):
            calls.append(rng.random())
            return splits.read_and_split_data(str(tmp_path / "im"), rng=rng)

        file = str(tmp_path / "split.json")
        first = splits.load_or_make_split(config(SEED=1), file, str(tmp_path / "im"), make)
        again = splits.load_or_make_split(config(SEED=2), file, str(tmp_path / "im"), make)
        assert [paths(p) for p in first] == [paths(p) for p in again]
        assert calls == [random.Random(1).random()]

    def test_the_first_of_two_runs_wins(self, config, tmp_path, touch):
        touch(tmp_path / "im", [f"{c}/{i}.jpg" for c in "ab" for i in range(10)])
        file, images = str(tmp_path / "split.json"), str(tmp_path / "im")
        fast = []

        def make(rng):
            if not fast:  # while this run draws, another one draws and writes
                fast.append(None)
                fast[0] = splits.load_or_make_split(config(SEED=2), file, images, make)
            return splits.read_and_split_data(images, rng=rng)

        slow = splits.load_or_make_split(config(SEED=1), file, images, make)
        assert [paths(p) for p in slow] == [paths(p) for p in fast[0]]
