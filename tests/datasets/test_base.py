"""What every reader does, and what lists must be like, whatever they come from."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dassl.data import DataManager, DatasetWrapper
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils.images import ImageReadError
from datasets import base
from datasets.dtd import DescribableTextures
from datasets.image_folder import ImageFolder


class TestLabels:
    def test_gap(self):
        items = [Datum("a", 0, 0, "a"), Datum("c", 2, 0, "c")]
        with pytest.raises(ValueError, match="1 of 3 classes.*label 1"):
            base.check_labels(items, [], items)

    def test_class_only_in_test(self):
        with pytest.raises(ValueError, match="1 of 2 classes have no training images: 'b'"):
            base.check_labels([Datum("a", 0, 0, "a")], [], [Datum("b", 1, 0, "b")])

    def test_negative(self):
        with pytest.raises(ValueError, match="'z' has the label -1; labels run from 0"):
            base.check_labels([Datum("a", 0, 0, "a"), Datum("z", -1, 0, "z")], [], [Datum("a", 0, 0, "a")])

    def test_two_names(self):
        with pytest.raises(ValueError, match="Label 0.*'a' and 'b'"):
            base.check_labels([Datum("a", 0, 0, "a")], [], [Datum("b", 0, 0, "b")])

    @pytest.mark.parametrize("part", ["training", "test"])
    def test_no_images(self, part):
        lists = {"training": ([], [Datum("a", 0, 0, "a")]), "test": ([Datum("a", 0, 0, "a")], [])}[part]
        with pytest.raises(ValueError, match=f"no {part} images"):
            base.check_labels(lists[0], [], lists[1])


class TestReader:
    def test_chosen_split_file_serves_every_set(self, tmp_path, touch, config):
        folder = tmp_path / "data" / "dtd"
        touch(folder / "images", [f"{c}/{i}.jpg" for c in ("banded", "dotted") for i in range(10)])
        rows = [[f"{c}/{i}.jpg", y, c] for y, c in enumerate(("banded", "dotted")) for i in range(2)]
        mine = tmp_path / "mine.json"
        mine.write_text(json.dumps({"train": rows[::2], "val": [], "test": rows[1::2]}))
        dataset = DescribableTextures(config(SPLIT_FILE=str(mine)))
        assert [d.impath for d in dataset.test] == [str(folder / "images" / c / "1.jpg") for c in ("banded", "dotted")]
        assert not (folder / "split_zhou_DescribableTextures.json").exists()
        with pytest.raises(FileNotFoundError, match=r"SPLIT_FILE: .*mne\.json\. Did you mean mine\.json"):
            DescribableTextures(config(SPLIT_FILE=str(tmp_path / "mne.json")))

    def test_a_class_without_test_images_is_told(self, config, tmp_path, capsys):
        items = [Datum("a", 0, 0, "ant"), Datum("b", 1, 0, "bee")]
        base.finalize(config(), str(tmp_path), items, None, items[:1])
        assert "no test images in 1 class(es): bee" in capsys.readouterr().out

    def test_published_pixels_stay(self):
        readers = (DATASET_REGISTRY.get(name) for name in DATASET_REGISTRY.registered_names())
        shown = {c for c in readers if issubclass(c, base.Reader) and c.as_people_see}
        assert shown == {ImageFolder}


class TestImagesOfARun:
    @pytest.fixture
    def own(self, tmp_path, config):
        """Two classes of photos that lie on their side, as phones store them."""
        exif = Image.Exif()
        exif[0x0112] = 6
        for c in ("a", "b"):
            (tmp_path / "own" / c).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (12, 6), (20 * i, 0, 0)).save(tmp_path / "own" / c / f"{i}.png", exif=exif)
        return config(tmp_path / "own", NUM_SHOTS=2)

    def test_own_photos_are_upright(self, own):
        dataset = ImageFolder(own)
        for items in (dataset.train_x, dataset.val, dataset.test):
            assert {DatasetWrapper(own, items)[i]["img"].size for i in range(len(items))} == {(6, 12)}
        plain = [Datum(d.impath, d.label, d.domain, d.classname) for d in dataset.test]
        assert DatasetWrapper(own, plain)[0]["img"].size == (12, 6)

    def test_unreadable_test_image_is_named_before_training(self, own):
        own.DATASET.NAME = "ImageFolder"
        own.DATALOADER.NUM_WORKERS = 0
        broken = Path(ImageFolder(own).test[-1].impath)
        broken.write_text("<html>")
        with pytest.raises(ImageReadError, match=f"cannot read image {broken}"):
            DataManager(own)
        DataManager(own, dataset_wrapper=DatasetWrapper)  # a wrapper of one's own may read something else
