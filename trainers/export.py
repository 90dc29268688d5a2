"""Write a trained model for others: what was learned, a card, and the class embeddings for users of open_clip.

    python -m trainers.export output/mine exported/mine

The folder then holds learned.safetensors (the learnables, named <model>/<tensor>), card.json (method, backbone with its
digest, class names, recipe, scores, versions) and, where they are the same for all images, classes.safetensors with the
class embeddings and the factor on the cosines. With --merged, for CLIP-LoRA, merged.safetensors holds the backbone with
the updates added to its weights. `load_run` reads the folder like a run's. Docs: docs/predict.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dassl.engine.run_folder import git_commit
from dassl.utils import write_json
from dassl.utils.tools import open_atomically, versions

from .loaded_run import LoadedRun, load_run
from .run_source import CARD, CLASSES, FORMAT, LEARNED, MERGED

# Of results.json: what was tested, and what came out.
SCORES = ("dataset", "subsample_classes", "split", "num_classes", "num_images", "results", "per_class")


def export(
    run: LoadedRun, folder: str | os.PathLike[str], overwrite: bool = False, merged: bool = False
) -> dict[str, Any]:
    """Write a model into a folder.

    Args:
        run: The model.
        folder: Where to; made where it is missing.
        overwrite: Whether files of an earlier export may be replaced.
        merged: Whether to write the backbone's weights with the method's updates added; as large as the backbone.

    Returns:
        What card.json holds.

    Raises:
        FileExistsError: The folder holds something, and `overwrite` is off.
        ValueError: `merged` for a method that does not update weights.
    """
    out = Path(folder).expanduser()
    check_target(out, overwrite)
    trainer, source = run.trainer_for(), run.source
    model: Any = trainer.model
    if merged and not hasattr(model, "merged_weights"):
        raise ValueError(f"{type(trainer).__name__} adds nothing to the backbone's weights: there is nothing to merge")
    checkpoints = {name: checkpoint for name, (_, checkpoint) in source.checkpoints.items()}
    first: dict[str, Any] = next(iter(checkpoints.values()), {"meta": trainer.checkpoint_meta(), "epoch": 0})
    scores = {key: source.record[key] for key in SCORES if key in source.record}
    embeddings, about = class_embeddings(run)
    card = {
        **first["meta"],  # trainer, backbone, pretrained, classnames, config and weights, the backbone's digest
        "format": FORMAT,
        "trainer": type(trainer).__name__,
        "classnames": run.classnames,
        "as_people_see": run.as_people_see,
        "config": run.config,
        "epoch": first["epoch"],
        "models": list(checkpoints),
        "classes": about | ({"complete_with": MERGED} if merged else {}),
        "results": scores or None,
        "commit": git_commit(),
        "versions": versions(),
        "exported": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    for file in (CARD, CLASSES, MERGED):  # the card is written last: whoever sees it sees everything
        (out / file).unlink(missing_ok=True)
    learned = {f"{name}/{key}": x for name, found in checkpoints.items() for key, x in found["state_dict"].items()}
    _write(learned, {"trainer": card["trainer"]}, out / LEARNED)
    if embeddings:
        _write(embeddings, {"classnames": json.dumps(run.classnames)}, out / CLASSES)
    if merged:
        _write(model.merged_weights(), {"backbone": trainer.clip.name}, out / MERGED)
    write_json(card, out / CARD)
    return card


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something else, or an earlier export without `overwrite`; raises FileExistsError."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; an export is a folder")
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if other := sorted(found - {CARD, CLASSES, LEARNED, MERGED}):
        raise FileExistsError(f"{out} holds something else than an export ({other[0]}): choose another folder")
    if found and not overwrite:
        raise FileExistsError(f"{out} holds an earlier export; --overwrite replaces it")


def class_embeddings(run: LoadedRun) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Class embeddings with the factor on the cosines, and what is to be said of them.

    Returns:
        Tensors `classes` [C, E] and `logit_scale` [], none where they depend on the image; and the card's entry, whose
        `complete` says whether they are the whole method.
    """
    model: Any = run.trainer_for().model
    method = type(run.trainer_for()).__name__
    if not model.text_is_fixed:
        return {}, {"complete": False, "why": f"the class embeddings of {method} depend on the image: there are none"}
    text = run.encode_text()
    lengths = text.norm(dim=-1)
    normalised = bool((lengths - 1).abs().max() < 1e-3)
    entry: dict[str, Any] = {"complete": bool(model.is_text_alone), "normalised": normalised}
    if not entry["complete"]:
        entry["why"] = (
            f"{method} changes the image side too: with the backbone's own image features these embeddings are not "
            f"{method}"
        )
    return {"classes": text, "logit_scale": torch.as_tensor(model.scale).float().cpu()}, entry


def _write(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> None:
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, metadata)
    with open_atomically(path, "wb") as file:
        file.write(content)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Export from a command line; returns the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--load-epoch", type=int, help="epoch to export (default: the one that the run tested)")
    parser.add_argument("--backbone", help="where the backbone lies now, if its file moved")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    merged = "also the backbone with CLIP-LoRA's updates in its weights"
    parser.add_argument("--merged", action="store_true", help=merged)
    args = parser.parse_args(argv)
    check_target(Path(args.out).expanduser(), args.overwrite)  # before the backbone is loaded
    card = export(load_run(args.run, "cpu", args.load_epoch, args.backbone), args.out, args.overwrite, args.merged)
    print(f"Exported {card['trainer']} on {card['backbone']} with {len(card['classnames'])} classes to {args.out}")
    about = card["classes"]
    if args.merged:
        print("classes.safetensors is the whole method, for the image features of merged.safetensors")
    else:
        print(about.get("why") or "classes.safetensors is the whole method, for the backbone's own image features")
    return card


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"export: {type(error).__name__}: {error}")
