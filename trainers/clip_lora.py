"""CLIP-LoRA: Low-Rank Few-Shot Adaptation of Vision-Language Models (Zanella, Ben Ayed, CVPRW 2024), arXiv 2405.18541.

In every block, W x becomes W x + ALPHA / sqrt(R) B A dropout(x) for queries, keys and values (PARAMS) of both towers,
with A [R, D] and B [D, R]; only these are learned and saved. Trained with cross-entropy against one sentence for all
data sets, the logits' scale fixed. The paper writes ALPHA / R, the released code ALPHA / sqrt(R).

In training the update is computed beside the frozen weight, so that dropout acts on it alone; in tests it is added to
the weight, which then costs what the frozen one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from clip import Update
from dassl.config.check import Rule, between, one_of, positive, share
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import declare
from .model import PromptedCLIP
from .templates import DEFAULT_TEMPLATE, fill

PROJECTIONS = ("q", "k", "v", "o")
add_config, RULES = declare(
    "CLIPLORA",
    {
        "R": (2, between(1, 1000)),  # rank
        "ALPHA": (1.0, positive),  # the update is multiplied by ALPHA / sqrt(R)
        "DROPOUT": (0.25, share),  # of the update's input
        "PARAMS": (  # which projections
            ("q", "k", "v"),
            Rule(
                f"some of {', '.join(PROJECTIONS)}, each once",
                lambda value: 0 < len(value) == len(set(value)) and set(value) <= set(PROJECTIONS),
            ),
        ),
        "ENCODER": ("both", one_of("both", "text", "vision")),  # which towers
        "LOGIT_SCALE": (100.0, positive),
    },
)


class LowRank(nn.Module):
    """An update of one weight, B A.

    Args:
        width: D.
        rank: R.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rank, width))
        self.B = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., D] in the precision of `x`."""
        return F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))


class BlockUpdate(nn.Module):
    """The updates of one block's attention weights, as `clip.Update` has them.

    Args:
        width: D.
        rank: R.
        alpha: ALPHA.
        dropout: Probability.
        projections: Some of q, k, v, o.
    """

    def __init__(self, width: int, rank: int, alpha: float, dropout: float, projections: Sequence[str]) -> None:
        super().__init__()
        self.scale, self.dropout = alpha / math.sqrt(rank), dropout
        for name in projections:
            self.add_module(name, LowRank(width, rank))

    def _project(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        parts: list[Any] = [getattr(self, name, None) for name in names]
        if not any(parts):
            return F.linear(x, weight, bias)
        if not self.training:
            zero = weight.new_zeros(weight.shape[1], weight.shape[1], dtype=torch.float32)
            updates = torch.cat([zero if part is None else part.B @ part.A for part in parts])
            return F.linear(x, (weight.float() + self.scale * updates).to(weight.dtype), bias)
        # Each with a mask of its own.
        added = [torch.zeros_like(x) if part is None else part(F.dropout(x, self.dropout)) for part in parts]
        return F.linear(x, weight, bias) + self.scale * torch.cat(added, dim=-1)

    def in_proj(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., 3 D], queries, keys and values."""
        return self._project(x, weight, bias, "qkv")

    def out_proj(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., D]."""
        return self._project(x, weight, bias, "o")


class LoRA(nn.Module):
    """The updates of both towers, one a block; a tower without has none.

    Args:
        text: Blocks and width of the text tower, (0, 0) for none.
        vision: Those of the image tower.
        settings: The further arguments of `BlockUpdate`.
    """

    def __init__(self, text: tuple[int, int], vision: tuple[int, int], **settings: Any) -> None:
        super().__init__()
        self.text = nn.ModuleList(BlockUpdate(text[1], **settings) for _ in range(text[0]))
        self.vision = nn.ModuleList(BlockUpdate(vision[1], **settings) for _ in range(vision[0]))


class LoRACLIP(PromptedCLIP):
    """A frozen CLIP with low-rank updates."""

    learner: LoRA

    @property
    def reads_frozen_features(self) -> bool:
        """Without updates the image tower stays as it is."""
        return not len(self.learner.vision)

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        updates = cast("list[Update]", list(self.learner.text))
        return F.normalize(self.clip.encode_prompts(None, self.tree, updates=updates or None), dim=-1)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, E], not normalised."""
        updates = cast("list[Update]", list(self.learner.vision))
        return images if images.ndim == 2 else self.clip.encode_image(images, updates=updates or None)

    def merged_weights(self) -> dict[str, torch.Tensor]:
        """The backbone's weights with the updates added for good."""
        towers = (self.learner.text, self.learner.vision)
        return self.clip.merged_weights(*(cast("list[Update]", list(tower)) for tower in towers))


@TRAINER_REGISTRY.register()
class CLIPLoRA(CLIPTrainer):
    """Trainer of CLIP-LoRA."""

    config_key = "CLIPLORA"

    def build_model(self) -> None:
        """Build the updates and register them as `lora`."""
        node, backbone = self.options, self.clip
        text = vision = (0, 0)
        if node.ENCODER != "vision":
            text = (backbone.text_layers, backbone.text_width)
        if node.ENCODER != "text":
            self.check_vision_blocks()
            vision = (backbone.vision_layers, backbone.vision_width)
        learner = LoRA(text, vision, rank=node.R, alpha=node.ALPHA, dropout=node.DROPOUT, projections=node.PARAMS)
        tree = backbone.sentence_tree(fill(DEFAULT_TEMPLATE, self.classnames))
        self.model = LoRACLIP(backbone, tree, learner, node.LOGIT_SCALE)
        self.register("lora", learner)
