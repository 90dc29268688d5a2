"""A small folder of rendered images, and a way to run train.py on it in this process."""

import os
import random

import pytest
import torch

import clip
import dassl.engine
import train
import trainers.base
from datasets.rendered.render import render

CLASSES = ["star", "house", "fish", "key", "apple"]
DOMAINS = ["photo", "sketch"]


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for domain in DOMAINS:
        for name in CLASSES:
            folder = root / domain / name
            folder.mkdir(parents=True)
            for i in range(8):
                render("Shapes", name, domain, random.Random(f"{domain}/{name}/{i}"), 64).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def runner(image_root):
    """runner(folder) gives `run` for runs in that folder, for fixtures that outlive a test."""

    def runs_in(top):
        def arguments(out, *args, trainer="GOPro", root=image_root):
            folder = top / out
            argv = ["--root", str(root), "--seed", "1", "--output-dir", str(folder)]
            argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
            argv += ["--config-file", f"configs/trainers/{trainer}/tiny.yaml"]
            overrides = ["DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "OPTIM.MAX_EPOCH", "2"]
            overrides += ["DATASET.NUM_SHOTS", "2"]
            first_key = next((i for i, a in enumerate(args) if "." in a and a.isupper()), len(args))
            return [*argv, *args[:first_key], *overrides, *args[first_key:]]

        def start(out, *args, **kwargs):
            return train.main(arguments(out, *args, **kwargs)), top / out

        start.arguments = arguments
        start.config = lambda *args, **kwargs: train.build_config(train.parse_args(arguments(*args, **kwargs)))
        return start

    return runs_in


@pytest.fixture
def run(runner, tmp_path):
    """run(out, *args): train.py on the folder with the tiny CLIP; returns (results, run folder).

    run.config(out, *args) gives the config of such a run alone.
    """
    return runner(tmp_path)


@pytest.fixture(scope="module")
def backbones():
    """What `clip.load` gave in this module, loaded once; each with a copy of its weights to compare with."""
    kept = {}
    original = clip.load

    def load(name, pretrained=True, dtype=torch.float32, device="cpu", cache_dir=None):
        key = (name, pretrained, dtype)
        if os.path.exists(name):  # a folder may change
            return original(name, pretrained, dtype, device, cache_dir)
        if key not in kept:
            generator = torch.get_rng_state()
            model = original(name, pretrained, dtype, device, cache_dir)
            torch.set_rng_state(generator)  # the first run is not to differ from later ones
            kept[key] = model, {name: value.clone() for name, value in model.state_dict().items()}
        return kept[key][0]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is done faster by one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers.base.clip, "load", load)
        yield kept
    torch.set_num_threads(threads)


@pytest.fixture
def built(monkeypatch):
    """The trainers that train.py built in this test."""
    kept = []
    original = dassl.engine.build_trainer

    def build(cfg):
        kept.append(original(cfg))
        return kept[-1]

    monkeypatch.setattr(dassl.engine, "build_trainer", build)
    return kept
