"""ImageFolder: layouts, splits, domains, class names, and what it says about bad folders."""

import json
import os
import random
from pathlib import Path

import pytest

from dassl.data.datasets import DATASET_REGISTRY
from datasets.image_folder import ImageFolder

CLASSES = {"bee": 10, "ant": 8, "Cow_1": 6}


@pytest.fixture
def flat(tmp_path, touch):
    root = tmp_path / "flat"
    touch(root, [f"{c}/{i:02d}.jpg" for c, n in CLASSES.items() for i in reversed(range(n))])
    return root


@pytest.fixture
def styles(tmp_path, touch):
    root = tmp_path / "styles"
    touch(
        root,
        [f"{d}/{c}/{i}.png" for d in ("photo", "art", "sketch") for c in ("cat", "dog") for i in range(10)],
    )
    return root


def rows(items, root):
    return [(os.path.relpath(d.impath, root), d.label, d.classname) for d in items or []]


def domains_of(items, root):
    return {os.path.relpath(d.impath, root).split(os.sep)[0] for d in items}


def test_registered():
    assert DATASET_REGISTRY.get("ImageFolder") is ImageFolder


class TestFlat:
    def test_names_labels_and_split(self, flat, config):
        dataset = ImageFolder(config(flat))
        assert dataset.classnames == ["Cow_1", "ant", "bee"]
        random.seed(0)
        expected = ([], [], [])
        for label, name in enumerate(dataset.classnames):
            images = [f"{name}/{i:02d}.jpg" for i in range(CLASSES[name])]
            random.shuffle(images)
            a, b = round(len(images) * 0.5), round(len(images) * 0.2)
            for part, chosen in zip(expected, (images[:a], images[a : a + b], images[a + b :]), strict=True):
                part += [(p, label, name) for p in chosen]
        assert (rows(dataset.train_x, flat), rows(dataset.val, flat), rows(dataset.test, flat)) == expected

    def test_split_is_kept_whatever_the_seed(self, flat, config):
        first = ImageFolder(config(flat, SEED=1))
        content = json.loads((flat / "split_ImageFolder.json").read_text())
        assert [tuple(r) for r in content["train"]] == rows(first.train_x, flat)
        (flat / "split_ImageFolder.json").unlink()
        second = ImageFolder(config(flat, SEED=2))
        assert rows(second.train_x, flat) == rows(first.train_x, flat)

    def test_edited_split_file_decides(self, flat, config):
        ImageFolder(config(flat))
        file = flat / "split_ImageFolder.json"
        content = json.loads(file.read_text())
        content["test"] += content.pop("val")
        content["val"] = []
        file.write_text(json.dumps(content))
        dataset = ImageFolder(config(flat))
        assert dataset.val is None
        assert rows(dataset.test, flat) == [tuple(r) for r in content["test"]]

    def test_few_shot_and_halves(self, flat, config):
        dataset = ImageFolder(config(flat, NUM_SHOTS=2, SUBSAMPLE_CLASSES="base"))
        assert [d.label for d in dataset.train_x] == [0, 0, 1, 1]
        assert dataset.classnames == ["Cow_1", "ant"]
        dataset = ImageFolder(config(flat, NUM_SHOTS=2, SUBSAMPLE_CLASSES="new"))
        assert dataset.classnames == ["bee"]
        assert {d.label for d in dataset.test} == {0}

    def test_hidden_and_other_files_do_not_count(self, flat, config, touch):
        before = rows(ImageFolder(config(flat)).train_x, flat)
        (flat / "split_ImageFolder.json").unlink()
        touch(flat, [".cache/x.jpg", "bee/.thumb.jpg", "bee/notes.txt", "README.md", ".DS_Store"])
        assert rows(ImageFolder(config(flat)).train_x, flat) == before

    def test_links_are_followed(self, flat, tmp_path, config):
        (tmp_path / "link").symlink_to(flat)
        other = tmp_path / "linked_classes"
        other.mkdir()
        for name in CLASSES:
            (other / name).symlink_to(flat / name)
        assert len(ImageFolder(config(tmp_path / "link")).train_x) == len(ImageFolder(config(other)).train_x)

    def test_new_images_are_told(self, flat, config, touch, capsys):
        n = len(ImageFolder(config(flat)).train_x)
        touch(flat, ["bee/new.jpg", "dog/1.jpg"])
        assert len(ImageFolder(config(flat)).train_x) == n
        out = capsys.readouterr().out
        assert "2 images are not in" in out
        assert "bee/new.jpg" in out

    def test_images_that_are_gone(self, flat, config):
        ImageFolder(config(flat))
        (flat / "ant" / "03.jpg").unlink()
        with pytest.raises(FileNotFoundError, match=r"split_ImageFolder\.json names 1 of 24 .*ant/03\.jpg"):
            ImageFolder(config(flat))

    def test_unreadable_split(self, flat, config):
        (flat / "split_ImageFolder.json").write_text("nonsense")
        with pytest.raises(ValueError, match=r"Unreadable split file .*split_ImageFolder\.json"):
            ImageFolder(config(flat))


class TestWhereTheSplitGoes:
    def test_read_only_folder(self, flat, tmp_path, config, capsys):
        flat.chmod(0o555)
        try:
            first = ImageFolder(config(flat))
            assert "Saved split to " + str(tmp_path / "output" / "split_ImageFolder.json") in capsys.readouterr().out
            again = ImageFolder(config(flat))
            assert "Reading split from " + str(tmp_path / "output") in capsys.readouterr().out
        finally:
            flat.chmod(0o755)
        assert rows(again.train_x, flat) == rows(first.train_x, flat)
        assert not (flat / "split_ImageFolder.json").exists()

    def test_split_file_key(self, flat, tmp_path, config):
        wanted = tmp_path / "mine" / "split.json"
        first = ImageFolder(config(flat))
        wanted.parent.mkdir()
        (flat / "split_ImageFolder.json").rename(wanted)
        content = json.loads(wanted.read_text())
        content["train"], content["test"] = content["test"], content["train"]
        wanted.write_text(json.dumps(content))
        assert rows(ImageFolder(config(flat, SPLIT_FILE=str(wanted))).test, flat) == rows(first.train_x, flat)

    def test_split_file_that_is_not_there(self, flat, tmp_path, config):
        (tmp_path / "split_mine.json").write_text("{}")
        with pytest.raises(FileNotFoundError, match=r"SPLIT_FILE: .*splt_mine\.json\. Did you mean split_mine\.json"):
            ImageFolder(config(flat, SPLIT_FILE=str(tmp_path / "splt_mine.json")))
        assert not (tmp_path / "splt_mine.json").exists()
        assert not (flat / "split_ImageFolder.json").exists()

    def test_split_file_over_any_layout(self, tmp_path, touch, config):
        root = tmp_path / "jpg"
        touch(root, [f"image_{i}.jpg" for i in range(4)])
        part = [["image_1.jpg", 1, "rose"], ["image_0.jpg", 0, "iris"]]
        content = {"train": part, "val": [], "test": [["image_3.jpg", 0, "iris"], ["image_2.jpg", 1, "rose"]]}
        (tmp_path / "s.json").write_text(json.dumps(content))
        dataset = ImageFolder(config(root, SPLIT_FILE=str(tmp_path / "s.json")))
        assert rows(dataset.train_x, root) == [tuple(r) for r in part]
        assert dataset.classnames == ["iris", "rose"]


class TestReadyMadeParts:
    def make(self, root, touch, **parts):
        for part, names in parts.items():
            touch(root / part, [f"{n}/{i}.jpg" for n, k in names.items() for i in range(k)])

    def test_train_val_test(self, tmp_path, touch, config):
        self.make(tmp_path, touch, train={"b": 3, "a": 1}, valid={"b": 1}, test={"a": 2, "b": 1})
        dataset = ImageFolder(config(tmp_path))
        assert rows(dataset.train_x, tmp_path) == [
            ("train/a/0.jpg", 0, "a"), *[(f"train/b/{i}.jpg", 1, "b") for i in range(3)],
        ]  # fmt: skip
        assert rows(dataset.val, tmp_path) == [("valid/b/0.jpg", 1, "b")]
        assert [r[0] for r in rows(dataset.test, tmp_path)] == [
            "test/a/0.jpg",
            "test/a/1.jpg",
            "test/b/0.jpg",
        ]
        assert not (tmp_path / "split_ImageFolder.json").exists()

    def test_without_test_val_is_both(self, tmp_path, touch, config, capsys):
        self.make(tmp_path, touch, train={"a": 3, "b": 3}, val={"a": 1, "b": 1})
        dataset = ImageFolder(config(tmp_path))
        assert rows(dataset.val, tmp_path) == rows(dataset.test, tmp_path)
        assert "no test folder: the images of val are the test images too" in capsys.readouterr().out

    def test_without_val(self, tmp_path, touch, config):
        self.make(tmp_path, touch, train={"a": 3}, test={"a": 1})
        assert ImageFolder(config(tmp_path)).val is None

    def test_with_domains(self, tmp_path, touch, config):
        for domain in ("x", "y"):
            self.make(tmp_path, touch, **{f"{p}/{domain}": {"a": 2, "b": 2} for p in ("train", "test")})
        dataset = ImageFolder(config(tmp_path, TARGET_DOMAINS=["y"]))
        assert [r[0] for r in rows(dataset.train_x, tmp_path)] == [f"train/x/{c}/{i}.jpg" for c in "ab" for i in (0, 1)]
        assert len(dataset.test) == 8

    def test_class_called_train(self, tmp_path, touch, config):
        touch(tmp_path, [f"{c}/{i}.jpg" for c in ("bus", "train") for i in range(5)])
        assert ImageFolder(config(tmp_path)).classnames == ["bus", "train"]

    def test_class_that_train_lacks(self, tmp_path, touch, config):
        self.make(tmp_path, touch, train={"a": 2}, test={"a": 1, "c": 1})
        with pytest.raises(ValueError, match="test folder has classes that the train folder lacks: c"):
            ImageFolder(config(tmp_path))


class TestDomains:
    def test_all_by_default(self, styles, config):
        dataset = ImageFolder(config(styles))
        assert dataset.domains == ["art", "photo", "sketch"]
        assert dataset.classnames == ["cat", "dog"]
        assert [len(p) for p in (dataset.train_x, dataset.val, dataset.test)] == [30, 12, 18]

    def test_leave_one_out(self, styles, config):
        dataset = ImageFolder(config(styles, TARGET_DOMAINS=["sketch"]))
        assert domains_of(dataset.train_x + dataset.val, styles) == {"art", "photo"}
        assert len(dataset.test) == 20
        assert domains_of(dataset.test, styles) == {"sketch"}

    def test_same_source_and_target_keep_apart(self, styles, config):
        dataset = ImageFolder(config(styles, SOURCE_DOMAINS=["photo"]))
        train, test = ({d.impath for d in p} for p in (dataset.train_x + dataset.val, dataset.test))
        assert (len(train), len(test)) == (14, 6)
        assert not train & test

    def test_split_does_not_depend_on_the_choice(self, styles, config):
        whole = {d.impath for d in ImageFolder(config(styles)).train_x}
        (styles / "split_ImageFolder.json").unlink()
        part = {d.impath for d in ImageFolder(config(styles, SOURCE_DOMAINS=["art"])).train_x}
        assert part == {p for p in whole if "/art/" in p}

    def test_domain_numbers(self, styles, config):
        dataset = ImageFolder(config(styles, SOURCE_DOMAINS=["sketch", "art"], TARGET_DOMAINS=["photo"]))
        assert {(d.domain, d.impath.split("/")[-3]) for d in dataset.train_x} == {(0, "sketch"), (1, "art")}
        assert {d.domain for d in dataset.test} == {0}

    def test_picks_of_other_sources_do_not_mix(self, styles, config):
        picks = {}
        for sources in (["art"], ["photo"], ["art", "photo"], []):
            for _ in range(2):
                dataset = ImageFolder(config(styles, NUM_SHOTS=2, SOURCE_DOMAINS=sources))
                picks.setdefault(tuple(sources), []).append(rows(dataset.train_x, styles))
        for sources, (drawn, read) in picks.items():
            assert drawn == read
            assert {r[0].split("/")[0] for r in drawn} <= set(sources or ["art", "photo", "sketch"])

    def test_small_classes_only_matter_where_training_happens(self, styles, config, touch, capsys):
        for domain, name in (("sketch", "dog"), ("photo", "cat"), ("art", "cat")):
            touch(styles, [f"{domain}/{name}/{i}.png" for i in range(10)])
        for i in range(2, 10):
            (styles / "sketch" / "dog" / f"{i}.png").unlink()
        dataset = ImageFolder(config(styles))
        assert "fewer than 4 images" in (out := capsys.readouterr().out) and "sketch/dog (2)" in out
        assert sum("sketch/dog" in d.impath for d in dataset.test) == 1
        dataset = ImageFolder(config(styles, TARGET_DOMAINS=["sketch"]))
        assert sum(d.label == 1 for d in dataset.test) == 2

    def test_unknown(self, styles, flat, config):
        with pytest.raises(ValueError, match="'scetch'.*mean sketch.*art, photo, sketch"):
            ImageFolder(config(styles, TARGET_DOMAINS=["scetch"]))
        with pytest.raises(ValueError, match="no domains"):
            ImageFolder(config(flat, TARGET_DOMAINS=["sketch"]))


class TestClassNames:
    def test_file_wins_over_folders_and_split(self, flat, config):
        ImageFolder(config(flat))
        (flat / "classnames.txt").write_text("bee honey bee\nCow_1\tdairy cow\nant ant\n")
        dataset = ImageFolder(config(flat))
        assert dataset.classnames == ["dairy cow", "ant", "honey bee"]
        (flat / "split_ImageFolder.json").unlink()
        assert ImageFolder(config(flat)).classnames == dataset.classnames

    def test_parts_and_domains(self, styles, tmp_path, touch, config):
        touch(tmp_path, [f"p/{part}/{c}/1.jpg" for part in ("train", "test") for c in ("n1", "n2")])
        (tmp_path / "p" / "classnames.txt").write_text("n2 two\nn1 one\nn3 three\n")
        assert ImageFolder(config(tmp_path / "p")).classnames == ["one", "two"]
        (styles / "classnames.txt").write_text("dog a dog\n")
        assert ImageFolder(config(styles)).classnames == ["cat", "a dog"]

    def test_folders_left_out_are_told(self, flat, config, capsys):
        (flat / "classnames.txt").write_text("bee honey bee\n")
        assert ImageFolder(config(flat)).classnames == ["Cow_1", "ant", "honey bee"]
        assert "leaves out 2 class folders: Cow_1, ant" in capsys.readouterr().out

    def test_of_another_folder(self, flat, config):
        (flat / "classnames.txt").write_text("n01 tench\n")
        with pytest.raises(ValueError, match=r"classnames\.txt names none of the class folders: Cow_1, ant, bee"):
            ImageFolder(config(flat))


class TestBadFolders:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ([], "holds no images"),
            (["a/1.jpg", "b/"], r"class folder .*/b holds no images"),
            (["d/a/1.jpg", "d/b/"], r"class folder .*/d/b holds no images"),
            (["a/1.jpg", "loose.jpg"], r"in no class folder, such as loose\.jpg"),
            (["a/1.jpg", "a/sub/1.jpg"], r"Mixed layout: .*/a holds images \(1\.jpg\) and folders \(sub\)"),
            (["a/1.jpg", "d/b/1.jpg"], "Mixed layout in .*'a' is a class.*'d' a domain"),
            (["d/a/deep/1.jpg"], "Too deep: .*/d/a holds the folder 'deep'"),
            (["d/a/1.jpg", "d/b/1.jpg", "e/a/1.jpg"], "Domain 'e' .* lacks classes of other domains: b"),
            (["a/1.jpg", "b/1.jpg"], "no test images"),
        ],
    )
    def test_is_named(self, tmp_path, touch, config, names, message):
        root = tmp_path / "bad"
        root.mkdir()
        touch(root, [n for n in names if not n.endswith("/")])
        for name in names:
            if name.endswith("/"):
                (root / name).mkdir()
        with pytest.raises(ValueError, match=message):
            ImageFolder(config(root))

    def test_missing(self, tmp_path, config):
        with pytest.raises(FileNotFoundError, match=r"gone \(DATASET.ROOT\) is missing") as e:
            ImageFolder(config(tmp_path / "gone"))
        assert "<domain>/<class>/<image>" in str(e.value)
        assert "prepare" not in str(e.value)


@pytest.mark.skipif("GOPRO_TEST_DATA" not in os.environ, reason="GOPRO_TEST_DATA is not set")
def test_real_images(config):
    root = Path(os.environ["GOPRO_TEST_DATA"]) / "pacs" / "images"
    dataset = ImageFolder(config(root, TARGET_DOMAINS=["sketch"], NUM_SHOTS=4))
    assert len(dataset.classnames) == 7
    assert len(dataset.train_x) == 28
    assert domains_of(dataset.test, root) == {"sketch"}
