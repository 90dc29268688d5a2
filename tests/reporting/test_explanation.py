import io

import numpy as np
import pytest
from PIL import Image

from reporting.explanation import Explanation, draw, save, shorten, word_lines

SEEN = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
FALLS = np.zeros((60, 60))
NAMES = ["a_name that goes on " * 9, "猫", "$x^2", "$a_b$ and $\\frac$", "собака", "بيت", "two\nlines", "W" * 90, ""]


def picture(names, **changed):
    share = 1 / len(names)
    return Explanation(
        **{"image": SEEN, "seen": SEEN, "falls": FALLS, "classes": [(n, share) for n in names], **changed}
    )


def texts(figure):
    """All that is written in a figure, axes included."""
    return [text.get_text() for text in [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]]


def pixels(drawn):
    file = io.BytesIO()
    save(drawn, file)
    assert file.getvalue().startswith(b"\x89PNG")
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_any_class_name_is_drawn(name):
    words = {f"context of class 0, {name}": [(name, 0.5)] * 3}
    assert pixels(picture([name, "other"], words=words)).std() > 0


def test_names_and_probabilities_stand_in_the_picture_and_a_dollar_is_no_formula():
    figure = draw(picture(["$x^2$", "star_fish"], words={"context": [("photo", 0.25)]}))
    told = texts(figure)
    assert {"$x^2$", "star fish", "50.0 %", "What “$x^2$” loses where covered"} <= set(told)
    assert any("photo\N{NO-BREAK SPACE}0.25" in line for line in told)
    footer = " ".join(told)
    assert "occlusion sensitivity" in footer and "proves no cause" in footer and "raw softmax" in footer
    # The same picture with another name in dollars differs in its letters: they were drawn one by one.
    plain, dollars = (pixels(picture([name])) for name in ("x2", "$x^2$"))
    assert plain.shape == dollars.shape and (plain != dollars).any()


@pytest.mark.parametrize("level", [0, 255])
def test_the_map_shows_on_dark_and_on_light_images(level):
    seen, falls = np.full((60, 60, 3), level, np.uint8), FALLS.copy()
    falls[:30, :30], falls[30:, 30:] = 2, -2
    drawn = pixels(picture(["star"], image=seen, seen=seen, falls=falls)).astype(int)
    flat = pixels(picture(["star"], image=seen, seen=seen, falls=FALLS)).astype(int)
    red, blue = drawn[..., 0] - drawn[..., 2], flat[..., 0] - flat[..., 2]
    half = drawn.shape[1] // 2  # left of it there is no map
    assert (red[:, :half] == blue[:, :half]).all()
    orange, azure = (red > 100).sum(), (red < -60).sum()
    assert orange > 20_000 and azure > 20_000
    assert not (blue[:, half : 9 * drawn.shape[1] // 10] > 100).any()  # the scale beside it has both colours


def test_a_flat_map_has_a_scale_and_images_of_any_shape_are_drawn():
    for shape in ((1, 1, 3), (400, 3, 3), (3, 400, 3)):
        assert pixels(picture(["star"], image=np.zeros(shape, np.uint8))).std() > 0
    (bar,) = [axes for axes in draw(picture(["star"])).axes[-1].child_axes]
    assert bar.get_ylim() == pytest.approx((-0.1, 0.1))


def test_more_classes_make_the_picture_taller_and_none_lies_over_another():
    few, many = (draw(picture(["star"] * count)) for count in (5, 12))
    assert many.get_figheight() > few.get_figheight()
    heights = [bar.get_y() for bar in many.axes[1].patches][::2]
    assert np.diff(heights) == pytest.approx(1) and max(heights) < many.axes[1].get_ylim()[0]


def test_shortened_texts():
    assert (
        shorten("a_b  c\nd", 20) == "a b c d" and shorten("abcdef", 6) == "abcdef" and shorten("abcdefg", 6) == "abcde…"
    )
    assert word_lines({}) == []
    lines = word_lines({f"context {i}": [("word", 1.0)] * 100 for i in range(5)})
    assert [line[-1] for line in lines[1:4:2]] == ["…", "…"] and lines[-1] == "and 3 more" and len(lines) == 5
