"""IVLP: independent prompts of both towers, the baseline of MaPLe (Khattak et al., CVPR 2023), arXiv 2210.03117.

Text blocks 0..J-1 and image blocks 0..K-1 have n tokens of their own each, trained with cross-entropy; with
PROMPT_DEPTH_VISION 0 it is deep language prompting.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .deep_prompts import build_deep_prompts
from .keys import declare, prompt_keys

add_config, RULES = declare("IVLP", prompt_keys(tokens=2, depth=12))


@TRAINER_REGISTRY.register()
class IVLP(CLIPTrainer):
    """Trainer of independent prompts."""

    config_key = "IVLP"

    def build_model(self) -> None:
        """Build the tokens and register them as `prompts`."""
        self.model = build_deep_prompts(self)
        self.register("prompts", self.model.learner)
