"""What the values of the engine's keys may be; bools, names of registries and paths of data sets need no rule."""

from __future__ import annotations

import os
from pathlib import Path

from dassl.data.samplers import AVAI_SAMPLERS
from dassl.data.transforms import AVAI_CHOICES, INTERPOLATION_MODES
from dassl.optim.averaging import AVAI_AVERAGES
from dassl.optim.lr_scheduler import AVAI_SCHEDS, AVAI_STEPS, AVAI_WARMUPS
from dassl.optim.optimizer import AVAI_OPTIMS

from .check import (
    Rule,
    at_least,
    between,
    each,
    empty,
    existing_file,
    interval,
    number,
    one_of,
    positive,
    share,
    text,
    whole,
)

_decay = Rule("at least 0 and below 1", lambda value: 0 <= value < 1)
_odd = Rule("a positive odd number of pixels", lambda value: value > 0 and value % 2 == 1)
_begun_run = Rule(
    "the folder of a run with a checkpoint in it (<model>/model.pth.tar-<epoch>)",
    lambda value: os.path.isdir(value) and any(Path(value).glob("*/model.pth.tar-*")),
)

RULES = {
    "OUTPUT_DIR": text,
    "RECIPE": each(text),
    "RESUME": empty | _begun_run,
    "INPUT.SIZE": each(whole(1), count=2),
    "INPUT.INTERPOLATION": one_of(*INTERPOLATION_MODES),
    "INPUT.TRANSFORMS": each(one_of(*AVAI_CHOICES)),
    "INPUT.PIXEL_MEAN": each(number, count=3),
    "INPUT.PIXEL_STD": each(positive, count=3),
    "INPUT.CROP_PADDING": at_least(0),
    "INPUT.RRCROP_SCALE": interval(0, 1),
    "INPUT.CUTOUT_N": at_least(0),
    "INPUT.CUTOUT_LEN": at_least(0),
    "INPUT.GN_STD": at_least(0),
    "INPUT.RANDAUGMENT_N": at_least(0),
    "INPUT.RANDAUGMENT_M": between(0, 30),
    "INPUT.COLORJITTER_B": at_least(0),
    "INPUT.COLORJITTER_C": at_least(0),
    "INPUT.COLORJITTER_S": at_least(0),
    "INPUT.COLORJITTER_H": between(0, 0.5),
    "INPUT.RGS_P": share,
    "INPUT.GB_P": share,
    "INPUT.GB_K": _odd,
    "DATASET.SOURCE_DOMAINS": each(text),
    "DATASET.TARGET_DOMAINS": each(text),
    "DATASET.NUM_SHOTS": one_of(-1) | at_least(1),
    "DATASET.SUBSAMPLE_CLASSES": one_of("all", "base", "new"),
    "DATASET.VAL_PERCENT": share,
    "DATALOADER.NUM_WORKERS": between(0, 1024),
    "DATALOADER.K_TRANSFORMS": at_least(1),
    **{f"DATALOADER.{node}.SAMPLER": one_of(*AVAI_SAMPLERS) for node in ("TRAIN_X", "TRAIN_U", "TEST")},
    **{f"DATALOADER.{node}.BATCH_SIZE": at_least(1) for node in ("TRAIN_X", "TRAIN_U", "TEST")},
    **{f"DATALOADER.{node}.N_DOMAIN": at_least(0) for node in ("TRAIN_X", "TRAIN_U")},
    **{f"DATALOADER.{node}.N_INS": at_least(1) for node in ("TRAIN_X", "TRAIN_U")},
    "MODEL.INIT_WEIGHTS": empty | existing_file,
    "MODEL.BACKBONE.ACTIVATIONS_GB": at_least(0),
    "MODEL.HEAD.HIDDEN_LAYERS": each(whole(1)),
    "MODEL.HEAD.ACTIVATION": text,
    "MODEL.HEAD.DROPOUT": share,
    "OPTIM.NAME": one_of(*AVAI_OPTIMS),
    "OPTIM.LR": positive,
    "OPTIM.WEIGHT_DECAY": at_least(0),
    "OPTIM.MOMENTUM": share,
    "OPTIM.SGD_DAMPNING": share,
    "OPTIM.RMSPROP_ALPHA": share,
    "OPTIM.ADAM_BETA1": _decay,
    "OPTIM.ADAM_BETA2": _decay,
    "OPTIM.ADAM_EPS": positive,
    "OPTIM.NEW_LAYERS": each(text),
    "OPTIM.BASE_LR_MULT": at_least(0),
    "OPTIM.LR_SCHEDULER": one_of(*AVAI_SCHEDS),
    "OPTIM.LR_STEP": one_of(*AVAI_STEPS),
    "OPTIM.STEPSIZE": each(whole(-1)),
    "OPTIM.GAMMA": positive,
    "OPTIM.COSINE_MIN_LR": at_least(0),
    "OPTIM.MAX_EPOCH": at_least(1),
    "OPTIM.MAX_ITER": at_least(0),
    "OPTIM.WARMUP_EPOCH": at_least(-1),
    "OPTIM.WARMUP_TYPE": one_of(*AVAI_WARMUPS),
    "OPTIM.WARMUP_CONS_LR": at_least(0),
    "OPTIM.WARMUP_MIN_LR": at_least(0),
    "OPTIM.AVERAGE": empty | one_of(*AVAI_AVERAGES),
    "OPTIM.AVERAGE_MEAN": number,
    "OPTIM.AVERAGE_STD": positive,
    "TRAIN.CHECKPOINT_FREQ": at_least(0),
    "TRAIN.PRINT_FREQ": at_least(1),
    "TRAIN.COUNT_ITER": one_of("train_x", "train_u", "smaller_one"),
    "TEST.EVALUATOR": text,
    "TEST.PROJECTOR": between(0, 10_000),  # their pictures share one file of at most 8192 x 8192 pixels
    "TEST.SPLIT": one_of("val", "test"),
    "TEST.FINAL_MODEL": one_of("last_step", "best_val"),
}
