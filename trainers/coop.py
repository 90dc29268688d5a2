"""CoOp: Learning to Prompt for Vision-Language Models (Zhou, Yang, Loy, Liu, IJCV 2022), arXiv 2109.01134.

Learnable context vectors around the class name, the same for all classes (eq. 2) or each class's own (CSC, eq. 3):
logits = exp(logit_scale) cos(f(x), f_t([SOT, v_1..v_M, name, ".", EOT])), trained with cross-entropy. The name stands
at the end, in the middle (after M // 2 vectors) or in front.
"""

from __future__ import annotations

import torch

from clip import POSITIONS
from dassl.config.check import one_of
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .model import ContextCLIP, ContextLearner

add_config, RULES = declare(
    "COOP",
    {
        **context_keys(n_ctx=16, ctx_init=""),
        "CSC": (False, None),  # a context of each class; random, since words give one for all
        "CLASS_TOKEN_POSITION": ("end", one_of(*POSITIONS)),
    },
)


@TRAINER_REGISTRY.register()
class CoOp(CLIPTrainer):
    """Trainer of CoOp."""

    config_key = "COOP"
    model: ContextCLIP

    def build_model(self) -> None:
        """Build the context and register it as CoOp does, as `prompt_learner`."""
        node, context = self.options, self.initial_context()
        own = node.CSC and not node.CTX_INIT
        if node.CSC and not own:
            print("TRAINER.COOP.CSC has no effect beside CTX_INIT, whose words give one context for all classes")
        if own:
            print(f"Contexts: one of each of {self.num_classes} classes")
            context = torch.randn(self.num_classes, *context.shape) * node.CTX_STD
        tree = self.clip.prompt_tree(self.classnames, context.shape[-2], node.CLASS_TOKEN_POSITION, own)
        learner = ContextLearner(context)
        self.model = ContextCLIP(self.clip, tree, learner)
        self.model.owners = self.classnames if own else ()
        self.register("prompt_learner", learner)

    def convert_state_dict(self, name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Of contexts that belong to classes, those of the classes at hand, by name."""
        state_dict = super().convert_state_dict(name, state_dict)
        context = state_dict.get("ctx")
        if self.model.tree.class_rows and context is not None and context.ndim == 3:
            labels = self.labels_in_training()
            unknown = [c for c, label in zip(self.classnames, labels, strict=True) if label is None]
            if unknown:
                raise ValueError(
                    f"TRAINER.COOP.CSC learned a context of each class that it was trained on and has none for "
                    f"{len(unknown)} of these classes ({', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}); "
                    "a context for all classes (TRAINER.COOP.CSC False) carries over"
                )
            state_dict["ctx"] = context[labels]
        return state_dict
