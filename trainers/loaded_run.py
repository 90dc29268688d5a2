"""A trained run as one object that answers: `load_run(folder)`, `zero_shot(names)`, then `predict(images)`.

A checkpoint says what its weights belong to (`checkpoint_meta`): the config, the class names, a digest of the backbone.
So the trainer is built anew from it on class names without images, those of the training or any others, and its logits
are those of the test loop, bit by bit where the batches are the same. Docs: docs/predict.md.
"""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from PIL import Image

from clip import FrozenCLIP
from dassl.config import flatten
from dassl.data.datasets import ClassList
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.engine.checkpoint import plain_config
from dassl.utils import read_image, usable_cores
from dassl.utils.images import ImageReadError, to_rgb
from dassl.utils.tools import map_ahead

from .base import CLIPTrainer
from .run_source import Source, as_config, read_source

KEPT = 4  # models for other class names that are kept, the last ones that were asked for

ImageInput: TypeAlias = "str | os.PathLike[str] | Image.Image | torch.Tensor"


class Prediction(NamedTuple):
    """A class that an image may show.

    Attributes:
        classname: Its name.
        label: Its place among the class names, from 0.
        probability: Softmax of the logits over the classes, as it is: not calibrated.
    """

    classname: str
    label: int
    probability: float


class LoadedRun:
    """A model with its class names; made by `load_run` or `zero_shot`.

    Images are paths, PIL images or tensors, one or several of them. Tensors are RGB, [3, H, W] or [B, 3, H, W] of any
    size, float in 0..1 or uint8, not normalised: they are resized, cropped and normalised like files. Files and PIL
    images are decoded as the run's test images were (`as_people_see`, which may be set). Other class names than the
    run's cost a pass of the text tower, the first time; the backbone is loaded once.

    Args:
        source: What the model is rebuilt from.
        device: Where to compute; None: a GPU if there is one.

    Attributes:
        source: As given.
        as_people_see: See `dassl.utils.read_image`.
        transform: RGB image -> float tensor [3, S, S], normalised for the backbone.
    """

    def __init__(self, source: Source, device: str | torch.device | None = None) -> None:
        self.source, self.as_people_see = source, source.as_people_see
        self._device = known_device(device)
        self._said: set[str] = set()
        self._backbone: FrozenCLIP | None = None
        self._built: dict[tuple[str, ...], CLIPTrainer] = {}
        trainer = self.trainer_for()
        self._backbone = trainer.clip
        self.transform = build_transform(trainer.cfg, is_train=False)

    @property
    def classnames(self) -> list[str]:
        """The run's class names by label."""
        return list(self.source.classnames)

    @property
    def config(self) -> dict[str, Any]:
        """The config that the model is built with, as a nested dict of plain values."""
        return plain_config(self.trainer_for().cfg)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.trainer_for().device

    def trainer_for(self, classnames: Sequence[str] | None = None) -> CLIPTrainer:
        """The method with its weights, for the run's or for other class names; `model` of it is the network.

        Raises:
            ValueError: Names that cannot be, or that the method knows nothing of.
        """
        own = self.source.classnames  # as they were trained, even if two are alike
        names = tuple(own if classnames is None or list(classnames) == own else checked_names(classnames))
        if names not in self._built:
            # Building draws initial values, which the weights replace: the caller's generator goes on as before.
            with told_on_stderr(self._said), torch.random.fork_rng(devices=[]):
                self._built[names] = self._build(names)
            others = [key for key in self._built if key not in (names, tuple(own))]
            for key in others[: max(0, len(others) - KEPT + 1)]:
                del self._built[key]
        return self._built[names]

    def _build(self, names: Sequence[str]) -> CLIPTrainer:
        cfg = as_config(self.source.config)
        trainer: CLIPTrainer = build_trainer(
            cfg, dataset=ClassList(names), device=self._device, backbone=self._backbone
        )
        learned, given = set(trainer.get_model_names()), set(self.source.checkpoints)
        if learned - given:
            missing, there = (", ".join(sorted(names)) or "none" for names in (learned - given, given))
            raise ValueError(
                f"{self.source.path} holds no weights of {missing}, which {cfg.TRAINER.NAME} has; it holds {there}"
            )
        for name in trainer.get_model_names():
            path, checkpoint = self.source.checkpoints[name]
            trainer.take_checkpoint(name, path, checkpoint)
            meta, key = checkpoint["meta"], f"TRAINER.{trainer.config_key}.PREC"
            same_precision = flatten(meta["config"]).get(key) == trainer.options.PREC  # it is part of the digest
            if same_precision and meta.get("weights", trainer.backbone_digest) != trainer.backbone_digest:
                print(f"Warning: the weights of {trainer.clip.name} are not those that the run was trained with")
        trainer.set_model_mode("eval")
        return trainer

    # Answers -----------------------------------------------------------------------------------------------------

    def predict(
        self,
        images: ImageInput | Iterable[ImageInput],
        classnames: Sequence[str] | None = None,
        top: int = 5,
        batch_size: int | None = None,
    ) -> list[list[Prediction]]:
        """The most probable classes of each image.

        Args:
            images: One or several, see `LoadedRun`.
            classnames: Other names than the run's.
            top: How many classes of each image.
            batch_size: Images a batch; None takes that of the run's tests.

        Returns:
            A list for each image, also for a single one: its classes, the most probable first.

        Raises:
            ImageReadError: An image that cannot be read.
            ValueError: Bad names, numbers or tensors.
        """
        found = []
        for _, answer in self.stream(as_list(images), classnames, top, batch_size):
            if isinstance(answer, ImageReadError):
                raise answer
            found.append(answer)
        return found

    def stream(
        self,
        images: Iterable[ImageInput],
        classnames: Sequence[str] | None = None,
        top: int = 5,
        batch_size: int | None = None,
    ) -> Iterator[tuple[ImageInput, list[Prediction] | ImageReadError]]:
        """`predict` for any number of images, taken as answers are asked for; two batches of them are held at once.

        Yields:
            Each image, in order, with its classes, or with the error where it cannot be read.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        trainer = self.trainer_for(classnames)
        names = trainer.classnames
        for part in self._batches(images, batch_size):
            best: Iterator[list[Prediction]] = iter(())
            if tensors := [found for _, found in part if isinstance(found, torch.Tensor)]:
                probabilities = self.classify(torch.stack(tensors), classnames).float().softmax(-1)
                values, labels = (x.tolist() for x in probabilities.topk(min(top, len(names)), dim=-1))
                best = iter(
                    [Prediction(names[label], label, value) for label, value in zip(*row, strict=True)]
                    for row in zip(labels, values, strict=True)
                )
            for image, found in part:
                yield image, found if isinstance(found, ImageReadError) else next(best)

    def logits(
        self,
        images: ImageInput | Iterable[ImageInput],
        classnames: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> torch.Tensor:
        """Logits [N, C] of one or several images, on the CPU; the arguments are those of `predict`."""
        return self._each_batch(images, batch_size, classnames, lambda batch: self.classify(batch, classnames))

    @torch.no_grad()
    def classify(self, batch: torch.Tensor, classnames: Sequence[str] | None = None) -> torch.Tensor:
        """Logits [B, C] of images that went through `transform`, [B, 3, S, S].

        Raises:
            FloatingPointError: A logit is not finite.
        """
        trainer = self.trainer_for(classnames)
        with trainer.autocast():
            logits = trainer.model_inference(batch.to(trainer.device))
        if not torch.isfinite(logits).all():
            raise FloatingPointError("the model's outputs hold NaN or infinite values: they say nothing of an image")
        return logits

    def encode_image(self, images: ImageInput | Iterable[ImageInput], batch_size: int | None = None) -> torch.Tensor:
        """Image features that the logits are made of, [N, E], normalised, on the CPU."""
        model: Any = self.trainer_for().model
        return self._each_batch(
            images, batch_size, None, lambda batch: F.normalize(model.image_features(batch).float(), dim=-1)
        )

    @torch.no_grad()
    def encode_text(
        self, classnames: Sequence[str] | None = None, images: ImageInput | Iterable[ImageInput] | None = None
    ) -> torch.Tensor:
        """Class embeddings, as the logits use them: normalised, but ProDA's, which are means of normalised ones.

        Args:
            classnames: Other names than the run's.
            images: For methods whose class embeddings depend on the image (CoCoOp, GOPro), and only for these.

        Returns:
            [C, E], or each image's own, [N, C, E]; on the CPU.

        Raises:
            ValueError: Images are missing, or have no effect.
        """
        trainer = self.trainer_for(classnames)
        model: Any = trainer.model
        method = type(trainer).__name__
        if model.text_is_fixed != (images is None):
            needs = "depend on the image: give images" if images is None else "are the same for all images: give none"
            raise ValueError(f"the class embeddings of {method} {needs}")
        if images is None:
            with trainer.autocast():
                text: torch.Tensor = model.text()
            return text.float().cpu()
        return self._each_batch(images, None, classnames, lambda batch: model(batch).text.float())

    # Images ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _each_batch(
        self,
        images: ImageInput | Iterable[ImageInput],
        batch_size: int | None,
        classnames: Sequence[str] | None,
        function: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """What a function gives of batches of images, on the CPU; raises ValueError without any, or ImageReadError."""
        trainer, results = self.trainer_for(classnames), []
        for part in self._batches(as_list(images), batch_size):
            tensors = []
            for _, found in part:
                if isinstance(found, ImageReadError):
                    raise found
                tensors.append(found)
            with trainer.autocast():
                results.append(function(torch.stack(tensors).to(trainer.device)).cpu())
        if not results:
            raise ValueError("there are no images")
        return torch.cat(results)

    def _batches(
        self, images: Iterable[ImageInput], batch_size: int | None
    ) -> Iterator[list[tuple[ImageInput, torch.Tensor | ImageReadError]]]:
        """Images with their tensors [3, S, S], or with the error of those that cannot be read."""
        loader = self.trainer_for().cfg.DATALOADER
        size = loader.TEST.BATCH_SIZE if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, got {size}")
        threads = max(1, min(loader.NUM_WORKERS, usable_cores()))
        opened = map_ahead(self._open, images, threads, ahead=size)
        while part := list(islice(opened, size)):
            yield part

    def _open(self, image: ImageInput) -> tuple[ImageInput, torch.Tensor | ImageReadError]:
        if isinstance(image, torch.Tensor):
            return image, self.transform(checked_tensor(image))
        if isinstance(image, Image.Image):
            return image, self.transform(to_rgb(image.copy(), self.as_people_see))
        if not isinstance(image, str | os.PathLike):
            raise TypeError(f"an image must be a path, a PIL image or a tensor, got a {type(image).__name__}")
        try:
            return image, self.transform(read_image(os.fspath(image), self.as_people_see))
        except ImageReadError as error:
            return image, error


def load_run(
    folder: str | os.PathLike[str],
    device: str | torch.device | None = None,
    epoch: int | None = None,
    backbone: str | None = None,
) -> LoadedRun:
    """The model of a run's folder, of a test's folder (the weights that it tested), or of an exported folder.

    Args:
        folder: The folder.
        device: Where to compute, e.g. cpu or cuda:1; None: a GPU if there is one.
        epoch: Which checkpoint; None: the one that the run itself tested (TEST.FINAL_MODEL).
        backbone: Where the backbone lies now, if the run's MODEL.BACKBONE.NAME was a file that moved.

    Raises:
        FileNotFoundError: No such folder, checkpoint or backbone.
        ValueError: The run is not finished and no epoch is given, or the folder holds something else.
    """
    known_device(device)
    source = read_source(Path(folder).expanduser(), epoch)
    if backbone is not None:
        source = replace(source, config={**flatten(source.config), "MODEL.BACKBONE.NAME": backbone})
    try:
        return LoadedRun(source, device)
    except (ValueError, OSError) as error:
        if not str(error).startswith("MODEL.BACKBONE.NAME"):
            raise
        raise type(error)(
            f"the backbone of the run in {folder} cannot be loaded: {error}. Where its file moved, --backbone "
            "(backbone= in Python) says where it lies now"
        ) from error


def zero_shot(
    classnames: Sequence[str],
    backbone: str = "ViT-B/16",
    trainer: str = "ZeroshotCLIP",
    device: str | torch.device | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LoadedRun:
    """A method that learns nothing, without a run.

    Args:
        classnames: C names.
        backbone: What MODEL.BACKBONE.NAME may be.
        trainer: Its registered name.
        device: As in `load_run`.
        settings: Further config values by dotted key, e.g. {"TRAINER.ZSCLIP.TEMPLATE": "clip7"}.

    Raises:
        ValueError: Bad names or settings, or a method that learns.
    """
    known_device(device)
    names, method = checked_names(classnames), TRAINER_REGISTRY.get(trainer)
    if method.learns:
        raise ValueError(f"{trainer} learns: load the folder of a run of it; without a run there is ZeroshotCLIP")
    given = {
        "TRAINER.NAME": trainer,
        f"TRAINER.{method.config_key}.PREC": "fp32",
        "MODEL.BACKBONE.NAME": backbone,
        "INPUT.INTERPOLATION": "bicubic",  # CLIP's own
        "INPUT.TRANSFORMS": ("normalize",),
        **(settings or {}),
    }
    as_config(given, strict=True)
    return LoadedRun(Source(trainer, given, names, as_people_see=True, checkpoints={}, record={}), device)


# What callers give ---------------------------------------------------------------------------------------------


def known_device(device: str | torch.device | None) -> torch.device | None:
    """The device; raises ValueError for one that there is not."""
    if device is None:
        return None
    try:
        known = torch.device(device)
        torch.empty(0, device=known)
    except Exception as error:  # each kind of device has its own
        count = torch.cuda.device_count()
        gpus = f", cuda:0 to cuda:{count - 1}" if count > 1 else ", cuda" if count else "; PyTorch sees no GPU"
        raise ValueError(f"device {str(device)!r} cannot be used here; there is cpu{gpus}") from error
    return known


def checked_names(classnames: Sequence[str]) -> list[str]:
    """Class names, stripped; raises ValueError for none, blank ones and repetitions."""
    if isinstance(classnames, str):
        raise ValueError(f"classnames must be a list of names, got the text {classnames!r}")
    names = [str(name).strip() for name in classnames]
    if not names:
        raise ValueError("there are no classes: give at least one class name")
    if "" in names:
        raise ValueError(f"class {names.index('')} has an empty name")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"class names come twice: {', '.join(twice[:5])}{', ...' if len(twice) > 5 else ''}")
    return names


def checked_tensor(image: torch.Tensor) -> torch.Tensor:
    """A tensor [3, H, W] that can be an image; raises ValueError for one that cannot."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ValueError(f"an image tensor must be [3, H, W], RGB, got {list(image.shape)}")
    if image.dtype == torch.uint8:
        return image.cpu()
    low, high = (float(value) for value in image.aminmax())
    if not image.is_floating_point() or not (low >= 0 and high <= 1):
        raise ValueError(
            f"an image tensor must be uint8, or float in 0..1 and not normalised, got {image.dtype} from {low:.4g} to "
            f"{high:.4g}; what `transform` gave goes into `classify`"
        )
    return image.float().cpu()


def as_list(images: ImageInput | Iterable[ImageInput]) -> Iterable[ImageInput]:
    """One image or several -> several."""
    if isinstance(images, torch.Tensor):
        return images.unbind(0) if images.ndim == 4 else [images]
    return [images] if isinstance(images, str | os.PathLike | Image.Image) else images


@contextmanager
def told_on_stderr(said: set[str]) -> Iterator[None]:
    """What is printed while a model is built goes to stderr, each line once; stdout is for answers."""
    lines = _Lines(said)
    with redirect_stdout(lines):
        yield
    if lines.text:  # a last line without its end
        lines.write("\n")


class _Lines(io.TextIOBase):
    def __init__(self, said: set[str]) -> None:
        self.said, self.text = said, ""

    def write(self, text: str) -> int:
        *lines, self.text = (self.text + text).split("\n")
        for line in lines:
            if line not in self.said:
                self.said.add(line)
                print(line, file=sys.stderr, flush=True)
        return len(text)
