"""Importing the package registers every set, and every config file names one."""

from pathlib import Path

import pytest

import datasets  # noqa: F401  registers the readers
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from datasets import catalog

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "datasets").rglob("*.yaml"))
NAMES = {
    "ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "OxfordFlowers", "Food101", "FGVCAircraft", "SUN397",
    "DescribableTextures", "EuroSAT", "UCF101", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR",
    "PACS", "ImageFolder", "Shapes", "Patterns", "Digits", "Counts",
}  # fmt: skip


def test_every_set_is_registered():
    assert set(DATASET_REGISTRY.registered_names()) >= NAMES


def test_number_of_configs():
    assert len(CONFIGS) == len(NAMES) == 21


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_names_its_reader(path):
    cfg = get_cfg_default()
    cfg.merge_from_file(str(path))
    assert DATASET_REGISTRY.get(cfg.DATASET.NAME) is catalog.reader_class(path.stem)
