"""PACS: the official files, leave-one-domain-out, and our own split where they do not serve."""

import os

import pytest

from datasets.pacs import BROKEN, PACS

CLASSES = ("dog", "elephant", "horse")


@pytest.fixture
def pacs(tmp_path, touch):
    folder = tmp_path / "data" / "pacs"
    for domain in PACS.domains:
        touch(folder / "images", [f"{domain}/{c}/pic_{i}.jpg" for c in CLASSES for i in range(10)])
    touch(folder / "images", BROKEN)
    return folder


@pytest.fixture(params=["splits", "splits_"])
def official(pacs, request):
    (pacs / request.param).mkdir()
    for domain in PACS.domains:
        for part, numbers in {"train": range(8), "crossval": range(8, 10)}.items():
            lines = [f"{domain}/{c}/pic_{i}.jpg {y}\n" for y, c in enumerate(CLASSES, start=1) for i in numbers]
            if domain == "sketch" and part == "train":
                lines.append(f"{BROKEN[0]} 1\n")
            (pacs / request.param / f"{domain}_{part}_kfold.txt").write_text("".join(lines))
    return pacs


def names(items, folder):
    return [os.path.relpath(d.impath, folder / "images") for d in items]


def test_official_files(official, config):
    sources = ["photo", "cartoon"]
    dataset = PACS(config(SOURCE_DOMAINS=sources, TARGET_DOMAINS=["sketch"]))
    assert dataset.classnames == list(CLASSES)
    train = [f"{d}/{c}/pic_{i}.jpg" for d in sources for c in CLASSES for i in range(8)]
    assert names(dataset.train_x, official) == train
    val = [f"{d}/{c}/pic_{i}.jpg" for d in sources for c in CLASSES for i in (8, 9)]
    assert names(dataset.val, official) == val
    assert sorted(names(dataset.test, official)) == sorted(
        f"sketch/{c}/pic_{i}.jpg" for c in CLASSES for i in range(10)
    )
    assert not (official / "split_PACS.json").exists()


def test_official_files_hold_no_test_part(official, config):
    dataset = PACS(config(SOURCE_DOMAINS=["photo"], TARGET_DOMAINS=["photo"]))
    train, test = (set(names(p, official)) for p in (dataset.train_x + dataset.val, dataset.test))
    assert (len(train), len(test)) == (21, 9)
    assert not train & test


def test_leave_one_domain_out_without_official_files(pacs, config):
    dataset = PACS(config(TARGET_DOMAINS=["sketch"], NUM_SHOTS=2))
    assert len(dataset.train_x) == 6
    assert not any(n.startswith("sketch") for n in names(dataset.train_x + dataset.val, pacs))
    assert len(dataset.test) == 30
    assert BROKEN[0] not in names(dataset.test, pacs)
    assert (pacs / "split_PACS.json").exists()
    other = PACS(config(TARGET_DOMAINS=["photo"], NUM_SHOTS=2))
    assert not any(n.startswith("photo") for n in names(other.train_x, pacs))


def test_halves(pacs, config):
    base = PACS(config(SUBSAMPLE_CLASSES="base"))
    new = PACS(config(SUBSAMPLE_CLASSES="new"))
    assert (base.classnames, new.classnames) == (["dog", "elephant"], ["horse"])


def test_errors(pacs, config, tmp_path):
    with pytest.raises(ValueError, match="'skech' of PACS.*mean sketch"):
        PACS(config(TARGET_DOMAINS=["skech"]))
    with pytest.raises(FileNotFoundError, match=r"images is missing") as e:
        PACS(config(tmp_path / "nowhere"))
    assert "pacs/\n" in str(e.value)
    assert "datasets.prepare pacs" in str(e.value)


def test_bad_line_of_an_official_file(official, config):
    (file,) = official.glob("*/photo_train_kfold.txt")
    file.write_text("photo/dog/pic_1.jpg dog\n")
    with pytest.raises(
        ValueError, match=r"photo_train_kfold.txt, 'photo/dog/pic_1.jpg dog'.*Expected <domain>/<class>"
    ):
        PACS(config(TARGET_DOMAINS=["sketch"]))
