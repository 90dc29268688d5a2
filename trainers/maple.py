"""MaPLe: Multi-modal Prompt Learning (Khattak, Rasheed, Maaz, Khan, Khan, CVPR 2023), arXiv 2210.03117.

Text blocks 0..J-1 have n tokens P_i of their own each, image blocks 0..J-1 have F_i(P_i), with a linear map F_i for
each block (eq. 8 to 10); trained with cross-entropy. As in the released code, the maps of blocks 1.. start as copies of
one, and of "a photo of a" the words after the first n stay behind the context.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from dassl.config.check import at_least
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .model import PromptedCLIP

add_config, RULES = declare(
    "MAPLE",
    {
        **context_keys(n_ctx=2, ctx_init="a photo of a"),  # its first N_CTX tokens start the context
        "PROMPT_DEPTH": (9, at_least(1)),  # blocks of both towers with tokens of their own, the first included
    },
)


class MultiModalPromptLearner(nn.Module):
    """The text tokens and their maps to image tokens, under the published names.

    Args:
        context: The first block's text tokens, [n, Dt].
        vision_width: Dv.
        depth: J.
        std: Of the later blocks' tokens.
    """

    def __init__(self, context: torch.Tensor, vision_width: int, depth: int, std: float = 0.02) -> None:
        super().__init__()
        width = context.shape[1]
        self.ctx = nn.Parameter(context.detach().clone().float())
        self.proj = nn.Linear(width, vision_width)
        later = [torch.randn_like(self.ctx.data) * std for _ in range(depth - 1)]
        self.compound_prompts_text = nn.ParameterList(later)
        first = nn.Linear(width, vision_width)
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(first) for _ in later)

    def text_tokens(self) -> torch.Tensor | None:
        """What the context becomes before text blocks 1.., [J - 1, n, Dt]; None with one block."""
        return torch.stack(list(self.compound_prompts_text)) if len(self.compound_prompts_text) else None

    def vision_tokens(self) -> torch.Tensor:
        """[J, n, Dv]."""
        later = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        return torch.stack([self.proj(self.ctx), *(project(tokens) for project, tokens in later)])


class MaPLeModel(PromptedCLIP):
    """A frozen CLIP with coupled tokens in both towers."""

    learner: MultiModalPromptLearner

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        text = self.clip.encode_prompts(self.learner.ctx, self.tree, deep=self.learner.text_tokens())
        return F.normalize(text, dim=-1)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, E], not normalised."""
        return self.clip.encode_image(images, self.learner.vision_tokens())


@TRAINER_REGISTRY.register()
class MaPLe(CLIPTrainer):
    """Trainer of MaPLe."""

    config_key = "MAPLE"

    def build_model(self) -> None:
        """Build the tokens and maps and register them as published, as `MultiModalPromptLearner`."""
        node = self.options
        self.check_depth("PROMPT_DEPTH", "smaller")
        context, template = self.leading_context("N_CTX")
        learner = MultiModalPromptLearner(context, self.clip.vision_width, node.PROMPT_DEPTH, node.CTX_STD)
        tree = self.clip.prompt_tree(self.classnames, len(context), template=template)
        self.model = MaPLeModel(self.clip, tree, learner)
        self.register("MultiModalPromptLearner", learner)
