"""The three views of GOPro, each made from the decoded image by torchvision's own transforms, then normalised."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision.transforms import InterpolationMode, v2


def _view(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    scale: Sequence[float],
    operations: Sequence[torch.nn.Module],
) -> v2.Compose:
    """Some operations on a random crop, which is normalised at the end."""
    mode = InterpolationMode(interpolation)
    crop = v2.RandomResizedCrop(size, scale=tuple(scale), interpolation=mode, antialias=True)
    return v2.Compose([v2.ToImage(), crop, *operations, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def moco_view(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    scale: Sequence[float] = (0.08, 1.0),
    jitter: Sequence[float] = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    gray_p: float = 0.2,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    blur_p: float = 1.0,
    flip_p: float = 0.5,
) -> v2.Compose:
    """MoCo v3's augmentation (https://arxiv.org/abs/2104.02057): crop, colour jitter, grayscale, blur, flip.

    Args:
        size: Output height = width, pixels.
        mean: The backbone's pixel means.
        std: The backbone's pixel standard deviations.
        interpolation: torchvision's name, e.g. bicubic.
        scale: Range of the crop's area, as a share of the image's.
        jitter: Strength of brightness, contrast, saturation and hue jitter.
        jitter_p: Probability of the jitter.
        gray_p: Probability of grayscale.
        blur_sigma: Range of the Gaussian blur's sigma, pixels.
        blur_p: Probability of the blur.
        flip_p: Probability of the horizontal flip.

    Returns:
        A transform from a PIL image to a float tensor [3, size, size].
    """
    kernel = 2 * round(3 * blur_sigma[1]) + 1  # three sigmas to each side
    operations = [
        v2.RandomApply([v2.ColorJitter(*jitter)], p=jitter_p),
        v2.RandomGrayscale(gray_p),
        v2.RandomApply([v2.GaussianBlur(kernel, tuple(blur_sigma))], p=blur_p),
        v2.RandomHorizontalFlip(flip_p),
    ]
    return _view(size, mean, std, interpolation, scale, operations)


def augmix_view(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    scale: Sequence[float] = (0.08, 1.0),
    flip_p: float = 0.5,
    severity: int = 1,
    width: int = 3,
    depth: int = -1,
    alpha: float = 1.0,
) -> v2.Compose:
    """AugMix (https://arxiv.org/abs/1912.02781) after a random crop and flip, without the colour operations.

    Args:
        size: Output height = width, pixels.
        mean: The backbone's pixel means.
        std: The backbone's pixel standard deviations.
        interpolation: torchvision's name, e.g. bicubic.
        scale: Range of the crop's area, as a share of the image's.
        flip_p: Probability of the horizontal flip.
        severity: Strength of the operations, 1 to 10.
        width: Number of chains that are mixed.
        depth: Operations a chain; -1 draws 1 to 3.
        alpha: Of the Dirichlet and Beta distributions of the mixing weights.

    Returns:
        A transform from a PIL image to a float tensor [3, size, size].
    """
    mix = v2.AugMix(severity=severity, mixture_width=width, chain_depth=depth, alpha=alpha, all_ops=False)
    return _view(size, mean, std, interpolation, scale, [v2.RandomHorizontalFlip(flip_p), mix])
