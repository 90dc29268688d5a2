"""Start-up: `train.py --help`, and the first training step of the demo, each in fresh processes.

    python -m benchmarks.startup
    python -m benchmarks.startup --quick

The naive `--help` imports everything before it reads the arguments. Floors are the bare interpreter for `--help`, and
importing PyTorch alone for the first step.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, record
from benchmarks.pictures import make_pictures

EAGER = f"""import sys; sys.path.insert(0, {str(record.ROOT)!r})
import torch, torchvision, open_clip, datasets, trainers, train
train.main(["--help"])"""
HELP, FIRST = "`python train.py --help`", "first training step of the demo, from the start of python"
FIRST_STEP = "epoch [1/20] batch [1/"
DEMO = "--seed 1 --trainer GOPro --config-file configs/trainers/GOPro/tiny.yaml"
SETTINGS = "DATASET.SUBSAMPLE_CLASSES base DATASET.NUM_SHOTS 16 TRAIN.PRINT_FREQ 1"
QUICK = "DATASET.NUM_SHOTS 1 DATALOADER.TRAIN_X.BATCH_SIZE 2 DATALOADER.NUM_WORKERS 0 MODEL.BACKBONE.PRETRAINED False"


def run(*args: str) -> None:
    """Run Python to its end.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run([sys.executable, *args], cwd=record.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"python {' '.join(args)} failed:\n{done.stderr[-2000:]}")


def until_first_step(command: Sequence[str]) -> None:
    """Start train.py in a new folder and end it as soon as it reports its first training step.

    Raises:
        RuntimeError: It ended before.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "train.py", "--output-dir", folder, *command],
            cwd=record.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        assert process.stdout is not None
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith(FIRST_STEP):
                    return
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with its workers
            process.wait()
            process.stdout.close()
    raise RuntimeError(f"train.py ended before its first step:\n{''.join(lines[-30:])}")


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, models=False)
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            pictures = make_pictures(Path(folder) / "pictures", 3, 6, 64, 64)
            data = ["--root", str(pictures), "--dataset-config-file", "configs/datasets/image_folder.yaml"]
        else:  # the demo's own pictures; the first, uncounted run draws them where they are missing
            data = ["--root", "data", "--dataset-config-file", "configs/datasets/shapes.yaml"]
        demo = [*data, *DEMO.split(), *SETTINGS.split(), *(QUICK.split() if args.quick else [])]
        sides = {
            "ours": partial(run, "train.py", "--help"),
            "naive": partial(run, "-c", EAGER),
            "python": partial(run, "-c", "pass"),
        }
        start = time.perf_counter()
        times = measure.measure(sides, args.repeats)
        steps = {"ours": partial(until_first_step, demo), "torch": partial(run, "-c", "import torch")}
        first = measure.measure(steps, args.repeats)
        print(f"measured in {time.perf_counter() - start:.0f} s")
    rows = []
    for what, ours, naive, least in (
        (HELP, times["ours"], times["naive"], times["python"]["seconds"]),
        (FIRST, first["ours"], None, first["torch"]["seconds"]),
    ):
        floor = {"seconds": least, "share": least / ours["seconds"]}
        rows.append(record.row({"what": what}, ours, naive, floor=floor))
    return record.finish("startup", args, rows)


if __name__ == "__main__":
    main()
