"""The data set interface and the registry of readers."""

from __future__ import annotations

from yacs.config import CfgNode

from .base_dataset import DATASET_REGISTRY, ClassList, DatasetBase, Datum


def build_dataset(cfg: CfgNode) -> DatasetBase:
    """The data set DATASET.NAME.

    Raises:
        ValueError: Unknown name; close matches and all names are given.
    """
    dataset: DatasetBase = DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
    return dataset


__all__ = ["DATASET_REGISTRY", "ClassList", "DatasetBase", "Datum", "build_dataset"]
