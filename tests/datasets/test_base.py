"""What lists must be like, whatever they come from."""

import pytest

from dassl.data.datasets import Datum
from datasets import base


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
