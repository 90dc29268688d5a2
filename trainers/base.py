"""What every method on a frozen CLIP shares: the backbone, its input size and normalisation, its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from yacs.config import CfgNode

import clip
from dassl.data import DataManager
from dassl.data.datasets import build_dataset
from dassl.engine import TrainerX

# Precision of the frozen weights; the learnables are always fp32, and `amp` leaves the weights so too.
WEIGHT_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "amp": torch.float32,
}


class CLIPTrainer(TrainerX):
    """Base of the methods: loads the backbone before the data, since the views take size, mean and std from it.

    Subclasses name their node of the config in `config_key`; it must hold PREC.
    """

    config_key: str

    @property
    def options(self) -> CfgNode:
        """The method's own config node."""
        return self.cfg.TRAINER[self.config_key]

    def check_cfg(self, cfg: CfgNode) -> None:
        """Refuse an unknown precision before anything is loaded."""
        prec = cfg.TRAINER[self.config_key].PREC
        if prec not in WEIGHT_DTYPES:
            raise ValueError(f"TRAINER.{self.config_key}.PREC must be one of {list(WEIGHT_DTYPES)}, got {prec!r}")

    def build_data_loader(self) -> None:
        """Read the data set (a wrong path shows at once), load CLIP, take the input's size and statistics from it."""
        self.dataset = build_dataset(self.cfg)
        backbone = self.cfg.MODEL.BACKBONE
        self.set_precision(self.options.PREC)
        print(f"Loading CLIP (backbone: {backbone.NAME}, pretrained: {backbone.PRETRAINED})")
        self.clip = clip.load(backbone.NAME, backbone.PRETRAINED, WEIGHT_DTYPES[self.options.PREC], self.device)
        if not backbone.PRETRAINED:
            print("The backbone's weights are random: accuracies mean nothing")
        self.cfg.defrost()
        self.cfg.INPUT.SIZE = (self.clip.image_size, self.clip.image_size)
        self.cfg.INPUT.PIXEL_MEAN = list(self.clip.mean)
        self.cfg.INPUT.PIXEL_STD = list(self.clip.std)
        self.cfg.freeze()
        super().build_data_loader()

    def build_data_manager(self) -> DataManager:
        """Loaders of the data set that was read before the backbone."""
        return DataManager(self.cfg, dataset=self.dataset)

    @property
    def classnames(self) -> list[str]:
        """Class names by label."""
        return list(self.dataset.classnames)

    def check_checkpoint(self, meta: dict[str, Any]) -> None:
        """Refuse a checkpoint of another backbone: its learnables mean nothing here."""
        super().check_checkpoint(meta)
        wanted, got = self.cfg.MODEL.BACKBONE.NAME, meta.get("backbone", self.cfg.MODEL.BACKBONE.NAME)
        if got != wanted:
            raise ValueError(f"the checkpoint was trained on backbone {got!r}, MODEL.BACKBONE.NAME is {wanted!r}")
