"""The config keys of a method: each with its default and its rule in one place, beside the method's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from yacs.config import CfgNode

from dassl.config.check import Rule, at_least, between, empty, one_of, text
from dassl.engine.optimisation import PRECISIONS

Key: TypeAlias = tuple[Any, Rule | None]  # the default, and what may be given; a bool needs no rule
PREC: Key = ("fp16", one_of(*PRECISIONS))  # fp32, fp16 (half weights, loss scaling), bf16, amp (fp32 weights)


def declare(node: str, keys: Mapping[str, Key]) -> tuple[Callable[[CfgNode], None], dict[str, Rule]]:
    """What `trainers` looks for in a method's file, `add_config` and `RULES`.

    Args:
        node: The method's node of TRAINER, its `config_key`.
        keys: By name, dotted below a node of the method's own; PREC, which all have, comes last where it is not named.
    """
    keys = {f"TRAINER.{node}.{name}": key for name, key in {**keys, "PREC": keys.get("PREC", PREC)}.items()}

    def add_config(cfg: CfgNode) -> None:
        for path, (default, _) in keys.items():
            *parents, name = path.split(".")
            inner = cfg
            for parent in parents:
                inner = inner.setdefault(parent, CfgNode())
            inner[name] = default

    return add_config, {path: rule for path, (_, rule) in keys.items() if rule is not None}


def context_keys(n_ctx: int, ctx_init: str) -> dict[str, Key]:
    """The keys of a learnable context; the arguments are the defaults of N_CTX and CTX_INIT."""
    return {
        "N_CTX": (n_ctx, at_least(1)),  # context tokens M; CTX_INIT's length wins when it is given
        "CTX_INIT": (ctx_init, empty | text),  # initial words; "" draws N(0, CTX_STD)
        "CTX_STD": (0.02, at_least(0)),
    }


def prompt_keys(tokens: int, depth: int) -> dict[str, Key]:
    """The published keys of tokens in both towers; n tokens, `depth` blocks."""
    return {
        "N_CTX_TEXT": (tokens, at_least(1)),  # tokens a text block
        "N_CTX_VISION": (tokens, between(1, 1000)),  # tokens an image block
        "CTX_INIT": ("a photo of a", empty | text),  # the first N_CTX_TEXT tokens start the context, the rest stays
        "CTX_STD": (0.02, at_least(0)),  # of the tokens that are drawn
        "PROMPT_DEPTH_TEXT": (depth, at_least(1)),  # text blocks with tokens of their own, the first included
        "PROMPT_DEPTH_VISION": (depth, at_least(0)),  # image blocks likewise
    }
