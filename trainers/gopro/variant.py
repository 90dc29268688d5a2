"""What the paper's architecture figure and the authors' code do differently, as data; every mixture can be trained.

The last two fields are alike in both: parts of the method that an ablation leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

# Field -> its values. Each field is a config key of TRAINER.GOPRO too, in capitals, where `auto` takes the variant's.
CHOICES = {
    "text_projectors": ("per_view", "shared"),
    "logits": ("projected", "clip"),
    "batchnorm": ("no", "yes"),
    "start": ("clip", "default"),
    "sem_reduction": ("sum", "mean"),
    "primitives": ("both", "style", "content"),
    "sem_views": ("both", "moco", "augmix"),
}


@dataclass(frozen=True)
class Variant:
    """One mixture.

    Attributes:
        text_projectors: per_view: rho, rho_moco and rho_augmix, testing with rho; shared: one rho.
        logits: projected: they see P_v's output, so that L_con shapes predictions; clip: CLIP's own feature.
        batchnorm: yes or no: batch norm in P_v.
        start: clip: P_v the identity and rho zero, so that step 0 is zero-shot CLIP; default: PyTorch's own.
        sem_reduction: Of L_sem over E: sum (2 - 2 cos a pair) or mean.
        primitives: What prompts are made of: (s_l + t_l) / 2 (both), or one of the two alone.
        sem_views: Which augmented views L_sem pulls to the original one.
    """

    text_projectors: str = "per_view"
    logits: str = "projected"
    batchnorm: str = "no"
    start: str = "clip"
    sem_reduction: str = "sum"
    primitives: str = "both"
    sem_views: str = "both"

    def mixed(self, **chosen: str) -> Variant:
        """This variant with other values; `auto` leaves a field as it is."""
        return replace(self, **{name: value for name, value in chosen.items() if value != "auto"})

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))


PAPER = Variant()
RELEASED = Variant("shared", "clip", "yes", "default", "mean")
VARIANTS = {"paper": PAPER, "released": RELEASED}
