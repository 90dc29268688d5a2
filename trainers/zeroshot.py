"""Zero-shot CLIP with hand-written prompts (https://arxiv.org/abs/2103.00020): the row that every table needs."""

from __future__ import annotations

import torch.nn.functional as F

from dassl.config.check import Rule, one_of
from dassl.engine import TRAINER_REGISTRY

from .base import CLIPTrainer
from .keys import declare
from .model import FixedText
from .templates import DEFAULT_TEMPLATE, ENSEMBLES, TEMPLATES, ensemble, fill, has_one_place

add_config, RULES = declare(
    "ZSCLIP",
    {
        # A sentence with {} for the class name; auto: CoOp's for the data set; clip7, clip80: the mean over CLIP's
        # sentences for ImageNet; auto+clip7: the data set's beside these, CoOp's ensemble.
        "TEMPLATE": (
            "auto",
            one_of("auto", *ENSEMBLES, *(f"auto+{name}" for name in ENSEMBLES))
            | Rule("a sentence with {} once, for the class name", has_one_place),
        )
    },
)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(CLIPTrainer):
    """CLIP as it is: nothing is trained, `train` only tests."""

    config_key = "ZSCLIP"
    learns = False

    def build_model(self) -> None:
        """Encode the class names once; of several sentences the mean of the normalised features, normalised."""
        chosen, own = self.options.TEMPLATE, TEMPLATES.get(self.cfg.DATASET.NAME, DEFAULT_TEMPLATE)
        templates = [own] if chosen.startswith("auto") else []
        kind = chosen.rpartition("+")[2]
        templates += ensemble(kind) if kind in ENSEMBLES else [chosen] if not templates else []
        print(f'Prompt: "{templates[0]}"' + (f" and {len(templates) - 1} more" if len(templates) > 1 else ""))
        if len(templates) == 1:
            with self.autocast():
                text = self.clip.encode_text(self.clip.tokenize(fill(templates[0], self.classnames)))
        else:
            text = F.normalize(self.sentence_features(*templates), dim=-1).mean(0)
        self.model = FixedText(self.clip, F.normalize(text, dim=-1))
