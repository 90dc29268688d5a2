#!/bin/sh
# Changes one factor of a method's config at a time, for all seeds, and says what each does: a table of accuracies and of
# their differences from the config as it is, paired by seed, with 95 % intervals.
#
#   bash scripts/ablate.sh DATASET TASK [--factor NAME]... [settings] [arguments for train.py]
#
# The factors are those of configs/ablations/$TRAINER.yaml, all or those that are named, as in --factor "without L_con";
# the settings are those of train.sh and benchmark.sh (one TRAINER, one number of SHOTS). Runs lie in OUTPUT/ablation,
# the table too; the same command goes on after an interruption.
#
#   JOBS=2 bash scripts/ablate.sh shapes base2new
command=ablate
here=$(dirname -- "$(readlink -f "$0" 2>/dev/null || echo "$0")")
[ -f "$here/_run.sh" ] && . "$here/_run.sh"  # which does not return
echo "error: call this script by its path, as in: bash scripts/$command.sh --help" >&2
exit 2
