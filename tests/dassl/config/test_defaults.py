"""Defaults that published configs rely on: a changed one would silently change their results."""

import pytest

from dassl.config import flatten, get_cfg_default

DASSLS = {
    "SEED": -1,
    "OUTPUT_DIR": "./output",
    "INPUT.SIZE": (224, 224),
    "INPUT.INTERPOLATION": "bilinear",
    "INPUT.PIXEL_MEAN": [0.485, 0.456, 0.406],
    "INPUT.PIXEL_STD": [0.229, 0.224, 0.225],
    "INPUT.RRCROP_SCALE": (0.08, 1.0),
    "DATASET.NUM_SHOTS": -1,
    "DATASET.VAL_PERCENT": 0.1,
    "DATALOADER.NUM_WORKERS": 4,
    "DATALOADER.K_TRANSFORMS": 1,
    "DATALOADER.TRAIN_X.SAMPLER": "RandomSampler",
    "DATALOADER.TRAIN_X.BATCH_SIZE": 32,
    "DATALOADER.TEST.BATCH_SIZE": 32,
    "OPTIM.NAME": "adam",
    "OPTIM.LR": 0.0003,
    "OPTIM.WEIGHT_DECAY": 5e-4,
    "OPTIM.MOMENTUM": 0.9,
    "OPTIM.ADAM_EPS": 1e-8,
    "OPTIM.LR_SCHEDULER": "single_step",
    "OPTIM.LR_STEP": "epoch",
    "OPTIM.COSINE_MIN_LR": 0.0,
    "OPTIM.STEPSIZE": (-1,),
    "OPTIM.GAMMA": 0.1,
    "OPTIM.MAX_EPOCH": 10,
    "OPTIM.WARMUP_EPOCH": -1,
    "OPTIM.WARMUP_TYPE": "linear",
    "OPTIM.WARMUP_CONS_LR": 1e-5,
    "OPTIM.WARMUP_MIN_LR": 1e-5,
    "OPTIM.WARMUP_RECOUNT": True,
    "TRAIN.CHECKPOINT_FREQ": 0,
    "TRAIN.PRINT_FREQ": 10,
    "TEST.EVALUATOR": "Classification",
    "TEST.SPLIT": "test",
    "TEST.FINAL_MODEL": "last_step",
}


@pytest.mark.parametrize("key", DASSLS)
def test_default_is_dassls(key: str) -> None:
    assert flatten(get_cfg_default())[key] == DASSLS[key]


def test_all_classes_are_used_by_default() -> None:
    assert get_cfg_default().DATASET.SUBSAMPLE_CLASSES == "all"
