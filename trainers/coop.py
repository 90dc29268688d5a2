"""CoOp: Learning to Prompt for Vision-Language Models (Zhou, Yang, Loy, Liu, IJCV 2022), arXiv 2109.01134.

One set of learnable context vectors for all classes and images, in front of the class name (eq. 2):
logits = exp(logit_scale) cos(f(x), f_t([SOS], v_1..v_M, name, ".", [EOT])), trained with cross-entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode

from clip import FrozenCLIP, PromptTree
from dassl.engine import TRAINER_REGISTRY

from .base import PRECISION_RULE, CLIPTrainer, add_context_config, context_rules, cosine_logits

RULES = {**context_rules("TRAINER.COOP"), "TRAINER.COOP.PREC": PRECISION_RULE}


def add_config(cfg: CfgNode) -> None:
    """Declare TRAINER.COOP with CoOp's values."""
    node = cfg.TRAINER.COOP = CfgNode()
    add_context_config(node, n_ctx=16, ctx_init="")
    node.PREC = "fp16"


class PromptLearner(nn.Module):
    """The learnable context, under CoOp's name.

    Args:
        context: Initial vectors, [M, Dt].
    """

    def __init__(self, context: torch.Tensor) -> None:
        super().__init__()
        self.ctx = nn.Parameter(context)


class CoOpModel(nn.Module):
    """A frozen CLIP with a learnable context."""

    def __init__(self, clip_model: FrozenCLIP, tree: PromptTree, prompt_learner: PromptLearner) -> None:
        super().__init__()
        self.clip, self.tree, self.prompt_learner = clip_model, tree, prompt_learner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> logits [B, C]."""
        text = F.normalize(self.clip.encode_prompts(self.prompt_learner.ctx, self.tree), dim=-1)
        return cosine_logits(self.clip.encode_image(images), text, self.clip.logit_scale)


@TRAINER_REGISTRY.register()
class CoOp(CLIPTrainer):
    """Trainer of CoOp: unified context, class name at the end."""

    config_key = "COOP"

    def build_model(self) -> None:
        """Build the context and register it as CoOp does, as `prompt_learner`."""
        learner = PromptLearner(self.initial_context()).to(self.device)
        self.model = CoOpModel(self.clip, self.clip.prompt_tree(self.classnames, len(learner.ctx)), learner)
        self.register("prompt_learner", learner)
