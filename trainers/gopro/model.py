"""GOPro's learnables on a frozen CLIP, and its forward pass; the formulas are in `trainers.gopro`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from clip import FrozenCLIP, ImageFeatures, PromptTree

from ..model import cosine_logits, initial_context
from .variant import PAPER, Variant


class LayerProjector(nn.Module):
    """One Linear(Dv -> Dt) per block of the image tower.

    Args:
        layers: L.
        vision_width: Dv.
        text_width: Dt.
    """

    def __init__(self, layers: int, vision_width: int, text_width: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(vision_width, text_width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, Dv] -> [B, L, Dt]."""
        return torch.stack([linear(x[:, i]) for i, linear in enumerate(self.linear)], dim=1)


class PromptLearner(nn.Module):
    """Context vectors conditioned on an image's style and content.

        v_m(x) = ctx_m + rho . g(x),   g_l = (s_l + t_l) / 2,
        s_l = Ws_l (mu_l + sigma_l) / 2,   t_l = Wc_l mu_l

    Args:
        context: Initial context vectors, [M, Dt].
        layers: L.
        vision_width: Dv.
        variant: Reads `text_projectors` and `start`.
        style_eps: Added to the variance under the root.
    """

    def __init__(
        self,
        context: torch.Tensor,
        layers: int,
        vision_width: int,
        variant: Variant = PAPER,
        style_eps: float = 2.3e-8,
    ) -> None:
        super().__init__()
        text_width = context.shape[1]
        self.style_eps = style_eps
        self.ctx = nn.Parameter(context.detach().clone().float())
        self.style = LayerProjector(layers, vision_width, text_width)
        self.content = LayerProjector(layers, vision_width, text_width)
        self.rho = nn.Linear(layers, 1)
        self.per_view = variant.text_projectors == "per_view"
        if self.per_view:
            self.rho_moco, self.rho_augmix = nn.Linear(layers, 1), nn.Linear(layers, 1)
        if variant.start == "clip":  # no shift yet: the prompt is the context's words
            for name, parameter in self.named_parameters():
                if name.startswith("rho"):
                    nn.init.zeros_(parameter)

    def forward(self, image: ImageFeatures, view: str = "original") -> torch.Tensor:
        """Context of each image.

        Args:
            image: Statistics of B images.
            view: original, moco or augmix: whose text projector to use.

        Returns:
            [B, M, Dt].
        """
        sigma = (image.var + self.style_eps).sqrt()
        mixed = (self.style((image.mean + sigma) / 2) + self.content(image.mean)) / 2
        rho = self.rho if view == "original" or not self.per_view else getattr(self, f"rho_{view}")
        shift: torch.Tensor = rho(mixed.transpose(1, 2)).squeeze(-1)
        return self.ctx + shift.unsqueeze(1)


class ImageProjector(nn.Module):
    """P_v, the projector of image features: a linear map, and batch norm after it where the variant has it.

    Args:
        width: E.
        variant: Reads `batchnorm` and `start`.
    """

    def __init__(self, width: int, variant: Variant = PAPER) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.batchnorm = nn.BatchNorm1d(width) if variant.batchnorm == "yes" else None
        if variant.start == "clip":
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, E] -> [B, E]."""
        norm = self.batchnorm
        x = self.linear(x)
        # One image has no batch statistics: the running ones serve.
        if norm is not None and self.training and len(x) == 1:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return x if norm is None else norm(x)


class GOProLearner(nn.Module):
    """Everything that is trained, under the published names; its state dict is the checkpoint.

    Args:
        prompt_learner: The prompt generator.
        simproj: The image projector P_v.
    """

    def __init__(self, prompt_learner: PromptLearner, simproj: ImageProjector) -> None:
        super().__init__()
        self.prompt_learner = prompt_learner
        self.simproj = simproj


@dataclass
class GOProOutput:
    """Result of a forward pass, the same type in every mode; the fields below `text` need the augmented views.

    Attributes:
        logits: [B, C].
        text: [B, C, E], normalised text features of each image's prompts.
        text_moco: [B, C, E], of the MoCo view's prompts, or None.
        text_augmix: [B, C, E], of the AugMix view's prompts, or None.
        projected: [B, E], P_v of the original view, or None (variant released without views).
        projected_moco: [B, E], P_v of the MoCo view, or None.
    """

    logits: torch.Tensor
    text: torch.Tensor
    text_moco: torch.Tensor | None = None
    text_augmix: torch.Tensor | None = None
    projected: torch.Tensor | None = None
    projected_moco: torch.Tensor | None = None


class GOProModel(nn.Module):
    """A frozen CLIP with GOPro's learnables.

    Args:
        clip_model: The backbone.
        tree: The class tokens, from `clip_model.prompt_tree(classnames, M)`.
        learner: The learnables.
        variant: Reads `logits`.
    """

    def __init__(
        self, clip_model: FrozenCLIP, tree: PromptTree, learner: GOProLearner, variant: Variant = PAPER
    ) -> None:
        super().__init__()
        self.clip, self.tree, self.learner = clip_model, tree, learner
        self.projected_logits = variant.logits == "projected"

    def forward(
        self, images: torch.Tensor, moco: torch.Tensor | None = None, augmix: torch.Tensor | None = None
    ) -> GOProOutput:
        """Logits of the original view, and with both augmented views everything that the losses need.

        Args:
            images: [B, 3, H, W], the original view, normalised.
            moco: [B, 3, H, W], the MoCo v3 view; give both or none.
            augmix: [B, 3, H, W], the AugMix view.

        Returns:
            See `GOProOutput`.
        """
        generate, project = self.learner.prompt_learner, self.learner.simproj
        if moco is None or augmix is None:
            image = self.clip.encode_image_statistics(images)
            text = self._text(generate(image))
            z = F.normalize(image.final, dim=-1)
            return GOProOutput(self._logits(project(z) if self.projected_logits else z, text), text)
        views = self.clip.encode_image_statistics(torch.cat([images, moco, augmix])).chunk(3)
        context = [generate(v, name) for v, name in zip(views, ("original", "moco", "augmix"), strict=True)]
        text, text_moco, text_augmix = self._text(torch.cat(context)).chunk(3)
        z, z_moco = (F.normalize(v.final, dim=-1) for v in views[:2])
        projected, projected_moco = project(z), project(z_moco)
        logits = self._logits(projected if self.projected_logits else z, text)
        return GOProOutput(logits, text, text_moco, text_augmix, projected, projected_moco)

    def _text(self, context: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.clip.encode_prompts(context, self.tree), dim=-1)

    def _logits(self, z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return cosine_logits(z, text, self.clip.logit_scale)


def build_gopro(
    clip_model: FrozenCLIP,
    classnames: list[str],
    context: torch.Tensor | None = None,
    variant: Variant = PAPER,
    style_eps: float = 2.3e-8,
) -> GOProModel:
    """A GOPro model with initial values.

    Args:
        clip_model: The backbone; its image tower must give token statistics of each block.
        classnames: C names by label.
        context: Initial context vectors, [M, Dt]; None takes those of "a photo of a".
        variant: What paper and published code do differently.
        style_eps: See `PromptLearner`.

    Returns:
        The model on the backbone's device.

    Raises:
        ValueError: An unfit backbone, or a class name that does not fit.
    """
    clip_model.check_blocks("GOPro", "reads token statistics of each block of the image tower")
    if context is None:
        context = initial_context(clip_model, 4, "a photo of a")
    learner = GOProLearner(
        PromptLearner(context, clip_model.vision_layers, clip_model.vision_width, variant, style_eps),
        ImageProjector(clip_model.embed_dim, variant),
    ).to(clip_model.device)
    return GOProModel(clip_model, clip_model.prompt_tree(classnames, len(context)), learner, variant)
