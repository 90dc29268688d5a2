"""Datum and DatasetBase."""

import random

import pytest

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, ClassList, DatasetBase, Datum, build_dataset


def items(*labels: int, names: str = "abcdefgh") -> list[Datum]:
    return [Datum(f"{i}.png", label=label, classname=names[label]) for i, label in enumerate(labels)]


def test_datum_keeps_its_values_and_cannot_be_changed() -> None:
    item = Datum("a.png", 2, 1, "cat")
    assert (item.impath, item.label, item.domain, item.classname) == ("a.png", 2, 1, "cat")
    with pytest.raises(AttributeError):
        item.label = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="impath must be a string, got int"):
        Datum(5)  # type: ignore[arg-type]


def test_names_come_in_label_order_whatever_the_images_order() -> None:
    data = DatasetBase(train_x=items(2, 0, 1, 2), test=items(0))
    assert data.num_classes == 3
    assert data.lab2cname == {0: "a", 1: "b", 2: "c"}
    assert list(data.lab2cname) == [0, 1, 2]
    assert data.classnames == ["a", "b", "c"]


def test_names_come_from_the_test_images_without_training_images() -> None:
    assert DatasetBase(test=items(1, 0)).classnames == ["a", "b"]


def test_gap_in_the_labels_is_named() -> None:
    with pytest.raises(ValueError, match=r"DatasetBase: labels must be 0..4, missing \[1, 3\]"):
        DatasetBase(train_x=items(0, 2, 4))


def test_two_names_for_one_label_are_refused() -> None:
    with pytest.raises(ValueError, match="label 0 has two class names: 'a' and 'x'"):
        DatasetBase(train_x=[*items(0), Datum("b.png", 0, classname="x")])


def test_few_shot_draws_what_coop_draws() -> None:
    train, val = items(1, 0, 1, 0, 1, 2), items(2, 1, 1)
    random.seed(5)
    got = DatasetBase(train_x=train).generate_fewshot_dataset(train, val, num_shots=2)
    random.seed(5)
    ones, zeros, twos = ([item for item in train if item.label == label] for label in (1, 0, 2))
    expected = [*random.sample(ones, 2), *random.sample(zeros, 2), *twos]
    assert got[0] == expected
    assert got[1] == [val[0], *random.sample(val[1:], 2)]


def test_few_shot_can_repeat_images_of_a_small_class() -> None:
    train = items(0, 0, 0, 1)
    picked = DatasetBase(train_x=train).generate_fewshot_dataset(train, num_shots=3, repeat=True)
    assert [item.label for item in picked] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("shots", [-1, 0])
def test_fewer_than_one_shot_takes_all(shots: int) -> None:
    train = items(0, 1)
    assert DatasetBase(train_x=train).generate_fewshot_dataset(train, num_shots=shots) is train


def test_splits_by_label_and_domain_keep_the_order_of_first_occurrence() -> None:
    train = [Datum("a", 1, 2, "b"), Datum("b", 0, 2, "a"), Datum("c", 1, 0, "b")]
    data = DatasetBase(train_x=train)
    assert list(data.split_dataset_by_label(train).items()) == [(1, [train[0], train[2]]), (0, [train[1]])]
    assert list(data.split_dataset_by_domain(train).items()) == [(2, train[:2]), (0, [train[2]])]


def test_domains_must_be_given_and_known() -> None:
    data = DatasetBase(test=items(0))
    data.domains = ["art", "photo"]
    data.check_input_domains(["art"], ["photo"])
    with pytest.raises(ValueError, match=r"DATASET.TARGET_DOMAINS is empty; it must name some of \['art', 'photo'\]"):
        data.check_input_domains(["art"], [])
    with pytest.raises(ValueError, match="unknown domain 'sketch'; allowed: art, photo"):
        data.check_input_domains(["sketch"], ["art"])


def test_unknown_data_set_names_close_ones() -> None:
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "ToyImage"
    assert "ToyImages" in DATASET_REGISTRY.registered_names()
    with pytest.raises(ValueError, match="unknown DATASET: 'ToyImage'[.] Did you mean ToyImages"):
        build_dataset(cfg)


def test_class_names_alone_are_a_data_set_without_images() -> None:
    data = ClassList(["cat", "dog", "cat"])
    assert (data.classnames, data.num_classes) == (["cat", "dog", "cat"], 3)
    assert data.lab2cname == {0: "cat", 1: "dog", 2: "cat"}
    assert data.train_x is data.train_u is data.val is data.test is None
    assert data.as_people_see and not DatasetBase.as_people_see
    with pytest.raises(ValueError, match="there are no classes"):
        ClassList([])
