"""ImageNet-Sketch: sketches of ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_files import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetVariant):
    """ImageNet-Sketch (Wang et al., Learning robust global representations, NeurIPS 2019).

    Source: https://github.com/HaohanWang/ImageNet-Sketch. Licence: MIT.

    Expected tree::

        imagenet-sketch/
            images/<wnid>/<image>
            classnames.txt                  ImageNet's

    Official counts: 1,000 classes; 50,889 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, labels follow the sorted folders, which gives the labels of `ImageNet`.
    """

    dataset_dir = "imagenet-sketch"
    official = {"classes": 1000, "test": 50889}
