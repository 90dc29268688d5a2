"""Transforms by Dassl's names."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from dassl.data.transforms import AVAI_CHOICES, build_transform, cutout
from dassl.utils import seeded

MakeCfg = Callable[..., Any]
RANDOM = set(AVAI_CHOICES) - {"center_crop", "normalize", "instance_norm"}


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def apply(cfg: Any, image: Image.Image, seed: int = 0, is_train: bool = True) -> torch.Tensor:
    with seeded(seed):
        return build_transform(cfg, is_train)(image)


@pytest.mark.parametrize("name", AVAI_CHOICES)
def test_every_choice_gives_a_float_image_of_input_size(name: str, make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.SIZE", "(24, 32)", "INPUT.TRANSFORMS", f"('{name}',)")
    output = apply(cfg, image)
    assert type(output) is torch.Tensor
    assert (output.shape, output.dtype) == ((3, 24, 32), torch.float32)


@pytest.mark.parametrize("name", AVAI_CHOICES)
def test_augmentations_are_random_and_the_rest_is_not(name: str, make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.SIZE", "(32, 32)", "INPUT.TRANSFORMS", f"('{name}',)")
    outputs = [apply(cfg, image, seed) for seed in range(30)]
    assert any(not torch.equal(outputs[0], output) for output in outputs) == (name in RANDOM)
    assert torch.equal(outputs[0], apply(cfg, image, 0))


@pytest.mark.parametrize("name", AVAI_CHOICES)
def test_transforms_survive_the_way_to_a_spawned_worker(name: str, make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.SIZE", "(24, 32)", "INPUT.TRANSFORMS", f"('{name}',)")
    copy = pickle.loads(pickle.dumps(build_transform(cfg)))
    for seed in range(4):  # some of them leave every other image alone
        with seeded(seed):
            assert torch.equal(copy(image), apply(cfg, image, seed))


def test_gaussian_noise_has_its_mean_and_deviation_and_is_not_clipped(make_cfg: MakeCfg) -> None:
    opts = ("INPUT.SIZE", "(64, 64)", "INPUT.TRANSFORMS", "('gaussian_noise',)", "INPUT.GN_MEAN", "-0.5")
    cfg = make_cfg(*opts, "INPUT.GN_STD", "0.25")
    outputs = [apply(cfg, Image.new("RGB", (64, 64)), seed) for seed in range(8)]
    noisy = torch.stack([output for output in outputs if output.any()])
    assert 0 < len(noisy) < len(outputs)
    assert abs(noisy.mean() + 0.5) < 0.01 and abs(noisy.std() - 0.25) < 0.01 and noisy.min() < -1


def test_testing_resizes_the_shorter_side_and_crops_the_centre(make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.SIZE", "(20, 20)", "INPUT.TRANSFORMS", "('random_flip', 'random_resized_crop', 'normalize')")
    resized = functional.center_crop(functional.resize(image, 20), [20, 20])
    expected = functional.normalize(functional.to_tensor(resized), cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)
    for seed in range(3):
        torch.testing.assert_close(apply(cfg, image, seed, is_train=False), expected)


def test_values_are_in_0_to_1_unless_normalised(make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.TRANSFORMS", "()", "INPUT.SIZE", "(40, 60)")
    torch.testing.assert_close(apply(cfg, image), functional.to_tensor(image))


def test_normalise_uses_the_configs_mean_and_deviation(make_cfg: MakeCfg, image: Image.Image) -> None:
    opts = ("INPUT.SIZE", "(40, 60)", "INPUT.TRANSFORMS", "('normalize',)")
    cfg = make_cfg(*opts, "INPUT.PIXEL_MEAN", "[0.5, 0.25, 0.0]", "INPUT.PIXEL_STD", "[0.5, 1.0, 2.0]")
    pixels = functional.to_tensor(image)
    expected = torch.stack([(pixels[0] - 0.5) / 0.5, pixels[1] - 0.25, pixels[2] / 2])
    torch.testing.assert_close(apply(cfg, image), expected)


def test_instance_norm_gives_mean_0_and_deviation_1(make_cfg: MakeCfg, image: Image.Image) -> None:
    flat = apply(make_cfg("INPUT.TRANSFORMS", "('instance_norm',)"), image).flatten(1)
    torch.testing.assert_close(flat.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(1), torch.ones(3), atol=1e-5, rtol=0)


def test_flip_mirrors_half_of_the_images(make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.TRANSFORMS", "('random_flip',)", "INPUT.SIZE", "(40, 60)")
    plain = build_transform(cfg, choices=())(image)
    flipped = [torch.equal(apply(cfg, image, seed), plain.flip(2)) for seed in range(40)]
    kept = [torch.equal(apply(cfg, image, seed), plain) for seed in range(40)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 8 < sum(flipped) < 32


def test_resized_crop_keeps_to_its_scale(make_cfg: MakeCfg) -> None:
    # Red rises to the right and green downwards, so that their ranges tell how much of the image a crop holds.
    ramp = np.zeros((64, 64, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(64) * 4
    ramp[..., 1] = np.arange(64)[:, None] * 4
    cfg = make_cfg(
        "INPUT.TRANSFORMS", "('random_resized_crop',)", "INPUT.RRCROP_SCALE", "(0.2, 0.3)", "INPUT.SIZE", "(64, 64)"
    )
    for seed in range(20):
        crop = apply(cfg, Image.fromarray(ramp), seed)
        width, height = (float(crop[c].max() - crop[c].min()) * 255 / 4 + 1 for c in (0, 1))
        assert 0.15 < width * height / 64**2 < 0.35


def test_cutout_blackens_squares_without_touching_its_input() -> None:
    image = torch.ones(3, 32, 32)
    with seeded(1):
        cut = cutout(image, n_holes=1, length=8)
    assert torch.equal(image, torch.ones(3, 32, 32))
    black = int((cut[0] == 0).sum())
    assert 16 <= black <= 64
    assert torch.equal(cut[0], cut[1])


def test_blur_wider_than_the_image_is_refused(make_cfg: MakeCfg, image: Image.Image) -> None:
    opts = ("INPUT.TRANSFORMS", "('gaussian_blur',)", "INPUT.GB_P", "1", "INPUT.SIZE", "(8, 16)", "INPUT.GB_K")
    assert apply(make_cfg(*opts, "15"), image).shape == (3, 8, 16)
    with pytest.raises(ValueError, match=r"INPUT.GB_K must be below twice INPUT.SIZE \(8, 16\), got 17"):
        build_transform(make_cfg(*opts, "17"))


def test_random_crop_pads_images_that_are_smaller(make_cfg: MakeCfg, image: Image.Image) -> None:
    cfg = make_cfg("INPUT.TRANSFORMS", "('random_crop',)", "INPUT.SIZE", "(100, 100)")
    assert apply(cfg, image).shape == (3, 100, 100)


def test_no_transform_gives_none(make_cfg: MakeCfg) -> None:
    cfg = make_cfg("INPUT.NO_TRANSFORM", "True")
    assert build_transform(cfg) is None and build_transform(cfg, is_train=False) is None
    assert build_transform(cfg, choices=["normalize"]) is not None


def test_unknown_transform_and_interpolation_are_refused(make_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match=r"INPUT.TRANSFORMS: unknown \['flip'\]; allowed: random_flip, "):
        build_transform(make_cfg("INPUT.TRANSFORMS", "('flip', 'normalize')"))
    with pytest.raises(ValueError, match=r"INPUT.INTERPOLATION must be one of .*'bicubic'.* got 'cubic'"):
        build_transform(make_cfg("INPUT.INTERPOLATION", "cubic"))
