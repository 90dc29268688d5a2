"""Tokens of their own in several blocks of one or both towers: what IVLP, VPT and PromptSRC share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import CLIPTrainer
from .model import PromptedCLIP


class DeepPromptLearner(nn.Module):
    """Independent tokens of both towers; those of the first block are placed, later ones replace them.

    Args:
        context: The text tower's first tokens, [n, Dt]; None leaves that tower alone.
        text_depth: Text blocks with tokens of their own, the first included.
        vision: Shape of the image tower's tokens, (blocks, tokens, Dv); no blocks leave that tower alone.
        std: Of the random tokens.
    """

    def __init__(
        self, context: torch.Tensor | None, text_depth: int, vision: tuple[int, int, int], std: float = 0.02
    ) -> None:
        super().__init__()
        self.ctx = None if context is None else nn.Parameter(context.detach().clone().float())
        # By block; filled one by one, because the constructor would put 10 before 2.
        self.text, self.vision = nn.ParameterDict(), nn.ParameterDict()
        if context is not None:
            for i in range(1, text_depth):
                self.text[str(i)] = nn.Parameter(torch.randn(context.shape) * std)
        for i in range(vision[0]):
            self.vision[str(i)] = nn.Parameter(torch.randn(vision[1:]) * std)

    def text_tokens(self) -> torch.Tensor | None:
        """What the context becomes before text blocks 1.., [J - 1, n, Dt]; None with one block."""
        return torch.stack(list(self.text.values())) if len(self.text) else None

    def vision_tokens(self) -> torch.Tensor | None:
        """[J, n, Dv]; None without any."""
        return torch.stack(list(self.vision.values())) if len(self.vision) else None


class DeepPromptedCLIP(PromptedCLIP):
    """A frozen CLIP with tokens in its blocks; without a context the prompts are whole sentences."""

    learner: DeepPromptLearner

    @property
    def reads_frozen_features(self) -> bool:
        """Without tokens of its own the image tower stays as it is."""
        return not len(self.learner.vision)

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        text = self.clip.encode_prompts(self.learner.ctx, self.tree, deep=self.learner.text_tokens())
        return F.normalize(text, dim=-1)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, E], not normalised."""
        return images if images.ndim == 2 else self.clip.encode_image(images, self.learner.vision_tokens())


def build_deep_prompts(trainer: CLIPTrainer, model: type[DeepPromptedCLIP] = DeepPromptedCLIP) -> DeepPromptedCLIP:
    """The model, of the given class, that the keys of `prompt_keys` ask for.

    Raises:
        ValueError: More blocks than a tower has, or an image tower without blocks.
    """
    node, backbone = trainer.options, trainer.clip
    trainer.check_depth("PROMPT_DEPTH_TEXT", "text")
    if node.PROMPT_DEPTH_VISION:
        trainer.check_depth("PROMPT_DEPTH_VISION", "image")
    context, template = trainer.leading_context("N_CTX_TEXT")
    vision = (node.PROMPT_DEPTH_VISION, node.N_CTX_VISION, backbone.vision_width)
    learner = DeepPromptLearner(context, node.PROMPT_DEPTH_TEXT, vision, node.CTX_STD)
    tree = backbone.prompt_tree(trainer.classnames, len(context), template=template)
    return model(backbone, tree, learner)
