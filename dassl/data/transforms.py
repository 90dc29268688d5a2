"""Image transforms by Dassl's names, made of torchvision's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
TEST_CHOICES = ("normalize", "instance_norm")  # those that apply in testing too


def cutout(img: torch.Tensor, n_holes: int, length: int) -> torch.Tensor:
    """Black squares at random places of an image [3, H, W], `length` pixels a side (https://arxiv.org/abs/1708.04552)."""
    img = img.clone()
    height, width = img.shape[-2:]
    for _ in range(n_holes):
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        half = length // 2
        img[..., max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return img


def random_translation(img: Any, size: tuple[int, ...]) -> Any:
    """Half of the PIL images enlarged by an eighth and cropped at a random place to (H, W), the others resized."""
    if torch.rand(()) > 0.5:
        return v2.functional.resize(img, list(size))
    larger = [round(side * 1.125) for side in size]
    top, left = (int(torch.randint(a - b + 1, ())) for a, b in zip(larger, size, strict=True))
    return v2.functional.crop(v2.functional.resize(img, larger), top, left, *size)


def add_noise(img: torch.Tensor, mean: float, std: float) -> torch.Tensor:
    """Noise of N(mean, std) on every value; the result is not clipped."""
    return img + torch.randn_like(img) * std + mean


def instance_norm(img: torch.Tensor) -> torch.Tensor:
    """Every channel of an image [3, H, W] to mean 0 and deviation 1."""
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
    strength = (inp.COLORJITTER_B, inp.COLORJITTER_C, inp.COLORJITTER_S, inp.COLORJITTER_H)
    scale = tuple(inp.RRCROP_SCALE)
    # In Dassl's order; of images, which go through torchvision's PIL kernels (the field's reference), then of tensors.
    of_images: dict[str, Callable[[], Any]] = {
        "random_translation": lambda: partial(random_translation, size=size),
        "random_crop": lambda: v2.RandomCrop(size, padding=inp.CROP_PADDING, pad_if_needed=True),
        "random_resized_crop": lambda: v2.RandomResizedCrop(size, scale=scale, interpolation=mode, antialias=True),
        "center_crop": lambda: v2.CenterCrop(size),
        "random_flip": v2.RandomHorizontalFlip,
        "imagenet_policy": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
        "cifar10_policy": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        "svhn_policy": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
        "randaugment": lambda: v2.RandAugment(inp.RANDAUGMENT_N, inp.RANDAUGMENT_M),
        "colorjitter": lambda: v2.ColorJitter(*strength),
        "randomgrayscale": lambda: v2.RandomGrayscale(inp.RGS_P),
        "gaussian_blur": lambda: v2.RandomApply([v2.GaussianBlur(inp.GB_K)], p=inp.GB_P),
    }
    noise = partial(add_noise, mean=inp.GN_MEAN, std=inp.GN_STD)
    of_tensors: dict[str, Callable[[], Any]] = {
        "cutout": lambda: partial(cutout, n_holes=inp.CUTOUT_N, length=inp.CUTOUT_LEN),
        "normalize": lambda: v2.Normalize(list(inp.PIXEL_MEAN), list(inp.PIXEL_STD)),
        "gaussian_noise": lambda: v2.RandomApply([noise], p=0.5),
        "instance_norm": lambda: instance_norm,
    }
    if not is_train:
        choices = [choice for choice in choices if choice in TEST_CHOICES]
        steps = [v2.Resize(max(size), interpolation=mode, antialias=True), v2.CenterCrop(size)]
    elif "random_crop" in choices or "random_resized_crop" in choices:
        steps = []
    else:
        steps = [v2.Resize(size, interpolation=mode, antialias=True)]
    steps += [make() for name, make in of_images.items() if name in choices]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    steps += [make() for name, make in of_tensors.items() if name in choices]
    return v2.Compose([*steps, v2.ToPureTensor()])


def cut_transform(transform: Any) -> tuple[Any, Any] | None:
    """A transform of `build_transform` in two: up to pixels, uint8 [3, H, W], and from there on, of batches too.

    Returns:
        Both parts; None where more than scaling and normalising follows the pixels.
    """
    steps = transform.transforms[:-1]
    place = next(i for i, step in enumerate(steps) if isinstance(step, v2.ToDtype))
    if not all(isinstance(step, v2.Normalize) for step in steps[place + 1 :]):
        return None
    return v2.Compose([*steps[:place], v2.ToPureTensor()]), v2.Compose(steps[place:])
