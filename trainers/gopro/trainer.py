"""The trainer of GOPro: its config keys, views and checkpoints."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import torch
from torchvision.utils import make_grid

from dassl.config.check import Rule, at_least, between, interval, one_of, positive, share
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY

from ..base import CLIPTrainer
from ..keys import PREC, context_keys, declare
from .loss import gopro_loss
from .model import GOProModel, GOProOutput, build_gopro
from .variant import CHOICES, VARIANTS, Variant
from .views import augmix_view, moco_view

# The published code saved the whole model; what is not learnable there is rebuilt here, never loaded.
NOT_LEARNED = (
    "image_encoder.",
    "text_encoder.",
    "logit_scale",
    "prompt_learner.meta_net.",
    "prompt_learner.token_",
)


add_config, RULES = declare(
    "GOPRO",
    {
        "VARIANT": ("paper", one_of(*VARIANTS)),  # paper: the architecture figure; released: the authors' code
        # What the two differ in, one by one, and what can be left out; see `variant.py`.
        **{field.upper(): ("auto", one_of("auto", *values)) for field, values in CHOICES.items()},
        **context_keys(n_ctx=4, ctx_init="a photo of a"),
        "PREC": PREC,
        "STYLE_EPS": (2.3e-8, positive),  # added to the tokens' variance under the root
        "W_SEM": (1.0, at_least(0)),
        "SEM_CLASSES": (0, at_least(0)),  # of how many classes, drawn anew each step, L_sem is taken; 0: of all
        "W_CON": (0.1, at_least(0)),
        "TEMPERATURE": (0.1, positive),  # of L_con
        "MOCO.SCALE": ((0.08, 1.0), interval(0, 1)),
        "MOCO.JITTER": (  # brightness, contrast, saturation, hue
            (0.4, 0.4, 0.2, 0.1),
            Rule(
                "four numbers of at least 0, the last (hue) at most 0.5",
                lambda value: len(value) == 4 and all(x >= 0 for x in value) and value[3] <= 0.5,
            ),
        ),
        "MOCO.JITTER_P": (0.8, share),
        "MOCO.GRAY_P": (0.2, share),
        "MOCO.BLUR_SIGMA": ((0.1, 2.0), interval(0.01, 10)),  # pixels
        "MOCO.BLUR_P": (1.0, share),
        "MOCO.FLIP_P": (0.5, share),
        "AUGMIX.SCALE": ((0.08, 1.0), interval(0, 1)),
        "AUGMIX.FLIP_P": (0.5, share),
        "AUGMIX.SEVERITY": (1, between(1, 10)),
        "AUGMIX.WIDTH": (3, between(1, 100)),
        "AUGMIX.DEPTH": (-1, one_of(-1) | at_least(1)),  # -1 draws 1 to 3
        "AUGMIX.ALPHA": (1.0, positive),
    },
)


@TRAINER_REGISTRY.register()
class GOPro(CLIPTrainer):
    """Trainer of GOPro; the package's docstring has the formulas."""

    config_key = "GOPRO"
    views = ("img", "img2", "img3")
    model: GOProModel

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
        if self.options.SEM_CLASSES >= self.num_classes > 0:
            print(f"TRAINER.GOPRO.SEM_CLASSES {self.options.SEM_CLASSES} takes L_sem of all {self.num_classes} classes")
        print(f"Class tokens computed per image: {self.model.tree.num_nodes:,}")
        self.register("gopro", self.model.learner)

    def loss_parts(self, output: GOProOutput, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """The total and its three parts."""
        node = self.options
        variant, weights = self.variant, (node.W_SEM, node.W_CON, node.TEMPERATURE)
        return gopro_loss(output, label, *weights, variant.sem_reduction, variant.sem_views, self.loss_scale)

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimisation step; the first shows its views in TensorBoard."""
        if self.epoch == self.start_epoch and self.batch_idx == 0:
            self.write_views([batch[key] for key in self.views])
        count = self.options.SEM_CLASSES
        if 0 < count < self.num_classes:
            step = self.epoch * self.num_batches + self.batch_idx  # so that a resumed run draws the same
            draws = random.Random(self.cfg.SEED * 1_000_003 + step)
            self.model.choose_sem_classes(sorted(draws.sample(range(self.num_classes), count)))
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
        return {k: v for k, v in state_dict.items() if not k.startswith(NOT_LEARNED)}
