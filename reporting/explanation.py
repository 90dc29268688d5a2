"""One prediction as a picture: the image, the classes' probabilities, a map over the image, the nearest words."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from reporting.charts import COLOURS, FAINT, GREYS, INK

# Inches: three panels side by side under their titles, words and footer below.
SIDE, GAP, EDGE, HEAD, LINE, ROW = 3.7, 0.5, 0.3, 0.62, 0.2, 0.62
LETTERS, SMALL = 180, 225  # in a line of words and of the footer
NAME = 38  # letters of a class name
LEAST = 0.1  # the map's colours reach at least so far: what reacts to nothing stays pale
# For letters that matplotlib's own font lacks; those that are installed are taken.
FONTS = (
    *("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Devanagari"),
    *("Arial Unicode MS", "Microsoft YaHei", "Hiragino Sans", "WenQuanYi Zen Hei"),
)


@dataclass(frozen=True)
class Explanation:
    """What is drawn.

    Args:
        image: [H, W, 3] in 0..255, as it was given.
        seen: [h, w, 3] in 0..255, what the model saw of it.
        falls: [h, w], how far the first class's log-odds fall where the image is covered.
        classes: Names and probabilities, the most probable first.
        words: By context, for each of its vectors the nearest word and its distance.
        covered: What was covered at a time, for the footer.
    """

    image: Any
    seen: Any
    falls: Any
    classes: Sequence[tuple[str, float]]
    words: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    covered: str = "A window"


def shorten(text: str, width: int) -> str:
    """The text on one line, underscores read as spaces; an ellipsis stands for what is beyond `width` letters."""
    text = " ".join(text.replace("_", " ").split())
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def word_lines(words: dict[str, list[tuple[str, float]]], contexts: int = 2) -> list[str]:
    """The nearest words of the first contexts, two lines each at most, and how many more there are."""
    lines = []
    for name, vectors in list(words.items())[:contexts]:
        told = " · ".join(f"{word}\N{NO-BREAK SPACE}{distance:.2f}" for word, distance in vectors)
        text = f"{name[:1].upper()}{shorten(name[1:], 40)}; nearest words and their distances: {told}"
        lines += textwrap.wrap(text, LETTERS, max_lines=2, placeholder=" …", break_on_hyphens=False)
    return [*lines, f"and {len(words) - contexts} more"] if len(words) > contexts else lines


def footer(covered: str) -> list[str]:
    text = (
        f"Map: occlusion sensitivity (Zeiler & Fergus, 2014). {covered} is covered with the mean colour at a time; "
        "the colour says how far the log-odds of the class fall (orange) or rise (blue) then. It proves no cause: a "
        "covered image is unlike all that the model was trained on, parts can stand in for each other, and nothing "
        "smaller than a window shows. Probabilities: raw softmax over the classes at hand, not calibrated; they add up "
        "to 100 % even if the image shows none of them."
    )
    return textwrap.wrap(text, SMALL)


def draw(picture: Explanation) -> Figure:
    """The figure; its height follows the lines of text."""
    told, small = word_lines(picture.words), footer(picture.covered)
    plot = max(SIDE, ROW * len(picture.classes))
    below = LINE * (len(told) + len(small)) + 0.45
    width, height = 2 * EDGE + 3 * SIDE + 2 * GAP + 0.95, HEAD + plot + below
    figure = Figure(figsize=(width, height))

    def panel(left: float, title: str) -> Axes:
        axes = figure.add_axes((left / width, below / height, SIDE / width, plot / height))
        axes.set_anchor("N")
        figure.text(left / width, 1 - 0.4 / height, title, fontsize=11)
        return axes

    def show(axes: Axes, image: Any) -> None:
        axes.imshow(image, interpolation="bilinear")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(FAINT)  # a white image ends somewhere

    first = shorten(picture.classes[0][0], 30)
    show(panel(EDGE, "Image"), picture.image)
    bars(panel(EDGE + SIDE + GAP, "Probability (raw softmax)"), picture.classes, plot)
    axes = panel(EDGE + 2 * (SIDE + GAP), f"What “{first}” loses where covered")
    show(axes, greyed(picture.seen))
    heat(figure, axes, picture.falls)
    for i, line in enumerate([*told, *small]):
        look: dict[str, Any] = {"fontsize": 9} if i < len(told) else {"fontsize": 8, "color": GREYS[1]}
        at = below - 0.38 - LINE * i - (0.08 if i >= len(told) else 0)
        figure.text(EDGE / width, at / height, line, **look)
    return figure


def bars(axes: Axes, classes: Sequence[tuple[str, float]], plot: float) -> None:
    """A bar for each class under its name."""
    for i, (name, probability) in enumerate(classes):
        axes.barh(i + 0.66, 1, 0.34, color=FAINT)
        axes.barh(i + 0.66, probability, 0.34, color=COLOURS[0])
        axes.text(0, i + 0.38, shorten(name, NAME), fontsize=10)
        over: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # over a name in wide letters
        axes.text(1, i + 0.38, f"{100 * probability:.1f} %", fontsize=10, ha="right", bbox=over)
    axes.set(xlim=(0, 1), ylim=(plot / ROW, 0.1))
    axes.set_axis_off()


def greyed(image: Any) -> Any:
    """[h, w, 3] in 0..255 -> grey in between, on which both colours show wherever the image is dark or light."""
    return (0.3 + 0.6 * (image / 255) @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1)


def heat(figure: Figure, axes: Axes, falls: Any) -> None:
    """The map over what is drawn already, and its scale."""
    most = max(LEAST, float(abs(falls).max()))
    ends = [(0.12, 0.35, 0.75, 0.85), (0.9, 0.9, 0.9, 0), (0.9, 0.4, 0, 0.85)]  # blue, nothing, orange
    colours = LinearSegmentedColormap.from_list("falls", ends)
    drawn = axes.imshow(falls, cmap=colours, vmin=-most, vmax=most, interpolation="bilinear")
    bar = figure.colorbar(drawn, cax=axes.inset_axes((1.04, 0, 0.045, 1)))
    bar.set_label("fall of the log-odds", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def save(picture: Explanation, file: IO[bytes]) -> None:
    """Writes the picture as PNG."""
    installed = {font.name for font in fontManager.ttflist}
    # A dollar sign in a class name is no formula.
    look: dict[Any, Any] = {"text.parse_math": False, "text.color": INK}
    look["font.family"] = [font for font in FONTS if font in installed]
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # then it is drawn as a box
        draw(picture).savefig(file, format="png", dpi=110)
