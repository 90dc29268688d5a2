"""Part folders by the names that people give them, and what cannot be told apart."""

import os

import pytest

from datasets.image_folder import ImageFolder
from datasets.layout import part_of


@pytest.mark.parametrize(
    ("part", "names"),
    {
        "train": "train Train TRAIN training Training_Set train_set trainset train-data train2017 trainval",
        "val": "val VAL valid validation Valid_Set dev Dev-Set eval crossval val2017",
        "test": "test Test TEST testing test_set testing_set test-images test1 TestData",
        "": "trains tests cat set data dataset devil value contest attest t 1 photo testament",
    }.items(),
)
def test_names_of_parts(part, names):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


def make(root, touch, **parts):
    touch(root, [f"{part}/{c}/{part}{i}.jpg" for part, n in parts.items() for c in ("cat", "dog") for i in range(n)])
    return root


def folders_of(items, root):
    return {os.path.relpath(d.impath, root).split(os.sep)[0] for d in items or []}


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("training", "", "testing"),
        ("training_set", "", "test_set"),
        ("train", "dev", "test"),
        ("Training", "Validation", "Testing"),
        ("train", "valid", "test"),
        ("train_images", "", "test_images"),
        ("seg_train", "", "seg_test"),
        ("asl train v2", "asl val v2", "asl test v2"),
    ],
)
def test_parts_keep_apart(tmp_path, touch, config, names):
    make(tmp_path, touch, **{name: 5 for name in names if name})
    dataset = ImageFolder(config(tmp_path))
    train, val, test = (folders_of(items, tmp_path) for items in (dataset.train_x, dataset.val, dataset.test))
    assert (train, val or {""}, test) == tuple({name} for name in names)
    assert dataset.classnames == ["cat", "dog"]
    assert not (tmp_path / "split_ImageFolder.json").exists()


def test_folders_without_images_beside_parts_are_named(tmp_path, touch, config, capsys):
    make(tmp_path, touch, train=5, test=5)
    touch(tmp_path, ["annotations/xml/a.xml", "annotations/b.txt", "val/cat/notes.txt"])
    dataset = ImageFolder(config(tmp_path))
    assert (len(dataset.train_x), dataset.val, len(dataset.test)) == (10, None, 10)
    told = [line for line in capsys.readouterr().out.splitlines() if "no images in" in line]
    assert told == [f"Warning: no images in annotations, val of {tmp_path}: left out"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": 5, "val": 5, "valid": 5, "test": 5}, "two folders for val: val and valid"),
        ({"Train": 5, "train": 5, "test": 5}, "two folders for train: Train and train"),
        ({"train": 5, "test": 5, "extra": 5}, "test, train beside extra"),
        ({"train": 5, "photo": 5}, "train beside photo"),
        ({"seg_train": 5, "seg_test": 5, "seg_pred": 5}, "seg_test, seg_train beside seg_pred"),
        ({"val": 5, "test": 5}, "test, val, but no train folder"),
    ],
)
def test_what_cannot_be_told_is_an_error(tmp_path, touch, config, parts, message):
    with pytest.raises(ValueError, match=message):
        ImageFolder(config(make(tmp_path, touch, **parts)))
    assert not (tmp_path / "split_ImageFolder.json").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/1.jpg", "test/1.jpg"], "parts test, train with images, but without a folder per class"),
        (["Train/1.jpg", "Test/1.jpg", "cat/1.jpg"], "parts Test, Train with images"),
        (["train/cat/1.jpg", "test/1.jpg"], "in no class folder, such as 1.jpg"),
        (["cat/train/1.jpg", "cat/test/1.jpg"], "holds the parts test, train, which belong on top"),
        (["photo/train/cat/1.jpg", "photo/test/cat/1.jpg"], "photo holds the parts test, train"),
        (["my-set/Train/cat/1.jpg", "my-set/Test/cat/1.jpg"], "Point DATASET.ROOT at .*my-set"),
        (["train/cat/1.jpg", "test/cat/1.heic"], "holds images in train only, none in test"),
    ],
)
def test_other_places_of_parts(tmp_path, touch, config, names, message):
    touch(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        ImageFolder(config(tmp_path))


def test_classes_with_a_part_in_their_names(tmp_path, touch, config):
    names = ["bullet train", "test tube", "train"]
    touch(tmp_path, [f"{c}/{i}.jpg" for c in names for i in range(10)])
    assert ImageFolder(config(tmp_path)).classnames == names


def test_parts_win_over_an_older_split_and_say_so(tmp_path, touch, config, capsys):
    make(tmp_path, touch, Train=5, Test=5)
    (tmp_path / "split_ImageFolder.json").write_text("{}")
    assert folders_of(ImageFolder(config(tmp_path)).test, tmp_path) == {"Test"}
    assert "split_ImageFolder.json is not used, as there are test and train folders" in capsys.readouterr().out


def test_a_lone_train_folder_is_split(tmp_path, touch, config):
    dataset = ImageFolder(config(make(tmp_path, touch, train=10)))
    assert [len(items) for items in (dataset.train_x, dataset.val, dataset.test)] == [10, 4, 6]


def test_files_that_are_no_images_are_named_and_counted(tmp_path, touch, image, config, capsys):
    touch(tmp_path, [f"cat/{i}.{kind}" for i in range(2) for kind in ("jpg", "JFIF", "jp2", "tga")])
    touch(tmp_path, [*(f"cat/{i}.heic" for i in range(3)), "cat/notes.txt", "cat/Makefile", "README.md", "cat/.x.heic"])
    image(tmp_path / "dog" / "0.png")
    (tmp_path / "dog" / "0.png").rename(tmp_path / "dog" / "photo")
    image(tmp_path / "dog" / "1.png")
    dataset = ImageFolder(config(tmp_path))
    names = {os.path.basename(d.impath) for part in (dataset.train_x, dataset.val, dataset.test) for d in part}
    assert names == {f"{i}.{kind}" for i in range(2) for kind in ("jpg", "JFIF", "jp2", "tga")} | {"photo", "1.png"}
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(told) == 1
    assert "5 files that Pillow cannot read are left out (.heic: 3, " in told[0]
    assert "no extension: 1" in told[0]


def test_a_class_of_unreadable_files_only(tmp_path, touch, config):
    touch(tmp_path, ["cat/1.jpg", "dog/1.heic", "dog/2.heic"])
    with pytest.raises(ValueError, match=r"dog holds no images that Pillow reads, only 2 other files such as 1\.heic"):
        ImageFolder(config(tmp_path))


def test_small_classes(tmp_path, touch, config, capsys):
    touch(tmp_path, [f"{c}/{i}.jpg" for c, n in {"a": 10, "one": 1, "three": 3, "two": 2}.items() for i in range(n)])
    for _ in range(2):  # drawn, then read
        dataset = ImageFolder(config(tmp_path))
        counts = [[sum(d.label == y for d in items) for y in range(4)]
                  for items in (dataset.train_x, dataset.val, dataset.test)]  # fmt: skip
        assert counts == [[5, 1, 1, 1], [2, 0, 1, 0], [3, 0, 1, 1]]
        assert "no test images in 1 class(es): one" in (out := capsys.readouterr().out)
        assert ("fewer than 4 images" in out) == ("Saved split" in out)


def test_folders_of_systems_do_not_count(tmp_path, touch, config):
    touch(tmp_path, [f"{c}/{i}.jpg" for c in ("cat", "dog") for i in range(10)])
    touch(tmp_path, ["__MACOSX/cat/._1.jpg", "cat/@eaDir/1.jpg/thumb.jpg", "System Volume Information/x"])
    assert ImageFolder(config(tmp_path)).classnames == ["cat", "dog"]


def test_names_of_a_mac(tmp_path, touch, config):
    """The decomposed form is what macOS writes into archives; lists are typed in the composed one."""
    touch(tmp_path, [f"cafe\u0301/{i}.jpg" for i in range(10)] + [f"cat/{i}.jpg" for i in range(10)])
    (tmp_path / "classnames.txt").write_text("caf\u00e9 coffee house\ncat cat\n")
    for _ in range(2):  # drawn, then read
        assert ImageFolder(config(tmp_path)).classnames == ["coffee house", "cat"]


def test_parts_in_both_forms_of_unicode(tmp_path, touch, config):
    touch(tmp_path, ["train/caf\u00e9/1.jpg", "train/a/1.jpg", "test/cafe\u0301/1.jpg"])
    dataset = ImageFolder(config(tmp_path))
    assert dataset.classnames == ["a", "caf\u00e9"]
    assert [d.label for d in dataset.test] == [1]
    touch(tmp_path, ["train/cafe\u0301/1.jpg"])
    with pytest.raises(ValueError, match="Two folders of"):
        ImageFolder(config(tmp_path))


def test_the_root_has_to_be_named(config):
    cfg = config()
    cfg.DATASET.ROOT = ""
    with pytest.raises(ValueError, match=r"DATASET.ROOT \(--root\) is empty.*'\.' is the current folder"):
        ImageFolder(cfg)


def test_home_is_expanded(tmp_path, touch, config, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    touch(tmp_path / "own", [f"{c}/{i}.jpg" for c in "ab" for i in range(10)])
    first = ImageFolder(config("~/own"))
    (tmp_path / "own" / "split_ImageFolder.json").rename(tmp_path / "mine.json")
    again = ImageFolder(config("~/own", SPLIT_FILE="~/mine.json"))
    assert [d.impath for d in again.test] == [d.impath for d in first.test]
    (tmp_path / "own").chmod(0o555)
    ImageFolder(config("~/own", OUTPUT_DIR="~/output"))
    (tmp_path / "own").chmod(0o755)
    assert (tmp_path / "output" / "split_ImageFolder.json").exists()
