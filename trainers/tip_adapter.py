"""Tip-Adapter: Training-Free Adaption of CLIP for Few-Shot Classification (Zhang et al., ECCV 2022), arXiv 2207.09519.

A bank of training features K (each the mean of AUGMENT_EPOCH augmented views, normalised) with labels V votes beside
the hand-written prompts W (eq. 5), f the normalised image feature:

    logits = LOGIT_SCALE f W^T + alpha exp(-beta (1 - f K^T)) V.

TipAdapter learns nothing but alpha and beta; TipAdapterF also trains K with cross-entropy from there. Both search alpha
and beta on the validation images. The released code searches ImageNet's on its test images and keeps F's epoch with the
best test accuracy; here the test images choose nothing (OPTIM and TEST.FINAL_MODEL say which weights are tested), so
that ImageNet, whose validation images are the test images, needs SEARCH_SCALE ().

Of classes that the bank holds no images of, as the new ones of base-to-new, the prompts alone remain.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode

from clip import FrozenCLIP
from dassl.config.check import Rule, at_least, empty, one_of, positive
from dassl.data import build_data_loader
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.distributed import broadcast_module

from .base import PRECISION_RULE, CLIPTrainer
from .model import FixedText, Output, cosine_logits
from .templates import DEFAULT_TEMPLATE, ENSEMBLES, TEMPLATES, ensemble

_KEY = "TRAINER.TIPADAPTER"
RULES = {
    f"{_KEY}.AUGMENT_EPOCH": at_least(1),
    f"{_KEY}.TEMPLATES": one_of("auto", *ENSEMBLES),
    f"{_KEY}.INIT_ALPHA": at_least(0),
    f"{_KEY}.INIT_BETA": positive,
    f"{_KEY}.SEARCH_SCALE": empty
    | Rule("two numbers above 0.1, the largest beta and alpha", lambda v: len(v) == 2 and min(v) > 0.1),
    f"{_KEY}.SEARCH_STEP": Rule(
        "two whole numbers from 1 to 10000, how many betas and alphas",
        lambda v: len(v) == 2 and all(type(x) is int and 1 <= x <= 10_000 for x in v),
    ),
    f"{_KEY}.LOGIT_SCALE": positive,
    f"{_KEY}.PREC": PRECISION_RULE,
}


def add_config(cfg: CfgNode) -> None:
    """Declare TRAINER.TIPADAPTER, for both trainers, with the published values."""
    node = cfg.TRAINER.TIPADAPTER = CfgNode()
    node.AUGMENT_EPOCH = 10  # augmented views a training image
    node.TEMPLATES = "auto"  # auto: CoOp's sentence for the data set; clip7 (published for ImageNet), clip80
    node.INIT_ALPHA = 1.0  # alpha while F trains
    node.INIT_BETA = 1.0
    node.SEARCH_SCALE = (7.0, 3.0)  # largest beta and alpha that are tried on the validation images; (): keep INIT_*
    node.SEARCH_STEP = (200, 20)  # how many of each
    node.LOGIT_SCALE = 100.0
    node.PREC = "fp16"


class Bank(nn.Module):
    """Features of the training images, and how they vote.

    Args:
        size: N images.
        width: E.
        alpha: Weight of the votes.
        beta: How fast a vote fades with the distance.
    """

    labels: torch.Tensor
    alpha: torch.Tensor
    beta: torch.Tensor

    def __init__(self, size: int, width: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(size, width))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.long))  # of the training's classes
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("beta", torch.tensor(float(beta)))

    def resize(self, size: int) -> None:
        """Make room for a bank of another training."""
        if size != len(self.keys):
            self.keys.data = self.keys.data.new_zeros(size, self.keys.shape[1])
            self.labels = self.labels.new_zeros(size)


def votes(affinity: torch.Tensor, values: torch.Tensor, alpha: Any, beta: Any) -> torch.Tensor:
    """What the bank adds to the logits.

    Args:
        affinity: [B, N], cosines of images and keys.
        values: [N, C], one-hot labels; a key of none of the classes has zeros.
        alpha: Scalar.
        beta: Scalar.

    Returns:
        [B, C].
    """
    added: torch.Tensor = alpha * ((-beta * (1 - affinity)).exp() @ values)
    return added


class TipCLIP(FixedText):
    """A frozen CLIP with a bank of training features.

    Args:
        clip_model: The backbone.
        text: [C, E], normalised.
        learner: The bank.
        scale: See LOGIT_SCALE.
    """

    learner: Bank

    def __init__(self, clip_model: FrozenCLIP, text: torch.Tensor, learner: Bank, scale: float) -> None:
        super().__init__(clip_model, text, learner)
        self.scale = scale
        self.label_of: torch.Tensor | None = None  # class at hand (or -1) of each class of the training

    def values(self) -> torch.Tensor:
        """One-hot labels of the keys among the classes at hand, [N, C]."""
        labels = self.learner.labels if self.label_of is None else self.label_of[self.learner.labels]
        hot = F.one_hot(labels.clamp(min=0), len(self.fixed)).float()
        return hot * (labels >= 0)[:, None]

    def classify(self, image: torch.Tensor) -> Output:
        """Image features [B, E] -> logits."""
        bank = self.learner
        affinity = F.normalize(image, dim=-1) @ bank.keys.t()
        logits = cosine_logits(image, self.fixed, self.scale) + votes(affinity, self.values(), bank.alpha, bank.beta)
        return Output(logits, self.fixed, image)


class _TipTrainer(CLIPTrainer):
    """What both trainers share: building the bank, and the search."""

    config_key = "TIPADAPTER"
    model: TipCLIP

    def build_model(self) -> None:
        """Encode the sentences and make room for the bank."""
        node = self.options
        own = (TEMPLATES.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE),)
        sentences = own if node.TEMPLATES == "auto" else ensemble(node.TEMPLATES)
        text = F.normalize(F.normalize(self.sentence_features(*sentences), dim=-1).mean(0), dim=-1)
        images = self.dm.dataset.train_x or []
        learner = Bank(len(images), self.clip.embed_dim, node.INIT_ALPHA, node.INIT_BETA).to(self.device)
        self.model = TipCLIP(self.clip, text, learner, node.LOGIT_SCALE)
        print(f"Bank: {len(images):,} training images")
        self.register_bank(learner)

    def before_train(self) -> None:
        """Refuse a search without validation images before anything long."""
        if self.options.SEARCH_SCALE and not self.has_own_validation:
            name = self.cfg.DATASET.NAME
            raise ValueError(
                f"{type(self).__name__} chooses alpha and beta on validation images, and {name} has none of its own "
                f"here; {_KEY}.SEARCH_SCALE () keeps INIT_ALPHA and INIT_BETA (the test images never choose)"
            )
        super().before_train()

    def register_bank(self, learner: Bank) -> None:
        """Register the bank as `tip_adapter`."""
        self.register_model("tip_adapter", learner, None, None)

    @torch.no_grad()
    def fill_bank(self) -> None:
        """Features of the training images; the same whatever the number of workers."""
        cfg, bank, images = self.cfg, self.model.learner, self.dm.dataset.train_x
        size = cfg.DATALOADER.TEST.BATCH_SIZE
        loader = build_data_loader(cfg, "SequentialSampler", images, size, tfm=build_transform(cfg, is_train=True))
        loader = torch.utils.data.DataLoader(loader.dataset, size, num_workers=loader.num_workers)  # drops no image
        sums = torch.zeros_like(bank.keys)
        for epoch in tqdm(range(self.options.AUGMENT_EPOCH), desc="filling the bank", leave=False):
            loader.dataset.set_epoch(epoch)  # type: ignore[attr-defined]
            for batch in loader:
                with self.autocast():
                    features = self.clip.encode_image(batch["img"].to(self.device))
                sums[batch["index"].to(self.device)] += features
                bank.labels[batch["index"].to(self.device)] = batch["label"].to(self.device)
        bank.keys.copy_(F.normalize(sums, dim=-1))
        broadcast_module(bank)

    @torch.no_grad()
    def search(self) -> None:
        """The alpha and beta with the best accuracy on the validation images; the first of equal ones."""
        node, bank = self.options, self.model.learner
        if not node.SEARCH_SCALE:
            return
        assert self.val_loader is not None
        self.set_model_mode("eval")
        features, labels = [], []
        for input, label in self.test_inputs("val", self.val_loader):
            with self.autocast():
                features.append(input if input.ndim == 2 else self.clip.encode_image(input))
            labels.append(label)
        image, label = F.normalize(torch.cat(features), dim=-1), torch.cat(labels)
        affinity, values = image @ bank.keys.t(), self.model.values()
        base = cosine_logits(image, self.model.fixed, self.model.scale)
        best = (-1.0, 0.0, 0.0)
        betas, alphas = (
            [0.1 + i * (top - 0.1) / steps for i in range(steps)]
            for top, steps in zip(node.SEARCH_SCALE, node.SEARCH_STEP, strict=True)
        )
        for beta in betas:
            added = votes(affinity, values, 1.0, beta)
            for alpha in alphas:
                right = ((base + alpha * added).argmax(-1) == label).float().mean().item()
                if right > best[0]:
                    best = (right, alpha, beta)
        bank.alpha.fill_(best[1])
        bank.beta.fill_(best[2])
        print(
            f"Validation images choose alpha {best[1]:.3f}, beta {best[2]:.3f}: {100 * best[0]:.2f} % of {len(label)}"
        )

    def convert_state_dict(self, name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make room for the bank, and find its classes among those at hand, by name."""
        state_dict = super().convert_state_dict(name, state_dict)
        if "keys" in state_dict:
            self.model.learner.resize(len(state_dict["keys"]))
        label_of = [-1] * len(self.trained_classes)
        trained = self.labels_in_training()
        for label, before in enumerate(trained):
            if before is not None:
                label_of[before] = label
        self.model.label_of = torch.tensor(label_of, device=self.device)
        if missing := trained.count(None):
            print(f"The bank holds no images of {missing} of {self.num_classes} classes: these have the prompts alone")
        return state_dict


@TRAINER_REGISTRY.register()
class TipAdapter(_TipTrainer):
    """Tip-Adapter without training: its only epoch fills the bank and searches."""

    def run_epoch(self) -> None:
        """Fill the bank, then search."""
        self.fill_bank()
        self.search()


@TRAINER_REGISTRY.register()
class TipAdapterF(_TipTrainer):
    """Tip-Adapter-F: the bank's keys are trained."""

    def register_bank(self, learner: Bank) -> None:
        """Register the bank as `tip_adapter`, with its optimiser."""
        self.register("tip_adapter", learner)

    def before_epoch(self) -> None:
        """The bank is filled before the first epoch."""
        super().before_epoch()
        if self.epoch == 0:
            self.fill_bank()
        node, bank = self.options, self.model.learner
        bank.alpha.fill_(node.INIT_ALPHA)
        bank.beta.fill_(node.INIT_BETA)

    def after_epoch(self) -> None:
        """Search where the weights may be tested: after the last epoch, or after each that validation chooses among."""
        if self.epoch + 1 == self.max_epoch or self.cfg.TEST.FINAL_MODEL == "best_val":
            self.search()
        super().after_epoch()
