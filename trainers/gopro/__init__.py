"""GOPro: Generate and Optimize Prompts in CLIP using Self-Supervised Learning (Singha, Jha, Banerjee, BMVC 2023).

https://arxiv.org/abs/2308.11605. Per image, the token statistics of every block of the frozen image tower (style:
mean and deviation, content: mean) are projected to the text width, mixed over blocks, and added to learnable
context vectors (`model.py`). Training minimises (`loss.py`)

    L = L_ce + w_sem L_sem + w_con L_con

over three views of each image (`views.py`): cross-entropy of the original view's logits, consistency of the views'
text features (`losses.prompt_consistency`), and NT-Xent of two views' projected image features (`losses.nt_xent`).

TRAINER.GOPRO.VARIANT chooses between the paper's figure (`paper`) and the authors' code (`released`); `variant.py`
has what they differ in, field by field. Letters: B images, C classes, M context tokens, L blocks, Dv / Dt widths of
the image / text tower, E joint width.
"""

from .loss import gopro_loss
from .model import GOProLearner, GOProModel, GOProOutput, ImageProjector, PromptLearner, build_gopro
from .trainer import RULES, GOPro, add_config
from .variant import PAPER, RELEASED, VARIANTS, Variant

__all__ = [
    "PAPER",
    "RELEASED",
    "RULES",
    "VARIANTS",
    "GOPro",
    "GOProLearner",
    "GOProModel",
    "GOProOutput",
    "ImageProjector",
    "PromptLearner",
    "Variant",
    "add_config",
    "build_gopro",
    "gopro_loss",
]
