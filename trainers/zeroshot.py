"""Zero-shot CLIP with a hand-written prompt (https://arxiv.org/abs/2103.00020): the row that every table needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer, cosine_logits
from .templates import DEFAULT_TEMPLATE, TEMPLATES, fill


def add_config(cfg: CfgNode) -> None:
    """Declare TRAINER.ZSCLIP."""
    node = cfg.TRAINER.ZSCLIP = CfgNode()
    node.TEMPLATE = "auto"  # a sentence with {} for the class name; auto: CoOp's for the data set
    node.PREC = "fp16"


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    """CLIP as it is: nothing is trained, `train` only tests."""

    config_key = "ZSCLIP"

    def check_cfg(self, cfg: CfgNode) -> None:
        """The template must have exactly one place for the class name."""
        super().check_cfg(cfg)
        template = cfg.TRAINER.ZSCLIP.TEMPLATE
        if template != "auto" and template.count("{}") != 1:
            raise ValueError(f"TRAINER.ZSCLIP.TEMPLATE must hold {{}} once, or be auto; got {template!r}")

    def build_model(self) -> None:
        """Encode the class names once."""
        template = self.options.TEMPLATE
        if template == "auto":
            template = TEMPLATES.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE)
        print(f'Prompt: "{template}"')
        with self.autocast():
            text = self.clip.encode_text(self.clip.tokenize(fill(template, self.classnames)))
        self.text = F.normalize(text, dim=-1)

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [B, C]."""
        return cosine_logits(self.clip.encode_image(input), self.text, self.clip.logit_scale)
