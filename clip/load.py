"""Loading a CLIP by name, by open_clip MODEL:TAG, or from a file; every failure is one error that says what to do."""

from __future__ import annotations

import difflib
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from .backbone import UNFIT_IMAGE_TOWER, UNFIT_TEXT_TOWER, FrozenCLIP

TINY_DIR = Path(__file__).parent / "tiny"

# OpenAI's names -> open_clip's architecture (with QuickGELU, which OpenAI's weights were trained with).
OPENAI_MODELS = {
    "ViT-B/32": "ViT-B-32-quickgelu",
    "ViT-B/16": "ViT-B-16-quickgelu",
    "ViT-L/14": "ViT-L-14-quickgelu",
    "ViT-L/14@336px": "ViT-L-14-336-quickgelu",
}
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_FORMS = (
    "an OpenAI name (" + ", ".join(OPENAI_MODELS) + "), tiny, an open_clip MODEL:TAG or MODEL:FILE "
    "(ViT-B-16:laion2b_s34b_b88k), a file of OpenAI weights (JIT archive, state dict or safetensors), "
    "or a folder with open_clip_config.json"
)


def available_models() -> list[str]:
    """The short names that `load` knows; MODEL:TAG, files and folders come on top."""
    return ["tiny", *OPENAI_MODELS]


def load(
    name: str,
    pretrained: bool = True,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    cache_dir: str | None = None,
) -> FrozenCLIP:
    """Build a frozen CLIP.

    Args:
        name: An OpenAI name, `tiny` (ships with the package), an open_clip `MODEL:TAG` or `MODEL:FILE`, a file of
            OpenAI weights, or a folder in open_clip's layout.
        pretrained: False gives reproducible random weights (for tests, parity and speed) and downloads nothing.
        dtype: Precision of the linear weights; layer norms stay in fp32.
        device: Where to put it.
        cache_dir: Where downloads go; None is open_clip's default.

    Returns:
        The model, frozen, in eval mode.

    Raises:
        ValueError: Unknown name or tag (close matches named), an unfit architecture, a wrong dtype, a broken file.
        FileNotFoundError: A weight file that does not exist.
        ConnectionError: The weights are not cached and cannot be downloaded.
    """
    if dtype not in _PRECISIONS:
        raise ValueError(f"dtype must be one of {list(_PRECISIONS)}, got {dtype}")
    if not name:
        raise ValueError(f"MODEL.BACKBONE.NAME is empty; give {_FORMS}")
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # open_clip reports on the root logger
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _create(name, pretrained, _PRECISIONS[dtype], cache_dir)
    finally:
        logger.setLevel(level)
    return FrozenCLIP(model, name).to(device)


def _create(name: str, pretrained: bool, precision: str, cache_dir: str | None) -> Any:
    if name == "tiny":
        return _open_clip(f"local-dir:{TINY_DIR}", None, pretrained, precision, cache_dir, name)
    if name in OPENAI_MODELS:
        return _open_clip(OPENAI_MODELS[name], "openai", pretrained, precision, cache_dir, name)
    if os.path.isdir(name):
        if not (Path(name) / "open_clip_config.json").is_file():
            raise FileNotFoundError(f"MODEL.BACKBONE.NAME: {name!r} is a folder without open_clip_config.json")
        return _open_clip(f"local-dir:{name}", None, pretrained, precision, cache_dir, name)
    looks_like_path = name.endswith((".pt", ".pth", ".bin", ".safetensors")) and ":" not in name
    if os.path.isfile(name) or looks_like_path:
        return _openai_file(name, precision)
    architecture, _, tag = name.partition(":")
    architecture = architecture.replace("/", "-")
    from open_clip import list_models

    known = list_models()
    if architecture not in known or not tag:
        close = difflib.get_close_matches(name, [*available_models(), *known], n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        if architecture in known:
            hint = f"; {architecture} needs a tag: {_tags(architecture)}"
        raise ValueError(f"MODEL.BACKBONE.NAME: unknown backbone {name!r}{hint} Allowed: {_FORMS}")
    _check_architecture(architecture, name)
    return _open_clip(architecture, tag, pretrained, precision, cache_dir, name)


def _check_architecture(architecture: str, name: str) -> None:
    """Refuse what `FrozenCLIP` would refuse, before any weights are downloaded."""
    from open_clip import get_model_config

    config = get_model_config(architecture)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or isinstance(vision.get("layers"), list | tuple):
        raise ValueError(UNFIT_IMAGE_TOWER.format(name))
    if "hf_model_name" in text or "multimodal_cfg" in config or config.get("custom_text"):
        raise ValueError(UNFIT_TEXT_TOWER.format(name))


def _tags(architecture: str) -> str:
    from open_clip.pretrained import list_pretrained_tags_by_model

    return ", ".join(list_pretrained_tags_by_model(architecture)) or "none; give a weight file as MODEL:FILE"


def _open_clip(
    architecture: str, tag: str | None, pretrained: bool, precision: str, cache_dir: str | None, name: str
) -> Any:
    import open_clip
    from open_clip.pretrained import is_pretrained_cfg

    is_tag = tag is not None and is_pretrained_cfg(architecture, tag)
    if pretrained and tag is not None and not is_tag and not os.path.isfile(tag):
        if os.sep in tag or Path(tag).suffix:
            raise FileNotFoundError(f"MODEL.BACKBONE.NAME: {name!r} names the weight file {tag}, which does not exist")
        raise ValueError(
            f"MODEL.BACKBONE.NAME: {name!r} has the unknown tag {tag!r}; {architecture} has: {_tags(architecture)}"
        )
    # Random weights must not depend on what was drawn before, or training and testing would see two models.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return open_clip.create_model(
                architecture,
                pretrained=tag if pretrained else None,
                load_weights=pretrained,
                precision=precision,
                cache_dir=cache_dir,
            )
        except Exception as error:
            if not is_tag:
                raise ValueError(
                    f"MODEL.BACKBONE.NAME: cannot build {name!r}: {type(error).__name__}: {error}"
                ) from error
            raise ConnectionError(
                f"MODEL.BACKBONE.NAME: the weights of {name!r} are not on this machine and could not be "
                f"downloaded ({type(error).__name__}). With network access, run again; without, copy the weight "
                "file here and set MODEL.BACKBONE.NAME to its path (or to MODEL:FILE for open_clip weights); "
                "MODEL.BACKBONE.PRETRAINED False gives random weights"
            ) from error


def _openai_file(path: str, precision: str) -> Any:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import build_model_from_openai_state_dict, convert_weights_to_lp

    if not os.path.isfile(path):
        raise FileNotFoundError(f"MODEL.BACKBONE.NAME: weight file {path} does not exist")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            try:
                state = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
            except RuntimeError:  # not a TorchScript archive
                state = torch.load(path, map_location="cpu", weights_only=True)
        state = dict(state.get("state_dict", state))
        if "visual.layer1.0.conv1.weight" in state:
            raise ValueError("it holds a ResNet; GOPro needs a ViT (transformer blocks)")
        cast = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        model = build_model_from_openai_state_dict(state, cast_dtype=cast).float()
    except Exception as error:
        raise ValueError(
            f"MODEL.BACKBONE.NAME: {path} is no file of OpenAI CLIP weights ({type(error).__name__}: {error}); "
            "for other open_clip weights give MODEL:FILE"
        ) from error
    if cast is not None:
        convert_weights_to_lp(model, dtype=cast)
    model.visual.image_mean, model.visual.image_std = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    return model
