"""ImageNet-A: photos that fool classifiers, over 200 of ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet_files import ImageNetVariant


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetVariant):
    """ImageNet-A (Hendrycks et al., Natural adversarial examples, CVPR 2021).

    Source: https://github.com/hendrycks/natural-adv-examples. Licence: MIT.

    Expected tree::

        imagenet-adversarial/
            imagenet-a/<wnid>/<image>
            classnames.txt                  ImageNet's; labels 0 to 199 follow the sorted folders

    Official counts: 200 classes; 7,500 test images. A test set: its images also stand in as
    train, which gives the class names; ``NUM_SHOTS`` has no effect.

    As in CoOp, a prediction is one of these 200 classes, not of ImageNet's 1,000.
    """

    dataset_dir = "imagenet-adversarial"
    image_dir = "imagenet-a"
    official = {"classes": 200, "test": 7500}
