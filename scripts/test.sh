#!/bin/sh
# Tests what train.sh trained, once per seed; it never trains, and a missing checkpoint is an error.
#
#   bash scripts/test.sh DATASET TASK [settings] [arguments for train.py]
#
#   base2new               on the base and the new classes of DATASET
#   cross-dataset          on DATASET, with the weights trained on imagenet (or shapes, for patterns, digits, counts)
#   few-shot               on all classes of DATASET, with the weights of each number of SHOTS
#   domain-generalization  on the variant DATASET of imagenet, or on all test domains of shapes or pacs
#
# The settings are those of train.sh and must be the same for both. What a training tested at its end is taken
# from its record; it is tested again where further arguments are given.
#
#   DATA=/data bash scripts/test.sh dtd cross-dataset
command=test
here=$(dirname -- "$(readlink -f "$0" 2>/dev/null || echo "$0")")
[ -f "$here/_run.sh" ] && . "$here/_run.sh"  # which does not return
echo "error: call this script by its path, as in: bash scripts/$command.sh --help" >&2
exit 2
