"""The straight way to compute GOPro, the reference that the package is tested and timed against.

An independent transcription of the published algorithm on open_clip's own modules: the image tower once per view with
all tokens of all blocks kept, prompts as rows padded to the full context, a Python loop over images around the text
tower, and all three views also in testing. It shares no code with `clip.prompts` or `trainers.gopro`. The other methods
are in `naive_methods`, on the same padded rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class _PromptLearner(nn.Module):
    def __init__(self, ctx: torch.Tensor, layers: int, vision_width: int) -> None:
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        self.style, self.content = (
            nn.ModuleDict({"linear": nn.ModuleList(nn.Linear(vision_width, ctx.shape[1]) for _ in range(layers))})
            for _ in range(2)
        )
        self.rho = nn.Linear(layers, 1)


class PaddedPrompts(nn.Module):
    """Prompts as rows padded to the full context, and the text tower over all of them; without learnables.

    Args:
        model: An `open_clip.CLIP` (ViT), frozen.
        tokenizer: Texts to Long [N, context_length].
        classnames: C names.
        ctx_init: Words in front of the name, one token each.
        length: M, how many of them, from the first, make room for the context; None: all.
    """

    prefix: torch.Tensor
    suffix: torch.Tensor

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        classnames: list[str],
        ctx_init: str = "a photo of a",
        length: int | None = None,
    ) -> None:
        super().__init__()
        self.frozen = (model,)  # a tuple, so that the state dict holds the learnables alone
        tokens = tokenizer([f"{ctx_init} {name.replace('_', ' ')}." for name in classnames])
        self.tokens = tokens.to(model.logit_scale.device)
        embedding = model.token_embedding(self.tokens).detach()  # [C, 77, Dt]
        m = len(ctx_init.split(" ")) if length is None else length
        self.prefix, self.words, self.suffix = embedding[:, :1], embedding[0, 1 : 1 + m].clone(), embedding[:, 1 + m :]

    def rows(self, context: torch.Tensor) -> torch.Tensor:
        """[M, Dt] -> [C, context_length, Dt]."""
        return torch.cat([self.prefix, context.expand(len(self.tokens), -1, -1), self.suffix], dim=1)

    def encode_text(self, rows: torch.Tensor, deep: Sequence[torch.Tensor] = ()) -> Any:
        """[C, context_length, Dt] -> [C, E], normalised, by the full computation over padded rows.

        Args:
            rows: Embeddings, without positions.
            deep: What the context becomes before block 1, 2 and so on, [M, Dt] each.
        """
        model = self.frozen[0]
        x = rows + model.positional_embedding
        for i, block in enumerate(model.transformer.resblocks):
            if 0 < i <= len(deep):
                own = deep[i - 1].expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], own, x[:, 1 + own.shape[1] :]], dim=1)
            x = block(x, attn_mask=model.attn_mask)
        x = model.ln_final(x)
        x = x[torch.arange(len(x)), self.tokens.argmax(dim=-1)] @ model.text_projection
        return x / x.norm(dim=-1, keepdim=True)


class NaiveGOPro(PaddedPrompts):
    """The published model with the published parameter names; the arguments are those of `PaddedPrompts`."""

    def __init__(self, model: Any, tokenizer: Any, classnames: list[str], ctx_init: str = "a photo of a") -> None:
        super().__init__(model, tokenizer, classnames, ctx_init)
        blocks = model.visual.transformer.resblocks
        self.prompt_learner: Any = _PromptLearner(self.words, len(blocks), blocks[0].ln_1.normalized_shape[0])
        width = model.visual.output_dim
        self.simproj = nn.Sequential(OrderedDict(linear=nn.Linear(width, width), batchnorm=nn.BatchNorm1d(width)))

    def encode_image(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Final features [B, E] and all tokens of all blocks [L, B, N, Dv]."""
        model, tokens = self.frozen[0], []
        blocks = model.visual.transformer.resblocks
        hooks = [block.register_forward_hook(lambda _m, _a, out: tokens.append(out)) for block in blocks]
        with torch.no_grad():
            final = model.visual(images)
        for hook in hooks:
            hook.remove()
        return final, torch.stack(tokens)

    def prompts(self, tokens: torch.Tensor) -> torch.Tensor:
        """[L, B, N, Dv] -> [B, C, context_length, Dt]."""
        learner, per_layer = self.prompt_learner, []
        for layer, x in enumerate(tokens):
            mu = x.sum(1) / x.shape[1]
            sigma = (((x - mu[:, None]) ** 2).sum(1) / x.shape[1] + 2.3e-8).sqrt()
            style = learner.style["linear"][layer](torch.stack([mu, sigma]).mean(0))
            content = learner.content["linear"][layer](x.mean(1))
            per_layer.append(torch.stack([style, content]).mean(0))
        mixed = torch.stack(per_layer, dim=-1)  # [B, Dt, L]
        shift = learner.rho(mixed)[..., 0]
        return torch.stack([self.rows(learner.ctx + one) for one in shift])

    def encode_view(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised image features [B, E] and text features [B, C, E] of one view."""
        final, tokens = self.encode_image(images)
        text = torch.stack([self.encode_text(rows) for rows in self.prompts(tokens)])
        return final / final.norm(dim=-1, keepdim=True), text

    def forward(self, images: torch.Tensor, moco: torch.Tensor, augmix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits, the three text features, and both projected image features."""
        scale = self.frozen[0].logit_scale.exp()
        z, text = self.encode_view(images)
        logits = torch.stack([scale * zi @ ti.t() for zi, ti in zip(z, text, strict=True)])
        z_moco, text_moco = self.encode_view(moco)
        _, text_augmix = self.encode_view(augmix)
        return logits, text, text_moco, text_augmix, self.simproj(z), self.simproj(z_moco)


def naive_nt_xent(first: torch.Tensor, second: torch.Tensor, tau: float = 0.1) -> torch.Tensor:
    """NT-Xent written as the sum of its 2B terms."""
    z = [v / v.norm() for v in torch.cat([first, second])]
    b, terms = len(first), []
    for i in range(2 * b):
        positive = torch.exp(z[i] @ z[(i + b) % (2 * b)] / tau)
        rest = sum(torch.exp(z[i] @ z[j] / tau) for j in range(2 * b) if j != i)
        terms.append(-torch.log(positive / rest))
    return torch.stack(terms).mean()


def naive_loss(outputs: tuple[torch.Tensor, ...], label: torch.Tensor) -> dict[str, torch.Tensor]:
    """The published total and its parts: L_ce + 1.0 L_sem (element-wise mean) + 0.1 L_con."""
    logits, text, text_moco, text_augmix, proj, proj_moco = outputs
    parts = {
        "loss_ce": F.cross_entropy(logits, label),
        "loss_sem": F.mse_loss(text, text_moco) + F.mse_loss(text, text_augmix),
        "loss_con": naive_nt_xent(proj, proj_moco),
    }
    return {"loss": parts["loss_ce"] + parts["loss_sem"] + 0.1 * parts["loss_con"], **parts}
