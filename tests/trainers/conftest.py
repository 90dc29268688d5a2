"""A small folder of rendered images, and a way to run train.py on it in this process."""

import random

import pytest

import train
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


@pytest.fixture
def run(image_root, tmp_path):
    """run(out, *args): train.py on the folder with the tiny CLIP; returns (results, run folder).

    run.config(out, *args) gives the config of such a run alone.
    """

    def arguments(out, *args, trainer="GOPro", root=image_root):
        folder = tmp_path / out
        argv = ["--root", str(root), "--seed", "1", "--output-dir", str(folder)]
        argv += ["--dataset-config-file", "configs/datasets/image_folder.yaml"]
        argv += ["--config-file", f"configs/trainers/{trainer}/tiny.yaml"]
        flags = [a for a in args]
        overrides = ["DATALOADER.NUM_WORKERS", "0", "DATALOADER.TRAIN_X.BATCH_SIZE", "4", "OPTIM.MAX_EPOCH", "2"]
        overrides += ["DATASET.NUM_SHOTS", "2"]
        first_key = next((i for i, a in enumerate(flags) if "." in a and a.isupper()), len(flags))
        return [*argv, *flags[:first_key], *overrides, *flags[first_key:]]

    def start(out, *args, **kwargs):
        return train.main(arguments(out, *args, **kwargs)), tmp_path / out

    start.config = lambda *args, **kwargs: train.build_config(train.parse_args(arguments(*args, **kwargs)))
    return start
