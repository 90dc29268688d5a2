"""Reading weight files as data: no code of a file is run, whatever its name says it is.

safetensors holds nothing but tensors. Files of `torch.save` go through torch's unpickler for weights alone. A
TorchScript archive, as OpenAI publishes its weights, would run its modules' `__setstate__` in `torch.jit.load`; it is
a zip of data.pkl, the module tree, and of data/N, the raw bytes of its tensors. `_read_archive` reads both: an
unpickler of its own gives inert stand-ins for every class and function that the pickle names, and tensors are made
from the bytes afterwards. The archive's code is never looked at.
"""

from __future__ import annotations

import math
import pickle
import re
import textwrap
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_MAX_TREE_BYTES = 64 * 2**20  # a module tree without its tensors; OpenAI's largest takes 0.3 MB
_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}
# What OpenAI's archives hold beside weights: sizes, and the mask that the model makes itself.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def check_weights(path: str | Path) -> str:
    """What kind of weight file it is, from its first bytes.

    Args:
        path: An existing file.

    Returns:
        "safetensors", "torch" or "torchscript".

    Raises:
        ValueError: None of them; says what it is instead (a web page, a Git LFS pointer, ...).
    """
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                return "torchscript" if any(n.endswith("/constants.pkl") for n in archive.namelist()) else "torch"
        except zipfile.BadZipFile:
            raise ValueError(f"{path} is cut off ({size} bytes): copy or download it again") from None
    if head.startswith(b"\x80"):
        return "torch"
    if head[8:9] == b"{":
        return "safetensors"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        what = "is empty"
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the weights: run `git lfs pull` where it came from"
    elif text.startswith(b"<"):
        what = "is a web page (HTML), not the weights: download the file itself"
    elif text.startswith((b"{", b"[")):
        what = "is JSON text, not weights"
    else:
        what = "holds no weights: neither safetensors nor of torch.save nor a TorchScript archive"
    raise ValueError(f"{path} {what}")


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a weight file by name; nothing in the file is run.

    Args:
        path: A safetensors file, a state dict (or a dict with one as "state_dict") of `torch.save`, or a TorchScript
            archive.

    Returns:
        The tensors on the CPU; a leading "module." of all names is taken off.

    Raises:
        ValueError: No weight file, or one that holds more than tensors.
    """
    kind = check_weights(path)
    try:
        if kind == "safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        elif kind == "torchscript":
            state = _read_archive(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        if not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ValueError("it holds more than tensors")
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def reason(error: BaseException) -> str:
    """One line on why reading failed, without torch's advice to let the file run code."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text:
        named = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", text)
        what = f" ({named[1]})" if named else ""
        return f"it holds more than tensors{what}, which could run code; save its state dict alone"
    return textwrap.shorten(f"{type(error).__name__}: {text}", 400)


class _Stored(NamedTuple):
    """Where a tensor's values lie."""

    storage: Any  # ("storage", class, key, device, number of elements), as torch writes it
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Tree(pickle.Unpickler):
    """Unpickles a module tree into stand-ins that do nothing; only tensors' places are kept apart."""

    def find_class(self, module: str, name: str) -> Any:
        # New classes each time: what a pickle writes into one is gone with it.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return type("Tensor", (), {"__new__": lambda _, *args: _Stored(*args[:4])})
        return type(
            name,
            (),
            {"__init__": lambda self, *_: None, "__setstate__": lambda self, state: self.__dict__.update(state=state)},
        )

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _read_archive(path: str | Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of a TorchScript archive by dotted name."""
    with zipfile.ZipFile(path) as archive:
        tree = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
        if tree.file_size > _MAX_TREE_BYTES:
            raise ValueError(f"its module tree takes {tree.file_size} bytes")
        folder = tree.filename.removesuffix("data.pkl")
        with archive.open(tree) as file:
            root = _Tree(file).load()
        state: dict[str, torch.Tensor] = {}

        def collect(node: Any, prefix: str) -> None:
            for name, value in node.state.items():
                if isinstance(value, _Stored):
                    if name not in _NO_WEIGHTS:
                        state[prefix + name] = _tensor(archive, folder, value)
                elif isinstance(getattr(value, "state", None), dict):
                    collect(value, f"{prefix}{name}.")

        collect(root, "")
    return state


def _tensor(archive: zipfile.ZipFile, folder: str, stored: _Stored) -> torch.Tensor:
    _, kind, key, _, _ = stored.storage
    entry = archive.getinfo(f"{folder}data/{key}")
    # torch stores values as they are; a shape that repeats them, or a packed entry, could be far larger than the file.
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"the values of {entry.filename} are compressed")
    if not entry.file_size:
        return torch.empty(stored.size, dtype=_DTYPES[kind.__name__])
    values = torch.frombuffer(bytearray(archive.read(entry)), dtype=_DTYPES[kind.__name__])
    if math.prod(stored.size) > len(values):
        raise ValueError(f"a tensor of {list(stored.size)} has {len(values)} values")
    return values.as_strided(stored.size, stored.stride, stored.offset)
