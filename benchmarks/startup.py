"""Start-up: `train.py --help`, the first training step of the demo and an answer of predict.py, in fresh processes.

    python -m benchmarks.startup
    python -m benchmarks.startup --quick

The naive `--help` imports everything before it reads the arguments. Floors are the bare interpreter for `--help`, and
importing PyTorch alone for the others.
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
ANSWER = "`python predict.py` on one image, zero-shot by the tiny CLIP"
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
        image = make_pictures(Path(folder) / "one", 1, 1, 64, 64) / "class 0" / "0.jpg"
        asked = ["predict.py", str(image), "--backbone", "tiny", "--classes", "star", "house", "fish"]
        bare, torch = partial(run, "-c", "pass"), partial(run, "-c", "import torch")
        starts = {
            HELP: {"ours": partial(run, "train.py", "--help"), "naive": partial(run, "-c", EAGER), "floor": bare},
            FIRST: {"ours": partial(until_first_step, demo), "floor": torch},
            ANSWER: {"ours": partial(run, *asked), "floor": torch},
        }
        start, rows = time.perf_counter(), []
        for what, sides in starts.items():
            times = measure.measure(sides, args.repeats)
            least = times.pop("floor")["seconds"]
            floor = {"seconds": least, "share": least / times["ours"]["seconds"]}
            rows.append(record.row({"what": what}, **times, floor=floor))
        print(f"measured in {time.perf_counter() - start:.0f} s")
    return record.finish("startup", args, rows)


if __name__ == "__main__":
    main()
