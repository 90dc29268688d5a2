"""Draws the figure of the method in the README: `python -m tools.draw_method docs/method.svg`."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

FROZEN, LEARNED, LOSS, PLAIN = "#dbe7f6", "#fbe3c4", "#d9efdf", "#f3f4f6"
EDGE = {FROZEN: "#2f6db5", LEARNED: "#d07a12", LOSS: "#2f8a5f", PLAIN: "#8a929c"}
INK = "#22272e"

# name: (x, y, width, height, fill, text), centres in units of the figure's grid
BOXES: dict[str, tuple[float, float, float, float, str, str]] = {
    "original": (8, 42, 14, 6, PLAIN, "original view"),
    "moco": (8, 33, 14, 6, PLAIN, "MoCo v3 view"),
    "augmix": (8, 24, 14, 6, PLAIN, "AugMix view"),
    "image": (27, 33, 13, 25, FROZEN, "CLIP's\nimage tower\n\nblocks 1..L"),
    "feature": (47, 42, 16, 6, PLAIN, "feature f(x)"),
    "style": (47, 33, 16, 6, LEARNED, r"style $W^s_l\,(\mu_l+\sigma_l)/2$"),
    "content": (47, 24, 16, 6, LEARNED, r"content $W^c_l\,\mu_l$"),
    "rho": (68, 28.5, 15, 7, LEARNED, "text projector ρ\nmixes the blocks"),
    "ctx": (68, 16, 15, 7, LEARNED, "context\nctx$_1$ .. ctx$_M$"),
    "prompt": (89, 22, 15, 9, PLAIN, "prompt\nctx$_m$ + Δ(x),\nclass name"),
    "text": (107.5, 22, 12, 9, FROZEN, "CLIP's\ntext tower"),
    "features": (126, 22, 14, 9, PLAIN, "text features\nT(x) per class"),
    "project": (68, 42, 15, 6, LEARNED, r"projector $P_v$"),
    "con": (98, 48, 27, 5, LOSS, r"$L_{con}$: NT-Xent, original and MoCo"),
    "ce": (126, 39, 25, 5, LOSS, r"$L_{ce}$: cosine logits, original"),
    "sem": (126, 9, 27, 5, LOSS, r"$L_{sem}$: T of the three views agree"),
}
ARROWS = [
    *(("original", "image"), ("moco", "image"), ("augmix", "image"), ("image", "feature"), ("image", "style")),
    *(("image", "content"), ("style", "rho"), ("content", "rho"), ("rho", "prompt"), ("ctx", "prompt")),
    *(("prompt", "text"), ("text", "features"), ("feature", "project"), ("project", "con"), ("project", "ce")),
    *(("features", "ce"), ("features", "sem")),
]


def ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves one box and reaches the other: sides that face each other."""
    x0, y0, w0, h0, *_ = BOXES[start]
    x1, y1, w1, h1, *_ = BOXES[end]
    if x0 + w0 / 2 < x1 - w1 / 2:  # to the right; into a tall box straight
        level = y0 if abs(y0 - y1) < h1 / 2 else y1
        leave = y1 if abs(y0 - y1) < h0 / 2 else y0
        return (x0 + w0 / 2, leave), (x1 - w1 / 2, level)
    up = 1 if y1 > y0 else -1
    x = x0 if abs(x0 - x1) < w1 / 2 else x1
    return (x, y0 + up * h0 / 2), (x, y1 - up * h1 / 2)


def draw(path: Path) -> None:
    """Write the figure; the file's suffix says in which format."""
    matplotlib.rcParams["svg.hashsalt"] = "method"  # the same file each time
    figure = Figure(figsize=(14, 5), facecolor="white")
    axes = figure.add_subplot()
    axes.set(xlim=(0, 141), ylim=(5, 52))
    axes.axis("off")
    for x, y, width, height, fill, text in BOXES.values():
        corner = (x - width / 2, y - height / 2)
        box = FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=1", fc=fill, ec=EDGE[fill], lw=1.2)
        axes.add_patch(box)
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color=INK)
    for start, end in ARROWS:
        tail, head = ends(start, end)
        axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": "#5b636e", "lw": 1.1})
    kinds = {FROZEN: "frozen CLIP", LEARNED: "learned", LOSS: "loss (training only)"}
    handles = [Patch(fc=fill, ec=EDGE[fill], label=name) for fill, name in kinds.items()]
    axes.legend(handles=handles, loc="lower left", frameon=False, fontsize=9, ncols=3)
    figure.savefig(path, bbox_inches="tight", dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a .svg, .png or .pdf file")
    draw(parser.parse_args(argv).file)


if __name__ == "__main__":
    main()
