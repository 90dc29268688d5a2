"""Losses as functions of tensors and floats: no config, no state."""

from .nt_xent import nt_xent
from .prompt_consistency import prompt_consistency
from .text_anchor import text_anchor_loss

__all__ = ["nt_xent", "prompt_consistency", "text_anchor_loss"]
