"""ImageNetV2: new test images for ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_files import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetV2(ImageNetVariant):
    """ImageNetV2, matched frequency (Recht et al., Do ImageNet classifiers generalize to ImageNet?, 2019).

    Source: https://github.com/modestyachts/ImageNetV2. Licence: MIT.

    Expected tree::

        imagenetv2/
            imagenetv2-matched-frequency-format-val/<0 to 999>/<image>
            classnames.txt                  ImageNet's; its line order gives the labels

    Official counts: 1,000 classes; 10,000 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, folder i holds the class of line i of classnames.txt, counted from 0.
    """

    dataset_dir = "imagenetv2"
    image_dir = "imagenetv2-matched-frequency-format-val"
    numbered = True
    official = {"classes": 1000, "test": 10000}
