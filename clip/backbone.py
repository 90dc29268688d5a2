"""A frozen CLIP: image features, on request with per-block token statistics, and features of texts and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .blocks import Update
from .images import ImageFeatures, encode_images, known_blocks
from .prompt_tree import PromptTree
from .prompts import Deep, encode_prompts, kept_bytes, place_context
from .tokenizer import EOT, SOT, VOCAB_SIZE, encode, tokenize

POSITIONS = ("end", "middle", "front")  # of the class name among the context's rows


class FrozenCLIP(nn.Module):
    """CLIP with frozen weights, always in eval mode; every width is read off the model.

    Args:
        model: A CLIP of open_clip's with any image tower and CLIP's text tower.
        name: The name it was loaded by, for messages and checkpoints.

    Attributes:
        image_size: Input height = width, pixels.
        mean: Pixel means, 3 floats in [0, 1].
        std: Pixel standard deviations, 3 floats.
        patch_size: Side of the squares that the image tower reads first, pixels; 32 where it says none, the stride of
            the last stage of a ResNet or ConvNeXt.
        vision_width: Dv; 0 where the image tower has no blocks to give statistics of.
        vision_layers: L; 0 likewise.
        text_width: Dt.
        embed_dim: E.
        context_length: Tokens that a text may have, SOT and EOT included.
        text_layers: Blocks of the text tower.
        activation_bytes: What a pass through a tower may keep for its backward pass; the rest is computed again. None,
            the initial value, takes a share of the free memory.

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
        self.text_layers = len(self._text_blocks)
        self.text_width = int(text.token_embedding.weight.shape[1])
        self.context_length = int(text.positional_embedding.shape[0])
        self.embed_dim = int(text.text_projection.shape[1])
        if len(text.token_embedding.weight) != VOCAB_SIZE:
            raise ValueError(f"{name!r} has {len(text.token_embedding.weight)} tokens, CLIP's vocabulary {VOCAB_SIZE}")
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple | list) else size)
        patch = getattr(visual, "patch_size", 32)
        self.patch_size = int(patch[0] if isinstance(patch, tuple | list) else patch)
        self.mean = tuple(float(x) for x in visual.image_mean)
        self.std = tuple(float(x) for x in visual.image_std)
        visual.output_tokens = False  # the feature alone
        self._vision_blocks = known_blocks(visual)
        self.vision_layers = len(self._vision_blocks)
        self.vision_width = int(self._vision_blocks[0].ln_1.normalized_shape[0]) if self._vision_blocks else 0
        self.activation_bytes: int | None = None

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

    def encode_image(
        self,
        images: torch.Tensor,
        tokens: torch.Tensor | None = None,
        updates: Sequence[Update] | None = None,
        budget: int | None = None,
    ) -> torch.Tensor:
        """Final feature of any image tower; with tokens or updates, of a ViT, with gradients for these.

        Args:
            images: [B, 3, image_size, image_size], normalised with `mean` and `std`.
            tokens: A method's own, [J, n, Dv], or [J, B, n, Dv] per image: the first n join the image's tokens before
                the first block (no positions are added), the others replace them before blocks 1..J-1.
            updates: What is added to the attention weights, one a block.
            budget: Bytes that activations may take with gradients; None: `activation_bytes`.

        Returns:
            [B, E] in fp32, not normalised; without gradient where neither tokens nor updates are given.

        Raises:
            ValueError: Wrong shape, more blocks than the tower has, or a tower without known blocks.
        """
        if tokens is not None or updates is not None:
            self.check_blocks("encode_image", "puts tokens or updates into the blocks of the image tower")
        if tokens is not None:
            tokens = tokens if tokens.ndim == 4 else tokens.unsqueeze(1)
            if tokens.ndim != 4 or tokens.shape[1] not in (1, len(images)) or tokens.shape[3] != self.vision_width:
                raise ValueError(
                    f"tokens must be [J, n, {self.vision_width}] or [J, {len(images)}, n, {self.vision_width}], "
                    f"got {list(tokens.shape)}"
                )
            if not 1 <= len(tokens) <= self.vision_layers:
                raise ValueError(
                    f"tokens for {len(tokens)} blocks: the image tower of {self.name} has {self.vision_layers}"
                )
        budget, input = self.activation_bytes if budget is None else budget, self._input(images)
        return encode_images(self.model.visual, self._vision_blocks, input, False, tokens, updates, budget)[0]

    def encode_image_statistics(self, images: torch.Tensor) -> ImageFeatures:
        """Final feature and per-block token statistics; the tokens themselves are not kept.

        Args:
            images: As for `encode_image`.

        Returns:
            Features in fp32, without gradient.

        Raises:
            ValueError: Wrong shape, or a tower without known blocks.
        """
        self.check_blocks("encode_image_statistics", "reads token statistics of each block of the image tower")
        return ImageFeatures(*encode_images(self.model.visual, self._vision_blocks, self._input(images), True))

    @torch.no_grad()
    def merged_weights(self, text: Sequence[Update] = (), vision: Sequence[Update] = ()) -> dict[str, torch.Tensor]:
        """All weights under open_clip's names, those of attention with updates added for good.

        Args:
            text: Updates of the text tower's blocks, one a block, or none.
            vision: Those of the image tower.

        Returns:
            A state dict in the weights' precision.
        """
        state = dict(self.model.state_dict())
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for blocks, updates in ((self._text_blocks, text), (self._vision_blocks, vision)):
            for attn, update in zip((block.attn for block in blocks), updates, strict=False):
                for apply, weight, bias in (
                    (update.in_proj, attn.in_proj_weight, attn.in_proj_bias),
                    (update.out_proj, attn.out_proj.weight, attn.out_proj.bias),
                ):
                    unit = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
                    state[names[id(weight)]] = apply(unit, weight, torch.zeros_like(bias)).t()
        return state

    def check_blocks(self, asker: str, what: str) -> None:
        """Raise ValueError for an image tower that is no ViT of known blocks; `asker` and `what` begin the message."""
        if not self._vision_blocks:
            raise ValueError(
                f"{asker} {what}; {self.name!r} has an image tower ({type(self.model.visual).__name__}) without such "
                "transformer blocks. Use a ViT, e.g. ViT-B/16, ViT-L/14 or an open_clip ViT as MODEL:TAG"
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

    @property
    def token_embeddings(self) -> torch.Tensor:
        """The vectors of all tokens by id, [vocabulary, Dt] in fp32."""
        weight: torch.Tensor = self._text.token_embedding.weight
        return weight.detach().float()

    def room(self, classnames: Sequence[str], template: str = "{}.") -> tuple[int, str]:
        """How many context tokens fit beside every class name; below 1 where a name alone is too long.

        Args:
            classnames: C names.
            template: As in `prompt_tree`.

        Returns:
            The number, and the name that leaves so few.
        """
        sizes = {name: len(encode(template.replace("{}", name.replace("_", " ")))) for name in classnames}
        longest = max(sizes, key=lambda name: sizes[name])
        return self.context_length - 2 - sizes[longest], longest  # the start and the end token

    def prompt_tree(
        self,
        classnames: Sequence[str],
        num_context: int,
        position: str = "end",
        own_context: bool = False,
        template: str = "{}.",
    ) -> PromptTree:
        """The prompts of C classes: [SOT, context and class name, full stop, EOT].

        Args:
            classnames: C names; underscores are read as spaces, as CoOp does.
            num_context: M, the rows of the context.
            position: Where the name stands: at the end, in the middle (after M // 2 rows) or in front of the context.
            own_context: Whether each class has M rows of its own instead of sharing them.
            template: What follows the context, with {} where the name belongs; begins with it where the position is not
                the end.

        Returns:
            The tree, on the model's device.

        Raises:
            ValueError: A name is empty, or does not fit the context (names the class and both lengths).
        """
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {POSITIONS}, got {position!r}")
        before = {"end": num_context, "middle": num_context // 2, "front": 0}[position]
        room = self.context_length - 1 - num_context
        sequences: list[list[int]] = []
        for label, name in enumerate(classnames):
            if not name.strip():
                raise ValueError(f"class {label} has an empty name")
            ids = [*encode(template.replace("{}", name.replace("_", " "))), EOT]
            if len(ids) > room:
                raise ValueError(
                    f"class name {name!r} needs {len(ids)} tokens with {template.replace('{}', '')!r} and its end "
                    "token, but "
                    f"{self.name}'s context of {self.context_length} leaves {room} after {num_context} "
                    "context tokens; shorten the name or N_CTX"
                )
            first = label * num_context if own_context else 0
            rows = [~(first + m) for m in range(num_context)]
            if before < num_context:  # CoOp cuts "name." after as many tokens as the name alone has
                cut = len(encode(name.replace("_", " ")))
                ids = [*ids[:cut], *rows[before:], *ids[cut:]]
            sequences.append([*rows[:before], *ids] if own_context else ids)
        front = 0 if own_context else None if before == num_context else before
        return PromptTree(sequences, front, num_context if own_context else 0).to(self.device)

    def encode_prompts(
        self,
        context: torch.Tensor | None,
        tree: PromptTree,
        budget: int | None = None,
        deep: torch.Tensor | None = None,
        class_context: tuple[int, torch.Tensor] | None = None,
        updates: Sequence[Update] | None = None,
    ) -> torch.Tensor:
        """Text features of [SOT, context, class tokens] for every class; gradients flow into all that is not frozen.

        Args:
            context: [B, M, Dt], context vectors per image, or [M, Dt], one set for all images; of a tree with
                `own_context`, [C, M, Dt], one set per class; None: no context.
            tree: The classes, from `prompt_tree` with the same M.
            budget: Bytes that activations may take; None: `activation_bytes`.
            deep: [J, M, Dt] (or J times the context's own shape): what the context's rows become before blocks 1..J; no
                positions are added.
            class_context: (block index, [C, M, Dt]): what they become before this block, each class's its own; only
                for a tree whose context stands in front.
            updates: What is added to the attention weights, one a block.

        Returns:
            [B, C, E] (or [C, E]) in fp32, not normalised; equal to the full computation over padded rows.

        Raises:
            ValueError: Wrong shape, the prompts do not fit the context, or more blocks than the tower has.
        """
        context = torch.zeros(0, self.text_width, device=self.device) if context is None else context
        flat = context.ndim == 2 or bool(tree.class_rows)
        width, own = self.text_width, (tree.num_classes, tree.class_rows)  # each class its own rows
        fits = context.shape[:-1] == own if tree.class_rows else context.ndim in (2, 3)
        if not fits or context.shape[-1] != width:
            wanted = f"{own[0]}, {own[1]}" if tree.class_rows else "B, M"
            shown = [1, *context.shape] if context.ndim == 2 else list(context.shape)
            raise ValueError(f"context must be [{wanted}, {width}], got {shown}")
        tokens = context.shape[-2]  # M
        shape = (1, context.shape[:-1].numel(), width) if flat else tuple(context.shape)
        text, length = self._text, 1 + tree.rows_in_front(tokens)
        if length + tree.longest > self.context_length:
            raise ValueError(
                f"{tokens} context tokens and {length - 1 + tree.longest - tokens} class tokens exceed the context of "
                f"{self.context_length}"
            )
        parts = self._deep(context, tree, deep, class_context, shape)
        rows = context.float().view(shape)
        positions = text.positional_embedding.float()
        sot = text.token_embedding.weight[SOT].float().expand(len(rows), length, -1)
        nodes = text.token_embedding(tree.tokens).float().unsqueeze(0)
        nodes, prefix = place_context(nodes, sot, tree, rows)
        nodes, prefix = nodes + positions[length + tree.depths], prefix + positions[:length]
        if budget is None and torch.is_grad_enabled():  # without, nothing is kept
            budget = self.activation_bytes
        hidden = encode_prompts(self._text_blocks, prefix, nodes, tree, budget, parts, updates)
        projection: torch.Tensor = text.text_projection
        features: torch.Tensor = (text.ln_final(hidden).to(projection.dtype) @ projection).float()
        return features[0] if flat else features

    def prompt_bytes(self, num_context: int, trees: Sequence[PromptTree]) -> int:
        """Bytes that the backward pass of one image's prompts finds kept, with nothing computed again.

        Args:
            num_context: M.
            trees: Those of one image: it has a context for each.
        """
        blocks, width = self._text_blocks, self.text_width
        return sum(kept_bytes(blocks, (1, 1 + tree.rows_in_front(num_context), width), tree) for tree in trees)

    def _deep(
        self,
        context: torch.Tensor,
        tree: PromptTree,
        deep: torch.Tensor | None,
        class_context: tuple[int, torch.Tensor] | None,
        shape: Sequence[int],
    ) -> Deep:
        """Checks what takes the context's place between blocks, and brings it into the engine's form."""
        if deep is not None:
            shapes = {tuple(context.shape), tuple(context.shape[-2:])}
            if tuple(deep.shape[1:]) not in shapes:
                allowed = " or ".join(str(["J", *s]) for s in sorted(shapes, key=len))
                raise ValueError(f"deep must be {allowed}, got {list(deep.shape)}")
            if len(deep) >= self.text_layers:
                raise ValueError(
                    f"deep contexts for {len(deep)} blocks after the first: the text tower of {self.name} has "
                    f"{self.text_layers} blocks"
                )
            if tree.class_rows and deep.ndim == 3:
                deep = deep.unsqueeze(1).expand(-1, tree.num_classes, -1, -1)
            deep = deep.reshape(len(deep), 1, -1, self.text_width) if deep.ndim == 3 or tree.class_rows else deep
        if class_context is not None:
            block, own = class_context
            wanted = (tree.num_classes, context.shape[-2], self.text_width)
            if tree.front is not None or tuple(own.shape) != wanted:
                raise ValueError(f"class_context must be {list(wanted)} for a context in front, got {list(own.shape)}")
            if not 1 <= block < self.text_layers:
                raise ValueError(
                    f"class_context before block {block}: the text tower of {self.name} has blocks 1 to "
                    f"{self.text_layers - 1} after the first"
                )
            if deep is not None and len(deep) >= block:
                raise ValueError(f"deep contexts for {len(deep)} blocks and class_context before block {block}")
        return Deep(deep, class_context)

    @torch.no_grad()
    def encode_sentences(self, texts: Sequence[str]) -> torch.Tensor:
        """Features of texts at the cost of the tokens that differ; the same as `encode_text` up to rounding.

        Args:
            texts: C sentences.

        Returns:
            [C, E] in fp32, not normalised.

        Raises:
            ValueError: A text that is too long.
        """
        return self.encode_prompts(None, self.sentence_tree(texts))

    def sentence_tree(self, texts: Sequence[str]) -> PromptTree:
        """The tree of whole sentences, for `encode_prompts` with an empty context.

        Raises:
            ValueError: A text that is too long.
        """
        self.tokenize(texts)  # refuses what is too long
        return PromptTree([[*encode(text), EOT] for text in texts]).to(self.device)
