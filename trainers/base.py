"""What every method on a frozen CLIP shares, so that a method's file says its formula and nothing else.

A run is built in this order, each part in the hook of its name: the data set's lists and the backbone
(`build_backbone`), the loaders (`build_data_loader`), the method's learnables (`build_model`, its own). One step is
`forward_backward`: views -> `self.model` -> `loss_parts` -> update. A method gives `build_model`, which ends in
`register`, and, where cross-entropy is not all, `loss_parts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from yacs.config import CfgNode

import clip
from dassl.config import flatten, get_cfg_default, refuse_unread
from dassl.data import DataManager
from dassl.data.datasets import ClassList, DatasetBase, build_dataset
from dassl.engine.checkpoint import plain_config
from dassl.engine.optimisation import PRECISIONS
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import count_num_param, load_pretrained_weights, weights_digest

from .features import cache_folder
from .inputs import SharedInputs
from .model import initial_context
from .templates import fill


class CLIPTrainer(SharedInputs):
    """Base of the methods.

    Subclasses name their node of the config in `config_key`; it must hold PREC. `views` names the images of a batch
    that `self.model` takes, in its order; `learns` says whether there is anything to train.

    Args:
        cfg: The run's config.
        dataset: See `SimpleTrainer`.
        device: See `SimpleTrainer`.
        backbone: The frozen CLIP, if it is loaded already.
    """

    learns = True
    dataset: DatasetBase

    def __init__(
        self,
        cfg: CfgNode,
        dataset: DatasetBase | None = None,
        device: str | torch.device | None = None,
        backbone: clip.FrozenCLIP | None = None,
    ) -> None:
        self._loaded_backbone = backbone
        super().__init__(cfg, dataset, device)

    @property
    def classnames(self) -> list[str]:
        """Class names by label."""
        return list(self.dataset.classnames)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Refuse values of keys that no method here reads, before anything is loaded."""
        refuse_unread(cfg)
        if cfg.INPUT.NO_TRANSFORM:
            raise ValueError("INPUT.NO_TRANSFORM must be False: the backbone takes normalised tensors, got True")
        cache_folder(cfg)

    # Building ----------------------------------------------------------------------------------------------------

    def build_backbone(self) -> None:
        """Read the data set's lists (a wrong path shows before weights are read or downloaded), then load CLIP."""
        self.dataset = self.dataset or build_dataset(self.cfg)
        self.trained_classes = self.classnames
        _tell_twins(self.classnames)
        backbone, precision = self.cfg.MODEL.BACKBONE, self.options.PREC
        self.set_precision(precision)
        if self._loaded_backbone is None:
            print(f"Loading CLIP (backbone: {backbone.NAME}, pretrained: {backbone.PRETRAINED})")
        self.clip = self._loaded_backbone or clip.load(
            backbone.NAME, backbone.PRETRAINED, PRECISIONS[precision].weights, self.device
        )
        self.clip.activation_bytes = int(backbone.ACTIVATIONS_GB * 1e9) or None
        self.backbone_digest = weights_digest(self.clip)
        if not backbone.PRETRAINED:
            print("The backbone's weights are random: accuracies mean nothing")
        if backbone.NAME == "tiny" and self.dataset.as_people_see:  # somebody's own images
            print(
                "The tiny CLIP knows rendered pictures only and is for seeing how it goes: for photos take real CLIP "
                "weights, e.g. --backbone ViT-B/16 (MODEL.BACKBONE.NAME)"
            )
        settle_input(self.cfg, self.clip)

    def build_data_manager(self) -> DataManager:
        """Loaders of the data set; a method with several views gives their transforms."""
        return DataManager(self.cfg, custom_tfm_train=self.training_views(), dataset=self.dataset)

    def labels_in_training(self) -> list[int | None]:
        """For each class at hand its label in the training of the weights, by name; None for a new class.

        For methods that know more of the classes that they were trained on than of others. Of classes that share a
        name, the first is the first there, the second the second.
        """

        def numbered(names: list[str]) -> list[tuple[str, int]]:
            return [(name, names[:i].count(name)) for i, name in enumerate(names)]

        labels = {key: label for label, key in enumerate(numbered(self.trained_classes))}
        return [labels.get(key) for key in numbered(self.classnames)]

    def check_room(self, key: str, tokens: int, template: str = "{}.") -> None:
        """Refuse a context that leaves no room for the class names, before anything of its size is built.

        Args:
            key: The key of the method's node that asks for it.
            tokens: Its length.
            template: What follows it, as in `FrozenCLIP.prompt_tree`.

        Raises:
            ValueError: Names the key, its value and how many tokens may be.
        """
        most, name = self.clip.room(self.classnames, template)
        if tokens > most >= 1:  # below 1 the name is to blame: the prompts' own message says so
            value = self.options[key]
            got = f"{value[:60]!r}, {tokens} tokens" if isinstance(value, str) else value
            raise ValueError(
                f"TRAINER.{self.config_key}.{key} must be at most {most} tokens, what class name {name!r} leaves of "
                f"the {self.clip.context_length} of {self.clip.name}, got {got}"
            )

    def words_of_context(self) -> list[int]:
        """Tokens of CTX_INIT; raises ValueError where it is not empty and CLIP reads no words in it."""
        words = self.options.CTX_INIT
        ids = clip.encode(words.replace("_", " "))
        if words and not ids:
            raise ValueError(
                f"TRAINER.{self.config_key}.CTX_INIT must be empty or hold words that CLIP reads, got {words!r}"
            )
        return ids

    def initial_context(self, template: str = "{}.") -> torch.Tensor:
        """First value of the context that the method's N_CTX, CTX_INIT and CTX_STD ask for, [M, Dt]; says it.

        Args:
            template: What follows it, as in `FrozenCLIP.prompt_tree`.

        Raises:
            ValueError: It leaves no room for the class names.
        """
        node = self.options
        words = len(self.words_of_context())
        self.check_room("CTX_INIT" if words else "N_CTX", words or node.N_CTX, template)
        context = initial_context(self.clip, node.N_CTX, node.CTX_INIT, node.CTX_STD)
        if not node.CTX_INIT:
            print(f"Context: {len(context)} tokens from random vectors")
            return context
        print(f'Context: {len(context)} tokens from "{node.CTX_INIT}"')
        if len(context) != node.N_CTX:
            print(f"TRAINER.{self.config_key}.N_CTX {node.N_CTX} has no effect beside CTX_INIT, whose words give M")
        return context

    def leading_context(self, key: str) -> tuple[torch.Tensor, str]:
        """First value of a context that takes the place of the first n tokens of CTX_INIT, as MaPLe's code has it.

        Args:
            key: The key of the method's node that holds n.

        Returns:
            [n, Dt], from the words where they have as many tokens, else random; and the template of what follows: the
            words that are left, the class name, a full stop.

        Raises:
            ValueError: Context and words leave no room for the class names.
        """
        node, n_ctx = self.options, self.options[key]
        ids = self.words_of_context()
        self.check_room(key if len(ids) <= n_ctx else "CTX_INIT", max(n_ctx, len(ids)))
        if len(ids) < n_ctx:
            said = f'; "{node.CTX_INIT}" has fewer' if ids else ""
            print(f"Context: {n_ctx} tokens from random vectors{said}")
            return initial_context(self.clip, n_ctx, "", node.CTX_STD), "{}."
        words, rest = clip.decode(ids[:n_ctx]), clip.decode(ids[n_ctx:])
        print(f'Context: {n_ctx} tokens from "{words}"' + (f'; "{rest}" stays as it is' if rest else ""))
        return self.clip.embed_words(words), f"{rest} {{}}.".strip()

    def check_vision_blocks(self) -> None:
        """Refuse an image tower whose blocks cannot take tokens or updates, e.g. a ResNet."""
        self.clip.check_blocks(type(self).__name__, "works inside the blocks of the image tower")

    def check_depth(self, key: str, tower: str) -> None:
        """Refuse more blocks than a tower has; raises ValueError.

        Args:
            key: The key of the method's node that asks for them.
            tower: Which tower: text, image or smaller; but for text, its blocks must take tokens.
        """
        if tower != "text":
            self.check_vision_blocks()
        text, vision, depth = self.clip.text_layers, self.clip.vision_layers, self.options[key]
        layers = {"text": text, "image": vision, "smaller": min(text, vision)}[tower]
        if depth > layers:
            raise ValueError(
                f"TRAINER.{self.config_key}.{key} must be at most {layers}, the blocks of the {tower} tower of "
                f"{self.clip.name}, got {depth}"
            )

    def sentence_features(self, *templates: str) -> torch.Tensor:
        """Text features of hand-written sentences by the frozen towers, one a template and class.

        Args:
            templates: T sentences with {} for the class name.

        Returns:
            [T, C, E] in fp32, not normalised.
        """
        texts = [text for template in templates for text in fill(template, self.classnames)]
        with self.autocast():
            parts = [self.clip.encode_sentences(texts[i : i + 1000]) for i in range(0, len(texts), 1000)]
        return torch.cat(parts).view(len(templates), len(self.classnames), -1)

    def register(self, name: str, learner: nn.Module) -> None:
        """Register the learnables, alone: their state dict is the checkpoint.

        Builds optimiser and schedule, but not for a `ClassList`, which nothing is trained on.

        Args:
            name: Folder of the checkpoints.
            learner: The learnables, which go to the device; MODEL.INIT_WEIGHTS, if given, is loaded into them.
        """
        cfg = self.cfg
        learner.to(self.device)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(learner, cfg.MODEL.INIT_WEIGHTS)
        print(f"Learnable parameters: {count_num_param(learner):,}")
        if isinstance(self.dataset, ClassList):
            self.register_model(name, learner)
            return
        self.optim = build_optimizer(learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM, self.num_batches)
        self.register_model(name, learner, self.optim, self.sched)

    # One step ----------------------------------------------------------------------------------------------------

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The views and the labels, on the device."""
        return [batch[key].to(self.device) for key in self.views], batch["label"].to(self.device)

    def loss_parts(self, output: Any, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Hook: the total as "loss", and the parts to log beside it; cross-entropy where a method says nothing else.

        Args:
            output: What `self.model` gave, an object that holds logits [B, C] as `logits`.
            label: Long [B].

        Returns:
            Scalars by name.
        """
        return {"loss": F.cross_entropy(output.logits, label)}

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimisation step; returns the losses and the batch accuracy (percent)."""
        views, label = self.parse_batch_train(batch)
        with self.autocast():
            output = self.model(*views)
        parts = self.loss_parts(output, label)
        self.model_backward_and_update(parts["loss"], parts=parts)
        figures = {name: value.detach() for name, value in parts.items()}
        return {**figures, "acc": compute_accuracy(output.logits, label)[0]}

    def model_inference(self, input: Any) -> torch.Tensor:
        """Logits [B, C] of images, or of what `test_inputs` gives in their place."""
        logits: torch.Tensor = self.model(input).logits
        return logits

    def test_features(self, input: Any) -> torch.Tensor:
        """The image features [B, E] that the logits of an input are made of, normalised."""
        return F.normalize(self.model(input).image.float(), dim=-1)

    def hyperparameters(self) -> dict[str, Any]:
        """With the method's own keys."""
        return super().hyperparameters() | flatten({"TRAINER": {self.config_key: plain_config(self.options)}})

    # Checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint_meta(self) -> dict[str, Any]:
        """What the weights belong to, a digest of the frozen backbone among it."""
        return {**super().checkpoint_meta(), "weights": self.backbone_digest}

    def _same_weights(self, meta: dict[str, Any]) -> bool:
        return bool(meta.get("weights") == self.backbone_digest)

    def free_keys(self, meta: dict[str, Any]) -> Sequence[str]:
        """The same weights may lie at another path now."""
        return ("MODEL.BACKBONE.NAME",) if self._same_weights(meta) else ()

    def check_checkpoint(self, meta: dict[str, Any]) -> None:
        """Refuse a checkpoint of another backbone: its learnables mean nothing here."""
        super().check_checkpoint(meta)
        self.trained_classes = list(meta.get("classnames", self.classnames))
        wanted, got = self.cfg.MODEL.BACKBONE.NAME, meta.get("backbone", self.cfg.MODEL.BACKBONE.NAME)
        if got != wanted and not self._same_weights(meta):
            raise ValueError(f"the checkpoint was trained on backbone {got!r}, MODEL.BACKBONE.NAME is {wanted!r}")
        trained = flatten(meta.get("config", {}).get("TRAINER", {}).get(self.config_key, {}))
        for key, value in flatten(plain_config(self.options)).items():  # what shows in no tensor's shape too
            if trained.get(key, value) != value:
                print(f"TRAINER.{self.config_key}.{key} is {value!r}; the weights were trained with {trained[key]!r}")


def settle_input(cfg: CfgNode, clip_model: clip.FrozenCLIP) -> None:
    """Write into the config what the backbone decides: the input's size and statistics, and that it is normalised.

    A value that neither is the engine's default nor fits the backbone has no effect, and a line says so.

    Args:
        cfg: The run's config; INPUT.SIZE, PIXEL_MEAN, PIXEL_STD and TRANSFORMS change.
        clip_model: The backbone.
    """
    node, defaults, size = cfg.INPUT, get_cfg_default().INPUT, (clip_model.image_size, clip_model.image_size)
    frozen = cfg.is_frozen()
    cfg.defrost()
    for key, value in (("SIZE", size), ("PIXEL_MEAN", list(clip_model.mean)), ("PIXEL_STD", list(clip_model.std))):
        if list(node[key]) not in (list(defaults[key]), list(value)):
            print(f"INPUT.{key} {node[key]} has no effect: {clip_model.name} takes {value}")
        node[key] = value
    if "normalize" not in node.TRANSFORMS:  # the towers were trained on normalised pixels: it is no choice
        node.TRANSFORMS = type(node.TRANSFORMS)([*node.TRANSFORMS, "normalize"])
        print("INPUT.TRANSFORMS: normalize is added, because the backbone takes normalised pixels")
    if frozen:
        cfg.freeze()


def _tell_twins(classnames: Sequence[str], shown: int = 5) -> None:
    """Warn of classes whose names are the same tokens: their prompts are equal, so only the first is ever predicted."""
    groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for label, name in enumerate(classnames):
        groups[tuple(clip.encode(name.replace("_", " ")))].append(f"{name!r} ({label})")
    twins = [" = ".join(group) for group in groups.values() if len(group) > 1]
    if twins:
        more = f" and {len(twins) - shown} more" if len(twins) > shown else ""
        print(
            f"Warning: CLIP reads the same words for {', '.join(twins[:shown])}{more}; of such classes only the "
            "first is ever predicted. Other names in classnames.txt tell them apart"
        )
