"""Image transforms by Dassl's names, made of torchvision's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode, v2
from yacs.config import CfgNode

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}
AVAI_CHOICES = (
    "random_flip",
    "random_resized_crop",
    "random_crop",
    "center_crop",
    "random_translation",
    "imagenet_policy",
    "cifar10_policy",
    "svhn_policy",
    "randaugment",
    "colorjitter",
    "randomgrayscale",
    "gaussian_blur",
    "cutout",
    "normalize",
    "gaussian_noise",
    "instance_norm",
)


class Cutout(torch.nn.Module):
    """Black squares at random places (https://arxiv.org/abs/1708.04552).

    Args:
        n_holes: Number of squares.
        length: Their side, pixels.
    """

    def __init__(self, n_holes: int, length: int) -> None:
        super().__init__()
        self.n_holes, self.length = n_holes, length

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        """[3, H, W] -> [3, H, W]."""
        img = img.clone()
        height, width = img.shape[-2:]
        for _ in range(self.n_holes):
            y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
            half = self.length // 2
            img[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
        return img


class RandomTranslation(torch.nn.Module):
    """Half of the images enlarged by an eighth and cropped at a random place, the others resized.

    Args:
        size: Height and width of the output, pixels.
    """

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, img: Any) -> Any:
        """A PIL image -> one of the output's size."""
        if torch.rand(()) > 0.5:
            return v2.functional.resize(img, list(self.size))
        larger = [round(side * 1.125) for side in self.size]
        top, left = (int(torch.randint(a - b + 1, ())) for a, b in zip(larger, self.size, strict=True))
        return v2.functional.crop(v2.functional.resize(img, larger), top, left, *self.size)


class GaussianNoise(torch.nn.Module):
    """Noise of N(mean, std) on every value; the result is not clipped.

    Args:
        mean: Of the noise.
        std: Of the noise.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        """[3, H, W] -> [3, H, W]."""
        return img + torch.randn_like(img) * self.std + self.mean


class InstanceNorm(torch.nn.Module):
    """Every channel to mean 0 and deviation 1."""

    def forward(self, img: torch.Tensor) -> torch.Tensor:
        """[3, H, W] -> [3, H, W]."""
        flat = img.flatten(1)
        return (img - flat.mean(1).view(-1, 1, 1)) / (flat.std(1).view(-1, 1, 1) + 1e-8)


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> Any:
    """Transform from a PIL image to a float tensor [3, H, W].

    In training the chosen augmentations apply in Dassl's fixed order; in testing the shorter side is resized to
    INPUT.SIZE and the centre cropped, and only normalize and instance_norm of the choices apply.

    Args:
        cfg: The config; its node INPUT is read.
        is_train: For training.
        choices: Names to use instead of INPUT.TRANSFORMS.

    Returns:
        The transform; None with INPUT.NO_TRANSFORM, for trainers that bring their own, unless choices are given.

    Raises:
        ValueError: Unknown transform or interpolation, or a blur wider than the image.
    """
    inp = cfg.INPUT
    if inp.NO_TRANSFORM and choices is None:
        return None
    choices = tuple(inp.TRANSFORMS if choices is None else choices)
    unknown = [choice for choice in choices if choice not in AVAI_CHOICES]
    if unknown:
        raise ValueError(f"INPUT.TRANSFORMS: unknown {unknown}; allowed: {', '.join(AVAI_CHOICES)}")
    if inp.INTERPOLATION not in INTERPOLATION_MODES:
        raise ValueError(f"INPUT.INTERPOLATION must be one of {list(INTERPOLATION_MODES)}, got {inp.INTERPOLATION!r}")
    mode, size = INTERPOLATION_MODES[inp.INTERPOLATION], tuple(inp.SIZE)
    if "gaussian_blur" in choices and min(size) <= inp.GB_K // 2:
        raise ValueError(f"INPUT.GB_K must be below twice INPUT.SIZE {size}, got {inp.GB_K}")
    # Decoded images go through torchvision's PIL kernels (the field's reference), then become tensors.
    steps: list[Any] = _train_steps(inp, choices, size, mode) if is_train else _test_steps(size, mode)
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if is_train and "cutout" in choices:
        steps.append(Cutout(inp.CUTOUT_N, inp.CUTOUT_LEN))
    if "normalize" in choices:
        steps.append(v2.Normalize(list(inp.PIXEL_MEAN), list(inp.PIXEL_STD)))
    if is_train and "gaussian_noise" in choices:
        steps.append(v2.RandomApply([GaussianNoise(inp.GN_MEAN, inp.GN_STD)], p=0.5))
    if "instance_norm" in choices:
        steps.append(InstanceNorm())
    return v2.Compose([*steps, v2.ToPureTensor()])


def _test_steps(size: tuple[int, ...], mode: InterpolationMode) -> list[Any]:
    return [v2.Resize(max(size), interpolation=mode, antialias=True), v2.CenterCrop(size)]


def _train_steps(inp: CfgNode, choices: tuple[str, ...], size: tuple[int, ...], mode: InterpolationMode) -> list[Any]:
    steps: list[Any] = []
    if "random_crop" not in choices and "random_resized_crop" not in choices:
        steps.append(v2.Resize(size, interpolation=mode, antialias=True))
    if "random_translation" in choices:
        steps.append(RandomTranslation(size))
    if "random_crop" in choices:
        steps.append(v2.RandomCrop(size, padding=inp.CROP_PADDING, pad_if_needed=True))
    if "random_resized_crop" in choices:
        scale = tuple(inp.RRCROP_SCALE)
        steps.append(v2.RandomResizedCrop(size, scale=scale, interpolation=mode, antialias=True))
    if "center_crop" in choices:
        steps.append(v2.CenterCrop(size))
    if "random_flip" in choices:
        steps.append(v2.RandomHorizontalFlip())
    for name in ("imagenet", "cifar10", "svhn"):
        if f"{name}_policy" in choices:
            steps.append(v2.AutoAugment(v2.AutoAugmentPolicy(name)))
    if "randaugment" in choices:
        steps.append(v2.RandAugment(inp.RANDAUGMENT_N, inp.RANDAUGMENT_M))
    if "colorjitter" in choices:
        strength = (inp.COLORJITTER_B, inp.COLORJITTER_C, inp.COLORJITTER_S, inp.COLORJITTER_H)
        steps.append(v2.ColorJitter(*strength))
    if "randomgrayscale" in choices:
        steps.append(v2.RandomGrayscale(inp.RGS_P))
    if "gaussian_blur" in choices:
        steps.append(v2.RandomApply([v2.GaussianBlur(inp.GB_K)], p=inp.GB_P))
    return steps
