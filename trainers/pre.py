"""PRE: Vision-Language Prompt Learning with Reparameterization Encoder (Pham Thi Minh et al., 2023), arXiv 2309.07760.

CoOp's shared context goes through a small encoder before it is used, a residual bidirectional LSTM over its vectors:
v = u + BiLSTM(u), both directions Dt / 2 wide; trained with cross-entropy. As in the released code, of which only the
branch for amp runs (the other adds a term that is nowhere defined).
"""

from __future__ import annotations

import torch
from torch import nn

from dassl.config.check import between
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .model import ContextCLIP, ContextLearner

add_config, RULES = declare(
    "PRE",
    {**context_keys(n_ctx=4, ctx_init="a photo of a"), "LAYERS": (1, between(1, 100))},  # LAYERS of the LSTM
)


class PromptLearner(ContextLearner):
    """The context and its encoder, under the published names.

    Args:
        context: Initial vectors, [M, Dt]; Dt even.
        layers: Of the LSTM.
    """

    def __init__(self, context: torch.Tensor, layers: int) -> None:
        super().__init__(context)
        width = context.shape[1]
        dropout = 0.05 if layers > 1 else 0.0  # between layers
        lstm = nn.LSTM(width, width // 2, layers, dropout=dropout, bidirectional=True, batch_first=True)
        self.encoder_network = nn.ModuleDict({"lstm_head": lstm})

    def forward(self) -> torch.Tensor:
        """The context that the prompts get, [M, Dt]."""
        with torch.autocast(self.ctx.device.type, enabled=False):  # tiny, and not every CPU has an LSTM in half
            encoded: torch.Tensor = self.encoder_network["lstm_head"](self.ctx)[0]
        return self.ctx + encoded


@TRAINER_REGISTRY.register()
class PRE(CLIPTrainer):
    """Trainer of PRE."""

    config_key = "PRE"

    def build_model(self) -> None:
        """Build the context with its encoder and register both as `prompt_learner`."""
        learner = PromptLearner(self.initial_context(), self.options.LAYERS)
        self.model = ContextCLIP(self.clip, self.clip.prompt_tree(self.classnames, len(learner.ctx)), learner)
        self.register("prompt_learner", learner)
