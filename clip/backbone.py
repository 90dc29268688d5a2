"""A frozen CLIP: image features, on request with per-block token statistics, and features of texts and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .images import ImageFeatures, encode_images, known_blocks
from .prompt_tree import PromptTree
from .prompts import encode_prompts
from .tokenizer import EOT, SOT, VOCAB_SIZE, encode, tokenize


class FrozenCLIP(nn.Module):
    """CLIP with frozen weights, always in eval mode; every width is read off the model.

    Args:
        model: A CLIP of open_clip's with any image tower and CLIP's text tower.
        name: The name it was loaded by, for messages and checkpoints.

    Attributes:
        name: See above.
        image_size: Input height = width, pixels.
        mean: Pixel means, 3 floats in [0, 1].
        std: Pixel standard deviations, 3 floats.
        vision_width: Dv; 0 where the image tower has no blocks to give statistics of.
        vision_layers: L; 0 likewise.
        text_width: Dt.
        embed_dim: E.
        context_length: Tokens that a text may have, SOT and EOT included.

    Raises:
        ValueError: The text tower is not CLIP's.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        text, visual = self._text, model.visual
        self._text_blocks = known_blocks(text)
        causal = getattr(text, "attn_mask", None) is not None
        pool = getattr(model, "text_pool_type", getattr(text, "pool_type", None))
        projected = isinstance(getattr(text, "text_projection", None), nn.Parameter)
        if not self._text_blocks or not causal or pool != "argmax" or not projected:
            raise ValueError(
                f"{name!r} has a text tower whose blocks or output this package does not know; it must be CLIP's, as "
                "built by the versions of open_clip_torch in requirements.txt"
            )
        self.text_width = int(text.token_embedding.weight.shape[1])
        self.context_length = int(text.positional_embedding.shape[0])
        self.embed_dim = int(text.text_projection.shape[1])
        if len(text.token_embedding.weight) != VOCAB_SIZE:
            raise ValueError(f"{name!r} has {len(text.token_embedding.weight)} tokens, CLIP's vocabulary {VOCAB_SIZE}")
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple | list) else size)
        self.mean = tuple(float(x) for x in visual.image_mean)
        self.std = tuple(float(x) for x in visual.image_std)
        visual.output_tokens = False  # the feature alone
        self._vision_blocks = known_blocks(visual)
        self.vision_layers = len(self._vision_blocks)
        self.vision_width = int(self._vision_blocks[0].ln_1.normalized_shape[0]) if self._vision_blocks else 0

    @property
    def _text(self) -> Any:
        """What holds the text tower's parts: the model itself, or a tower of its own."""
        return getattr(self.model, "text", self.model)

    def train(self, mode: bool = True) -> FrozenCLIP:
        """Stay in eval mode: the towers are frozen, whatever the trainer's mode."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the linear weights."""
        dtype: torch.dtype = self._text_blocks[0].mlp.c_fc.weight.dtype
        return dtype

    @property
    def logit_scale(self) -> torch.Tensor:
        """exp(log scale), the factor on cosine similarities; a scalar in fp32."""
        scale: torch.Tensor = self.model.logit_scale.float().exp().squeeze()
        return scale

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Final feature of any image tower.

        Args:
            images: [B, 3, image_size, image_size], normalised with `mean` and `std`.

        Returns:
            [B, E] in fp32, not normalised, without gradient.

        Raises:
            ValueError: Wrong shape.
        """
        return encode_images(self.model.visual, self._vision_blocks, self._input(images))[0]

    def encode_image_statistics(self, images: torch.Tensor) -> ImageFeatures:
        """Final feature and per-block token statistics; the tokens themselves are not kept.

        Args:
            images: As for `encode_image`.

        Returns:
            Features in fp32, without gradient.

        Raises:
            ValueError: Wrong shape, or a tower without known blocks.
        """
        self.check_statistics("encode_image_statistics")
        return ImageFeatures(*encode_images(self.model.visual, self._vision_blocks, self._input(images), True))

    def check_statistics(self, asker: str) -> None:
        """Refuse an image tower without token statistics; for methods to call before long work.

        Args:
            asker: Who reads them, for the message.

        Raises:
            ValueError: The tower is no ViT of residual attention blocks.
        """
        if not self._vision_blocks:
            raise ValueError(
                f"{asker} reads token statistics of each block of the image tower; {self.name!r} has an image tower "
                f"({type(self.model.visual).__name__}) without such transformer blocks. Use a ViT, e.g. ViT-B/16, "
                "ViT-L/14 or an open_clip ViT as MODEL:TAG"
            )

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"images must be [B, 3, {size}, {size}] for {self.name}, got {list(images.shape)}")
        return images.to(self.dtype)

    @torch.no_grad()
    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Features of tokenized texts, by open_clip's own full computation.

        Args:
            tokens: Long [N, context_length], from `tokenize`.

        Returns:
            [N, E] in fp32, not normalised.
        """
        features: torch.Tensor = self.model.encode_text(tokens.to(self.device))
        return features.float()

    def tokenize(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Long [N, context_length]; raises ValueError for a text that is too long."""
        return tokenize(texts, self.context_length)

    def embed_words(self, words: str) -> torch.Tensor:
        """Token embeddings of some words, [number of tokens, Dt] in fp32: a context's initial value."""
        ids = torch.tensor(encode(words), device=self.device)
        embedding: torch.Tensor = self._text.token_embedding(ids).float()
        return embedding

    def prompt_tree(self, classnames: Sequence[str], num_context: int) -> PromptTree:
        """The tokens that follow the context for each class: its name, a full stop, the end token.

        Args:
            classnames: C names; underscores are read as spaces, as CoOp does.
            num_context: M, the context tokens in front of the names.

        Returns:
            The tree, on the model's device.

        Raises:
            ValueError: A name is empty, or does not fit the context (names the class and both lengths).
        """
        room = self.context_length - 1 - num_context
        sequences: list[list[int]] = []
        for name in classnames:
            if not name.strip():
                raise ValueError(f"class {len(sequences)} has an empty name")
            ids = [*encode(name.replace("_", " ") + "."), EOT]
            if len(ids) > room:
                raise ValueError(
                    f"class name {name!r} needs {len(ids)} tokens with its full stop and end token, but "
                    f"{self.name}'s context of {self.context_length} leaves {room} after {num_context} "
                    "context tokens; shorten the name or N_CTX"
                )
            sequences.append(ids)
        return PromptTree(sequences).to(self.device)

    def encode_prompts(self, context: torch.Tensor, tree: PromptTree, budget: int | None = None) -> torch.Tensor:
        """Text features of [SOT, context, class tokens] for every class; gradients flow into the context.

        Args:
            context: [B, M, Dt], context vectors per image, or [M, Dt], one set for all images.
            tree: The classes, from `prompt_tree` with the same M.
            budget: Bytes that activations may take; None takes a share of the free memory.

        Returns:
            [B, C, E] (or [C, E]) in fp32, not normalised; equal to the full computation over padded rows.

        Raises:
            ValueError: Wrong shape, or the prompts do not fit the context.
        """
        if context.ndim == 2:
            return self.encode_prompts(context.unsqueeze(0), tree, budget)[0]
        if context.ndim != 3 or context.shape[2] != self.text_width:
            raise ValueError(f"context must be [B, M, {self.text_width}], got {list(context.shape)}")
        text, length = self._text, 1 + context.shape[1]
        if length + tree.longest > self.context_length:
            raise ValueError(
                f"{context.shape[1]} context tokens and {tree.longest} class tokens exceed the context of "
                f"{self.context_length}"
            )
        positions = text.positional_embedding.float()
        sot = text.token_embedding.weight[SOT].float().expand(len(context), 1, -1)
        prefix = torch.cat([sot, context.float()], dim=1) + positions[:length]
        nodes = text.token_embedding(tree.tokens).float() + positions[length + tree.depths]
        hidden = encode_prompts(self._text_blocks, prefix, nodes, tree, budget)
        projection: torch.Tensor = text.text_projection
        features: torch.Tensor = text.ln_final(hidden).to(projection.dtype) @ projection
        return features.float()
