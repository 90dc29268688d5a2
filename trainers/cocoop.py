"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022), arXiv 2203.05557.

Each image shifts the context (eq. 3): v_m(x) = v_m + h(f(x) / |f(x)|), h = Linear, ReLU, Linear with E / 16 hidden
units; trained with cross-entropy. All images of a batch go through the text tower together.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .model import ContextLearner, Output, PromptedCLIP, cosine_logits

add_config, RULES = declare("COCOOP", context_keys(n_ctx=4, ctx_init="a photo of a"))


class PromptLearner(ContextLearner):
    """The context and the network that shifts it.

    Args:
        context: Initial vectors, [M, Dt].
        embed_dim: E.
    """

    def __init__(self, context: torch.Tensor, embed_dim: int) -> None:
        super().__init__(context)
        hidden = embed_dim // 16
        layers = {"linear1": nn.Linear(embed_dim, hidden), "relu": nn.ReLU()}
        self.meta_net = nn.Sequential(OrderedDict(layers, linear2=nn.Linear(hidden, context.shape[1])))

    def shifted(self, image: torch.Tensor) -> torch.Tensor:
        """Image features [B, E] -> each image's context, [B, M, Dt]."""
        shift: torch.Tensor = self.meta_net(F.normalize(image, dim=-1))
        return self.ctx + shift.unsqueeze(1)


class CoCoOpModel(PromptedCLIP):
    """A frozen CLIP with a context that depends on the image."""

    learner: PromptLearner

    def contexts(self, image: torch.Tensor | None = None, label: int | None = None) -> dict[str, torch.Tensor]:
        """The context before it is shifted, or an image's."""
        if image is None:
            return super().contexts()
        return {"context of this image": self.learner.shifted(self.encode_image(image))[0]}

    def classify(self, image: torch.Tensor) -> Output:
        """Image features [B, E] -> logits by each image's own text features."""
        text = F.normalize(self.clip.encode_prompts(self.learner.shifted(image), self.tree), dim=-1)
        return Output(cosine_logits(image, text, self.clip.logit_scale), text, image)


@TRAINER_REGISTRY.register()
class CoCoOp(CLIPTrainer):
    """Trainer of CoCoOp."""

    config_key = "COCOOP"

    def build_model(self) -> None:
        """Build the context with its network and register both as published, as `prompt_learner`."""
        learner = PromptLearner(self.initial_context(), self.clip.embed_dim)
        self.model = CoCoOpModel(self.clip, self.clip.prompt_tree(self.classnames, len(learner.ctx)), learner)
        self.register("prompt_learner", learner)
