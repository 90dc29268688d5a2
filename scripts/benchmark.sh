#!/bin/sh
# Runs a whole protocol: every training and test of its data sets and seeds, with one line of overall progress.
#
#   bash scripts/benchmark.sh TASK [settings] [arguments for train.py]
#
# DATASETS names what to train on: paper (the default: the paper's sets), embedded (the rendered ones), or a list such
# as "dtd eurosat"; TRAINER may name several methods, or all that have a config for the data set. The settings, and the
# config of each task, are otherwise those of train.sh.
# Finished runs are skipped, so the same command goes on after an interruption (SIGTERM, SIGINT and SIGHUP are passed on
# to the run and its end is waited for; if this process is killed, the run ends too). A failed run is named at the end.
# What train.py prints is in each run's log.txt. Several benchmarks at once on one OUTPUT share the runs.
#
#   DATASETS=embedded TRAINER="GOPro ZeroshotCLIP" bash scripts/benchmark.sh base2new
#   DATASETS=shapes TRAINER=all SHOTS="1 4 16" bash scripts/benchmark.sh few-shot
#   python scripts/report.py output --paper
command=benchmark
here=$(dirname -- "$(readlink -f "$0" 2>/dev/null || echo "$0")")
if ! [ -f "$here/_run.sh" ]; then
    echo "error: call this script by its path, as in: bash scripts/$command.sh --help" >&2
    exit 2
fi
. "$here/_run.sh"
