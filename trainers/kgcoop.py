"""KgCoOp: Visual-Language Prompt Tuning with Knowledge-guided Context Optimization (Yao et al., CVPR 2023), 2303.13283.

CoOp's shared context, held near the hand-written prompts (eq. 5):
loss = cross-entropy + W (1 - mean over classes of cos(text, text of the data set's sentence)).
The paper's distance is Euclidean; the released code, which this follows, has the cosine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dassl.config.check import at_least
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .losses import text_anchor_loss
from .model import ContextCLIP, ContextLearner, Output
from .templates import DEFAULT_TEMPLATE, KGCOOP

add_config, RULES = declare(
    "KGCOOP",
    {
        **context_keys(n_ctx=4, ctx_init="a photo of a"),
        "W": (8.0, at_least(0)),  # weight of the distance from the hand-written prompts
    },
)


@TRAINER_REGISTRY.register()
class KgCoOp(CLIPTrainer):
    """Trainer of KgCoOp."""

    config_key = "KGCOOP"

    def build_model(self) -> None:
        """Encode the sentences, build the context and register it as published, as `prompt_learner`."""
        learner = ContextLearner(self.initial_context())
        self.teacher = self.sentence_features(KGCOOP.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE))[0]
        self.model = ContextCLIP(self.clip, self.clip.prompt_tree(self.classnames, len(learner.ctx)), learner)
        self.register("prompt_learner", learner)

    def loss_parts(self, output: Output, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy and the distance from the sentences."""
        ce, anchor = F.cross_entropy(output.logits, label), text_anchor_loss(output.text, self.teacher)
        return {"loss": ce + self.options.W * anchor, "loss_ce": ce, "loss_kg": anchor}
