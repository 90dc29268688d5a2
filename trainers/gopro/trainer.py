"""The trainer of GOPro: its config keys, views, loss and checkpoints."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import count_num_param

from ..base import CLIPTrainer
from ..losses import nt_xent, prompt_consistency
from .model import VARIANTS, build_gopro
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
