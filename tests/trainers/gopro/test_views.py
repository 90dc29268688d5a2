import numpy as np
import pytest
import torch
from PIL import Image

from dassl.utils import seeded
from trainers.gopro.views import augmix_view, moco_view

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def photo(side=80):
    grid = np.linspace(0, 255, side, dtype=np.uint8)
    return Image.fromarray(
        np.stack([grid[None].repeat(side, 0), grid[:, None].repeat(side, 1)] + [grid[None].repeat(side, 0)], -1)
    )


@pytest.mark.parametrize("view", [moco_view, augmix_view])
def test_gives_a_normalised_tensor_of_the_right_size_that_varies(view):
    transform = view(60, MEAN, STD)
    with seeded(1):
        first, second = transform(photo()), transform(photo())
    with seeded(1):
        again = transform(photo())
    assert first.shape == (3, 60, 60) and first.dtype == torch.float32
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("view", [moco_view, augmix_view])
def test_normalises_with_the_given_mean_and_std_and_never_wraps_values(view):
    transform = view(60, MEAN, STD)
    low = torch.tensor([(0 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    high = torch.tensor([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    for i in range(20):
        with seeded(i):
            out = transform(photo()).flatten(1)
        assert (out.amin(1) >= low - 1e-5).all() and (out.amax(1) <= high + 1e-5).all()


def test_moco_without_its_random_parts_only_resizes():
    quiet = moco_view(60, MEAN, STD, scale=(1.0, 1.0), jitter_p=0, gray_p=0, blur_p=0, flip_p=0)
    white = Image.new("RGB", (60, 60), "white")
    expected = torch.tensor([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)]).view(3, 1, 1).expand(3, 60, 60)
    assert torch.allclose(quiet(white), expected, atol=1e-5)


def test_gray_and_blur_do_what_they_say():
    gray = moco_view(60, (0, 0, 0), (1, 1, 1), jitter_p=0, gray_p=1, blur_p=0)(photo())
    assert torch.allclose(gray[0], gray[1]) and torch.allclose(gray[1], gray[2])
    checker = Image.fromarray(np.indices((60, 60)).sum(0).astype(np.uint8) % 2 * 255).convert("RGB")
    kwargs = {"scale": (1.0, 1.0), "jitter_p": 0, "gray_p": 0, "flip_p": 0, "blur_sigma": (2.0, 2.0)}
    sharp = moco_view(60, (0, 0, 0), (1, 1, 1), blur_p=0, **kwargs)(checker)
    blurred = moco_view(60, (0, 0, 0), (1, 1, 1), blur_p=1, **kwargs)(checker)
    assert blurred.std() < 0.5 * sharp.std()


def test_augmix_leaves_out_the_colour_operations():
    # On a flat gray image geometry, posterize and solarize at severity 1 keep the channels equal; colour ones may not.
    gray = Image.new("RGB", (60, 60), (120, 120, 120))
    for i in range(20):
        with seeded(i):
            out = augmix_view(60, (0, 0, 0), (1, 1, 1))(gray)
        assert torch.allclose(out[0], out[1]) and torch.allclose(out[1], out[2])
