"""One picture that shows a prediction: the probabilities, where the image speaks for the class, the nearest words.

Where: occlusion sensitivity (Zeiler and Fergus, ECCV 2014), arXiv 1311.2901. Windows of the image are covered with the
mean colour, one at a time, and the map says how far the class's log-odds, log p / (1 - p), fall. It asks for logits
alone, so it serves every method and backbone, also where the image changes the prompts. Log-odds, because CLIP's
logits fall for all classes together when anything is covered, and a probability near 1 hardly moves at all.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from dassl.data.transforms import build_transform
from dassl.utils.tools import open_atomically
from reporting.explanation import Explanation, save

from .base import CLIPTrainer
from .words import learned_words

BATCH = 32  # covered images that are classified together
MOST_WINDOWS = 9  # a side
MOST_CLASSES = 20  # in a picture


def window_size(image_size: int, patch_size: int) -> int:
    """Side of the windows, pixels: whole patches, the fewest with which there are at most 9 windows a side.

    Args:
        image_size: Height = width, pixels.
        patch_size: Pixels.
    """
    return patch_size * -(-image_size // (patch_size * MOST_WINDOWS))


def log_odds(logits: torch.Tensor, label: int) -> torch.Tensor:
    """Log p / (1 - p) of one class, which has no ceiling near p = 1; of an only class, which has p = 1, its logit.

    Args:
        logits: [B, C].
        label: The class.

    Returns:
        [B].
    """
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.logsumexp(1) if others.shape[1] else logits[:, label]


@torch.no_grad()
def occlusion(
    predict: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, label: int, window: int, batch: int = BATCH
) -> torch.Tensor:
    """How far a class's log-odds fall when a window of the image is covered, for each window of a grid.

    Args:
        predict: [B, 3, H, W] -> logits [B, C].
        image: [3, H, W], normalised, so that 0 is the mean colour.
        label: The class.
        window: Side of the windows, pixels; those at the right and at the bottom may be cut.
        batch: Images a call of `predict` gets at most; memory follows it.

    Returns:
        [rows, columns] on the CPU; positive where what is covered speaks for the class.

    Raises:
        ValueError: The image's shape, or a window or batch below 1.
    """
    if image.ndim != 3 or window < 1 or batch < 1:
        raise ValueError(
            f"image must be [3, H, W], window and batch at least 1, got {list(image.shape)}, {window}, {batch}"
        )
    height, width = image.shape[1:]
    places = [(y, x) for y in range(0, height, window) for x in range(0, width, window)]
    odds = [log_odds(predict(image[None]).float(), label).cpu()]
    for start in range(0, len(places), batch):
        covered = image.repeat(len(places[start : start + batch]), 1, 1, 1)
        for one, (y, x) in zip(covered, places[start : start + batch], strict=True):
            one[:, y : y + window, x : x + window] = 0
        odds.append(log_odds(predict(covered).float(), label).cpu())
    return (odds[0] - torch.cat(odds[1:])).view(-(-height // window), -(-width // window))


def smooth(falls: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """The map of `occlusion` at the image's size, [height, width], bilinear between the windows' centres."""
    rows, columns = falls.shape
    size = (rows * window, columns * window)
    return F.interpolate(falls[None, None], size, mode="bilinear", align_corners=False)[0, 0, :height, :width]


def explain(trainer: CLIPTrainer, image: Image.Image, file: str | PathLike[str], top: int = 5) -> None:
    """Write one PNG that shows a prediction; the file is whole or not there.

    It costs the predictions of 38 images with the tiny CLIP, 51 with ViT-B/16, at most 83, `BATCH` at a time.

    Args:
        trainer: A built trainer with the weights to look at.
        image: As it was read, any size.
        file: The PNG.
        top: Classes to show, 1 to `MOST_CLASSES`.

    Raises:
        ValueError: `top`.
        OSError: The file cannot be written.
    """
    if not 1 <= top <= MOST_CLASSES:
        raise ValueError(f"top must be from 1 to {MOST_CLASSES}, got {top}")
    trainer.set_model_mode("eval")
    image = image.convert("RGB")
    pixels = build_transform(trainer.cfg, is_train=False)(image).to(trainer.device)

    @torch.no_grad()
    def predict(images: torch.Tensor) -> torch.Tensor:
        with trainer.autocast():
            return trainer.model_inference(images).float()

    chances = predict(pixels[None])[0].softmax(-1).cpu()
    best = chances.topk(min(top, len(chances)))
    label, names = int(best.indices[0]), [trainer.classnames[i] for i in best.indices.tolist()]
    size, window = trainer.clip.image_size, window_size(trainer.clip.image_size, trainer.clip.patch_size)
    image.thumbnail((800, 800))  # as large as it is drawn
    std, mean = (torch.tensor(x).view(3, 1, 1) for x in (trainer.clip.std, trainer.clip.mean))
    visible = pixels.cpu() * std + mean
    falls = occlusion(predict, pixels, label, window)
    words = learned_words(trainer, 1, pixels[None], label)
    picture = Explanation(
        image=np.asarray(image),
        seen=(visible.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy(),
        falls=smooth(falls, window, size, size).numpy(),
        classes=list(zip(names, best.values.tolist(), strict=True)),
        words={name: [(w.word, w.distance) for (w,) in vectors] for name, vectors in words.items()},
        covered=f"One of {falls.numel()} windows of {window} x {window} pixels (the model sees {size} x {size})",
    )
    with open_atomically(file, "wb") as out:
        save(picture, out)
