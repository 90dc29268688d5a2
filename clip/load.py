"""Loading a CLIP by name, by open_clip MODEL:TAG, or from a file; every failure is one error that says what to do.

No code of a file or a folder is run (`clip.weights`). What is refused is refused before anything is downloaded.
"""

from __future__ import annotations

import json
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dassl.names import did_you_mean

from .backbone import FrozenCLIP
from .tokenizer import VOCAB_SIZE
from .weights import SUFFIXES, check_weights, read_weights, reason

TINY_DIR = Path(__file__).parent / "tiny"

_QUICK = "-quickgelu"
_NAMES = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
# OpenAI's names -> open_clip's architecture (with QuickGELU, which OpenAI's weights were trained with).
OPENAI_MODELS = {name: name.replace("/", "-").replace("@336px", "-336") + _QUICK for name in _NAMES}
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
# CLIP's text tower: what open_clip's config says, or leaves out.
_CLIP_TEXT = {
    "vocab_size": VOCAB_SIZE,
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
    "tokenizer_kwargs": None,
    "no_causal_mask": False,
    "embed_cls": False,
    "pool_type": "argmax",
    "proj_type": "linear",
    "proj_bias": False,
}
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
    """Build a frozen CLIP, with the activation (QuickGELU or GELU) that its weights were trained with.

    A tag of open_clip's says which one; a file does not, so that a printed line says which one is assumed. What
    open_clip itself warns about is printed too.

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
    if not name.strip():
        raise ValueError(f"MODEL.BACKBONE.NAME is empty; give {_FORMS}")
    options = {"precision": _PRECISIONS[dtype], "cache_dir": cache_dir, "load_weights": pretrained}
    path = os.path.expanduser(name)
    with _warnings_as_lines():
        if name == "tiny":
            model = _folder(TINY_DIR, name, options)
        elif name in OPENAI_MODELS:
            model = _architecture(OPENAI_MODELS[name], "openai", name, options)
        elif os.path.isdir(path):
            model = _folder(Path(path), name, options)
        elif os.path.isfile(path) or (path.endswith(SUFFIXES) and ":" not in path):
            model = _file(path, name, options)
        else:
            model = _architecture(*name.partition(":")[::2], name, options)
    return FrozenCLIP(model, name).to(device)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print what open_clip warns about, each line once; it reports progress on the root logger, which is left out."""
    root, heard = logging.getLogger(), []

    def take(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            heard.append(record.getMessage())
        return False

    handler = logging.NullHandler()  # without any, logging would install one for good
    root.addHandler(handler)
    root.addFilter(take)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        root.removeFilter(take)
        root.removeHandler(handler)
    for line in dict.fromkeys([*heard, *(str(warning.message) for warning in caught)]):
        if not line.startswith("No pretrained weights loaded"):  # asked for, see `_build`
            print(f"open_clip: {line}")


def _architecture(architecture: str, tag: str, name: str, options: dict[str, Any]) -> Any:
    """MODEL:TAG or MODEL:FILE; "-quickgelu" after MODEL is the activation, not another architecture."""
    import open_clip

    architecture = architecture.replace("/", "-")
    base, known = architecture.removesuffix(_QUICK), open_clip.list_models()
    if base not in known:
        hint = did_you_mean(name, [*available_models(), *known])
        raise ValueError(f"MODEL.BACKBONE.NAME: unknown backbone {name!r}.{hint} Allowed: {_FORMS}")
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(base)) or "none; give a weight file as MODEL:FILE"
    if not tag:
        raise ValueError(f"MODEL.BACKBONE.NAME: {name!r}: {architecture} needs a tag: {tags}. Allowed: {_FORMS}")
    _check_config(open_clip.get_model_config(base), name)
    named_quick = base != architecture
    if config := open_clip.get_pretrained_cfg(base, tag):
        quick = bool(config.get("quick_gelu"))
        if quick != named_quick:
            print(f"{name}: these weights were trained with {_activation(quick)}, which is used")
        return _build(base, name, options, tag, force_quick_gelu=quick)
    file = os.path.expanduser(tag)
    if not os.path.isfile(file):
        if os.sep not in tag and not Path(tag).suffix:
            raise ValueError(f"MODEL.BACKBONE.NAME: {name!r} has the unknown tag {tag!r}; {base} has: {tags}")
        if options["load_weights"]:
            raise FileNotFoundError(f"MODEL.BACKBONE.NAME: {name!r} names the weight file {tag}, which does not exist")
    if not options["load_weights"]:
        return _build(base, name, options, force_quick_gelu=named_quick)
    kind, other = _kind(file), base if named_quick else base + _QUICK
    print(
        f"{name}: {_activation(named_quick)} is assumed; for weights trained with {_activation(not named_quick)} "
        f"set MODEL.BACKBONE.NAME to {other}:{tag}"
    )
    if kind == "torchscript":
        model = _build(base, name, {**options, "load_weights": False}, force_quick_gelu=named_quick)
        return _fill(model, read_weights(file), file)
    return _build(base, name, options, file, force_quick_gelu=named_quick)


def _activation(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"


def _folder(folder: Path, name: str, options: dict[str, Any]) -> Any:
    """A folder in open_clip's layout, whose config says the activation."""
    path = folder / "open_clip_config.json"
    if not path.is_file():
        raise FileNotFoundError(f"MODEL.BACKBONE.NAME: {name!r} is a folder without open_clip_config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        vision, text = dict(config["vision_cfg"]), dict(config["text_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"MODEL.BACKBONE.NAME: {path} is no config of open_clip's: {reason(error)}") from error
    _check_config({**config, "vision_cfg": vision, "text_cfg": text}, name)
    if options["load_weights"]:
        files = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES]
        if not files:
            raise FileNotFoundError(f"MODEL.BACKBONE.NAME: {name!r} is a folder without weights (*.safetensors, *.bin)")
        for file in files:
            _kind(file)
    return _build(f"local-dir:{folder}", name, options)


def _file(path: str, name: str, options: dict[str, Any]) -> Any:
    """A file of weights under OpenAI's names, which tell the sizes of both towers."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"MODEL.BACKBONE.NAME: weight file {path} does not exist")
    try:
        state = read_weights(path)
        config = _sizes(state)
    except KeyError as error:
        raise _unfit(path, f"has no {error}") from error
    except ValueError as error:
        raise _unfit(path, str(error).removeprefix(f"{path} ")) from error
    model = _build("ViT-B-32", name, {**options, "load_weights": False}, force_quick_gelu=True, **config)
    if not options["load_weights"]:
        return model
    print(
        f"{name}: QuickGELU is assumed, as in OpenAI's weights; for weights trained with GELU set MODEL.BACKBONE.NAME "
        f"to MODEL:FILE, e.g. ViT-B-16:{name}"
    )
    return _fill(model, state, path)


def _unfit(path: str, why: str) -> ValueError:
    return ValueError(
        f"MODEL.BACKBONE.NAME: {path} is no file of OpenAI CLIP weights: it {why}; for other open_clip weights give "
        "MODEL:FILE"
    )


def _sizes(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """open_clip's config of a model with these weights; KeyError names the first that is missing."""

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

    def side(key: str) -> int:
        return math.isqrt(len(state[key]))

    vision: dict[str, Any]
    if "visual.layer1.0.conv1.weight" in state:
        vision = {
            "layers": [count(f"visual.layer{i}.") for i in (1, 2, 3, 4)],
            "width": len(state["visual.layer1.0.conv1.weight"]),
            "image_size": 32 * side("visual.attnpool.positional_embedding"),
        }
    else:
        width, _, _, patch = state["visual.conv1.weight"].shape
        vision = {
            "layers": count("visual.transformer.resblocks."),
            "width": width,
            "patch_size": patch,
            "image_size": patch * side("visual.positional_embedding"),
        }
    width = len(state["ln_final.weight"])
    text = {
        "context_length": len(state["positional_embedding"]),
        "vocab_size": len(state["token_embedding.weight"]),
        "width": width,
        "heads": width // 64,
        "layers": count("transformer.resblocks."),
    }
    return {"embed_dim": state["text_projection"].shape[1], "vision_cfg": vision, "text_cfg": text}


def _kind(path: str | Path) -> str:
    try:
        return check_weights(path)
    except ValueError as error:
        raise ValueError(f"MODEL.BACKBONE.NAME: {error}") from None


def _fill(model: Any, state: dict[str, torch.Tensor], path: str) -> Any:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise _unfit(path, f"does not fit: {reason(error)}") from error
    return model


def _check_config(config: dict[str, Any], name: str) -> None:
    """Refuse a text tower that is not CLIP's, and what a folder's config would fetch from elsewhere."""
    text = config["text_cfg"]
    odd = [f"{key} {text[key]}" for key, plain in _CLIP_TEXT.items() if (text.get(key) or plain) != plain]
    if "multimodal_cfg" in config:
        odd.append("multimodal_cfg")
    if odd:
        raise ValueError(
            f"MODEL.BACKBONE.NAME: {name!r} has a text tower that is not CLIP's ({', '.join(odd)}), which takes CLIP's "
            "tokens, is causal and gives the feature at the end token. Use e.g. ViT-B/16, RN50 or "
            "ViT-B-16:laion2b_s34b_b88k"
        )
    if ":" in (config["vision_cfg"].get("timm_model_name") or ""):
        raise ValueError(f"MODEL.BACKBONE.NAME: {name!r} has an image tower from elsewhere: timm_model_name")


def _build(model: str, name: str, options: dict[str, Any], weights: str | None = None, **more: Any) -> Any:
    import open_clip

    wanted = options["load_weights"]

    # Random weights must not depend on what was drawn before, or training and testing would see two models.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return open_clip.create_model(
                model, pretrained=weights if wanted else None, require_pretrained=wanted, **options, **more
            )
        except Exception as error:
            if not str(error).startswith("Failed to download"):
                raise ValueError(f"MODEL.BACKBONE.NAME: cannot build {name!r}: {reason(error)}") from error
            raise ConnectionError(
                f"MODEL.BACKBONE.NAME: the weights of {name!r} are not on this machine and could not be "
                f"downloaded ({reason(error)}). With network access, run again; without, copy the weight "
                "file here and set MODEL.BACKBONE.NAME to its path (or to MODEL:FILE for open_clip weights); "
                "MODEL.BACKBONE.PRETRAINED False gives random weights"
            ) from error
