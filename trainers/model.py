"""A frozen CLIP between a method's learnables: what the methods' models share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from clip import FrozenCLIP, PromptTree


class Output(NamedTuple):
    """Result of a forward pass, the same type in every mode.

    Attributes:
        logits: [B, C].
        text: [C, E], the same for all images, or [B, C, E], each image's own; normalised.
        image: [B, E], the features that the logits were made of; not normalised.
    """

    logits: torch.Tensor
    text: torch.Tensor
    image: torch.Tensor


class ContextLearner(nn.Module):
    """A learnable context, under CoOp's name.

    Args:
        context: Initial vectors, [M, Dt], or more sets of them.
    """

    def __init__(self, context: torch.Tensor) -> None:
        super().__init__()
        self.ctx = nn.Parameter(context.detach().clone().float())

    def forward(self) -> torch.Tensor:
        """The context that the prompts get."""
        return self.ctx


class PromptedCLIP(nn.Module):
    """Base of the models: CLIP's logits of a method's text features and image features.

    A method says `encode_text`, and what else it changes: `encode_image`, or `classify`.

    Args:
        clip_model: The backbone.
        learner: The learnables.
    """

    def __init__(self, clip_model: FrozenCLIP, learner: nn.Module) -> None:
        super().__init__()
        self.clip, self.learner = clip_model, learner
        self._cached: tuple[Any, torch.Tensor] | None = None

    @property
    def reads_frozen_features(self) -> bool:
        """Whether the image tower stays as it is, so that its features can be computed once for all methods."""
        return type(self).encode_image is PromptedCLIP.encode_image

    def encode_text(self) -> torch.Tensor:
        """Text features of all classes, [C, E], normalised."""
        raise NotImplementedError

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, E], not normalised."""
        return self.clip.encode_image(images)

    def text(self) -> torch.Tensor:
        """`encode_text`; while nothing is learned, it is computed once for all batches."""
        if torch.is_grad_enabled():
            return self.encode_text()
        # A step or a loaded checkpoint changes the tensors' versions.
        versions = [(x.data_ptr(), x._version) for x in (*self.learner.parameters(), *self.learner.buffers())]
        state = (versions, self.learner.training, torch.is_autocast_enabled(self.clip.device.type))
        if self._cached is None or self._cached[0] != state:
            self._cached = (state, self.encode_text())
        return self._cached[1]

    def classify(self, image: torch.Tensor) -> Output:
        """Image features [B, E], as `encode_image` gives them -> logits."""
        text = self.text()
        return Output(cosine_logits(image, text, self.clip.logit_scale), text, image)

    def forward(self, images: torch.Tensor) -> Output:
        """[B, 3, H, W] -> logits and the features that they are made of."""
        return self.classify(self.encode_image(images))


class ContextCLIP(PromptedCLIP):
    """A frozen CLIP with a context that is the same for all images.

    Args:
        clip_model: The backbone.
        tree: The prompts.
        learner: Gives the context when it is called.
    """

    def __init__(self, clip_model: FrozenCLIP, tree: PromptTree, learner: ContextLearner) -> None:
        super().__init__(clip_model, learner)
        self.tree = tree

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        return F.normalize(self.clip.encode_prompts(self.learner(), self.tree), dim=-1)


class FixedText(PromptedCLIP):
    """CLIP with text features that nothing changes.

    Args:
        clip_model: The backbone.
        text: [C, E], normalised.
        learner: What else is learned; None: nothing.
    """

    def __init__(self, clip_model: FrozenCLIP, text: torch.Tensor, learner: nn.Module | None = None) -> None:
        super().__init__(clip_model, learner or nn.Module())
        self.fixed = text

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        return self.fixed


def initial_context(clip_model: FrozenCLIP, n_ctx: int, ctx_init: str = "", ctx_std: float = 0.02) -> torch.Tensor:
    """First value of a learnable context.

    Args:
        clip_model: The backbone, whose token embedding the words go through.
        n_ctx: M where no words are given, at least 1.
        ctx_init: Words (underscores are read as spaces); M becomes their number of tokens. "" draws N(0, ctx_std).
        ctx_std: See above.

    Returns:
        [M, Dt] in fp32.

    Raises:
        ValueError: No words and no tokens.
    """
    words = ctx_init.replace("_", " ").strip()
    if words:
        return clip_model.embed_words(words)
    if n_ctx < 1:
        raise ValueError(f"N_CTX must be at least 1, got {n_ctx}")
    return torch.randn(n_ctx, clip_model.text_width) * ctx_std


def cosine_logits(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """CLIP's logits: scale times the cosine of image and text.

    Args:
        image: [B, E], normalised here.
        text: [C, E], the same for all images, or [B, C, E], each image's own; already normalised.
        scale: exp(logit scale), a scalar.

    Returns:
        [B, C].
    """
    image = F.normalize(image.float(), dim=-1)
    return scale * image @ text.t() if text.ndim == 2 else scale * torch.einsum("be,bce->bc", image, text)
