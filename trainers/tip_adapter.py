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
from torch.utils.data import DataLoader
from tqdm import tqdm

from dassl.config.check import Rule, at_least, empty, one_of, positive
from dassl.data import DatasetWrapper
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.distributed import broadcast_module, gather_lists

from .base import CLIPTrainer
from .keys import declare
from .model import FixedText, Output, cosine_logits
from .templates import DEFAULT_TEMPLATE, ENSEMBLES, TEMPLATES, ensemble

add_config, RULES = declare(  # for both trainers
    "TIPADAPTER",
    {
        "AUGMENT_EPOCH": (10, at_least(1)),  # augmented views a training image
        # auto: CoOp's sentence for the data set; clip7 (published for ImageNet), clip80
        "TEMPLATES": ("auto", one_of("auto", *ENSEMBLES)),
        "INIT_ALPHA": (1.0, at_least(0)),  # alpha while F trains
        "INIT_BETA": (1.0, positive),
        "SEARCH_SCALE": (  # largest beta and alpha that are tried on the validation images; (): keep INIT_*
            (7.0, 3.0),
            empty | Rule("two numbers above 0.1, the largest beta and alpha", lambda v: len(v) == 2 and min(v) > 0.1),
        ),
        "SEARCH_STEP": (  # how many of each
            (200, 20),
            Rule(
                "two whole numbers from 1 to 10000, how many betas and alphas",
                lambda v: len(v) == 2 and all(type(x) is int and 1 <= x <= 10_000 for x in v),
            ),
        ),
        "LOGIT_SCALE": (100.0, positive),
    },
)


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
    """A frozen CLIP with a bank of training features."""

    learner: Bank
    label_of: torch.Tensor | None = None  # class at hand (or -1) of each class of the training

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
    trains_keys = False
    model: TipCLIP

    def build_model(self) -> None:
        """Encode the sentences, make room for the bank and register it as `tip_adapter`."""
        node = self.options
        own = TEMPLATES.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE)
        sentences = (own,) if node.TEMPLATES == "auto" else ensemble(node.TEMPLATES)
        text = F.normalize(F.normalize(self.sentence_features(*sentences), dim=-1).mean(0), dim=-1)
        images = self.dm.dataset.train_x or []
        learner = Bank(len(images), self.clip.embed_dim, node.INIT_ALPHA, node.INIT_BETA).to(self.device)
        self.model = TipCLIP(self.clip, text, learner, node.LOGIT_SCALE)
        print(f"Bank: {len(images):,} training images")
        if self.trains_keys:
            self.register("tip_adapter", learner)
        else:  # nothing of it has a gradient
            self.register_model("tip_adapter", learner)

    def before_train(self) -> None:
        """Refuse a search without validation images before anything long."""
        if self.options.SEARCH_SCALE and not self.has_own_validation:
            name = self.cfg.DATASET.NAME
            raise ValueError(
                f"{type(self).__name__} chooses alpha and beta on validation images, and {name} has none of its own "
                f"here; TRAINER.TIPADAPTER.SEARCH_SCALE () keeps INIT_ALPHA and INIT_BETA (the test images "
                "never choose)"
            )
        super().before_train()

    @torch.no_grad()
    def fill_bank(self) -> None:
        """Features of the training images; the same whatever the number of workers."""
        cfg, node, bank = self.cfg, self.cfg.DATALOADER, self.model.learner
        data = DatasetWrapper(cfg, self.dataset.train_x or [], build_transform(cfg, is_train=True), is_train=True)
        loader = DataLoader(data, node.TEST.BATCH_SIZE, num_workers=node.NUM_WORKERS)  # drops no image
        sums = torch.zeros_like(bank.keys)
        epochs = range(self.options.AUGMENT_EPOCH)
        for epoch in tqdm(epochs, desc="filling the bank", leave=False, disable=not self.shows_bars):
            data.set_epoch(epoch)
            for batch in self.with_features(loader):
                index = batch["index"].to(self.device)
                sums[index] += batch["img"].to(self.device)
                bank.labels[index] = batch["label"].to(self.device)
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
                features.append(self.model.encode_image(input).cpu())
            labels.append(label.cpu())
        image, label = (torch.cat(gather_lists(parts)).to(self.device) for parts in (features, labels))
        image = F.normalize(image, dim=-1)
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
        share, alpha, beta = best
        bank.alpha.fill_(alpha)
        bank.beta.fill_(beta)
        print(f"Validation images choose alpha {alpha:.3f}, beta {beta:.3f}: {100 * share:.2f} % of {len(label)}")

    def convert_state_dict(self, name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Make room for the bank, and find its classes among those at hand, by name."""
        state_dict = super().convert_state_dict(name, state_dict)
        if "keys" in state_dict:
            self.model.learner.resize(len(state_dict["keys"]))
        trained = self.labels_in_training()
        labels = [trained.index(i) if i in trained else -1 for i in range(len(self.trained_classes))]
        self.model.label_of = torch.tensor(labels, device=self.device)
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

    trains_keys = True

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
