"""CLIP-Adapter: Better Vision-Language Models with Feature Adapters (Gao et al., IJCV 2024), arXiv 2110.04544.

f' = RATIO a(f) + (1 - RATIO) f on the image feature as it comes, a = Linear, ReLU, Linear, ReLU with E / 4 hidden units
and no biases (eq. 5); trained with cross-entropy against the data set's sentence. As in the released code, the text has
no adapter and the ratio is one for all sets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode

from clip import FrozenCLIP
from dassl.config.check import at_least, share
from dassl.engine import TRAINER_REGISTRY

from .base import PRECISION_RULE, CLIPTrainer
from .model import FixedText, Output, cosine_logits
from .templates import DEFAULT_TEMPLATE, TEMPLATES

RULES = {
    "TRAINER.CLIPADAPTER.RATIO": share,
    "TRAINER.CLIPADAPTER.REDUCTION": at_least(1),
    "TRAINER.CLIPADAPTER.PREC": PRECISION_RULE,
}


def add_config(cfg: CfgNode) -> None:
    """Declare TRAINER.CLIPADAPTER with the published values."""
    node = cfg.TRAINER.CLIPADAPTER = CfgNode()
    node.RATIO = 0.2  # of the adapted feature
    node.REDUCTION = 4  # E / REDUCTION hidden units
    node.PREC = "fp16"


class Adapter(nn.Module):
    """The adapter, under the published names.

    Args:
        width: E.
        reduction: See REDUCTION.
    """

    def __init__(self, width: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        inner, outer = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.fc = nn.Sequential(inner, nn.ReLU(), outer, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, E] -> [B, E]."""
        adapted: torch.Tensor = self.fc(x)
        return adapted


class AdaptedCLIP(FixedText):
    """A frozen CLIP with an adapter of the image feature.

    Args:
        clip_model: The backbone.
        text: [C, E], normalised.
        learner: The adapter.
        ratio: See RATIO.
    """

    def __init__(self, clip_model: FrozenCLIP, text: torch.Tensor, learner: Adapter, ratio: float) -> None:
        super().__init__(clip_model, text, learner)
        self.ratio = ratio

    def classify(self, image: torch.Tensor) -> Output:
        """Image features [B, E] -> logits of the adapted ones."""
        image = self.ratio * self.learner(image).float() + (1 - self.ratio) * image
        return Output(cosine_logits(image, self.fixed, self.clip.logit_scale), self.fixed, image)


@TRAINER_REGISTRY.register()
class CLIPAdapter(CLIPTrainer):
    """Trainer of CLIP-Adapter."""

    config_key = "CLIPADAPTER"

    def build_model(self) -> None:
        """Encode the sentences, build the adapter and register it as published, as `clip_adapter`."""
        node = self.options
        text = self.sentence_features(TEMPLATES.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE))[0]
        learner = Adapter(self.clip.embed_dim, node.REDUCTION).to(self.device)
        self.model = AdaptedCLIP(self.clip, F.normalize(text, dim=-1), learner, node.RATIO)
        self.register("clip_adapter", learner)
