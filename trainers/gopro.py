"""GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning (Singha, Jha, Banerjee, BMVC 2023).

https://arxiv.org/abs/2308.11605. Per image, the token statistics of every block of the frozen image tower (style:
mean and deviation, content: mean) are projected to the text width, mixed over blocks, and added to learnable
context vectors. Training minimises

    L = L_ce + w_sem L_sem + w_con L_con

over three views of each image: cross-entropy of the original view's logits, consistency of the views' text features
(`losses.prompt_consistency`), and NT-Xent of two views' projected image features (`losses.nt_xent`).

TRAINER.GOPRO.VARIANT chooses between the paper's figure (`paper`) and the authors' code (`released`); they differ in
what the logits see, the number of text projectors, initial values and the reduction of L_sem. Letters: B images,
C classes, M context tokens, L blocks, Dv / Dt widths of the image / text tower, E joint width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import make_grid
from yacs.config import CfgNode

from clip import FrozenCLIP, ImageFeatures, PromptTree
from dassl.data import DataManager
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import count_num_param

from .clip_trainer import CLIPTrainer
from .losses import nt_xent, prompt_consistency
from .views import augmix_view, moco_view

VARIANTS = ("paper", "released")
# The published code saved the whole model; what is not learnable there is rebuilt here, never loaded.
PUBLISHED_EXTRAS = (
    "image_encoder.",
    "text_encoder.",
    "logit_scale",
    "prompt_learner.meta_net.",
    "prompt_learner.token_",
)


def add_config(cfg: CfgNode) -> None:
    """Declare TRAINER.GOPRO with the published values."""
    node = cfg.TRAINER.GOPRO = CfgNode()
    node.VARIANT = "paper"  # paper: the architecture figure; released: the authors' code
    node.N_CTX = 4  # context tokens M; CTX_INIT's length wins when it is given
    node.CTX_INIT = "a photo of a"  # initial words; "" draws N(0, CTX_STD)
    node.CTX_STD = 0.02
    node.PREC = "fp16"  # fp32, fp16 (half weights, loss scaling), bf16, amp (fp32 weights)
    node.STYLE_EPS = 2.3e-8  # added to the tokens' variance under the root
    node.W_SEM = 1.0
    node.W_CON = 0.1
    node.SEM_REDUCTION = "auto"  # over E: sum (2 - 2 cos a pair) or mean; auto: sum in paper, mean in released
    node.TEMPERATURE = 0.1  # of L_con
    moco = node.MOCO = CfgNode()
    moco.SCALE = (0.08, 1.0)
    moco.JITTER = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
    moco.JITTER_P = 0.8
    moco.GRAY_P = 0.2
    moco.BLUR_SIGMA = (0.1, 2.0)  # pixels
    moco.BLUR_P = 1.0
    moco.FLIP_P = 0.5
    augmix = node.AUGMIX = CfgNode()
    augmix.SCALE = (0.08, 1.0)
    augmix.FLIP_P = 0.5
    augmix.SEVERITY = 1
    augmix.WIDTH = 3
    augmix.DEPTH = -1  # -1 draws 1 to 3
    augmix.ALPHA = 1.0


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
        variant: `paper` has a text projector rho per view, initialised with zeros; `released` has one.
        style_eps: Added to the variance under the root.
    """

    def __init__(
        self,
        context: torch.Tensor,
        layers: int,
        vision_width: int,
        variant: str = "paper",
        style_eps: float = 2.3e-8,
    ) -> None:
        super().__init__()
        text_width = context.shape[1]
        self.style_eps = style_eps
        self.ctx = nn.Parameter(context.detach().clone().float())
        self.style = LayerProjector(layers, vision_width, text_width)
        self.content = LayerProjector(layers, vision_width, text_width)
        self.rho = nn.Linear(layers, 1)
        self.per_view = variant == "paper"
        if self.per_view:
            self.rho_moco = nn.Linear(layers, 1)
            self.rho_augmix = nn.Linear(layers, 1)
            for rho in (
                self.rho,
                self.rho_moco,
                self.rho_augmix,
            ):  # step 0 is CLIP with the words of the context
                nn.init.zeros_(rho.weight)
                nn.init.zeros_(rho.bias)

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
        shift = rho(mixed.transpose(1, 2)).squeeze(-1)
        return self.ctx + shift.unsqueeze(1)


class ImageProjector(nn.Module):
    """P_v, the projector of image features.

    Args:
        width: E.
        variant: `paper`: a linear map that starts as the identity; `released`: Linear + BatchNorm1d, default init.
    """

    def __init__(self, width: int, variant: str = "paper") -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.batchnorm = nn.BatchNorm1d(width) if variant == "released" else None
        if variant == "paper":
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, E] -> [B, E]."""
        x = self.linear(x)
        if self.batchnorm is None:
            return x
        norm = self.batchnorm
        if self.training and len(x) == 1:  # one image has no batch statistics: use the running ones
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        return norm(x)


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
        variant: `paper`: logits see P_v's output; `released`: they see CLIP's feature.
    """

    def __init__(self, clip_model: FrozenCLIP, tree: PromptTree, learner: GOProLearner, variant: str = "paper") -> None:
        super().__init__()
        self.clip, self.tree, self.learner, self.variant = clip_model, tree, learner, variant

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
            image = self.clip.encode_image(images)
            text = self._text(generate(image))
            z = F.normalize(image.final, dim=-1)
            if self.variant == "paper":
                z = project(z)
            return GOProOutput(self._logits(z, text), text)
        views = self.clip.encode_image(torch.cat([images, moco, augmix])).chunk(3)
        context = [generate(v, name) for v, name in zip(views, ("original", "moco", "augmix"), strict=True)]
        text, text_moco, text_augmix = self._text(torch.cat(context)).chunk(3)
        z, z_moco = (F.normalize(v.final, dim=-1) for v in views[:2])
        projected, projected_moco = project(z), project(z_moco)
        logits = self._logits(projected if self.variant == "paper" else z, text)
        return GOProOutput(logits, text, text_moco, text_augmix, projected, projected_moco)

    def _text(self, context: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.clip.encode_prompts(context, self.tree), dim=-1)

    def _logits(self, z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.clip.logit_scale * torch.einsum("be,bce->bc", F.normalize(z.float(), dim=-1), text)


def build_gopro(
    clip_model: FrozenCLIP,
    classnames: list[str],
    variant: str = "paper",
    n_ctx: int = 4,
    ctx_init: str = "a photo of a",
    ctx_std: float = 0.02,
    style_eps: float = 2.3e-8,
) -> GOProModel:
    """A GOPro model with initial values.

    Args:
        clip_model: The backbone.
        classnames: C names by label.
        variant: `paper` or `released`.
        n_ctx: M, used when no words are given.
        ctx_init: Words that the context starts from; M becomes their number of tokens. "" draws N(0, ctx_std).
        ctx_std: See above.
        style_eps: See `PromptLearner`.

    Returns:
        The model on the backbone's device.

    Raises:
        ValueError: Unknown variant, no context tokens, or a class name that does not fit.
    """
    if variant not in VARIANTS:
        raise ValueError(f"TRAINER.GOPRO.VARIANT must be one of {VARIANTS}, got {variant!r}")
    if ctx_init:
        context = clip_model.embed_words(ctx_init.replace("_", " "))
    elif n_ctx < 1:
        raise ValueError(f"TRAINER.GOPRO.N_CTX must be at least 1, got {n_ctx}")
    else:
        context = torch.randn(n_ctx, clip_model.text_width) * ctx_std
    learner = GOProLearner(
        PromptLearner(context, clip_model.vision_layers, clip_model.vision_width, variant, style_eps),
        ImageProjector(clip_model.embed_dim, variant),
    ).to(clip_model.device)
    return GOProModel(clip_model, clip_model.prompt_tree(classnames, len(context)), learner, variant)


@TRAINER_REGISTRY.register()
class GOPro(CLIPTrainer):
    """Trainer of GOPro; see the module's docstring."""

    config_key = "GOPRO"

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check the method's own values."""
        super().check_cfg(cfg)
        node = cfg.TRAINER.GOPRO
        if node.VARIANT not in VARIANTS:
            raise ValueError(f"TRAINER.GOPRO.VARIANT must be one of {VARIANTS}, got {node.VARIANT!r}")
        if node.SEM_REDUCTION not in ("auto", "sum", "mean"):
            raise ValueError(f"TRAINER.GOPRO.SEM_REDUCTION must be auto, sum or mean, got {node.SEM_REDUCTION!r}")
        for key in ("W_SEM", "W_CON"):
            if node[key] < 0:
                raise ValueError(f"TRAINER.GOPRO.{key} must not be negative, got {node[key]}")
        if node.TEMPERATURE <= 0:
            raise ValueError(f"TRAINER.GOPRO.TEMPERATURE must be positive, got {node.TEMPERATURE}")

    def build_data_manager(self) -> DataManager:
        """Three training transforms: img is the original view, img2 MoCo v3, img3 AugMix; one for testing."""
        cfg, moco, augmix = self.cfg, self.options.MOCO, self.options.AUGMIX
        common = (self.clip.image_size, self.clip.mean, self.clip.std, cfg.INPUT.INTERPOLATION)
        views = [
            build_transform(cfg, is_train=True),
            moco_view(*common, **{key.lower(): value for key, value in moco.items()}),
            augmix_view(*common, **{key.lower(): value for key, value in augmix.items()}),
        ]
        return DataManager(cfg, custom_tfm_train=views, dataset=self.dataset)

    def build_model(self) -> None:
        """Build the learnables on the frozen backbone and register them, alone, as `gopro`."""
        cfg, node = self.cfg, self.options
        self.model = build_gopro(
            self.clip, self.classnames, node.VARIANT, node.N_CTX, node.CTX_INIT, node.CTX_STD, node.STYLE_EPS
        )
        learner, tree = self.model.learner, self.model.tree
        words = f'"{node.CTX_INIT}"' if node.CTX_INIT else "random vectors"
        print(f"Variant {node.VARIANT}; context of {len(learner.prompt_learner.ctx)} tokens from {words}")
        print(
            f"Learnable parameters: {count_num_param(learner):,}; class tokens computed per image: {tree.num_nodes:,}"
        )
        auto = "sum" if node.VARIANT == "paper" else "mean"
        self.sem_reduction = auto if node.SEM_REDUCTION == "auto" else node.SEM_REDUCTION
        self.optim = build_optimizer(learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("gopro", learner, self.optim, self.sched)

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The three views and the labels, on the device."""
        views = [batch[key].to(self.device, non_blocking=True) for key in ("img", "img2", "img3")]
        return views, batch["label"].to(self.device, non_blocking=True)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        """One optimisation step; returns the losses and the batch accuracy (percent)."""
        views, label = self.parse_batch_train(batch)
        if self.epoch == self.start_epoch and self.batch_idx == 0:
            self.write_views(views)
        node = self.options
        with self.autocast():
            out = self.model(*views)
        assert out.text_moco is not None and out.text_augmix is not None
        assert out.projected is not None and out.projected_moco is not None
        loss_ce = F.cross_entropy(out.logits, label)
        loss_sem = prompt_consistency(out.text, out.text_moco, out.text_augmix, self.sem_reduction)
        loss_con = nt_xent(out.projected, out.projected_moco, node.TEMPERATURE)
        loss = loss_ce + node.W_SEM * loss_sem + node.W_CON * loss_con
        parts = {"loss": loss, "loss_ce": loss_ce, "loss_sem": loss_sem, "loss_con": loss_con}
        self.model_backward_and_update(loss, parts=parts)
        summary = {name: value.item() for name, value in parts.items()}
        summary["acc"] = compute_accuracy(out.logits, label)[0].item()
        return summary

    def write_views(self, views: list[torch.Tensor], images: int = 8) -> None:
        """A TensorBoard grid of the first batch: a row per view, as the model sees them, in true colours."""
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (self.clip.mean, self.clip.std))
        rows = torch.cat([v[:images].float().cpu() * std + mean for v in views]).clamp(0, 1)
        self.write_image("train/views", make_grid(rows, nrow=min(images, len(views[0]))), 0)

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [B, C] of the original view."""
        logits: torch.Tensor = self.model(input).logits
        return logits

    def convert_state_dict(self, name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Drop what a checkpoint of the published code holds beside the learnables."""
        if self.options.VARIANT != "released":
            return state_dict
        return {k: v for k, v in state_dict.items() if not k.startswith(PUBLISHED_EXTRAS)}
