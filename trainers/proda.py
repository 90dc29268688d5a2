"""ProDA: Prompt Distribution Learning (Lu, Liu, Zhang, Liu, Tian, CVPR 2022), arXiv 2205.03340.

P contexts; the text features of a class are taken as Gaussian. With f the image feature, w_cp the normalised text
features, mu_c their mean over the prompts and d = w - mu, a step maximises a bound of the likelihood (eq. 12):

    logit_j = s f mu_j + s^2 / 2 (R_yy + R_jj - 2 R_yj),   R_ij = sum_k f_k^2 Cov_k[i, j],
    Cov_k[i, j] = sum_p d_ipk d_jpk / (n + 1),

over the n prompts of the step, which take turns, and ALPHA times the mean |cos| of the prompts without a class name
keeps them apart (eq. 14). A quarter of the prompts has the name in front, a quarter in the middle, half at the end.
Tests use the mean over all prompts. No code of the authors' was found: n + 1 and the shares of the positions are those
of public ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from clip import FrozenCLIP
from dassl.config.check import at_least, between
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import declare
from .model import ContextLearner, Output, PromptedCLIP, cosine_logits

add_config, RULES = declare(
    "PRODA",
    {
        "N_CTX": (16, at_least(1)),  # context tokens M
        "CTX_STD": (0.02, at_least(0)),
        "N_PROMPT": (32, between(1, 1000)),  # P
        "PROMPT_BATCH": (4, at_least(1)),  # prompts of a step; divides N_PROMPT
        "ALPHA": (0.1, at_least(0)),  # weight of the prompts' orthogonality
    },
)


@dataclass
class ProDAOutput(Output):
    """Of a step; `text` is [C, n, E], of its prompts, `bare` [P, E], of all prompts without a class, normalised."""

    bare: torch.Tensor


def upper_bound_logits(
    logits: torch.Tensor, image: torch.Tensor, text: torch.Tensor, label: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Logits of the bound, whose cross-entropy is ProDA's loss.

    Args:
        logits: [B, C], s f mu.
        image: [B, E], normalised.
        text: [C, n, E], normalised features of n prompts.
        label: Long [B].
        scale: s.

    Returns:
        [B, C].
    """
    spread = text - text.mean(1, keepdim=True)
    count = text.shape[1] + 1
    own = image.square()[:, None] * spread[label]  # [B, n, E]
    between = own.flatten(1) @ spread.flatten(1).t() / count  # R_yj
    within = (image.square() @ spread.square().sum(1).t()) / count  # R_jj
    return logits + scale**2 / 2 * (within.gather(1, label[:, None]) + within - 2 * between)


def orthogonality(bare: torch.Tensor) -> torch.Tensor:
    """Mean |cos| of different prompts, [P, E] normalised -> a scalar; 0 for a single one."""
    count = len(bare)
    cosines = (bare @ bare.t()).abs()
    return (cosines.sum() - cosines.diagonal().sum()) / max(1, count * (count - 1))


class ProDAModel(PromptedCLIP):
    """A frozen CLIP with a set of contexts.

    Args:
        clip_model: The backbone.
        classnames: C names.
        learner: The contexts, [P, M, Dt]: those with the name in front first, then middle, then end.
    """

    learner: ContextLearner

    def __init__(self, clip_model: FrozenCLIP, classnames: Sequence[str], learner: ContextLearner) -> None:
        super().__init__(clip_model, None, learner)
        count, tokens, _ = learner.ctx.shape
        quarter = count // 4
        self.positions = ["front"] * quarter + ["middle"] * quarter + ["end"] * (count - 2 * quarter)
        self.trees = {p: clip_model.prompt_tree(classnames, tokens, p) for p in dict.fromkeys(self.positions)}
        self.bare = clip_model.sentence_tree(["."])  # the context, a full stop
        self.chosen: Sequence[int] = range(count)  # prompts of the step

    def encode_set(self, prompts: Sequence[int]) -> torch.Tensor:
        """Text features of some prompts, [C, n, E], normalised."""
        parts = []
        for position, tree in self.trees.items():
            members = [p for p in prompts if self.positions[p] == position]
            if members:
                parts.append(self.clip.encode_prompts(self.learner.ctx[members], tree))
        return F.normalize(torch.cat(parts), dim=-1).transpose(0, 1)

    def encode_text(self) -> torch.Tensor:
        """The mean over all prompts, [C, E]; not normalised again."""
        return self.encode_set(range(len(self.positions))).mean(1)

    def contexts(self, image: torch.Tensor | None = None, label: int | None = None) -> dict[str, torch.Tensor]:
        """All P, and where the class name stands in each."""
        pairs = zip(self.positions, self.learner.ctx, strict=True)
        return {
            f"context {p + 1}, name {'at the' if at == 'end' else 'in'} {at}": ctx for p, (at, ctx) in enumerate(pairs)
        }

    def forward(self, images: torch.Tensor) -> Output:
        """[B, 3, H, W] -> `Output`, with gradients `ProDAOutput`."""
        image = self.encode_image(images)
        if not torch.is_grad_enabled():
            return self.classify(image)
        text = self.encode_set(self.chosen)
        bare = F.normalize(self.clip.encode_prompts(self.learner.ctx, self.bare), dim=-1).squeeze(1)
        return ProDAOutput(cosine_logits(image, text.mean(1), self.scale), text, image, bare)


@TRAINER_REGISTRY.register()
class ProDA(CLIPTrainer):
    """Trainer of ProDA."""

    config_key = "PRODA"
    model: ProDAModel

    def check_cfg(self, cfg: CfgNode) -> None:
        """Refuse prompts that cannot take turns."""
        super().check_cfg(cfg)
        node = cfg.TRAINER.PRODA
        if node.N_PROMPT % node.PROMPT_BATCH:
            raise ValueError(
                f"TRAINER.PRODA.PROMPT_BATCH must divide TRAINER.PRODA.N_PROMPT, {node.N_PROMPT}, "
                f"got {node.PROMPT_BATCH}"
            )

    def build_model(self) -> None:
        """Build the contexts and register them as `prompt_learner`."""
        node = self.options
        self.check_room("N_CTX", node.N_CTX)
        context = torch.randn(node.N_PROMPT, node.N_CTX, self.clip.text_width) * node.CTX_STD
        print(f"Contexts: {node.N_PROMPT} of {node.N_CTX} tokens from random vectors, {node.PROMPT_BATCH} a step")
        learner = ContextLearner(context)
        self.model = ProDAModel(self.clip, self.classnames, learner)
        self.register("prompt_learner", learner)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step with the prompts whose turn it is: all take part before one does again, in a new order each time."""
        node, step = self.options, self.epoch * self.num_batches + self.batch_idx
        turn, place = divmod(step, node.N_PROMPT // node.PROMPT_BATCH)
        generator = torch.Generator().manual_seed(self.cfg.SEED * 1_000_003 + turn)  # the same after a resume
        order = torch.randperm(node.N_PROMPT, generator=generator)
        self.model.chosen = sorted(order[place * node.PROMPT_BATCH :][: node.PROMPT_BATCH].tolist())
        return super().forward_backward(batch)

    def loss_parts(self, output: ProDAOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy of the bound and the prompts' orthogonality."""
        image = F.normalize(output.image, dim=-1)
        bound = upper_bound_logits(output.logits, image, output.text, label, self.clip.logit_scale)
        ce, apart = F.cross_entropy(bound, label), orthogonality(output.bare)
        return {"loss": ce + self.options.ALPHA * apart, "loss_ce": ce, "loss_orthogonal": apart}
