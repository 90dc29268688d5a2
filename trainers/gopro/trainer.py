"""The trainer of GOPro: its config keys, views and checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torchvision.utils import make_grid
from yacs.config import CfgNode

from dassl.config.check import Rule, at_least, between, interval, one_of, positive, share
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY

from ..base import PRECISION_RULE, CLIPTrainer, add_context_config, context_rules
from .loss import gopro_loss
from .model import GOProOutput, build_gopro
from .variant import CHOICES, VARIANTS, Variant
from .views import augmix_view, moco_view

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
    for field in CHOICES:  # what the two differ in, one by one; see `variant.py`
        node[field.upper()] = "auto"
    add_context_config(node, n_ctx=4, ctx_init="a photo of a")
    node.PREC = "fp16"  # fp32, fp16 (half weights, loss scaling), bf16, amp (fp32 weights)
    node.STYLE_EPS = 2.3e-8  # added to the tokens' variance under the root
    node.W_SEM = 1.0
    node.W_CON = 0.1
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


_KEY = "TRAINER.GOPRO"
RULES = {
    f"{_KEY}.VARIANT": one_of(*VARIANTS),
    **{f"{_KEY}.{field.upper()}": one_of("auto", *values) for field, values in CHOICES.items()},
    **context_rules(_KEY),
    f"{_KEY}.PREC": PRECISION_RULE,
    **{f"{_KEY}.{name}": positive for name in ("STYLE_EPS", "TEMPERATURE", "AUGMIX.ALPHA")},
    **{f"{_KEY}.{name}": at_least(0) for name in ("W_SEM", "W_CON")},
    **{f"{_KEY}.{name}": share for name in ("MOCO.JITTER_P", "MOCO.GRAY_P", "MOCO.BLUR_P", "MOCO.FLIP_P")},
    f"{_KEY}.AUGMIX.FLIP_P": share,
    **{f"{_KEY}.{view}.SCALE": interval(0, 1) for view in ("MOCO", "AUGMIX")},
    f"{_KEY}.MOCO.JITTER": Rule(
        "four numbers of at least 0, the last (hue) at most 0.5",
        lambda value: len(value) == 4 and all(x >= 0 for x in value) and value[3] <= 0.5,
    ),
    f"{_KEY}.MOCO.BLUR_SIGMA": interval(0.01, 10),
    f"{_KEY}.AUGMIX.SEVERITY": between(1, 10),
    f"{_KEY}.AUGMIX.WIDTH": between(1, 100),
    f"{_KEY}.AUGMIX.DEPTH": one_of(-1) | at_least(1),
}


@TRAINER_REGISTRY.register()
class GOPro(CLIPTrainer):
    """Trainer of GOPro; the package's docstring has the formulas."""

    config_key = "GOPRO"
    views = ("img", "img2", "img3")

    @property
    def variant(self) -> Variant:
        """The variant of the config, with the fields that are set one by one."""
        node = self.options
        return VARIANTS[node.VARIANT].mixed(**{field: node[field.upper()] for field in CHOICES})

    def training_views(self) -> list[Any]:
        """The original view by INPUT.TRANSFORMS, MoCo v3's and AugMix's."""
        cfg, moco, augmix = self.cfg, self.options.MOCO, self.options.AUGMIX
        common = (self.clip.image_size, self.clip.mean, self.clip.std, cfg.INPUT.INTERPOLATION)
        return [
            build_transform(cfg, is_train=True),
            moco_view(*common, **{key.lower(): value for key, value in moco.items()}),
            augmix_view(*common, **{key.lower(): value for key, value in augmix.items()}),
        ]

    def build_model(self) -> None:
        """Build the learnables on the frozen backbone and register them as `gopro`."""
        print(f"Variant {self.options.VARIANT}: {self.variant}")
        self.model = build_gopro(
            self.clip, self.classnames, self.initial_context(), self.variant, self.options.STYLE_EPS
        )
        print(f"Class tokens computed per image: {self.model.tree.num_nodes:,}")
        self.register("gopro", self.model.learner)

    def loss_parts(self, output: GOProOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """The total and its three parts."""
        node = self.options
        return gopro_loss(output, label, node.W_SEM, node.W_CON, node.TEMPERATURE, self.variant.sem_reduction)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimisation step; the first shows its views in TensorBoard."""
        if self.epoch == self.start_epoch and self.batch_idx == 0:
            self.write_views([batch[key] for key in self.views])
        return super().forward_backward(batch)

    def write_views(self, views: list[torch.Tensor], images: int = 8) -> None:
        """A TensorBoard grid of the first batch: a row per view, as the model sees them, in true colours."""
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (self.clip.mean, self.clip.std))
        rows = torch.cat([v[:images] * std + mean for v in views]).clamp(0, 1)
        self.write_image("train/views", make_grid(rows, nrow=min(images, len(views[0]))), 0)

    def checkpoint_meta(self) -> dict[str, Any]:
        """What the weights belong to; not all of the variant shows in their shapes."""
        return {**super().checkpoint_meta(), "variant": asdict(self.variant)}

    def check_checkpoint(self, meta: dict[str, Any]) -> None:
        """Refuse weights that were trained for other logits."""
        super().check_checkpoint(meta)
        wanted, got = self.variant.logits, meta.get("variant", {}).get("logits", self.variant.logits)
        if got != wanted:
            raise ValueError(f"the checkpoint was trained with TRAINER.GOPRO.LOGITS {got}, here they are {wanted}")

    def convert_state_dict(self, name: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Drop what a checkpoint of the published code holds beside the learnables."""
        return {k: v for k, v in state_dict.items() if not k.startswith(PUBLISHED_EXTRAS)}
