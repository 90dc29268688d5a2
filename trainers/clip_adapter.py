"""CLIP-Adapter: Better Vision-Language Models with Feature Adapters (Gao et al., IJCV 2024), arXiv 2110.04544.

f' = RATIO a(f) + (1 - RATIO) f on the image feature as it comes, a = Linear, ReLU, Linear, ReLU with E / 4 hidden units
and no biases (eq. 5); trained with cross-entropy against the data set's sentence. As in the released code, the text has
no adapter and the ratio is one for all sets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dassl.config.check import at_least, share
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import declare
from .model import FixedText
from .templates import DEFAULT_TEMPLATE, TEMPLATES

add_config, RULES = declare(
    "CLIPADAPTER",
    {
        "RATIO": (0.2, share),  # of the adapted feature
        "REDUCTION": (4, at_least(1)),  # E / REDUCTION hidden units
    },
)


class Adapter(nn.Module):
    """The adapter, under the published names.

    Args:
        width: E.
        reduction: See REDUCTION.
        ratio: See RATIO.
    """

    def __init__(self, width: int, reduction: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        hidden = max(1, width // reduction)
        inner, outer = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.fc = nn.Sequential(inner, nn.ReLU(), outer, nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, E] -> [B, E]."""
        adapted: torch.Tensor = self.fc(x)
        return adapted


class AdaptedCLIP(FixedText):
    """A frozen CLIP with an adapter of the image feature."""

    learner: Adapter

    def adapt(self, image: torch.Tensor) -> torch.Tensor:
        """Image features [B, E] -> the adapted ones."""
        ratio = self.learner.ratio
        adapted: torch.Tensor = ratio * self.learner(image).float() + (1 - ratio) * image
        return adapted


@TRAINER_REGISTRY.register()
class CLIPAdapter(CLIPTrainer):
    """Trainer of CLIP-Adapter."""

    config_key = "CLIPADAPTER"

    def build_model(self) -> None:
        """Encode the sentences, build the adapter and register it as published, as `clip_adapter`."""
        node = self.options
        text = self.sentence_features(TEMPLATES.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE))[0]
        learner = Adapter(self.clip.embed_dim, node.REDUCTION, node.RATIO)
        self.model = AdaptedCLIP(self.clip, F.normalize(text, dim=-1), learner)
        self.register("clip_adapter", learner)
