"""Frozen CLIP for prompt learning: the only package that imports open_clip.

`load` gives a `FrozenCLIP`, which encodes images (on request with the per-block token statistics that style and content
prompts are made of), texts, and prompts given as embeddings; `available_models` lists the names it knows.
"""

from .backbone import POSITIONS, FrozenCLIP
from .blocks import Update
from .images import ImageFeatures
from .load import available_models, load
from .prompt_tree import PromptTree
from .tokenizer import decode, encode, imagenet_sentences, token_text, tokenize

__all__ = [
    "POSITIONS",
    "FrozenCLIP",
    "ImageFeatures",
    "PromptTree",
    "Update",
    "available_models",
    "decode",
    "encode",
    "imagenet_sentences",
    "load",
    "token_text",
    "tokenize",
]
