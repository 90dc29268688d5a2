"""Every reader on a small made-up tree like the real one, against CoOp's rules written anew."""

import base64
import importlib
import inspect
import json
import math
import os
import random
import re
from collections import defaultdict
from pathlib import Path

import pytest

import datasets  # noqa: F401  registers the readers
from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets import splits
from datasets.base import DomainReader

SAMPLES = json.loads((Path(__file__).parent / "mat_samples.json").read_text())
Row = tuple[str, int, str]  # path below the set's folder, label, class name


def cut_tree(root, image_dir, touch, classes, titles=None, ignored=()):
    """Class folders; the expected split cuts each 50/20/30."""
    for name, n in [*classes.items(), *((name, 5) for name in ignored)]:
        touch(root / image_dir, [f"{name}/im_{i:03d}.jpg" for i in range(n)])

    def expected():
        parts = ([], [], [])
        for label, name in enumerate(sorted(classes)):
            images = [f"{image_dir}/{name}/im_{i:03d}.jpg" for i in range(classes[name])]
            random.shuffle(images)
            a, b = round(len(images) * 0.5), round(len(images) * 0.2)
            for part, found in zip(parts, (images[:a], images[a : a + b], images[a + b :]), strict=True):
                part += [(p, label, (titles or {}).get(name, name)) for p in found]
        return parts

    return expected


def cut_trainval(trainval, test):
    """The expected split takes 20 % of each training class for validation."""

    def expected():
        positions = defaultdict(list)
        for i, row in enumerate(trainval):
            positions[row[1]].append(i)
        train, val = [], []
        for found in positions.values():
            random.shuffle(found)
            n = round(len(found) * 0.2)
            val += [trainval[i] for i in found[:n]]
            train += [trainval[i] for i in found[n:]]
        return train, val, test

    return expected


def caltech101(root, touch):
    sizes = {"accordion": 12, "airplanes": 14, "Faces": 10, "yin_yang": 11}
    titles = {"airplanes": "airplane", "Faces": "face"}
    return cut_tree(root, "101_ObjectCategories", touch, sizes, titles, ["BACKGROUND_Google", "Faces_easy"])


def dtd(root, touch):
    return cut_tree(root, "images", touch, {"zigzagged": 10, "banded": 12, "polka-dotted": 15})


def eurosat(root, touch):
    titles = {"AnnualCrop": "Annual Crop Land", "SeaLake": "Sea or Lake", "River": "River"}
    return cut_tree(root, "2750", touch, {"SeaLake": 11, "AnnualCrop": 10, "River": 13}, titles)


def food101(root, touch):
    return cut_tree(root, "images", touch, {"waffles": 10, "apple_pie": 20, "ramen": 17})


def oxford_pets(root, touch):
    lists = {"trainval": 8, "test": 3}
    rows = {}
    for part, n in lists.items():
        names = [(f"{breed}_{part}{i}", y) for i in range(n) for y, breed in
                 enumerate(("Abyssinian", "american_bulldog", "Birman"), start=1)]  # fmt: skip
        touch(root / "images", [f"{name}.jpg" for name, _ in names])
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{part}.txt").write_text("".join(f"{name} {y} 1 1\n" for name, y in names))
        rows[part] = [(f"images/{n}.jpg", y - 1, re.sub("_[a-z0-9]*$", "", n).lower()) for n, y in names]
    return cut_trainval(rows["trainval"], rows["test"])


def stanford_cars(root, touch):
    names = ["2000 AM General Hummer SUV", "2012 Acura TL Sedan", "2012 Ram C/V Cargo Van Minivan"]
    (root / "devkit").mkdir(parents=True)
    for key, file in (
        ("CARS_TRAIN", "devkit/cars_train_annos.mat"),
        ("CARS_TEST", "cars_test_annos_withlabels.mat"),
        ("CARS_META", "devkit/cars_meta.mat"),
    ):
        (root / file).write_bytes(base64.b85decode(SAMPLES[key]))
    train = [(f"cars_train/{i + 1:05d}.jpg", (i * 2) % 3, names[(i * 2) % 3]) for i in range(24)]
    test = [(f"cars_test/{i + 1:05d}.jpg", i % 3, names[i % 3]) for i in range(6)]
    touch(root, [row[0] for row in train + test])
    return cut_trainval(train, test)


def oxford_flowers(root, touch):
    labels = [2] * 7 + [1] * 10 + [3] * 5 + [1] * 3
    names = {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells"}
    images = touch(root / "jpg", [f"image_{i:05d}.jpg" for i in range(1, 26)])
    (root / "imagelabels.mat").write_bytes(base64.b85decode(SAMPLES["FLOWERS"]))
    (root / "cat_to_name.json").write_text(json.dumps(names))

    def expected():
        parts = ([], [], [])
        for y in (2, 1, 3):  # as they first occur
            found = [os.path.relpath(p, root) for p, label in zip(images, labels, strict=True) if label == y]
            random.shuffle(found)
            a, b = round(len(found) * 0.5), round(len(found) * 0.2)
            for part, chosen in zip(parts, (found[:a], found[a : a + b], found[a + b :]), strict=True):
                part += [(p, y - 1, names[str(y)]) for p in chosen]
        return parts

    return expected


def sun397(root, touch):
    classes = {"/a/abbey": "abbey", "/a/apse/indoor": "indoor apse", "/z/zoo": "zoo"}
    root.mkdir(parents=True, exist_ok=True)
    (root / "ClassName.txt").write_text("".join(f"{c}\n" for c in classes))
    rows = {}
    for part, n in {"Training": 7, "Testing": 3}.items():
        names = [f"{c}/sun_{part}{i}.jpg" for c in reversed(classes) for i in range(n)]
        touch(root / "SUN397", [name[1:] for name in names])
        (root / f"{part}_01.txt").write_text("".join(f"{name}\n" for name in names))
        rows[part] = [("SUN397" + n, list(classes).index(os.path.dirname(n)), classes[os.path.dirname(n)])
                      for n in names]  # fmt: skip
    return cut_trainval(rows["Training"], rows["Testing"])


def ucf101(root, touch):
    classes = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "TaiChi": "Tai_Chi", "YoYo": "Yo_Yo"}
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{i} {c}\n" for i, c in enumerate(classes, start=1)))
    rows = {}
    for part, n in {"train": 9, "test": 4}.items():
        names = [(c, f"v_{c}_g{i:02d}_{part}", y) for i in range(n) for y, c in enumerate(classes, start=1)]
        rows[part] = [(f"UCF-101-midframes/{classes[c]}/{v}.jpg", y - 1, classes[c]) for c, v, y in names]
        touch(root, [row[0] for row in rows[part]])
        label = {"train": " {}", "test": ""}[part]
        text = "".join(f"{c}/{v}.avi" + label.format(y) + "\n" for c, v, y in names)
        (lists / f"{part}list01.txt").write_text(text)
    return cut_trainval(rows["train"], rows["test"])


def fgvc_aircraft(root, touch):
    names = ["707-320", "BAE 146-200", "Boeing 717"]
    root.mkdir(parents=True, exist_ok=True)
    (root / "variants.txt").write_text("".join(f"{n}\n" for n in names))
    parts = ([], [], [])
    for k, (part, n) in enumerate({"train": 6, "val": 5, "test": 4}.items()):
        parts[k].extend((f"images/{k}{i}{y}.jpg", y, names[y]) for i in range(n) for y in (1, 0, 2))
        touch(root, [row[0] for row in parts[k]])
        lines = [f"{Path(p).stem} {name}\n" for p, _, name in parts[k]]
        (root / f"images_variant_{part}.txt").write_text("".join(lines))
    return lambda: parts


SPLIT_SETS = {
    f.__name__: f
    for f in (caltech101, dtd, eurosat, food101, oxford_pets, stanford_cars, oxford_flowers, sun397, ucf101)
}
ALL_SETS = {**SPLIT_SETS, "fgvc_aircraft": fgvc_aircraft}
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
PUBLISHED = (*ALL_SETS, "imagenet", *VARIANTS)
WNIDS = {"n03": "third thing", "n01": "first thing", "n02": "crane", "n05": "crane", "n04": "fourth"}


def reader_of(stem):
    module = importlib.import_module(f"datasets.{stem}")
    (cls,) = (c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)
    return cls


def rows_of(items, folder) -> list[Row]:
    return [(os.path.relpath(d.impath, folder), d.label, d.classname) for d in items]


def parts_of(dataset, folder):
    return [rows_of(items, folder) for items in (dataset.train_x, dataset.val, dataset.test)]


def half(rows, all_rows, which):
    labels = sorted({y for _, y, _ in all_rows})
    kept = labels[: math.ceil(len(labels) / 2)] if which == "base" else labels[math.ceil(len(labels) / 2) :]
    return [(p, kept.index(y), name) for p, y, name in rows if y in kept]


def picks(rows, shots):
    groups = defaultdict(list)
    for row in rows:
        groups[row[1]].append(row)
    return [r for g in groups.values() for r in (random.sample(g, shots) if len(g) >= shots else g)]


@pytest.fixture
def made(tmp_path, touch):
    """Build a set's tree below tmp_path/data: (class, its folder, function that gives the expected lists)."""

    def build(stem):
        cls = reader_of(stem)
        folder = tmp_path / "data" / cls.dataset_dir
        return cls, folder, ALL_SETS[stem](folder, touch)

    return build


def test_every_published_set_is_tested_here():
    tested = {reader_of(stem) for stem in PUBLISHED}
    registered = {DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names()}
    assert tested == {c for c in registered if getattr(c, "official", None) and not issubclass(c, DomainReader)}


@pytest.mark.parametrize("stem", ALL_SETS)
@pytest.mark.parametrize("seed", [1, 2])
def test_split_is_drawn_as_coop_draws_it(made, config, stem, seed):
    cls, folder, expected = made(stem)
    random.seed(seed)
    wanted = [list(part) for part in expected()]
    dataset = cls(config(SEED=seed))
    assert parts_of(dataset, folder) == wanted
    assert dataset.classnames == [name for _, name in sorted({(y, name) for _, y, name in wanted[0]})]
    again = cls(config(SEED=seed + 1))  # the file now decides, not the seed
    assert parts_of(again, folder) == wanted


@pytest.mark.parametrize("stem", SPLIT_SETS)
def test_split_file_decides(made, config, stem):
    """Order, labels and names come from the file, and nothing but the images is needed beside it."""
    cls, folder, expected = made(stem)
    images = {"stanford_cars": ""}.get(stem, os.path.commonpath([r[0] for r in expected()[0]]).split("/")[0])
    rng = random.Random(0)
    parts = []
    for part in expected():
        part = [(p, {0: 2, 1: 0, 2: 1, 3: 3}[y], f"name {y}") for p, y, _ in part]
        rng.shuffle(part)
        parts.append(part)
    content = {
        key: [[os.path.relpath(p, images or "."), y, name] for p, y, name in part]
        for key, part in zip(("train", "val", "test"), parts, strict=True)
    }
    for file in [
        *folder.glob("*.txt"),
        *folder.glob("*.mat"),
        *folder.glob("*/*.txt"),
        *folder.glob("*/*.mat"),
    ]:
        file.unlink()
    (folder / f"split_zhou_{cls.__name__}.json").write_text(json.dumps(content))
    dataset = cls(config())
    assert parts_of(dataset, folder) == parts
    random.seed(3)
    train, val = picks(parts[0], 3), picks(parts[1], 3)
    for which in ("base", "new"):
        dataset = cls(config(SEED=3, NUM_SHOTS=3, SUBSAMPLE_CLASSES=which))
        assert parts_of(dataset, folder) == [half(p, parts[0], which) for p in (train, val, parts[2])]


@pytest.mark.parametrize("shots", [1, 2, 3, 16])
@pytest.mark.parametrize("stem", ALL_SETS)
def test_picks_of_every_set(made, config, stem, shots):
    """First the picks of train, then those of val, from one seed; then the halves of the classes."""
    cls, folder, expected = made(stem)
    random.seed(0)
    lists = [list(part) for part in expected()]
    cls(config(SEED=0))  # keeps its split, as CoOp's users have one
    for seed in (1, 2, 3):
        random.seed(seed)
        chosen = [picks(lists[0], shots), picks(lists[1], min(shots, 4)), lists[2]]
        for which in ("all", "base", "new"):
            wanted = chosen if which == "all" else [half(part, lists[0], which) for part in chosen]
            dataset = cls(config(SEED=seed, NUM_SHOTS=shots, SUBSAMPLE_CLASSES=which))
            assert parts_of(dataset, folder) == wanted


@pytest.mark.parametrize("stem", ALL_SETS)
def test_missing_images_are_named(made, config, stem):
    cls, folder, expected = made(stem)
    cls(config())
    gone = folder / expected()[2][0][0]
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(gone))):
        cls(config())


@pytest.mark.parametrize("stem", ["oxford_pets", "stanford_cars", "oxford_flowers", "sun397", "ucf101"])
def test_missing_lists_are_named(made, config, stem):
    cls, folder, _ = made(stem)
    files = [p for p in folder.rglob("*") if p.suffix in (".txt", ".mat", ".json")]
    assert files
    for file in files:
        hidden = file.rename(file.with_suffix(".away"))
        with pytest.raises(FileNotFoundError, match=re.escape(str(file)) + " is missing"):
            cls(config())
        hidden.rename(file)


@pytest.mark.parametrize("stem", PUBLISHED)
def test_missing_folder_shows_the_tree(config, stem):
    cls = reader_of(stem)
    with pytest.raises(FileNotFoundError) as e:
        cls(config())
    assert f"{cls.dataset_dir}/\n" in str(e.value)
    assert str(Path("data") / cls.dataset_dir) in str(e.value)
    assert f"python -m datasets.prepare {stem} --root" in str(e.value)


@pytest.mark.parametrize("stem", PUBLISHED)
def test_docstring_and_config(stem):
    cls = reader_of(stem)
    doc = inspect.getdoc(cls)
    assert "Source: http" in doc
    assert "Licence: " in doc
    counts = doc[doc.index("Official counts: ") :]
    for n in cls.official.values():
        assert f"{n:,} " in counts
    config_file = Path(__file__).parents[2] / "configs" / "datasets" / f"{stem}.yaml"
    assert f'NAME: "{cls.__name__}"' in config_file.read_text()


def write_classnames(path, names=WNIDS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{wnid} {name}\n" for wnid, name in names.items()))


@pytest.fixture
def imagenet(tmp_path, touch):
    folder = tmp_path / "data" / "imagenet"
    for part, n in {"train": 6, "val": 2}.items():
        touch(folder / "images" / part, [f"{w}/{w}_{i}.JPEG" for w in WNIDS for i in reversed(range(n))])
    write_classnames(folder / "classnames.txt")
    return folder


def imagenet_rows(part, n):
    return [(f"images/{part}/{w}/{w}_{i}.JPEG", y, WNIDS[w]) for y, w in enumerate(sorted(WNIDS)) for i in range(n)]


def test_imagenet(imagenet, config):
    cls = reader_of("imagenet")
    for _ in range(2):  # listed, then read from preprocessed.json
        dataset = cls(config())
        train, test = imagenet_rows("train", 6), imagenet_rows("val", 2)
        assert parts_of(dataset, imagenet) == [train, test, test]
        assert dataset.classnames == ["first thing", "crane", "third thing", "fourth", "crane"]
    random.seed(5)
    chosen = picks(train, 4)
    for which in ("base", "new"):
        dataset = cls(config(SEED=5, NUM_SHOTS=4, SUBSAMPLE_CLASSES=which))
        wanted = [half(p, train, which) for p in (chosen, test, test)]
        assert parts_of(dataset, imagenet) == wanted


def test_folder_made_for_coop(imagenet, config, tmp_path):
    """Links to data elsewhere, as CoOp advises, and its pickled caches, which are never opened."""
    train = imagenet_rows("train", 6)
    (imagenet / "images").rename(tmp_path / "elsewhere")
    (imagenet / "images").mkdir()
    for part in ("train", "val"):
        (imagenet / "images" / part).symlink_to(tmp_path / "elsewhere" / part)
    imagenet.rename(tmp_path / "linked")
    imagenet.symlink_to(tmp_path / "linked")
    (imagenet / "split_fewshot").mkdir()
    for cache in ("preprocessed.pkl", "split_fewshot/shot_4-seed_5.pkl"):
        (imagenet / cache).write_bytes(b"not what it was")
    random.seed(5)
    dataset = reader_of("imagenet")(config(SEED=5, NUM_SHOTS=4))
    assert rows_of(dataset.train_x, imagenet) == picks(train, 4)


def test_imagenet_listing_follows_the_folders(imagenet, config, touch, capsys):
    cls = reader_of("imagenet")
    cls(config())
    kept = imagenet / "preprocessed.json"
    content = json.loads(kept.read_text())
    assert content["val"]["n01"] == ["n01_0.JPEG", "n01_1.JPEG"]
    touch(imagenet / "images" / "train" / "n01", ["extra.JPEG"])
    os.utime(imagenet / "images" / "train" / "n01", ns=(0, 12345))
    assert len(cls(config()).train_x) == 31
    kept.write_text("{broken")
    assert len(cls(config()).train_x) == 31
    assert json.loads(kept.read_text())["stamp"]


def test_imagenet_errors(imagenet, config):
    cls = reader_of("imagenet")
    write_classnames(imagenet / "classnames.txt", {k: v for k, v in WNIDS.items() if k != "n04"})
    with pytest.raises(ValueError, match=r"classnames\.txt has no name for 1 folders.*n04"):
        cls(config())
    write_classnames(imagenet / "classnames.txt")
    (imagenet / "images" / "val" / "n06").mkdir()
    write_classnames(imagenet / "classnames.txt", {**WNIDS, "n06": "sixth"})
    with pytest.raises(ValueError, match="no images in the class folders.*n06"):
        cls(config())


@pytest.mark.parametrize("stem", VARIANTS)
def test_imagenet_variants(tmp_path, touch, config, stem):
    cls = reader_of(stem)
    sub = {"imagenetv2": "imagenetv2-matched-frequency-format-val", "imagenet_sketch": "images"}
    images = sub.get(stem, stem.replace("_", "-"))
    folder = tmp_path / "data" / cls.dataset_dir
    if stem == "imagenetv2":  # numbered in the order of classnames.txt
        folders, names = [str(i) for i in range(5)], list(WNIDS.values())
    else:  # own classes only, relabelled in sorted order
        folders = sorted(w for w in WNIDS if w != "n02" or stem == "imagenet_sketch")
        names = [WNIDS[w] for w in folders]
    touch(folder / images, [f"{f}/{i}.jpg" for f in folders for i in (2, 0, 1)])
    (folder / images / "README.txt").touch()
    wanted = [(f"{images}/{f}/{i}.jpg", y, names[y]) for y, f in enumerate(folders) for i in range(3)]
    write_classnames(tmp_path / "data" / "imagenet" / "classnames.txt")  # serves until the set has its own
    for _ in range(2):
        dataset = cls(config(NUM_SHOTS=1))
        assert rows_of(dataset.test, folder) == rows_of(dataset.train_x, folder) == wanted
        assert dataset.classnames == names
        assert dataset.num_classes == len(folders)
        assert dataset.test_only
        write_classnames(folder / "classnames.txt")
    dataset = cls(config(SUBSAMPLE_CLASSES="new"))
    assert rows_of(dataset.test, folder) == half(wanted, wanted, "new")
    if stem == "imagenetv2":
        for image in (folder / images / "4").iterdir():
            image.unlink()
        (folder / images / "4").rmdir()
        with pytest.raises(FileNotFoundError, match="4 is missing"):
            cls(config())


BAD_LINES = {
    "oxford_pets": ("annotations/trainval.txt", "Birman_1 3", "values to unpack", "<label from 1>"),
    "fgvc_aircraft": ("images_variant_val.txt", "001 Concorde", "'Concorde' is unknown", "a name of variants.txt"),
    "sun397": ("Testing_01.txt", "/a/alley/sun_1.jpg", "'a/alley' is unknown", "a line of ClassName.txt"),
    "ucf101": ("ucfTrainTestlist/trainlist01.txt", "Dance/v_1.avi 9", "'Dance' is unknown", "a name of classInd.txt"),
}


@pytest.mark.parametrize("stem", BAD_LINES)
def test_bad_line_of_a_list(made, config, stem):
    """The error names the file, the line, what is wrong with it and what would be right."""
    cls, folder, _ = made(stem)
    name, line, wrong, right = BAD_LINES[stem]
    with (folder / name).open("a") as f:
        f.write(line + "\n")
    with pytest.raises(ValueError, match=".*".join(map(re.escape, (name, repr(line), wrong, "Expected", right)))):
        cls(config())


def test_bad_numbers_of_classes(made, config):
    cls, folder, _ = made("ucf101")
    (folder / "ucfTrainTestlist" / "classInd.txt").write_text("one ApplyEyeMakeup\n")
    with pytest.raises(ValueError, match=r"classInd\.txt: .*'one'.*Expected lines <label from 1> <ClassName>"):
        cls(config())


@pytest.mark.parametrize(
    ("stem", "file", "content", "message"),
    [
        ("oxford_flowers", "cat_to_name.json", b'{"1": "pink primrose"}', "'2' is unknown.*a name for every label"),
        ("oxford_flowers", "cat_to_name.json", b"Sorry!", "Expecting value.*a JSON object"),
        ("oxford_flowers", "imagelabels.mat", "CARS_META", "'labels' is unknown.*the variable labels"),
        ("stanford_cars", "devkit/cars_meta.mat", "FLOWERS", "'class_names' is unknown.*the variable class_names"),
        ("stanford_cars", "devkit/cars_train_annos.mat", "FLOWERS", "'annotations' is unknown.*class .1 to 3."),
    ],
)
def test_bad_file_of_labels(made, config, stem, file, content, message):
    cls, folder, _ = made(stem)
    (folder / file).write_bytes(base64.b85decode(SAMPLES[content]) if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=re.escape(str(folder / file)) + ".*" + message):
        cls(config())


def test_read_only_folder(made, config, capsys):
    cls, folder, expected = made("dtd")
    folder.chmod(0o555)
    try:
        random.seed(7)
        wanted = [list(p) for p in expected()]
        assert parts_of(cls(config(SEED=7)), folder) == wanted
    finally:
        folder.chmod(0o755)
    out = capsys.readouterr().out
    assert "not saved" in out
    assert "SEED 7" in out


def test_data_set_files_written_for_coop(tmp_path, touch):
    """CoOp's own sets are reached through these names by files that users add."""
    from datasets.dtd import DescribableTextures as DTD
    from datasets.imagenet import ImageNet
    from datasets.oxford_pets import OxfordPets

    touch(tmp_path, [f"{c}/{i}.jpg" for c in ("a", "b") for i in range(10)])
    train, val, test = DTD.read_and_split_data(str(tmp_path), ignored=[], new_cnames={"b": "B"})
    OxfordPets.save_split(train, val, test, str(tmp_path / "s.json"), str(tmp_path))
    train, val, test = OxfordPets.read_split(str(tmp_path / "s.json"), str(tmp_path))
    train, val = OxfordPets.split_trainval(train)
    train, test = OxfordPets.subsample_classes(train, test, subsample="new")
    assert {d.classname for d in train} == {"B"}
    write_classnames(tmp_path / "c.txt", {"n1": "x y"})
    assert ImageNet.read_classnames(str(tmp_path / "c.txt")) == {"n1": "x y"}
    assert isinstance(train[0], Datum)
    assert splits.read_split is OxfordPets.read_split
