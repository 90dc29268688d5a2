"""Zero-shot CLIP with a hand-written prompt (https://arxiv.org/abs/2103.00020): the row that every table needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from yacs.config import CfgNode

from dassl.config.check import Rule, one_of
from dassl.engine import TRAINER_REGISTRY

from .base import PRECISION_RULE, CLIPTrainer, cosine_logits
from .templates import DEFAULT_TEMPLATE, TEMPLATES, fill, has_one_place

RULES = {
    "TRAINER.ZSCLIP.TEMPLATE": one_of("auto") | Rule("a sentence with {} once, for the class name", has_one_place),
    "TRAINER.ZSCLIP.PREC": PRECISION_RULE,
}


def add_config(cfg: CfgNode) -> None:
    """Declare TRAINER.ZSCLIP."""
    node = cfg.TRAINER.ZSCLIP = CfgNode()
    node.TEMPLATE = "auto"  # a sentence with {} for the class name; auto: CoOp's for the data set
    node.PREC = "fp16"


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    """CLIP as it is: nothing is trained, `train` only tests."""

    config_key = "ZSCLIP"

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
