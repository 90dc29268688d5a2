"""CLIP's byte-pair tokenizer (ftfy clean-up, lower case, BPE), with errors where open_clip truncates in silence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

SOT = 49406  # <start_of_text>
EOT = 49407  # <end_of_text>, the highest id: text towers read their feature at its position
VOCAB_SIZE = 49408


@lru_cache(maxsize=1)
def _bpe() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def encode(text: str) -> list[int]:
    """Token ids of a text, without start and end tokens.

    Args:
        text: Any string; it is cleaned, lower-cased and stripped first.

    Returns:
        Ids in [0, 49406).
    """
    return list(_bpe().encode(text))


def decode(ids: Sequence[int]) -> str:
    """Text of token ids (the inverse of `encode` up to spacing and case)."""
    return str(_bpe().decode([i for i in ids if i not in (SOT, EOT)])).strip()


def token_text(id: int) -> str:
    """How a token reads alone: a word's end or a whole word as it is, a piece that goes on with a hyphen behind it.

    Bytes that are no text by themselves read as in the vocabulary's file, where each has a letter.
    """
    spelled = str(_bpe().decoder[id])
    goes_on = not spelled.endswith("</w>") and id not in (SOT, EOT)
    text = str(_bpe().decode([id])).strip()
    if not text or not text.isprintable() or "\N{REPLACEMENT CHARACTER}" in text:
        text = spelled.removesuffix("</w>")
    return f"{text}-" if goes_on else text


def tokenize(texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> torch.Tensor:
    """Token ids in CLIP's layout: start, text, end, zeros.

    Args:
        texts: One string or N strings.
        context_length: Length of the output, in tokens.
        truncate: Cut a text that is too long (its end token stays) instead of raising.

    Returns:
        Long tensor [N, context_length].

    Raises:
        ValueError: A text needs more than `context_length` tokens and `truncate` is off.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    out = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(out, texts, strict=True):
        ids = [SOT, *encode(text), EOT]
        if len(ids) > context_length:
            if not truncate:
                raise ValueError(f"text needs {len(ids)} tokens, the context holds {context_length}: {text!r}")
            ids = [*ids[: context_length - 1], EOT]
        row[: len(ids)] = torch.tensor(ids)
    return out


def imagenet_sentences(count: int) -> tuple[str, ...]:
    """CLIP's own sentences for ImageNet with {} for the class name, as open_clip has them.

    Args:
        count: 80, all, or 7, the best.
    """
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    sentences = {80: OPENAI_IMAGENET_TEMPLATES, 7: SIMPLE_IMAGENET_TEMPLATES}[count]
    return tuple(fill("{}") for fill in sentences)
