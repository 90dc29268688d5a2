"""The words nearest to a learned context: what CoOp's `interpret_prompt.py` shows, for every method that has one.

For each context vector v the tokens w with the smallest |v - e(w)|, e CLIP's token embedding. Distances say more than
words: vectors that were drawn at random, or moved far, lie near no word, and then the nearest one means nothing.
``python -m trainers.words RUN`` prints them; docs: docs/explain.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch

from clip import FrozenCLIP, token_text
from clip.tokenizer import VOCAB_SIZE
from dassl.utils import read_image

from .base import CLIPTrainer
from .loaded_run import load_run


class NearWord(NamedTuple):
    """A token and its Euclidean distance from a context vector."""

    word: str
    distance: float


@torch.no_grad()
def nearest_words(clip_model: FrozenCLIP, context: torch.Tensor, top: int = 3) -> list[list[NearWord]]:
    """The tokens nearest to each vector of a context.

    Args:
        clip_model: The backbone.
        context: [M, Dt].
        top: How many, at least 1.

    Returns:
        For each vector the nearest first.

    Raises:
        ValueError: `top` or the context's shape.
    """
    if context.ndim != 2 or context.shape[1] != clip_model.text_width:
        raise ValueError(f"context must be [M, {clip_model.text_width}], got {list(context.shape)}")
    tokens = clip_model.token_embeddings
    if not 1 <= top <= len(tokens):
        raise ValueError(f"top must be from 1 to {len(tokens)}, got {top}")
    # By matrix products a vector would not be at distance 0 from itself.
    distances = torch.cdist(context.float().to(tokens.device), tokens, compute_mode="donot_use_mm_for_euclid_dist")
    found = distances.topk(top, largest=False)
    rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
    return [[NearWord(token_text(i), d) for i, d in zip(ids, values, strict=True)] for ids, values in rows]


@torch.no_grad()
def learned_words(
    trainer: CLIPTrainer, top: int = 3, image: torch.Tensor | None = None, label: int | None = None
) -> dict[str, list[list[NearWord]]]:
    """The nearest words of a trainer's contexts, as they are now.

    Args:
        trainer: A built trainer.
        top: Words a vector.
        image: [1, 3, H, W], normalised: of contexts that depend on the image, this image's.
        label: Of contexts that belong to one class each, this class's alone.

    Returns:
        By the names that `PromptedCLIP.contexts` gives; empty for a method without a context.
    """
    trainer.set_model_mode("eval")
    contexts = getattr(trainer.model, "contexts", None)
    with trainer.autocast():
        found = {} if contexts is None else contexts(None if image is None else image.to(trainer.device), label)
    return {name: nearest_words(trainer.clip, context, top) for name, context in found.items()}


def tell_words(found: dict[str, list[list[NearWord]]]) -> str:
    """`learned_words` as text, a line for each vector."""
    lines = []
    for name, vectors in found.items():
        lines.append(f"{name}: nearest words of CLIP's vocabulary and their distances")
        for number, words in enumerate(vectors, 1):
            lines.append(f"{number:4d}  " + "  ".join(f"{near.word} {near.distance:.3f}" for near in words))
    return "\n".join(lines) or "This method has no learned context: there are no words to show"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the nearest words of a run's context.

    Args:
        argv: Arguments without the program's name; None takes sys.argv.

    Raises:
        ValueError: A wrong number, or an image that has no effect.
        OSError: No such run or image.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a run, of a test or of an export")
    parser.add_argument("--top", type=int, default=3, help="words of each vector (default %(default)s)")
    parser.add_argument("--image", help="of a context that depends on the image (CoCoOp, GOPro), this image's")
    parser.add_argument("--load-epoch", type=int, help="epoch to load (default: the one that the run tested)")
    parser.add_argument("--backbone", help="where the backbone lies now, if its file moved")
    args = parser.parse_args(argv)
    if not 1 <= args.top <= VOCAB_SIZE:
        raise ValueError(f"--top must be from 1 to {VOCAB_SIZE}, got {args.top}")
    if args.image and not os.path.isfile(args.image):
        raise FileNotFoundError(f"--image {args.image} is no file")
    run = load_run(args.run, epoch=args.load_epoch, backbone=args.backbone)
    trainer, image = run.trainer_for(), None
    if args.image:
        if cast(Any, trainer.model).text_is_fixed:
            raise ValueError(
                f"--image has no effect: the prompts of {type(trainer).__name__} are the same for all images"
            )
        image = run.transform(read_image(args.image, run.as_people_see))[None]
    print(tell_words(learned_words(trainer, args.top, image)))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"words: {type(error).__name__}: {error}")
