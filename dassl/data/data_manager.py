"""From a config to loaders whose batches depend on (seed, epoch, image) alone, never on the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from yacs.config import CfgNode

from dassl.utils import read_image, require_readable, seeded
from dassl.utils.distributed import get_world_size

from .datasets import ClassList, DatasetBase, Datum, build_dataset
from .samplers import EpochSampler, build_sampler
from .transforms import build_transform

Transform = Callable[[Any], Any]


class DatasetWrapper(Dataset[dict[str, Any]]):
    """Decodes and transforms images.

    An item is a dict with img, label, domain, impath and index. Several transforms give img, img2, img3, ...; in
    training, K_TRANSFORMS above 1 makes each a list; RETURN_IMG0 adds img0, the image without augmentation.

    `transform` is one of a PIL image, or several; random ones (`is_train`) are seeded by (seed, epoch, index).
    """

    def __init__(
        self,
        cfg: CfgNode,
        data_source: Sequence[Datum],
        transform: Transform | Sequence[Transform] | None = None,
        is_train: bool = False,
    ) -> None:
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        if self.k_tfm > 1 and transform is None:
            raise ValueError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to apply")
        plain = [name for name in cfg.INPUT.TRANSFORMS if name == "normalize"]
        self.to_tensor = build_transform(cfg, is_train=True, choices=plain)  # resized to INPUT.SIZE, not cropped
        self.seed = _base_seed(cfg)
        # In shared memory, because persistent workers hold a copy of this object from before the epoch.
        self.epoch = torch.zeros((), dtype=torch.int64)
        self.epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that random transforms are seeded with."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        image = read_image(item.impath, item.as_people_see)
        output: dict[str, Any] = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        transforms = self.transform if isinstance(self.transform, list | tuple) else [self.transform]
        with seeded(self.seed, int(self.epoch), idx) if self.is_train else nullcontext():
            for i, transform in enumerate(transforms):
                copies = [image if transform is None else transform(image) for _ in range(self.k_tfm)]
                output["img" if i == 0 else f"img{i + 1}"] = copies[0] if self.k_tfm == 1 else copies
            if self.cfg.DATALOADER.RETURN_IMG0:
                output["img0"] = self.to_tensor(image)
        return output


def _base_seed(cfg: CfgNode) -> int:
    return int(cfg.SEED if cfg.SEED >= 0 else torch.initial_seed() % 2**63)


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Transform | Sequence[Transform] | None = None,
    is_train: bool = True,
    dataset_wrapper: Callable[..., Dataset[Any]] | None = None,
) -> DataLoader[Any]:
    """A loader; in training the last incomplete batch is dropped, unless it is the only one.

    `batch_size` counts images of each process, `n_domain` is for samplers of domains and `n_ins` for that of classes;
    `dataset_wrapper` is a class to use instead of `DatasetWrapper`.

    Raises:
        ValueError: No images, a batch size below 1, or an unknown sampler.
    """
    if not data_source:
        raise ValueError(f"DATASET.NAME {cfg.DATASET.NAME}: no {'training' if is_train else 'test'} images")
    if batch_size < 1:
        raise ValueError(f"BATCH_SIZE must be at least 1, got {batch_size}")
    together = batch_size * get_world_size() if is_train else batch_size  # what a sampler of whole batches balances
    sampler = EpochSampler(
        build_sampler(sampler_type, data_source, together, n_domain, n_ins), _base_seed(cfg), even=is_train
    )
    if is_train and not len(sampler):
        raise ValueError(
            f"DATASET.NAME {cfg.DATASET.NAME}: {sampler_type} makes no batch of {batch_size} of "
            f"{len(data_source)} images"
        )
    workers = cfg.DATALOADER.NUM_WORKERS
    return DataLoader(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0 and is_train,
        drop_last=is_train and len(sampler) >= batch_size,
        # Its own generator: workers' seeds drawn from the global one would make dropout depend on their number.
        generator=torch.Generator().manual_seed(_base_seed(cfg)),
    )


class DataManager:
    """The data set of a config and its loaders.

    These are train_loader_x, train_loader_u (unlabelled images) and val_loader, None where there are no such images,
    and test_loader, None for a `ClassList`; beside them: dataset, num_classes, num_source_domains and lab2cname.

    Args:
        cfg: The config.
        custom_tfm_train: Training transform (or several, for several views) instead of INPUT.TRANSFORMS.
        custom_tfm_test: Test transform instead of the default.
        dataset_wrapper: A class to use instead of `DatasetWrapper`.
        dataset: The data set, if it is built already; else DATASET.NAME is built. A `ClassList` gets no loaders.

    Raises:
        ValueError: INPUT.NO_TRANSFORM without transforms of one's own.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Transform | Sequence[Transform] | None = None,
        custom_tfm_test: Transform | Sequence[Transform] | None = None,
        dataset_wrapper: Callable[..., Dataset[Any]] | None = None,
        dataset: DatasetBase | None = None,
    ) -> None:
        tfm_train = build_transform(cfg, is_train=True) if custom_tfm_train is None else custom_tfm_train
        tfm_test = build_transform(cfg, is_train=False) if custom_tfm_test is None else custom_tfm_test
        if dataset_wrapper is None and (tfm_train is None or tfm_test is None):
            raise ValueError("INPUT.NO_TRANSFORM True is for trainers that bring transforms of their own, got none")
        dataset = dataset or build_dataset(cfg)
        if dataset_wrapper is None:  # another one may read something else than image files
            lists = (dataset.train_x, dataset.train_u, dataset.val, dataset.test)
            require_readable([item.impath for items in lists for item in items or []])

        loader = partial(build_data_loader, cfg, dataset_wrapper=dataset_wrapper)

        def train_loader(data: list[Datum] | None, node: CfgNode) -> DataLoader[Any] | None:
            if not data:
                return None
            return loader(node.SAMPLER, data, node.BATCH_SIZE, node.N_DOMAIN, node.N_INS, tfm_train)

        def test_loader(data: list[Datum] | None) -> DataLoader[Any]:
            node = cfg.DATALOADER.TEST
            return loader(node.SAMPLER, data, node.BATCH_SIZE, tfm=tfm_test, is_train=False)

        loaders = cfg.DATALOADER
        self.dataset = dataset
        self.train_loader_x = train_loader(dataset.train_x, loaders.TRAIN_X)
        same = loaders.TRAIN_U.SAME_AS_X
        self.train_loader_u = train_loader(dataset.train_u, loaders.TRAIN_X if same else loaders.TRAIN_U)
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = None if isinstance(dataset, ClassList) else test_loader(dataset.test)
        self.num_classes = dataset.num_classes
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self.lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print name, domains and counts."""
        data = self.dataset
        rows = [
            ("Dataset", cfg.DATASET.NAME),
            ("Source", ", ".join(cfg.DATASET.SOURCE_DOMAINS)),
            ("Target", ", ".join(cfg.DATASET.TARGET_DOMAINS)),
            ("# classes", f"{self.num_classes:,}"),
            ("# train_x", f"{len(data.train_x or []):,}"),
            ("# train_u", f"{len(data.train_u):,}" if data.train_u else ""),
            ("# val", f"{len(data.val):,}" if data.val else ""),
            ("# test", f"{len(data.test or []):,}"),
        ]
        print("\n".join(f"{name:<10} {value}" for name, value in rows if value))
