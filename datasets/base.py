"""The base of all readers: where a set lies, its lists, few-shot picks, base and new classes, in CoOp's order."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dassl.data.datasets import DatasetBase, Datum

from .domains import choose_domains, join_domains
from .few_shot import few_shot_lists, subsample_classes
from .files import data_root, require
from .splits import Lists, MaybeVal, chosen_split, load_or_make_split, read_and_split_data, read_split, replaced


class Reader(DatasetBase):
    """A data set on disk. A reader says what differs; on its instances both folders are absolute paths.

    Attributes:
        dataset_dir: the set's folder below ``DATASET.ROOT``.
        image_dir: the folder in it that the paths of split files start from.
        needs: what must be there besides, below ``dataset_dir``.
        ignored: class folders to leave out when a split is drawn.
        new_cnames: class names for folders whose own name will not do.
        official: published numbers of classes and images, by part.
        test_only: for sets that only serve as test data, ``NUM_SHOTS`` has no effect.
    """

    dataset_dir = ""
    image_dir = "images"
    needs: Sequence[str] = ()
    ignored: Sequence[str] = ()
    new_cnames: Mapping[str, str] = {}
    official: ClassVar[dict[str, int]] = {}
    test_only = False
    sources: Sequence[str] = ()  # source domains, when the lists depend on them

    def __init__(self, cfg: Any) -> None:
        self.root = data_root(cfg)
        self.dataset_dir = os.path.normpath(os.path.join(self.root, self.dataset_dir))
        self.image_dir = os.path.normpath(os.path.join(self.dataset_dir, self.image_dir))
        require(self, self.image_dir, *(os.path.join(self.dataset_dir, need) for need in self.needs))
        lists = finalize(cfg, self.dataset_dir, *self.lists(cfg), self.sources, not self.test_only)
        train, val, test = (self._decoded(items) for items in lists)
        super().__init__(train_x=train, val=val, test=test)

    def lists(self, cfg: Any) -> MaybeVal:
        """The full train, val (None when the set has none of its own) and test lists."""
        chosen = chosen_split(cfg)
        return read_split(chosen, self.image_dir) if chosen else self.read_lists(cfg)

    def read_lists(self, cfg: Any) -> MaybeVal:
        """The lists where no ``DATASET.SPLIT_FILE`` is chosen."""
        split_path = os.path.join(self.dataset_dir, f"split_zhou_{type(self).__name__}.json")
        return load_or_make_split(cfg, split_path, self.image_dir, self.make_split)

    def make_split(self, rng: Any) -> Lists:
        """Draw a split when there is no split file: 50/20/30 of every class folder."""
        return read_and_split_data(self.image_dir, ignored=self.ignored, new_cnames=self.new_cnames, rng=rng)

    def _decoded(self, items: list[Datum] | None) -> list[Datum] | None:
        return [replaced(d, as_people_see=True) for d in items] if items and self.as_people_see else items


class DomainReader(Reader):
    """A set with domains: train and val of the source domains, test of the target domains."""

    def lists(self, cfg: Any) -> MaybeVal:
        """Join the lists of the chosen domains."""
        splits = self.read_splits(cfg)
        self.domains = sorted(d for d in splits if d)
        sources, targets = choose_domains(cfg, self.domains, self.title())
        self.sources = sources if sources != self.domains else ()
        train, val, test = join_domains(splits, sources or [""], targets or [""])
        return train, val or None, test

    def title(self) -> str:
        """What errors call the set."""
        return type(self).__name__

    def read_splits(self, cfg: Any) -> dict[str, Lists]:
        """Train, val and test by domain; one key "" when there are none."""
        raise NotImplementedError


def finalize(
    cfg: Any,
    dataset_dir: str,
    train: Sequence[Datum],
    val: Sequence[Datum] | None,
    test: Sequence[Datum],
    sources: Sequence[str] = (),
    few_shot: bool = True,
) -> MaybeVal:
    """The last step of every reader: checks, few-shot picks, then base or new classes, in CoOp's order.

    Reads ``SEED``, ``DATASET.NUM_SHOTS`` (without effect unless `few_shot`) and ``DATASET.SUBSAMPLE_CLASSES``. `val` is
    None, before and after, when the set has none of its own; `sources` are the source domains, when the lists depend
    on them. The picks are kept in ``split_fewshot`` of the set's folder.

    Raises:
        ValueError: bad config values, or lists whose labels do not fit together.
    """
    shots = cfg.DATASET.NUM_SHOTS
    if shots == 0 or shots < -1:
        raise ValueError(f"DATASET.NUM_SHOTS is {shots}; allowed are -1 (all images) and numbers from 1.")
    check_labels(train, val or [], test)
    untested = sorted({d.classname for d in train} - {d.classname for d in test})
    if untested:
        more = ", ..." if len(untested) > 10 else ""
        print(f"Warning: no test images in {len(untested)} class(es): {', '.join(untested[:10])}{more}")
    if few_shot and shots >= 1:
        train, val = few_shot_lists(train, val, shots, cfg.SEED, dataset_dir, sources)
    lists = subsample_classes(train, val or [], test, subsample=cfg.DATASET.SUBSAMPLE_CLASSES)
    return list(lists[0]), None if val is None else list(lists[1]), list(lists[2])


def check_labels(train: Sequence[Datum], val: Sequence[Datum], test: Sequence[Datum]) -> None:
    """Check that labels run from 0 without gaps, have one name each, and all have training images.

    Raises:
        ValueError: names the classes that break the rule.
    """
    if not train or not test:
        raise ValueError(f"The data set has no {'test' if train else 'training'} images.")
    names: dict[int, str] = {}
    for d in (*train, *val, *test):
        if names.setdefault(d.label, d.classname) != d.classname:
            both = f"{names[d.label]!r} and {d.classname!r}"
            raise ValueError(f"Label {d.label} stands for two classes: {both}.")
    with_images = {d.label for d in train}
    if min(names) < 0:
        raise ValueError(f"The class {names[min(names)]!r} has the label {min(names)}; labels run from 0.")
    empty = [y for y in range(max(names) + 1) if y not in with_images]
    if empty:
        listed = ", ".join(repr(names.get(y, f"label {y}")) for y in empty[:10])
        raise ValueError(f"{len(empty)} of {max(names) + 1} classes have no training images: {listed}.")
