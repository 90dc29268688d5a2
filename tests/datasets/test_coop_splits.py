"""Few-shot picks and class names against what others published for CoOp's own split files.

`coop_splits.json` holds, for seven of CoOp's split files: the labels of train and val as runs [label, images], class
folders with their class names in label order, and, by "shots seed", the start of the SHA-256 of the positions of the
picked images [train, val]. Files and positions come from https://github.com/linzhiqiu/cross_modal_adaptation
(`splits`, `indices`), which follows CoOp's protocol with code of its own.
"""

import hashlib
import json
import math
from pathlib import Path

import pytest

from dassl.data.datasets import Datum
from datasets import base, catalog

PUBLISHED = json.loads((Path(__file__).parent / "coop_splits.json").read_text(encoding="utf-8"))


def items_of(runs):
    """Items in the order of the split file; an image is called by its position."""
    labels = [y for y, n in runs for _ in range(n)]
    return [Datum(impath=str(i), label=y, classname=f"class {y}") for i, y in enumerate(labels)]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("stem", PUBLISHED)
def test_picks_are_the_published_ones(config, tmp_path, stem, shots, seed):
    train, val = (items_of(PUBLISHED[stem][part]) for part in ("train", "val"))
    picked = {}
    for half in ("all", "base", "new") if seed == 1 else ("all",):
        cfg = config(SEED=seed, NUM_SHOTS=shots, SUBSAMPLE_CLASSES=half)
        got = base.finalize(cfg, str(tmp_path), train, val, val)
        picked[half] = [[int(d.impath) for d in items] for items in got[:2]]
    digest = hashlib.sha256(json.dumps(picked["all"]).encode()).hexdigest()
    assert digest[:16] == PUBLISHED[stem]["picks"][f"{shots} {seed}"]
    if seed == 1:
        border = math.ceil(len({d.label for d in train}) / 2)
        for k, pool in enumerate((train, val)):
            assert picked["base"][k] == [i for i in picked["all"][k] if pool[i].label < border]
            assert picked["new"][k] == [i for i in picked["all"][k] if pool[i].label >= border]


@pytest.mark.parametrize("stem", PUBLISHED)
def test_official_counts_are_those_of_the_split_file(stem):
    official = catalog.reader_class(stem).official
    for part in ("train", "val"):
        runs = PUBLISHED[stem][part]
        assert len({y for y, _ in runs}) == official["classes"]
        assert sum(n for _, n in runs) == official[part]


@pytest.mark.parametrize("stem", ["caltech101", "dtd", "eurosat"])
def test_class_names_and_label_order_of_folders(config, tmp_path, touch, stem):
    cls = catalog.reader_class(stem)
    folder = tmp_path / "data" / cls.dataset_dir
    images = folder / {"caltech101": "101_ObjectCategories", "dtd": "images", "eurosat": "2750"}[stem]
    extra = ["BACKGROUND_Google", "Faces_easy"] if stem == "caltech101" else []
    folders = [name for name, _ in PUBLISHED[stem]["classes"]] + extra
    touch(images, [f"{name}/{i}.jpg" for name in folders for i in range(5)])
    assert cls(config()).classnames == [title for _, title in PUBLISHED[stem]["classes"]]


def test_class_names_and_label_order_of_ucf101(config, tmp_path, touch):
    cls = catalog.reader_class("ucf101")
    folder = tmp_path / "data" / cls.dataset_dir
    folders = [name for name, _ in PUBLISHED["ucf101"]["classes"]]
    videos = [(name, name.replace("_", ""), i) for name in reversed(folders) for i in range(7)]
    touch(folder / "UCF-101-midframes", [f"{name}/v_{action}_{i}.jpg" for name, action, i in videos])
    (folder / "ucfTrainTestlist").mkdir()
    texts = {
        "classInd": [f"{y} {name.replace('_', '')}" for y, name in enumerate(folders, start=1)],
        "trainlist01": [f"{action}/v_{action}_{i}.avi" for _, action, i in videos if i < 5],
        "testlist01": [f"{action}/v_{action}_{i}.avi" for _, action, i in videos if i >= 5],
    }
    for name, lines in texts.items():
        (folder / "ucfTrainTestlist" / f"{name}.txt").write_text("\n".join(lines))
    assert cls(config()).classnames == [title for _, title in PUBLISHED["ucf101"]["classes"]]
