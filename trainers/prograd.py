"""ProGrad: Prompt-aligned Gradient for Prompt Tuning (Zhu, Niu, Han, Wu, Zhang, ICCV 2023), arXiv 2205.14865.

CoOp's shared context; where the gradient of cross-entropy (domain) points against that of staying near zero-shot CLIP
(general), the part that does is taken out (eq. 5): g = g_d - LAMBDA <g_d, u> u with u = g_g / |g_g| where <g_d, u> < 0,
else g_d; tensor by tensor. The general loss is T^2 times the soft cross-entropy of the student's logits against the
teacher's, as the released code has it (the paper writes KL, which has the same gradient).

The context starts from the words of the teacher's sentence in its last rows, with zeros before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

import clip
from dassl.config.check import at_least, positive
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import context_keys, declare
from .model import ContextCLIP, ContextLearner, Output, cosine_logits
from .templates import DEFAULT_TEMPLATE, PROGRAD

add_config, RULES = declare(
    "PROGRAD",
    {
        **context_keys(n_ctx=16, ctx_init="auto"),  # auto: the words of the teacher's sentence
        "LAMBDA": (1.0, at_least(0)),  # how much of the part that points against the general gradient is taken out
        "T": (1.0, positive),  # temperature of both softmaxes
    },
)


def soft_cross_entropy(logits: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T^2 times the mean over images of -sum_c softmax(teacher / T)_c log softmax(logits / T)_c.

    Args:
        logits: [B, C].
        teacher: [B, C], without gradient.
        temperature: T.

    Returns:
        A scalar.
    """
    target = (teacher.float() / temperature).softmax(-1)
    loss: torch.Tensor = temperature**2 * F.cross_entropy(logits.float() / temperature, target)
    return loss


def project_gradient(domain: torch.Tensor, general: torch.Tensor, share: float = 1.0) -> torch.Tensor:
    """The gradient that ProGrad steps along.

    Args:
        domain: Gradient of cross-entropy, any shape.
        general: Gradient of the general loss, the same shape.
        share: LAMBDA.

    Returns:
        `domain` without `share` of its part along -`general`; `domain` itself where the two agree.
    """
    unit = general / general.norm().clamp_min(torch.finfo(general.dtype).tiny)
    against: torch.Tensor = share * (domain * unit).sum().clamp(max=0) * unit
    return domain - against


@TRAINER_REGISTRY.register()
class ProGrad(CLIPTrainer):
    """Trainer of ProGrad."""

    config_key = "PROGRAD"

    def build_model(self) -> None:
        """Encode the teacher's sentences, build the context and register it as published, as `prompt_learner`."""
        sentence = PROGRAD.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE)
        context, template = self._start(sentence)
        learner = ContextLearner(context)
        tree = self.clip.prompt_tree(self.classnames, len(context), template=template)
        self.teacher = F.normalize(self.sentence_features(sentence)[0], dim=-1)
        self.model = ContextCLIP(self.clip, tree, learner)
        self.register("prompt_learner", learner)

    def _start(self, sentence: str) -> tuple[torch.Tensor, str]:
        """The context's first value, and what follows it.

        The released code counts words where it means tokens: with a comma among them, the last word stays behind the
        context as it is.
        """
        node = self.options
        if node.CTX_INIT != "auto":
            return self.initial_context(), "{}."
        words = sentence.removesuffix(" {}.")
        ids, count = clip.encode(words), len(words.split())
        if count > node.N_CTX:
            raise ValueError(
                f"TRAINER.PROGRAD.N_CTX must be at least {count} for the words of {sentence!r}, got {node.N_CTX}"
            )
        template = f"{clip.decode(ids[count:])} {{}}.".strip()
        self.check_room("N_CTX", node.N_CTX, template)
        context = torch.zeros(node.N_CTX, self.clip.text_width, device=self.device)
        context[node.N_CTX - count :] = self.clip.embed_words(words)[:count]
        print(f'Context: {node.N_CTX} tokens, the last {count} from "{words}"')
        return context, template

    def loss_parts(self, output: Output, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy and the general loss, whose gradient is kept for `before_step`."""
        teacher = cosine_logits(output.image, self.teacher, self.clip.logit_scale)
        general = soft_cross_entropy(output.logits, teacher, self.options.T)
        self.general = self.model_gradients(general, retain_graph=True)
        return {"loss": F.cross_entropy(output.logits, label), "loss_general": general}

    def before_step(self, name: str) -> None:
        """Take out what points against the general gradient."""
        for parameter, general in zip(self._models["prompt_learner"].parameters(), self.general, strict=True):
            if parameter.grad is not None and general is not None:
                parameter.grad.copy_(project_gradient(parameter.grad, general, self.options.LAMBDA))
