"""VPT: Visual Prompt Tuning (Jia et al., ECCV 2022), arXiv 2203.12119, on CLIP as in MaPLe's comparison.

Image blocks 0..J-1 have n tokens of their own each; the text is that of one sentence, the same for all data sets.
Trained with cross-entropy.
"""

from __future__ import annotations

from dassl.config.check import at_least, between
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .deep_prompts import DeepPromptedCLIP, DeepPromptLearner
from .keys import declare
from .templates import DEFAULT_TEMPLATE, fill

add_config, RULES = declare(
    "VPT",
    {
        "N_CTX_VISION": (8, between(1, 1000)),  # tokens a block
        "PROMPT_DEPTH_VISION": (12, at_least(1)),  # image blocks with tokens of their own; 1: shallow
        "CTX_STD": (0.02, at_least(0)),
    },
)


@TRAINER_REGISTRY.register()
class VPT(CLIPTrainer):
    """Trainer of VPT."""

    config_key = "VPT"

    def build_model(self) -> None:
        """Build the tokens and register them as `prompts`."""
        node = self.options
        self.check_depth("PROMPT_DEPTH_VISION", "image")
        vision = (node.PROMPT_DEPTH_VISION, node.N_CTX_VISION, self.clip.vision_width)
        learner = DeepPromptLearner(None, 0, vision, node.CTX_STD)
        tree = self.clip.sentence_tree(fill(DEFAULT_TEMPLATE, self.classnames))
        self.model = DeepPromptedCLIP(self.clip, tree, learner)
        self.register("prompts", learner)
