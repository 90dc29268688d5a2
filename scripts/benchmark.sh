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
# What train.py prints is in each run's log.txt. JOBS=4 has four runs at once, each with its share of the CPU cores and,
# where there are GPUs, one of them. Several benchmarks at once on one OUTPUT share the runs too, also from several
# machines. LAUNCHER=slurm makes each training with its tests a job; Ctrl-C then leaves the jobs at work, and the same
# command watches them again (docs/runs.md).
#
#   DATASETS=embedded TRAINER="GOPro ZeroshotCLIP" bash scripts/benchmark.sh base2new
#   DATASETS=shapes TRAINER=all SHOTS="1 4 16" JOBS=2 bash scripts/benchmark.sh few-shot
#   bash scripts/benchmark.sh base2new --launcher slurm --jobs 16 --slurm partition=gpu gpus_per_node=1 time=4:00:00
#   python scripts/report.py output --paper
command=benchmark
here=$(dirname -- "$(readlink -f "$0" 2>/dev/null || echo "$0")")
[ -f "$here/_run.sh" ] && . "$here/_run.sh"  # which does not return
echo "error: call this script by its path, as in: bash scripts/$command.sh --help" >&2
exit 2
