"""The two sides of the benchmarks on the same random weights: ours and the naive reference."""

from __future__ import annotations

import argparse
from functools import lru_cache
from typing import Any

import torch

import clip
from benchmarks.class_names import class_names
from benchmarks.naive import NaiveGOPro
from benchmarks.naive_methods import NaiveCoCoOp, NaiveCoOp, NaiveMaPLe
from benchmarks.work import Tower, Work, image_work, learner_work, text_work
from clip import FrozenCLIP
from dassl.engine.optimisation import PRECISIONS
from trainers import cocoop, maple
from trainers.gopro import RELEASED, build_gopro
from trainers.model import ContextCLIP, ContextLearner

# How far both sides may differ, relative: what rounding explains, carried through the blocks.
LIMITS = {"fp32": 1e-5, "fp16": 3e-2, "bf16": 2e-1}


def words(count: int) -> str:
    """`count` words of one token each, to start a context from."""
    return " ".join((["a", "photo", "of", "a"] * -(-count // 4))[:count])


@lru_cache(maxsize=2)
def backbone(name: str, device: str, dtype: str = "fp32") -> FrozenCLIP:
    """A CLIP with random weights, the same on each call."""
    return clip.load(name, pretrained=False, dtype=PRECISIONS[dtype].weights, device=device)


def backbone_of(args: argparse.Namespace, side: str) -> FrozenCLIP:
    """The backbone of a side: ours in the precision asked for, the naive one in fp32."""
    return backbone(args.backbone, args.device, args.dtype if side == "ours" else "fp32")


def autocast(device: str, dtype: str) -> torch.autocast:
    """What the naive side, whose weights are fp32, runs under."""
    return torch.autocast(device, PRECISIONS[dtype].weights, enabled=dtype != "fp32")


def build_naive(model: FrozenCLIP, classes: int, method: str = "GOPro", context: int = 4) -> Any:
    """The naive reference of a method on an fp32 backbone, with reproducible learnables."""
    given = (model.model, model.tokenize, class_names(classes), words(context))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if method == "MaPLe":
            return NaiveMaPLe(*given, depth=_maple_depth(model)).to(model.device)
        return {"GOPro": NaiveGOPro, "CoOp": NaiveCoOp, "CoCoOp": NaiveCoCoOp}[method](*given).to(model.device)


def _maple_depth(model: FrozenCLIP) -> int:
    return min(9, model.text_layers, model.vision_layers)  # 9 is published, of twelve


def build_ours(model: FrozenCLIP, classes: int, method: str = "GOPro", like: torch.nn.Module | None = None) -> Any:
    """Our model of a method as published, with the learnables of a naive one."""
    names, context = class_names(classes), model.embed_words(words(4))
    built: Any
    if method == "GOPro":
        built = build_gopro(model, names, variant=RELEASED)
    elif method == "MaPLe":
        learner = maple.MultiModalPromptLearner(context[:2], model.vision_width, _maple_depth(model))
        # The first two words of "a photo of a" make room for the context.
        built = maple.MaPLeModel(model, model.prompt_tree(names, 2, template="of a {}."), learner)
    elif method == "CoCoOp":
        shifting = cocoop.PromptLearner(context, model.embed_dim)
        built = cocoop.CoCoOpModel(model, model.prompt_tree(names, len(context)), shifting)
    else:
        built = ContextCLIP(model, model.prompt_tree(names, len(context)), ContextLearner(context))
    built.learner.to(model.device)
    if like is not None:
        built.learner.load_state_dict(like.state_dict())
    return built


def views(model: FrozenCLIP, batch: int, count: int = 3) -> list[torch.Tensor]:
    """Views of B images, [B, 3, H, W] each: colours under noise, since cost does not depend on what is seen.

    Each image has a colour of its own, and each view shifts it. Noise alone gives nearly the same feature always, and
    batch norm's differences of such features lose so many digits that the reference's own gradients are off by 1e-5.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(scale: float, size: int) -> torch.Tensor:
        return scale * torch.randn((batch, 3, size, size), generator=generator)

    image = draw(3, 1)
    return [(image + draw(1, 1) + draw(0.5, model.image_size)).to(model.device) for _ in range(count)]


def labels(batch: int, classes: int, device: Any) -> torch.Tensor:
    """Long [B]."""
    return (torch.arange(batch) % classes).to(device)


def text_floor(model: FrozenCLIP, batch: int, classes: int, context: int = 4, backward: bool = False) -> Work:
    """Least work of the text features of B images x C classes."""
    names = [[*clip.encode(name + "."), clip.tokenizer.EOT] for name in class_names(classes)]
    tower = Tower.of(model.model.transformer.resblocks, model.embed_dim)
    return text_work(tower, names, batch, context, backward)


def whole_floor(model: FrozenCLIP, batch: int, classes: int, training: bool) -> Work:
    """Least work of a training step (three views, both passes) or of testing (one view) on B images."""
    images = batch * (3 if training else 1)
    tower = Tower.of(model.model.visual.transformer.resblocks, model.embed_dim)
    patch = model.model.visual.conv1.kernel_size[0]
    work = image_work(tower, images, model.image_size, patch) + text_floor(model, images, classes, backward=training)
    return work + learner_work(images, model.vision_layers, model.vision_width, model.text_width, training)
