"""Real photos, paintings, cartoons and sketches: an ImageFolder with domains, with the tiny CLIP and a real ViT."""

import json
import os
from pathlib import Path

import pytest

import train

DATA = os.environ.get("GOPRO_TEST_DATA", "")
pytestmark = pytest.mark.skipif(not DATA, reason="GOPRO_TEST_DATA names no folder of real images")


def argv(folder, *overrides):
    images = folder.parent / "images"  # links, so that the split is not written into the folder of all tests
    if not images.exists():
        images.mkdir()
        for domain in Path(DATA, "pacs", "images").iterdir():
            (images / domain.name).symlink_to(domain)
    return [
        *("--root", str(images), "--seed", "1", "--trainer", "GOPro"),
        *("--dataset-config-file", "configs/datasets/image_folder.yaml"),
        *("--config-file", "configs/trainers/GOPro/tiny.yaml", "--output-dir", str(folder)),
        *("--source-domains", "art_painting", "cartoon", "photo", "--target-domains", "sketch"),
        *("DATALOADER.NUM_WORKERS", "0"),
        *("DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1", *overrides),
    ]


def test_leave_one_domain_out_with_the_tiny_clip(tmp_path):
    train.main(argv(tmp_path / "run", "DATALOADER.TRAIN_X.BATCH_SIZE", "4"))
    record = json.loads((tmp_path / "run" / "results.json").read_text())
    assert record["num_images"] == 7 * 30  # all sketches: an unseen domain is all test images
    assert list(record["per_class"]) == ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
    picked = json.loads((tmp_path / "run" / "few_shot.json").read_text())
    assert len(picked["train"]) == 7 and not any("sketch/" in path for path, _, _ in picked["train"])


@pytest.mark.slow
def test_a_few_steps_of_a_random_vit_b16_base_to_new(tmp_path):
    vit = ("--backbone", "ViT-B/16", "MODEL.BACKBONE.PRETRAINED", "False", "DATALOADER.TRAIN_X.BATCH_SIZE", "2")
    base = argv(tmp_path / "base", "DATASET.SUBSAMPLE_CLASSES", "base")
    train.main([*vit[:2], *base, *vit[2:]])
    steps = [json.loads(line) for line in (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()]
    assert [s["split"] for s in steps] == ["train", "train", "test"]
    new = argv(tmp_path / "new", "DATASET.SUBSAMPLE_CLASSES", "new")
    train.main([*vit[:2], "--eval-only", "--model-dir", str(tmp_path / "base"), *new, *vit[2:]])
    assert list(json.loads((tmp_path / "new" / "results.json").read_text())["per_class"]) == [
        "horse",
        "house",
        "person",
    ]
