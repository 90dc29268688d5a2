"""The straight way to compute CoOp, CoCoOp and MaPLe, as their released codes do.

Independent transcriptions on open_clip's own modules: every class as a row padded to the full context, every row
through every block, CoCoOp's images one after another, gradients by autograd. They share no code with `clip.prompts`,
`clip.images` or `trainers`. Parameters have the published names.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.naive import PaddedPrompts


class NaiveCoOp(PaddedPrompts):
    """CoOp with one context for all classes; the arguments are those of `PaddedPrompts`."""

    def __init__(self, model: Any, tokenizer: Any, classnames: list[str], ctx_init: str = "a photo of a") -> None:
        super().__init__(model, tokenizer, classnames, ctx_init)
        self.ctx = nn.Parameter(self.words)

    def text(self) -> Any:
        """Normalised text features, [C, E]."""
        return self.encode_text(self.rows(self.ctx))

    def image(self, images: torch.Tensor) -> Any:
        """Normalised image features, [B, E]; without gradient, as the tower is frozen."""
        with torch.no_grad():
            z = self.frozen[0].visual(images)
        return z / z.norm(dim=-1, keepdim=True)

    def forward(self, images: torch.Tensor) -> Any:
        """[B, 3, H, W] -> logits [B, C]."""
        return self.frozen[0].logit_scale.exp() * self.image(images) @ self.text().t()


class NaiveCoCoOp(NaiveCoOp):
    """CoCoOp: the context shifted by each image's feature; the arguments are those of `PaddedPrompts`."""

    def __init__(self, model: Any, tokenizer: Any, classnames: list[str], ctx_init: str = "a photo of a") -> None:
        super().__init__(model, tokenizer, classnames, ctx_init)
        out, width = model.visual.output_dim, self.ctx.shape[1]
        layers = OrderedDict(linear1=nn.Linear(out, out // 16), relu=nn.ReLU(), linear2=nn.Linear(out // 16, width))
        self.meta_net = nn.Sequential(layers)

    def forward(self, images: torch.Tensor) -> Any:
        """[B, 3, H, W] -> logits [B, C], image by image."""
        scale, z = self.frozen[0].logit_scale.exp(), self.image(images)
        pairs = zip(z, self.meta_net(z), strict=True)
        return torch.stack([scale * one @ self.encode_text(self.rows(self.ctx + shift)).t() for one, shift in pairs])


class NaiveMaPLe(PaddedPrompts):
    """MaPLe: tokens of their own in the first blocks of both towers, the image's being maps of the text's.

    The context replaces the first n = `length` words. The other arguments are those of `PaddedPrompts`, and J = `depth`
    is how many blocks have tokens of their own.
    """

    def __init__(
        self, model: Any, tokenizer: Any, classnames: list[str], ctx_init: str, depth: int, length: int = 2
    ) -> None:
        super().__init__(model, tokenizer, classnames, ctx_init, length)
        self.ctx = nn.Parameter(self.words)
        text, vision = self.ctx.shape[1], model.visual.transformer.resblocks[0].ln_1.normalized_shape[0]
        self.proj = nn.Linear(text, vision)
        self.compound_prompts_text = nn.ParameterList(torch.randn(length, text) * 0.02 for _ in range(depth - 1))
        one = nn.Linear(text, vision)
        self.compound_prompt_projections = nn.ModuleList(copy.deepcopy(one) for _ in range(depth - 1))

    def text(self) -> Any:
        """Normalised text features, [C, E]."""
        return self.encode_text(self.rows(self.ctx), list(self.compound_prompts_text))

    def image(self, images: torch.Tensor, tokens: Sequence[torch.Tensor]) -> Any:
        """Normalised image features, [B, E].

        Args:
            images: [B, 3, H, W].
            tokens: [n, Dv] a block: the first join the image's after the positions, the others replace them.
        """
        visual = self.frozen[0].visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(torch.cat([x, tokens[0].expand(len(x), -1, -1)], dim=1))
        for i, block in enumerate(visual.transformer.resblocks):
            if 0 < i < len(tokens):
                x = torch.cat([x[:, : -len(tokens[i])], tokens[i].expand(len(x), -1, -1)], dim=1)
            x = block(x)
        z = visual.ln_post(x[:, 0]) @ visual.proj
        return z / z.norm(dim=-1, keepdim=True)

    def forward(self, images: torch.Tensor) -> Any:
        """[B, 3, H, W] -> logits [B, C]."""
        later = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        tokens = [self.proj(self.ctx), *(project(prompts) for project, prompts in later)]
        return self.frozen[0].logit_scale.exp() * self.image(images, tokens) @ self.text().t()
