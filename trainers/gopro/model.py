"""GOPro's learnables on a frozen CLIP, and its forward pass; the formulas are in `trainers.gopro`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from clip import FrozenCLIP, ImageFeatures, PromptTree
from clip.blocks import autocast_at
from dassl.utils.distributed import all_gather_with_grad, own_rows

from ..groups import mean_over_groups
from ..model import cosine_logits, initial_context
from .variant import PAPER, Variant

# What the text side of the images that are taken at once may keep; a constant, so that the order of sums, and with it
# the last bits of a result, does not follow what memory happens to be free.
GROUP_BYTES = 2 * 1024**3


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
        variant: Reads `text_projectors`, `start` and `primitives`.
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
        with_style, with_content = (variant.primitives in ("both", part) for part in ("style", "content"))
        self.style = LayerProjector(layers, vision_width, text_width) if with_style else None
        self.content = LayerProjector(layers, vision_width, text_width) if with_content else None
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
        inputs = ((self.style, (image.mean + sigma) / 2), (self.content, image.mean))
        parts = [project(x) for project, x in inputs if project is not None]
        mixed = sum(parts[1:], parts[0]) / len(parts)
        rho = self.rho if view == "original" or not self.per_view else getattr(self, f"rho_{view}")
        shift: torch.Tensor = rho(mixed.transpose(1, 2)).squeeze(-1)
        return self.ctx + shift.unsqueeze(1)


class ImageProjector(nn.Module):
    """P_v, the projector of image features: a linear map, and batch norm after it where the variant has it.

    Of several processes, all take the statistics of the images of all: B per process is small, and P_v of a batch is
    the same however many processes share it.

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
        if norm is None or not self.training:
            return x if norm is None else norm(x)
        # PyTorch's SyncBatchNorm takes GPUs alone; B x E is so little that the rows themselves can be gathered.
        rows = all_gather_with_grad(x)
        if len(rows) == 1:  # one image has no batch statistics: the running ones serve
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return own_rows(norm(rows))


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


class Texts(NamedTuple):
    """The text side of B images.

    Attributes:
        logits: [B, C].
        text: [B, C, E], normalised text features of each image's prompts.
        text_moco: [B, S, E], of the MoCo view's prompts, or None without the augmented views; S is C, or as many as the
            output's `sem_labels`.
        text_augmix: [B, S, E], of the AugMix view's prompts, or None.
    """

    logits: torch.Tensor
    text: torch.Tensor
    text_moco: torch.Tensor | None = None
    text_augmix: torch.Tensor | None = None


@dataclass
class GOProOutput:
    """Result of a forward pass, the same type in every mode.

    The text side is computed when it is first read, so that a loss can have it of some images at a time.

    Attributes:
        image: [B, E], the features of the original view that the logits are made of, normalised.
        contexts: [B, M, Dt] of each view that was given.
        encode: Gives the text side of some images' `image` and contexts.
        at_once: Of how many images the text side's graph is to be held at once.
        projected: [B, E], P_v of the original view, or None without the augmented views.
        projected_moco: [B, E], P_v of the MoCo view, or None.
        sem_labels: Long [S], the classes that the augmented views' prompts are of; None: all.
        logits: [B, C]; without graph after `mean_over_images` took them in groups.
        text: See `Texts`, as are `text_moco` and `text_augmix`.
    """

    image: torch.Tensor
    contexts: Sequence[torch.Tensor]
    encode: Callable[..., Texts] = field(repr=False)
    at_once: int
    projected: torch.Tensor | None = None
    projected_moco: torch.Tensor | None = None
    sem_labels: torch.Tensor | None = None

    @cached_property
    def _texts(self) -> Texts:
        return self.encode(self.image, *self.contexts)

    @cached_property
    def logits(self) -> torch.Tensor:  # noqa: D102
        return self._texts.logits

    @property
    def text(self) -> torch.Tensor:  # noqa: D102
        return self._texts.text

    @property
    def text_moco(self) -> torch.Tensor | None:  # noqa: D102
        return self._texts.text_moco

    @property
    def text_augmix(self) -> torch.Tensor | None:  # noqa: D102
        return self._texts.text_augmix

    def mean_over_images(
        self, function: Callable[[Texts, slice], Sequence[torch.Tensor]], scale: float = 1.0
    ) -> Sequence[torch.Tensor]:
        """What a function of the text side gives of all images, from what it gives of `at_once` at a time.

        Args:
            function: Takes the text side of some images and which they are; returns scalars, means over these images.
            scale: See `mean_over_groups`.

        Returns:
            The scalars; in more than one group, only the first has gradients.
        """
        if self.at_once >= len(self.image):
            return function(self._texts, slice(None))
        logits = []

        def of_some(rows: slice, *given: torch.Tensor) -> Sequence[torch.Tensor]:
            texts = self.encode(*given)
            logits.append(texts.logits.detach())
            return function(texts, rows)

        means = mean_over_groups(of_some, self.at_once, scale, self.image, *self.contexts)
        self.logits = torch.cat(logits)
        return means


class GOProModel(nn.Module):
    """A frozen CLIP with GOPro's learnables.

    Args:
        clip_model: The backbone.
        tree: The class tokens, from `clip_model.prompt_tree(classnames, M)`.
        learner: The learnables.
        variant: Reads `logits`.
    """

    text_is_fixed = is_text_alone = False
    reads_frozen_statistics = True

    def __init__(
        self, clip_model: FrozenCLIP, tree: PromptTree, learner: GOProLearner, variant: Variant = PAPER
    ) -> None:
        super().__init__()
        self.clip, self.tree, self.learner = clip_model, tree, learner
        self.projected_logits = variant.logits == "projected"
        self._sem: tuple[PromptTree, torch.Tensor] | None = None

    def choose_sem_classes(self, labels: Sequence[int] | None) -> None:
        """The classes that the augmented views' prompts are made of from now on, ascending; None: all."""
        chosen = None if labels is None else torch.tensor(labels, device=self.tree.tokens.device)
        self._sem = None if labels is None or chosen is None else (self.tree.of_classes(labels), chosen)

    def forward(
        self,
        images: torch.Tensor | ImageFeatures,
        moco: torch.Tensor | None = None,
        augmix: torch.Tensor | None = None,
    ) -> GOProOutput:
        """Logits of the original view, and with both augmented views everything that the losses need.

        Args:
            images: [B, 3, H, W], the original view, normalised; without the others, what the tower gives of it will do.
            moco: [B, 3, H, W], the MoCo v3 view; give both or none.
            augmix: [B, 3, H, W], the AugMix view.

        Returns:
            See `GOProOutput`.
        """
        generate, project = self.learner.prompt_learner, self.learner.simproj
        cast = autocast_at(self.tree.tokens.device)
        if isinstance(images, ImageFeatures) or moco is None or augmix is None:
            image = images if isinstance(images, ImageFeatures) else self.clip.encode_image_statistics(images)
            return GOProOutput(
                self._final(image), [generate(image)], partial(self._texts, cast, None), len(image.final)
            )
        views = self.clip.encode_image_statistics(torch.cat([images, moco, augmix])).chunk(3)
        contexts = [generate(v, name) for v, name in zip(views, ("original", "moco", "augmix"), strict=True)]
        sem_tree, sem_labels = self._sem or (None, None)
        z, z_moco = (F.normalize(v.final, dim=-1) for v in views[:2])
        projected, projected_moco = project(z), project(z_moco)
        compared = projected if self.projected_logits else z
        encode, at_once = partial(self._texts, cast, sem_tree), len(images)
        if torch.is_grad_enabled():  # else nothing is kept
            trees = [self.tree, *2 * [sem_tree or self.tree]]
            fit = max(1, GROUP_BYTES // self.clip.prompt_bytes(contexts[0].shape[1], trees))
            at_once = -(-at_once // -(-at_once // fit))  # groups of about equal size
        return GOProOutput(compared, contexts, encode, at_once, projected, projected_moco, sem_labels)

    def _texts(
        self,
        cast: tuple[str, torch.dtype, bool],
        sem_tree: PromptTree | None,
        image: torch.Tensor,
        *contexts: torch.Tensor,
    ) -> Texts:
        """The text side of some images, under the autocast of the forward pass however late it is read."""
        with torch.autocast(*cast):
            if sem_tree is None:
                texts = self._text(torch.cat(contexts)).chunk(len(contexts))
            else:
                texts = (self._text(contexts[0]), *self._text(torch.cat(contexts[1:]), sem_tree).chunk(2))
            return Texts(self._logits(image, texts[0]), *texts)

    def contexts(self, image: torch.Tensor | None = None, label: int | None = None) -> dict[str, torch.Tensor]:
        """The context before it is shifted, or an image's; see `PromptedCLIP.contexts`."""
        generate = self.learner.prompt_learner
        if image is None:
            return {"context": generate.ctx}
        return {"context of this image": generate(self.clip.encode_image_statistics(image))[0]}

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] -> what the logits are made of, [B, E], not normalised."""
        return self._final(self.clip.encode_image_statistics(images))

    def _final(self, image: ImageFeatures) -> torch.Tensor:
        z = F.normalize(image.final, dim=-1)
        final: torch.Tensor = self.learner.simproj(z) if self.projected_logits else z
        return final

    @property
    def scale(self) -> torch.Tensor:
        """Factor on the cosines."""
        return self.clip.logit_scale

    def _text(self, context: torch.Tensor, tree: PromptTree | None = None) -> torch.Tensor:
        return F.normalize(self.clip.encode_prompts(context, tree or self.tree), dim=-1)

    def _logits(self, z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return cosine_logits(z, text, self.scale)


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
