"""Helpers with Dassl's names: registry, logger, meters, files, checkpoints, seeds."""

from .images import read_image, require_readable
from .logger import setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry
from .tools import (
    check_isfile,
    collect_env_info,
    listdir_nohidden,
    mkdir_if_missing,
    progress,
    read_json,
    read_text,
    seeded,
    set_random_seed,
    tolist_if_not,
    usable_cores,
    write_json,
    write_text,
)
from .torchtools import (
    count_num_param,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
    weights_digest,
)

__all__ = [
    "AverageMeter",
    "MetricMeter",
    "Registry",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "listdir_nohidden",
    "load_checkpoint",
    "load_pretrained_weights",
    "mkdir_if_missing",
    "progress",
    "read_image",
    "read_json",
    "read_text",
    "require_readable",
    "resume_from_checkpoint",
    "save_checkpoint",
    "seeded",
    "set_random_seed",
    "setup_logger",
    "tolist_if_not",
    "usable_cores",
    "weights_digest",
    "write_json",
    "write_text",
]
