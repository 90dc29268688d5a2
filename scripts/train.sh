#!/bin/sh
# Trains one method, or several, on one data set, once per seed and, for few-shot, number of images per class.
#
#   bash scripts/train.sh DATASET TASK [settings] [arguments for train.py]
#
#   DATASET  base2new, few-shot: any in configs/datasets that has training images; cross-dataset: imagenet, shapes;
#            domain-generalization: imagenet, shapes, pacs
#   TASK     base2new (or basenew), cross-dataset, domain-generalization, few-shot
#
# Settings, in the environment or as flags: DATA (default data), OUTPUT (output), SEEDS ("1 2 3"), SHOTS (16; for
#   few-shot a list, "1 2 4 8 16"), TRAINER (GOPro; several, or all), CFG (a file in configs/trainers/$TRAINER; default
#   tiny for the rendered sets, vit_b16 for the others; where there is one, cross-dataset and domain-generalization take
#   <that>_transfer, and few-shot takes <that>_few_shot), JOBS (1; how many runs at once), LAUNCHER (local: on this
#   machine; or slurm: a training with its tests is a job of that cluster), SLURM (its options, as in "partition=gpu
#   time=4:00:00", or a YAML file; docs/runs.md says more). In the environment only: PYTHON (.venv/bin/python), DRY_RUN=1
#   (only show train.py's arguments, and the jobs).
# What few-shot trains on imagenet or shapes lies in OUTPUT/cross-dataset, which trains the same with 16 shots where both
# take the same config.
# A finished run is skipped (one with another config is an error), an unfinished one is resumed.
#
#   DATA=/data SEEDS="1 2" bash scripts/train.sh caltech101 base2new
#   bash scripts/train.sh caltech101 base2new --data /data --seeds 1 2 OPTIM.MAX_EPOCH 10
command=train
here=$(dirname -- "$(readlink -f "$0" 2>/dev/null || echo "$0")")
[ -f "$here/_run.sh" ] && . "$here/_run.sh"  # which does not return
echo "error: call this script by its path, as in: bash scripts/$command.sh --help" >&2
exit 2
