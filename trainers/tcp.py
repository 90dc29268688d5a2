"""TCP: Textual-based Class-aware Prompt Tuning for Visual-Language Model (Yao, Zhang, Xu, CVPR 2024), arXiv 2311.18231.

A network turns each class's hand-written text feature into M class prompts (eq. 5: P_c = h(w_c), Linear, QuickGELU,
Linear), which take the context's place before text block BLOCK; the context itself serves the blocks before that.
loss = cross-entropy + W (1 - mean over classes of cos(text, w)), eq. 9.

The released code fixes W at 8 and the block at index 8, reads the teacher's and the student's sentences from two tables
of its own, and takes Adam with an eps of 1e-3 (OPTIM.ADAM_EPS).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from clip import FrozenCLIP, PromptTree
from dassl.config.check import at_least
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .losses import text_anchor_loss
from .model import ContextLearner, Output, PromptedCLIP
from .templates import DEFAULT_TEMPLATE, TCP_STUDENT, TCP_TEACHER

add_config, RULES = declare(
    "TCP",
    {
        **context_keys(n_ctx=4, ctx_init=""),
        "W": (8.0, at_least(0)),  # weight of the distance from the hand-written prompts
        "BLOCK": (8, at_least(1)),  # index, from 0, of the text block that the class prompts come before
    },
)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


class PromptLearner(ContextLearner):
    """The context and the network of the class prompts.

    Args:
        context: Initial vectors, [M, Dt].
        embed_dim: E.
    """

    def __init__(self, context: torch.Tensor, embed_dim: int) -> None:
        super().__init__(context)
        layers = {"linear1": nn.Linear(embed_dim, embed_dim // 4), "relu": QuickGELU()}  # the published name
        self.meta_net = nn.Sequential(OrderedDict(layers, linear2=nn.Linear(embed_dim // 4, context.numel())))

    def class_prompts(self, teacher: torch.Tensor) -> torch.Tensor:
        """Normalised text features [C, E] -> class prompts [C, M, Dt]."""
        prompts: torch.Tensor = self.meta_net(teacher)
        return prompts.float().view(len(teacher), *self.ctx.shape)


class TCPModel(PromptedCLIP):
    """A frozen CLIP with a context and class prompts.

    Args:
        clip_model: The backbone.
        tree: The classes.
        learner: The learnables.
        teacher: [C, E], normalised features of the hand-written prompts.
        block: Before which text block the class prompts come.
    """

    learner: PromptLearner

    def __init__(
        self, clip_model: FrozenCLIP, tree: PromptTree, learner: PromptLearner, teacher: torch.Tensor, block: int
    ) -> None:
        super().__init__(clip_model, tree, learner)
        self.teacher, self.block = teacher, block

    def encode_text(self) -> torch.Tensor:
        """[C, E]."""
        own = (self.block, self.learner.class_prompts(self.teacher))
        return F.normalize(self.clip.encode_prompts(self.learner.ctx, self.tree, class_context=own), dim=-1)


@TRAINER_REGISTRY.register()
class TCP(CLIPTrainer):
    """Trainer of TCP."""

    config_key = "TCP"

    def build_model(self) -> None:
        """Encode the sentences, build context and network and register both as published, as `prompt_learner`."""
        node, name = self.options, self.cfg.DATASET.NAME
        if self.clip.text_layers <= node.BLOCK:
            raise ValueError(
                f"TRAINER.TCP.BLOCK must be at most {self.clip.text_layers - 1}, the index of the last text block of "
                f"{self.clip.name}, got {node.BLOCK}"
            )
        template = TCP_STUDENT.get(name, "{}.")
        context = self.initial_context(template)
        tree = self.clip.prompt_tree(self.classnames, len(context), template=template)
        teacher = F.normalize(self.sentence_features(TCP_TEACHER.get(name, DEFAULT_TEMPLATE))[0], dim=-1)
        learner = PromptLearner(context, self.clip.embed_dim)
        self.teacher = teacher
        self.model = TCPModel(self.clip, tree, learner, teacher, node.BLOCK)
        self.register("prompt_learner", learner)

    def loss_parts(self, output: Output, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy and the distance from the sentences."""
        ce, anchor = F.cross_entropy(output.logits, label), text_anchor_loss(output.text, self.teacher)
        return {"loss": ce + self.options.W * anchor, "loss_ce": ce, "loss_kg": anchor}
