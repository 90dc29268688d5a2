"""Checkpoints that hold tensors and plain values only, written atomically."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .tools import copy_atomically, open_atomically, read_text, write_text

# Classes whose instances upstream's checkpoints hold beside the weights; they are read as inert placeholders.
_INERT_PREFIXES = ("dassl.optim.", "torch.optim.")


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> str:
    """Write a checkpoint and note its name in the folder's `checkpoint` file.

    Args:
        state: At least "state_dict" and "epoch" (epochs done); tensors and plain values.
        save_dir: The folder.
        is_best: Copy it to `model-best.pth.tar` too.
        remove_module_from_keys: Strip a leading "module." from the weights' names.
        model_name: File name; default `model.pth.tar-<epoch>`.

    Returns:
        The file's path.
    """
    if remove_module_from_keys:
        state = {**state, "state_dict": {k.removeprefix("module."): v for k, v in state["state_dict"].items()}}
    path = os.path.join(save_dir, model_name or f"model.pth.tar-{state['epoch']}")
    content = io.BytesIO()  # torch's own writer hides a full disk behind "unexpected pos"
    torch.save(state, content)
    with open_atomically(path, "wb") as file:
        file.write(content.getbuffer())
    if not model_name:
        write_text(os.path.basename(path) + "\n", os.path.join(save_dir, "checkpoint"))
    if is_best:
        copy_atomically(path, os.path.join(save_dir, "model-best.pth.tar"))
    return path


class _Inert:
    """Stands for an optimiser's or scheduler's object in a foreign checkpoint; keeps nothing, runs nothing."""

    def __setstate__(self, state: Any) -> None:
        pass


def _plain_dict(*args: Any) -> dict[Any, Any]:
    return {}  # an optimiser's state inside such an object; its items are then set one by one


def _stand_in(name: str) -> Any:
    """What a class named in a checkpoint is read as; None for one that is refused."""
    if name.startswith(_INERT_PREFIXES):
        return _Inert
    return {"collections.defaultdict": _plain_dict, "builtins.dict": dict}.get(name)


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """A checkpoint's dictionary, read onto the CPU without running any code from it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint, or it holds objects other than tensors and plain values.
    """
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f"checkpoint {fpath} does not exist")
    try:
        # Files of PyTorch before 1.6 are no zip archives and cannot be listed; reading them is as strict.
        names = torch.serialization.get_unsafe_globals_in_checkpoint(fpath) if zipfile.is_zipfile(fpath) else []
        stand_ins = {name: _stand_in(name) for name in names}
        code = sorted(name for name, stand_in in stand_ins.items() if stand_in is None)
        if not code:
            with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()]):
                checkpoint = torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{fpath} is no readable checkpoint: {type(error).__name__}: {reason}") from error
    if code:
        raise ValueError(
            f"checkpoint {fpath} is refused: besides tensors and plain values it holds {', '.join(code)}, "
            "and unpickling such objects can run any code"
        )
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{fpath} is no checkpoint: it holds a {type(checkpoint).__name__}, not a dictionary")
    return checkpoint


def checkpoint_epochs(folder: str) -> list[int]:
    """Epochs of the `model.pth.tar-<epoch>` files in a folder, ascending."""
    suffixes = (path.name.rpartition("-")[2] for path in Path(folder).glob("model.pth.tar-*"))
    return sorted(int(suffix) for suffix in suffixes if suffix.isdigit())


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Load the checkpoint that a folder's `checkpoint` file names; gives the epochs done.

    The optimiser and the scheduler, if given, get the states that it holds.
    """
    checkpoint = load_checkpoint(os.path.join(fdir, read_text(Path(fdir, "checkpoint")).strip()))
    model.load_state_dict(checkpoint["state_dict"])
    for target, key in ((optimizer, "optimizer"), (scheduler, "scheduler")):
        if target is not None and checkpoint.get(key) is not None:
            target.load_state_dict(checkpoint[key])
    return int(checkpoint["epoch"])


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Load the weights of a checkpoint or a plain state dict that fit by name and shape, and print which did not.

    Raises:
        ValueError: None fits.
    """
    checkpoint = load_checkpoint(weight_path)
    given = {k.removeprefix("module."): v for k, v in checkpoint.get("state_dict", checkpoint).items()}
    own = model.state_dict()
    fits = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if not fits:
        raise ValueError(f"{weight_path} holds no weight of this model; it has {', '.join(list(given)[:5])}, ...")
    model.load_state_dict({**own, **fits})
    print(f"Loaded {len(fits)} tensors from {weight_path}")
    if len(fits) < len(given):
        print(f"Left out (unknown name or other shape): {', '.join(k for k in given if k not in fits)}")


def weights_digest(model: nn.Module, samples: int = 512) -> str:
    """Digest of a model's weights: names, shapes, precision and up to `samples` evenly spaced values of each tensor.

    Weights that were trained differ everywhere, so samples tell models apart in milliseconds.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.flatten()
        values = flat[:: max(1, len(flat) // samples)].contiguous().cpu().view(torch.uint8)
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha.update(values.numpy().tobytes())
    return sha.hexdigest()


def count_num_param(model: nn.Module | None = None, params: Any = None) -> int:
    """Number of parameters of a model, or of a list of parameters or parameter groups."""
    if model is not None:
        return sum(p.numel() for p in model.parameters())
    if params is None:
        raise ValueError("give a model or params")
    groups = (item["params"] if isinstance(item, dict) else item for item in params)
    total: int = sum(p.numel() for group in groups for p in ([group] if isinstance(group, torch.Tensor) else group))
    return total
