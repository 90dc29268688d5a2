"""Image features of the frozen tower, computed once for all methods and runs that read nothing else of an image.

TEST.FEATURE_CACHE names a folder. A file in it is named by a digest of everything that its values depend on, so that
another backbone, precision, input size or list of images never finds it; damaged files are computed anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from yacs.config import CfgNode

from dassl.config.check import empty, text
from dassl.data.datasets import Datum
from dassl.utils.tools import open_atomically

RULES = {"TEST.FEATURE_CACHE": empty | text}


def add_config(cfg: CfgNode) -> None:
    """Declare TEST.FEATURE_CACHE."""
    cfg.TEST.FEATURE_CACHE = ""  # folder of image features that methods and runs share; empty: none are kept


def feature_file(cfg: CfgNode, weights: str, precision: str, device: str, images: Sequence[Datum]) -> Path:
    """Where the features of some images belong.

    Args:
        cfg: The run's config, after the backbone settled its input.
        weights: Digest of the backbone.
        precision: A name in PRECISIONS.
        device: Its type.
        images: N images in their order; a file that changes in size or time is another one.
    """
    node = cfg.INPUT
    input = [list(node.SIZE), node.INTERPOLATION, list(node.PIXEL_MEAN), list(node.PIXEL_STD)]
    facts = [weights, precision, device, cfg.DATALOADER.TEST.BATCH_SIZE, torch.__version__, *input]
    sha = hashlib.sha256(json.dumps(facts).encode())
    for item in images:
        status = os.stat(item.impath)
        sha.update(f"{os.path.abspath(item.impath)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return Path(cfg.TEST.FEATURE_CACHE).expanduser() / f"{cfg.DATASET.NAME}-{sha.hexdigest()[:24]}.pt"


def load_features(path: Path, count: int, width: int) -> torch.Tensor | None:
    """Features [N, E] of a file; None where it is not there or holds anything else."""
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # a damaged file raises whatever torch stumbles over
        return None
    fits = isinstance(found, torch.Tensor) and found.shape == (count, width) and found.dtype == torch.float32
    return found if fits else None


def store_features(features: torch.Tensor, path: Path) -> None:
    """Write features [N, E]; a reader sees all of them or none."""
    content = io.BytesIO()  # torch's own writer hides a full disk behind "unexpected pos"
    torch.save(features.cpu(), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path, "wb") as file:
        file.write(content.getvalue())
