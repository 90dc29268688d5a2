#!/usr/bin/env bash
# Runs a whole protocol: every training and test of its data sets and seeds, with a line of overall progress.
#
#   bash scripts/benchmark.sh TASK [arguments for train.py]
#
# DATASETS names what to train on: paper (the default: the paper's sets), embedded (the rendered ones), or a list such
# as "dtd eurosat"; TRAINER may name several methods. The rest of the environment is that of train.sh.
# Finished runs are skipped, so the same command goes on after an interruption. A failed run is named at the end.
#
#   DATASETS=embedded TRAINER="GOPro ZeroshotCLIP" bash scripts/benchmark.sh base2new
#   python scripts/report.py output --paper
command=benchmark
source "$(dirname "${BASH_SOURCE[0]}")/_run.sh"
