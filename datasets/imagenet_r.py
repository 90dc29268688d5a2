"""ImageNet-R: art, cartoons, toys and other renditions of 200 of ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_files import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetVariant):
    """ImageNet-R (Hendrycks et al., The many faces of robustness, ICCV 2021).

    Source: https://github.com/hendrycks/imagenet-r. Licence: MIT.

    Expected tree::

        imagenet-rendition/
            imagenet-r/<wnid>/<image>
            classnames.txt                  ImageNet's; labels 0 to 199 follow the sorted folders

    Official counts: 200 classes; 30,000 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, a prediction is one of these 200 classes, not of ImageNet's 1,000.
    """

    dataset_dir = "imagenet-rendition"
    image_dir = "imagenet-r"
    official = {"classes": 200, "test": 30000}
