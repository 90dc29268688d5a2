"""What a method gets of its images: the images, or what other runs computed of them (`features` keeps it)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from yacs.config import CfgNode

import clip
from clip import ImageFeatures
from dassl.config import flatten
from dassl.data.data_manager import DatasetWrapper
from dassl.data.datasets import Datum
from dassl.data.transforms import TEST_CHOICES, build_transform, cut_transform
from dassl.engine import TrainerX
from dassl.engine.checkpoint import plain_config
from dassl.utils.distributed import get_world_size

from .features import FeatureCache, File, Parts
from .model import PromptedCLIP

PIXELS_SHARE = 0.01  # of TEST.FEATURE_CACHE_MB, which the pixels of a training may take


class SharedInputs(TrainerX):
    """Inputs of tests and steps that every run with the same images, seed, transform and frozen tower gets alike."""

    clip: clip.FrozenCLIP
    config_key: str
    model: nn.Module
    backbone_digest: str
    views: Sequence[str] = ("img",)

    @property
    def options(self) -> CfgNode:
        """The method's own config node, which holds PREC."""
        return self.cfg.TRAINER[self.config_key]

    def training_views(self) -> Any:
        """Hook: training transforms, one for each of `views`; None takes INPUT.TRANSFORMS for the only view."""
        return None

    @property
    def reads_frozen_features(self) -> bool:
        """Whether the model reads nothing of an image but its features by the frozen tower."""
        return isinstance(self.model, PromptedCLIP) and self.model.reads_frozen_features

    @cached_property
    def feature_cache(self) -> FeatureCache:
        """Where these are shared."""
        return FeatureCache(self.cfg, self.backbone_digest, self.options.PREC, self.device)

    def test_inputs(self, split: str, loader: Any) -> Iterator[tuple[Any, torch.Tensor]]:
        """Images and labels, or what the frozen tower gives of the images where the method reads nothing else."""
        inputs, images = super().test_inputs(split, loader), loader.dataset.data_source
        statistics = getattr(self.model, "reads_frozen_statistics", False)
        files = self._test_files(images, statistics) if statistics or self.reads_frozen_features else []
        if not files:
            yield from inputs
            return

        def computed() -> Iterator[Parts]:
            for batch, _ in inputs:
                with self.autocast():
                    if statistics:
                        image = self.clip.encode_image_statistics(batch)
                        parts: Parts = (image.final, torch.stack((image.mean, image.var), dim=1))
                    else:
                        parts = (self.clip.encode_image(batch),)
                yield parts

        what = f"{'Features and block statistics' if statistics else 'Features'} of the {len(images):,} {split} images"
        size = self.cfg.DATALOADER.TEST.BATCH_SIZE
        labels = torch.split(torch.tensor([item.label for item in images], device=self.device), size)
        for parts, label in zip(self.feature_cache.batches(what, files, size, computed()), labels, strict=True):
            final, *rest = (part.to(self.device) for part in parts)
            yield (ImageFeatures(final, *(x.contiguous() for x in rest[0].unbind(1))) if rest else final), label

    def _test_files(self, images: Sequence[Datum], statistics: bool) -> list[File]:
        """Where features, and block statistics, of test or validation images are shared; empty: they are not."""
        cfg, node, size = self.cfg, self.cfg.INPUT, self.cfg.DATALOADER.TEST.BATCH_SIZE
        in_order = cfg.DATALOADER.TEST.SAMPLER == "SequentialSampler" and get_world_size() == 1
        if not in_order or (cfg.TEST.PROJECTOR and not self._chooses):  # the projector shows the images themselves
            return []
        kinds: dict[str, tuple[int, ...]] = {"features": (self.clip.embed_dim,)}
        if statistics:
            kinds["blocks"] = (2, self.clip.vision_layers, self.clip.vision_width)
        applied = [name for name in TEST_CHOICES if name in node.TRANSFORMS]
        facts = [size, list(node.SIZE), node.INTERPOLATION, list(node.PIXEL_MEAN), list(node.PIXEL_STD), applied]
        paths = {kind: self.feature_cache.path(kind, facts, enumerate(images)) for kind in kinds}
        return [File(path, (len(images), *kinds[kind])) for kind, path in paths.items() if path is not None]

    def training_batches(self) -> Iterable[dict[str, Any]]:
        """With what other runs computed, where the method reads one view of an image: its features, or its pixels."""
        loader, one_view = self.train_loader_x, list(self.views) == ["img"] and self.training_views() is None
        if loader is None or not (one_view and self._shares_training):
            return super().training_batches()
        pixels = loader if self._pixel_loader is None else self._with_pixels(self._pixel_loader)
        return self.with_features(loader, pixels) if self.reads_frozen_features else pixels

    def with_features(
        self, loader: DataLoader[Any], batches: Iterable[dict[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """A loader's batches (or what is read in their place) with frozen features [B, E] in place of the images."""

        def encode(batch: dict[str, Any]) -> torch.Tensor:
            with torch.no_grad(), self.autocast():
                return self.clip.encode_image(batch["img"].to(self.device))

        return self._shared_epoch("Features", loader, batches or loader, encode, (self.clip.embed_dim,), "<f4")

    @property
    def _shares_training(self) -> bool:
        """Whether a batch is what every run with the same seed gets of these images."""
        node = self.cfg.DATALOADER
        return get_world_size() == 1 and node.K_TRANSFORMS == 1 and not node.RETURN_IMG0

    @cached_property
    def _pixel_loader(self) -> DataLoader[Any] | None:
        """The training loader with 8-bit pixels; None where they are not shared."""
        loader, cut = self.train_loader_x, cut_transform(build_transform(self.cfg, is_train=True))
        assert loader is not None
        size = 3 * self.clip.image_size**2 * len(loader) * (loader.batch_size or 0) * self.max_epoch
        what = "Pixels of the training images of all epochs"
        if cut is None or not self.feature_cache.has_room(what, size, PIXELS_SHARE):
            return None
        data = copy.copy(loader.dataset)
        data.transform, self._finish = cut  # type: ignore[attr-defined]
        names = ("batch_size", "sampler", "num_workers", "persistent_workers", "drop_last", "generator")
        return DataLoader(data, **{name: getattr(loader, name) for name in names})

    def _with_pixels(self, loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
        """The batches of `_pixel_loader`, as the training loader gives them."""
        shape = (3, self.clip.image_size, self.clip.image_size)
        for batch in self._shared_epoch("Pixels", loader, loader, itemgetter("img"), shape, "|u1"):
            yield {**batch, "img": self._finish(batch["img"])}

    def _shared_epoch(
        self,
        kind: str,
        loader: DataLoader[Any],
        batches: Iterable[dict[str, Any]],
        function: Callable[[dict[str, Any]], torch.Tensor],
        shape: tuple[int, ...],
        dtype: str,
    ) -> Iterator[dict[str, Any]]:
        """A loader's batches with a function of `batches` in place of the images, read where another run kept it."""
        data, size = loader.dataset, loader.batch_size
        assert isinstance(data, DatasetWrapper) and size is not None

        def compute() -> Iterator[Parts]:  # no generator expression: that would start the loader's workers at once
            for batch in batches:
                yield (function(batch),)

        order = list(loader.sampler)
        order = order[: len(order) // size * size] if loader.drop_last else order
        images = [data.data_source[index] for index in order]
        facts = [size, data.seed, int(data.epoch), flatten(plain_config(self.cfg)["INPUT"])]
        kept = zip(order, images, strict=True)
        path = self.feature_cache.path(f"training_{kind.lower()}", facts, kept) if self._shares_training else None
        computed = compute()
        if path is not None:
            file = File(path, (len(images), *shape), dtype)
            what = f"{kind} of the {len(images):,} training images of each epoch"
            computed = self.feature_cache.batches(what, [file], size, computed)
        for i, (values,) in enumerate(computed):
            part = slice(i * size, (i + 1) * size)
            rows = images[part]
            yield {
                "img": values,
                "label": torch.tensor([item.label for item in rows]),
                "domain": torch.tensor([item.domain for item in rows]),
                "impath": [item.impath for item in rows],
                "index": torch.tensor(order[part]),
            }
