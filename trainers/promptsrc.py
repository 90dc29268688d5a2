"""PromptSRC: Self-regulating Prompts (Khattak, Wasim, Naseer, Khan, Yang, Khan, ICCV 2023), arXiv 2307.06948.

IVLP's tokens, held near the frozen CLIP (eq. 3 to 5): with t, f the normalised text and image features, t0, f0 those of
the frozen towers (text: the mean over sentences) and q, q0 the logits,

    loss = cross-entropy + TEXT_LOSS_WEIGHT |t - t0| + IMAGE_LOSS_WEIGHT |f - f0| + KL(softmax(q0) || softmax(q)),

means over all elements, also of KL (B x C), as in the released code. The third part, the Gaussian mean of the weights
over epochs, is the engine's OPTIM.AVERAGE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dassl.config.check import at_least, one_of
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .deep_prompts import DeepPromptedCLIP, build_deep_prompts
from .keys import declare, prompt_keys
from .model import Output, PromptedCLIP, cosine_logits
from .templates import ENSEMBLES, ensemble

add_config, RULES = declare(
    "PROMPTSRC",
    {
        **prompt_keys(tokens=4, depth=9),
        "TEXT_LOSS_WEIGHT": (25.0, at_least(0)),
        "IMAGE_LOSS_WEIGHT": (10.0, at_least(0)),
        "TEMPLATES": ("promptsrc", one_of(*ENSEMBLES)),  # the teacher's sentences: promptsrc (60), clip7, clip80
    },
)


@dataclass
class PromptSRCOutput(Output):
    """With `frozen_image`, [B, E], of the frozen tower, not normalised."""

    frozen_image: torch.Tensor


def self_regulation(
    output: PromptSRCOutput, frozen_text: torch.Tensor, scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What holds the prompts near the frozen CLIP.

    Args:
        output: See `PromptSRCOutput`.
        frozen_text: [C, E], normalised features of the frozen text tower.
        scale: exp(logit scale).

    Returns:
        Distances of text features, of image features, and of the logits: scalars.
    """
    image, frozen = F.normalize(output.image, dim=-1), F.normalize(output.frozen_image, dim=-1)
    target = cosine_logits(frozen, frozen_text, scale).log_softmax(-1)
    kl = F.kl_div(output.logits.float().log_softmax(-1), target, reduction="sum", log_target=True)
    return F.l1_loss(output.text, frozen_text), F.l1_loss(image, frozen), kl / output.logits.numel()


class PromptSRCModel(DeepPromptedCLIP):
    """`DeepPromptedCLIP` that in training also gives the frozen image features of the same images."""

    def forward(self, images: torch.Tensor) -> PromptSRCOutput:
        """[B, 3, H, W] -> logits and features."""
        output = super().forward(images)
        frozen = PromptedCLIP.encode_image(self, images) if torch.is_grad_enabled() else output.image
        return PromptSRCOutput(**vars(output), frozen_image=frozen)


@TRAINER_REGISTRY.register()
class PromptSRC(CLIPTrainer):
    """Trainer of PromptSRC."""

    config_key = "PROMPTSRC"

    def build_model(self) -> None:
        """Encode the teacher's sentences, build the tokens and register them as `prompts`."""
        sentences = ensemble(self.options.TEMPLATES)
        print(f"Teacher: the mean over {len(sentences)} sentences a class")
        self.model = build_deep_prompts(self, PromptSRCModel)
        self.teacher = F.normalize(self.sentence_features(*sentences).mean(0), dim=-1)
        self.register("prompts", self.model.learner)

    def loss_parts(self, output: PromptSRCOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy and the three distances."""
        node, ce = self.options, F.cross_entropy(output.logits, label)
        text, image, logits = self_regulation(output, self.teacher, self.clip.logit_scale)
        total = ce + node.TEXT_LOSS_WEIGHT * text + node.IMAGE_LOSS_WEIGHT * image + logits
        return {"loss": total, "loss_ce": ce, "loss_text": text, "loss_image": image, "loss_logits": logits}
