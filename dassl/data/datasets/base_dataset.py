"""A data instance, and a data set: lists of instances per split, or class names alone."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from dassl.utils import Registry

T = TypeVar("T")
DATASET_REGISTRY = Registry("DATASET")


class Datum:
    """One image, immutable.

    Args:
        impath: Image path; not touched here, so that a million of them cost nothing.
        label: Class label, from 0.
        domain: Domain label, from 0.
        classname: Class name.
        as_people_see: How the image is decoded, see `dassl.utils.read_image`.
    """

    __slots__ = ("_classname", "_domain", "_impath", "_label", "as_people_see")

    def __init__(
        self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "", as_people_see: bool = False
    ) -> None:
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a string, got {type(impath).__name__}")
        self._impath, self._label, self._domain, self._classname = impath, label, domain, classname
        self.as_people_see = as_people_see

    @property
    def impath(self) -> str:
        """Image path."""
        return self._impath

    @property
    def label(self) -> int:
        """Class label, from 0."""
        return self._label

    @property
    def domain(self) -> int:
        """Domain label, from 0."""
        return self._domain

    @property
    def classname(self) -> str:
        """Class name."""
        return self._classname

    def __repr__(self) -> str:
        return f"Datum({self.impath!r}, label={self.label}, domain={self.domain}, classname={self.classname!r})"


def grouped(items: Iterable[T], key: Callable[[T], int]) -> dict[int, list[T]]:
    """Items by what `key` gives of each, in order of first occurrence."""
    groups: dict[int, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


class DatasetBase:
    """Lists of `Datum` per split; class names come from the training images, or the test images without any.

    Args:
        train_x: Labelled training images; may be empty for a set that is only tested on.
        train_u: Unlabelled training images.
        val: Validation images.
        test: Test images.

    Attributes:
        as_people_see: Whether the images are decoded so, see `dassl.utils.read_image`; not for sets with published
            numbers.

    Raises:
        ValueError: No images, labels that are not 0..n-1, or two names for one label.
    """

    dataset_dir = ""
    domains: Sequence[str] = ()
    as_people_see = False

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        self._train_x, self._train_u, self._val, self._test = train_x, train_u, val, test
        named = train_x or test or []
        if not named:
            raise ValueError(f"data set {type(self).__name__} has neither training nor test images")
        self._num_classes = self.get_num_classes(named)
        self._lab2cname, self._classnames = self.get_lab2cname(named)
        if list(self._lab2cname) != list(range(self._num_classes)):
            missing = sorted(set(range(self._num_classes)) - set(self._lab2cname))
            raise ValueError(
                f"data set {type(self).__name__}: labels must be 0..{self._num_classes - 1}, missing {missing[:10]}"
            )

    @property
    def train_x(self) -> list[Datum] | None:
        """Labelled training images."""
        return self._train_x

    @property
    def train_u(self) -> list[Datum] | None:
        """Unlabelled training images."""
        return self._train_u

    @property
    def val(self) -> list[Datum] | None:
        """Validation images."""
        return self._val

    @property
    def test(self) -> list[Datum] | None:
        """Test images."""
        return self._test

    @property
    def lab2cname(self) -> dict[int, str]:
        """Class name by label."""
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names in label order."""
        return self._classnames

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    @staticmethod
    def get_num_classes(data_source: list[Datum]) -> int:
        """Highest label plus one."""
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: list[Datum]) -> tuple[dict[int, str], list[str]]:
        """Class name by label, and the names in label order; raises ValueError for two names of one label."""
        mapping: dict[int, str] = {}
        for item in data_source:
            known = mapping.setdefault(item.label, item.classname)
            if known != item.classname:
                raise ValueError(f"label {item.label} has two class names: {known!r} and {item.classname!r}")
        mapping = dict(sorted(mapping.items()))
        return mapping, list(mapping.values())

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Both lists must be given and known; raises ValueError."""
        for key, given in (("SOURCE_DOMAINS", source_domains), ("TARGET_DOMAINS", target_domains)):
            if not given:
                raise ValueError(f"DATASET.{key} is empty; it must name some of {list(self.domains)}")
            self.is_input_domain_valid(given)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Every domain must be one of `domains`; raises ValueError."""
        for domain in input_domains:
            if domain not in self.domains:
                raise ValueError(f"unknown domain {domain!r}; allowed: {', '.join(self.domains)}")

    def generate_fewshot_dataset(self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False) -> Any:
        """A few images per class, drawn with Python's global generator; labels in order of first occurrence.

        Args:
            data_sources: One or more lists.
            num_shots: Images per class; below 1 returns the lists as they are.
            repeat: Draw with repetition where a class has fewer; else take all it has.

        Returns:
            A list per data source; the list itself when there is one.
        """
        output = list(data_sources)
        for i, source in enumerate(data_sources if num_shots >= 1 else ()):
            output[i] = []
            for items in self.split_dataset_by_label(source).values():
                if len(items) >= num_shots:
                    output[i] += random.sample(items, num_shots)
                else:
                    output[i] += random.choices(items, k=num_shots) if repeat else items
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source: list[Datum]) -> dict[int, list[Datum]]:
        """Images by label, labels in order of first occurrence."""
        return grouped(data_source, lambda item: item.label)

    def split_dataset_by_domain(self, data_source: list[Datum]) -> dict[int, list[Datum]]:
        """Images by domain, domains in order of first occurrence."""
        return grouped(data_source, lambda item: item.domain)


class ClassList(DatasetBase):
    """Class names by label without images: what a trained model needs to predict on somebody's own.

    Raises:
        ValueError: No names.
    """

    as_people_see = True

    def __init__(self, classnames: Sequence[str]) -> None:
        if not classnames:
            raise ValueError("there are no classes: give at least one class name")
        self._train_x = self._train_u = self._val = self._test = None
        self._lab2cname, self._classnames = dict(enumerate(classnames)), list(classnames)
        self._num_classes = len(classnames)
