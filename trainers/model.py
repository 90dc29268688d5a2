"""A frozen CLIP between a method's learnables: what the methods' models share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from clip import FrozenCLIP, PromptTree


@dataclass
class Output:
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

    A method says `encode_text`, and what else it changes: `encode_image`, `adapt` or `classify`.

    Args:
        clip_model: The backbone.
        tree: The prompts of `encode_text`, where it has any.
        learner: The learnables.
        scale: Factor on the cosines; None takes the backbone's.
    """

    tree: PromptTree

    def __init__(
        self, clip_model: FrozenCLIP, tree: PromptTree | None, learner: nn.Module, scale: float | None = None
    ) -> None:
        super().__init__()
        self.clip, self.learner = clip_model, learner
        self.tree = tree  # type: ignore[assignment]
        self.own_scale = scale
        self._cached: tuple[Any, torch.Tensor] | None = None

    @property
    def reads_frozen_features(self) -> bool:
        """Whether the image tower stays as it is; then features that other runs computed may replace images."""
        return type(self).encode_image is PromptedCLIP.encode_image

    @property
    def scale(self) -> torch.Tensor | float:
        """Factor on the cosines."""
        return self.clip.logit_scale if self.own_scale is None else self.own_scale

    @property
    def text_is_fixed(self) -> bool:
        """Whether the text features are the same for all images."""
        return type(self).encode_text is not PromptedCLIP.encode_text

    @property
    def is_text_alone(self) -> bool:
        """Whether text features and scale are all that a method changes: CLIP's own image tower does the rest."""
        own = [getattr(type(self), name) is getattr(PromptedCLIP, name) for name in ("classify", "adapt")]
        return self.text_is_fixed and self.reads_frozen_features and all(own)

    def encode_text(self) -> torch.Tensor:
        """Text features of all classes, [C, E], normalised."""
        raise NotImplementedError

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> [B, E], not normalised; features [B, E] of the frozen tower stay as they are."""
        return images if images.ndim == 2 else self.clip.encode_image(images)

    def contexts(self, image: torch.Tensor | None = None, label: int | None = None) -> dict[str, torch.Tensor]:
        """The vectors that stand in the prompts where words could stand, by name; empty where a method has none.

        Those before the first text block: they live among CLIP's token embeddings. What takes their place between
        blocks does not, and is left out.

        Args:
            image: [1, 3, H, W], for contexts that depend on it: then this image's.
            label: For contexts that belong to one class each: then this class's alone.

        Returns:
            [M, Dt] each.
        """
        context = getattr(self.learner, "ctx", None)
        return {} if context is None else {"context": context}

    def adapt(self, image: torch.Tensor) -> torch.Tensor:
        """Image features [B, E], as `encode_image` gives them -> those that the logits are made of."""
        return image

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> what the logits are made of, [B, E], not normalised."""
        return self.adapt(self.encode_image(images))

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
        image, text = self.adapt(image), self.text()
        return Output(cosine_logits(image, text, self.scale), text, image)

    def forward(self, images: torch.Tensor) -> Output:
        """What `encode_image` takes -> logits and the features that they are made of."""
        return self.classify(self.encode_image(images))


class ContextCLIP(PromptedCLIP):
    """A frozen CLIP with a context, what the learner gives when it is called, that is the same for all images."""

    owners: Sequence[str] = ()  # names of the classes, where each has a context of its own

    def contexts(self, image: torch.Tensor | None = None, label: int | None = None) -> dict[str, torch.Tensor]:
        """As the prompts get it, or each class's own."""
        context = self.learner()
        if not self.owners:
            return {"context": context}
        labels = range(len(self.owners)) if label is None else [label]
        return {f"context of class {i}, {self.owners[i]}": context[i] for i in labels}

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        return F.normalize(self.clip.encode_prompts(self.learner(), self.tree), dim=-1)


class FixedText(PromptedCLIP):
    """CLIP with text features that nothing changes.

    Args:
        clip_model: The backbone.
        text: [C, E], normalised.
        learner: What else is learned; None: nothing.
        scale: See `PromptedCLIP`.
    """

    def __init__(
        self, clip_model: FrozenCLIP, text: torch.Tensor, learner: nn.Module | None = None, scale: float | None = None
    ) -> None:
        super().__init__(clip_model, None, learner or nn.Module(), scale)
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
    with torch.autocast(image.device.type, enabled=False):  # in half, logits near 30 would have steps of 1/64 to 1/8
        image, text = F.normalize(image.float(), dim=-1), text.float()
        return scale * image @ text.t() if text.ndim == 2 else scale * torch.einsum("be,bce->bc", image, text)
