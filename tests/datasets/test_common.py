"""Splits, few-shot picks and class halves, against independent transcriptions of CoOp's rules."""

import errno
import json
import math
import os
import random
from collections import defaultdict

import pytest

from dassl.data.datasets import Datum
from datasets import common, files


def made_up(n: int, classes: int, seed: int, folder: str = "/data") -> list[Datum]:
    """Items whose labels first occur in an arbitrary order and are unevenly many."""
    rng = random.Random(seed)
    labels = list(range(classes)) + [min(rng.randrange(classes), rng.randrange(classes)) for _ in range(n)]
    rng.shuffle(labels)
    return [Datum(impath=f"{folder}/im{i:04d}.jpg", label=y, classname=f"c{y}") for i, y in enumerate(labels)]


def paths(items: list[Datum] | None) -> list[str]:
    return [d.impath for d in items or []]


def coop_few_shot(items: list[Datum], shots: int) -> list[Datum]:
    """CoOp's rule, written anew; draws from the global generator."""
    by_label = defaultdict(list)
    for item in items:
        by_label[item.label].append(item)
    chosen = []
    for label in by_label:
        pool = by_label[label]
        chosen += random.sample(pool, shots) if shots <= len(pool) else pool
    return chosen


def coop_half(items: list[Datum], all_items: list[Datum], half: str) -> list[tuple[str, int, str]]:
    labels = sorted({d.label for d in all_items})
    m = math.ceil(len(labels) / 2)
    kept = {"all": labels, "base": labels[:m], "new": labels[m:]}[half]
    return [(d.impath, kept.index(d.label), d.classname) for d in items if d.label in kept]


@pytest.mark.parametrize("half", ["all", "base", "new"])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 17])
def test_picks_are_coops(config, tmp_path, seed, shots, half):
    train, val, test = made_up(200, 9, 5), made_up(80, 9, 6), made_up(50, 9, 7)
    random.seed(seed)
    expected_train, expected_val = coop_few_shot(train, shots), coop_few_shot(val, min(shots, 4))
    cfg = config(SEED=seed, NUM_SHOTS=shots, SUBSAMPLE_CLASSES=half)
    for _ in range(2):  # drawn, then read from the cache
        got = common.finalize(cfg, str(tmp_path), train, val, test)
        for items, expected in zip(got, (expected_train, expected_val, test), strict=True):
            assert [(d.impath, d.label, d.classname) for d in items] == coop_half(expected, train, half)
    assert (tmp_path / "split_fewshot" / f"shot_{shots}-seed_{seed}.json").exists()


def test_picks_leave_the_global_generator_alone(config, tmp_path):
    items = made_up(60, 4, 0)
    random.seed(3)
    expected = random.random()
    random.seed(3)
    common.finalize(config(NUM_SHOTS=2), str(tmp_path), items, items, items)
    assert random.random() == expected


def test_all_images_without_shots(config, tmp_path):
    items = made_up(40, 4, 0)
    train, val, test = common.finalize(config(), str(tmp_path), items, None, items)
    assert paths(train) == paths(items) == paths(test)
    assert val is None
    assert not (tmp_path / "split_fewshot").exists()


@pytest.mark.parametrize("shots", [0, -2, -16])
def test_bad_shots(config, tmp_path, shots):
    items = made_up(10, 2, 0)
    with pytest.raises(ValueError, match=f"NUM_SHOTS is {shots}.*-1"):
        common.finalize(config(NUM_SHOTS=shots), str(tmp_path), items, items, items)


def test_small_classes_are_taken_whole_and_named(config, tmp_path, capsys):
    items = [Datum(f"/d/{i}.jpg", label=int(i >= 10), classname=["many", "few"][i >= 10]) for i in range(13)]
    train, _, _ = common.finalize(config(NUM_SHOTS=5), str(tmp_path), items, None, items)
    assert sum(d.label == 0 for d in train) == 5
    assert paths(train)[5:] == ["/d/10.jpg", "/d/11.jpg", "/d/12.jpg"]
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1
    assert "fewer than 5 training images" in warnings[0]
    assert "few (3)" in warnings[0]
    assert "many" not in warnings[0]


class TestCache:
    def picks(self, cfg, folder, items, sources=()):
        return paths(common.finalize(cfg, str(folder), items, items, items, sources)[0])

    def file(self, folder):
        (found,) = (folder / "split_fewshot").iterdir()
        return found

    def test_is_what_is_read(self, config, tmp_path):
        items, cfg = made_up(60, 3, 0, str(tmp_path)), config(NUM_SHOTS=2)
        first = self.picks(cfg, tmp_path, items)
        content = json.loads(self.file(tmp_path).read_text())
        assert [str(tmp_path / row[0]) for row in content["train"]] == first
        content["train"][0], content["train"][1] = content["train"][1], content["train"][0]
        self.file(tmp_path).write_text(json.dumps(content))
        assert self.picks(cfg, tmp_path, items) == [first[1], first[0], *first[2:]]

    @pytest.mark.parametrize("damage", ["other list", "no json", "other image", "too few", "wrong type", "empty"])
    def test_that_does_not_fit_is_made_anew(self, config, tmp_path, capsys, damage):
        items, cfg = made_up(60, 3, 0), config(NUM_SHOTS=2)
        first = self.picks(cfg, tmp_path, items)
        file = self.file(tmp_path)
        good = file.read_text()
        content = json.loads(good)
        if damage == "other list":
            content["digest"] = "0" * 64
        elif damage == "other image":
            content["train"][0][0] = "/data/nowhere.jpg"
        elif damage == "too few":
            content["val"] = content["val"][1:]
        elif damage == "wrong type":
            content = [1, 2]
        file.write_text({"no json": good[:50], "empty": ""}.get(damage, json.dumps(content)))
        capsys.readouterr()
        assert self.picks(cfg, tmp_path, items) == first
        assert "Picking again" in capsys.readouterr().out
        assert file.read_text() == good

    def test_of_other_source_domains_has_its_own_file(self, config, tmp_path):
        cfg = config(NUM_SHOTS=1)
        self.picks(cfg, tmp_path, made_up(30, 3, 0), ["photo", "sketch"])
        self.picks(cfg, tmp_path, made_up(30, 3, 1), ["photo"])
        self.picks(cfg, tmp_path, made_up(30, 3, 2))
        names = sorted(p.name for p in (tmp_path / "split_fewshot").iterdir())
        assert names == [
            "shot_1-seed_1-photo+sketch.json", "shot_1-seed_1-photo.json", "shot_1-seed_1.json",
        ]  # fmt: skip

    def test_is_not_used_without_a_seed(self, config, tmp_path):
        self.picks(config(NUM_SHOTS=1, SEED=-1), tmp_path, made_up(30, 3, 0))
        assert not (tmp_path / "split_fewshot").exists()

    def test_in_a_read_only_folder(self, config, tmp_path, capsys):
        items, cfg = made_up(30, 3, 0), config(NUM_SHOTS=2)
        expected = self.picks(cfg, tmp_path / "other", items)
        capsys.readouterr()
        folder = tmp_path / "locked"
        folder.mkdir()
        folder.chmod(0o555)
        try:
            assert self.picks(cfg, folder, items) == expected
        finally:
            folder.chmod(0o755)
        assert list(folder.iterdir()) == []
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1
        assert "not saved" in lines[0]
        assert str(folder) in lines[0]


class TestSubsample:
    def test_odd_numbers_give_the_base_one_more(self):
        items = made_up(40, 7, 0)
        (base,) = common.subsample_classes(items, subsample="base")
        (new,) = common.subsample_classes(items, subsample="new")
        assert sorted({(d.label, d.classname) for d in base}) == [(i, f"c{i}") for i in range(4)]
        assert sorted({(d.label, d.classname) for d in new}) == [(i, f"c{i + 4}") for i in range(3)]

    def test_labels_come_from_the_first_list(self):
        train, test = made_up(20, 4, 0), made_up(40, 6, 0)
        _, got = common.subsample_classes(train, test, subsample="new")
        assert {d.classname for d in got} == {"c2", "c3"}

    def test_unknown_word(self):
        with pytest.raises(ValueError, match="'bas'.*all, base, new.*'base'"):
            common.subsample_classes(made_up(5, 2, 0), subsample="bas")

    def test_one_class_leaves_no_new_one(self):
        with pytest.raises(ValueError, match="1 class"):
            common.subsample_classes(made_up(5, 1, 0), subsample="new")


class TestLabels:
    def test_gap(self):
        items = [Datum("a", 0, 0, "a"), Datum("c", 2, 0, "c")]
        with pytest.raises(ValueError, match="1 of 3 classes.*label 1"):
            common.check_labels(items, [], items)

    def test_class_only_in_test(self):
        with pytest.raises(ValueError, match="1 of 2 classes have no training images: 'b'"):
            common.check_labels([Datum("a", 0, 0, "a")], [], [Datum("b", 1, 0, "b")])

    def test_negative(self):
        with pytest.raises(ValueError, match="'z' has the label -1; labels run from 0"):
            common.check_labels([Datum("a", 0, 0, "a"), Datum("z", -1, 0, "z")], [], [Datum("a", 0, 0, "a")])

    def test_two_names(self):
        with pytest.raises(ValueError, match="Label 0.*'a' and 'b'"):
            common.check_labels([Datum("a", 0, 0, "a")], [], [Datum("b", 0, 0, "b")])

    @pytest.mark.parametrize("part", ["training", "test"])
    def test_no_images(self, part):
        lists = {"training": ([], [Datum("a", 0, 0, "a")]), "test": ([Datum("a", 0, 0, "a")], [])}[part]
        with pytest.raises(ValueError, match=f"no {part} images"):
            common.check_labels(lists[0], [], lists[1])


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
        got = common.split_trainval(items, rng=random.Random(2))
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
        got = common.read_and_split_data(
            str(tmp_path), ignored=["skip"], new_cnames={"gamma": "third letter"}, rng=random.Random(4)
        )
        assert [[(d.impath, d.label, d.classname) for d in part] for part in got] == expected

    def test_class_too_small(self, tmp_path, touch):
        touch(tmp_path, ["a/1.jpg", "a/2.jpg", "a/3.jpg"])
        with pytest.raises(ValueError, match="'a' has 3 image"):
            common.read_and_split_data(str(tmp_path))
        with pytest.raises(ValueError, match="'c0' has 2 training image"):
            common.split_trainval([Datum("x", 0, 0, "c0")] * 2)

    def test_empty_class(self, tmp_path, touch):
        touch(tmp_path, [f"a/{i}.jpg" for i in range(9)])
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / ".DS_Store").touch()
        with pytest.raises(ValueError, match="'b' holds no image"):
            common.read_and_split_data(str(tmp_path))

    def test_round_trip(self, tmp_path, touch):
        (tmp_path / "images").mkdir()
        touch(tmp_path / "images", [f"a/{i}.jpg" for i in range(6)])
        items = [Datum(str(tmp_path / "images" / "a" / f"{i}.jpg"), 0, 0, "a") for i in range(6)]
        file, prefix = str(tmp_path / "split.json"), str(tmp_path / "images")
        assert common.save_split(items[:3], items[3:4], items[4:], file, prefix)
        content = json.loads((tmp_path / "split.json").read_text())
        assert content["val"] == [["a/3.jpg", 0, "a"]]
        assert [len(content[k]) for k in ("train", "val", "test")] == [3, 1, 2]
        got = common.read_split(file, prefix)
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
            common.read_split(str(tmp_path / "split.json"), str(tmp_path))

    def test_names_files_that_are_gone(self, tmp_path, touch):
        touch(tmp_path, ["a/1.jpg"])
        rows = [["a/1.jpg", 0, "a"], ["a/2.jpg", 0, "a"], ["b/1.jpg", 1, "b"]]
        (tmp_path / "split.json").write_text(json.dumps({"train": rows, "val": [], "test": []}))
        with pytest.raises(FileNotFoundError, match=r"2 of 3 images.*a/2\.jpg, .*b/1\.jpg"):
            common.read_split(str(tmp_path / "split.json"), str(tmp_path))

    def test_drawn_once_and_kept(self, config, tmp_path, touch):
        touch(tmp_path / "im", [f"{c}/{i}.jpg" for c in "ab" for i in range(10)])
        calls = []

        def make(rng):
            calls.append(rng.random())
            return common.read_and_split_data(str(tmp_path / "im"), rng=rng)

        file = str(tmp_path / "split.json")
        first = common.load_or_make_split(config(SEED=1), file, str(tmp_path / "im"), make)
        again = common.load_or_make_split(config(SEED=2), file, str(tmp_path / "im"), make)
        assert [paths(p) for p in first] == [paths(p) for p in again]
        assert calls == [random.Random(1).random()]

    def test_the_first_of_two_runs_wins(self, config, tmp_path, touch):
        touch(tmp_path / "im", [f"{c}/{i}.jpg" for c in "ab" for i in range(10)])
        file, images = str(tmp_path / "split.json"), str(tmp_path / "im")
        fast = []

        def make(rng):
            if not fast:  # while this run draws, another one draws and writes
                fast.append(None)
                fast[0] = common.load_or_make_split(config(SEED=2), file, images, make)
            return common.read_and_split_data(images, rng=rng)

        slow = common.load_or_make_split(config(SEED=1), file, images, make)
        assert [paths(p) for p in slow] == [paths(p) for p in fast[0]]


class TestDomains:
    ALL = ("art", "cartoon", "photo", "sketch")

    @pytest.mark.parametrize(
        ("sources", "targets", "expected"),
        [
            ([], [], (list(ALL), list(ALL))),
            (["photo"], [], (["photo"], ["photo"])),
            ([], ["photo"], (["art", "cartoon", "sketch"], ["photo"])),
            (["sketch", "art"], ["photo"], (["sketch", "art"], ["photo"])),
        ],
    )
    def test_choice(self, config, sources, targets, expected):
        cfg = config(SOURCE_DOMAINS=sources, TARGET_DOMAINS=targets)
        assert common.choose_domains(cfg, self.ALL, "X") == expected

    def test_unknown(self, config):
        with pytest.raises(ValueError, match=r"SOURCE_DOMAINS.*'phto' of X.*'photo'.*art, cartoon, photo, sketch"):
            common.choose_domains(config(SOURCE_DOMAINS=["phto"]), self.ALL, "X")
        with pytest.raises(ValueError, match="TARGET_DOMAINS.*'photo'.*no domains"):
            common.choose_domains(config(TARGET_DOMAINS=["photo"]), [], "X")
        with pytest.raises(ValueError, match="all domains of X"):
            common.choose_domains(config(TARGET_DOMAINS=list(self.ALL)), self.ALL, "X")

    def test_join(self):
        splits = {
            d: tuple([Datum(f"{d}/{part}{y}", y, 0, str(y)) for y in (1, 0)] for part in ("tr", "va", "te"))
            for d in ("a", "b", "c")
        }
        train, val, test = common.join_domains(splits, ["b", "a"], ["c", "a"])
        assert [(d.impath, d.domain) for d in train] == [
            ("b/tr1", 0),
            ("b/tr0", 0),
            ("a/tr1", 1),
            ("a/tr0", 1),
        ]
        assert [d.impath for d in val] == ["b/va1", "b/va0", "a/va1", "a/va0"]
        unseen = ["c/te0", "c/tr0", "c/va0", "c/te1", "c/tr1", "c/va1"]
        assert [(d.impath, d.domain) for d in test] == [(p, 0) for p in unseen] + [("a/te1", 1), ("a/te0", 1)]


class TestFiles:
    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "x.json"
        assert files.write_json({"a": [1]}, str(path), "It")

        def full(*_args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "replace", full)
        assert not files.write_json({"a": [2]}, str(path), "It")
        assert json.loads(path.read_text()) == {"a": [1]}
        assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
        assert "It not saved" in capsys.readouterr().out

    def test_write_is_readable_by_all(self, tmp_path):
        files.write_json({"a": []}, str(tmp_path / "new" / "x.json"), "It")
        assert (tmp_path / "new" / "x.json").stat().st_mode & 0o777 == 0o644

    def test_listing(self, tmp_path, touch):
        touch(tmp_path, ["b.JPG", "a.png", ".hidden.jpg", "notes.txt", "B.jpeg", "sub/x.jpg", ".git/x.jpg"])
        assert files.list_images(str(tmp_path)) == ["B.jpeg", "a.png", "b.JPG"]
        assert files.list_folders(str(tmp_path)) == ["sub"]

    def test_classnames(self, tmp_path):
        path = tmp_path / "classnames.txt"
        path.write_text("n02 great white shark\nn01\ttench\nodd name\tOdd one\n\n")
        assert list(files.read_classnames(str(path)).items()) == [
            ("n02", "great white shark"), ("n01", "tench"), ("odd name", "Odd one"),
        ]  # fmt: skip
        path.write_text("n01 tench\nn02\n")
        with pytest.raises(ValueError, match="no class name in 'n02'"):
            files.read_classnames(str(path))
        path.write_text("n01 tench\nn01 shark\n")
        with pytest.raises(ValueError, match="'n01' twice"):
            files.read_classnames(str(path))
