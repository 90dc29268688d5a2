"""Readers of the data sets; importing this package registers them all by their class names."""

from . import (  # noqa: F401
    caltech101,
    dtd,
    eurosat,
    fgvc_aircraft,
    food101,
    image_folder,
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenetv2,
    oxford_flowers,
    oxford_pets,
    pacs,
    shapes,
    stanford_cars,
    sun397,
    ucf101,
)
