"""Prediction: images/s of a loaded run, beside the engine's test loop and beside the straight way.

    python -m benchmarks.prediction
    python -m benchmarks.prediction --quick

CoOp on the tiny CLIP answers 1,000 rendered pictures from their files. The test loop is that of the same run's trainer,
on the same files, with as many workers. The straight way is one image after another, its prompts encoded anew each
time over padded rows; it gets fewer images, since it takes the same time for each. All three agree, which is checked.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, record
from benchmarks.pictures import make_pictures

TEST_LOOP = "CoOp on the tiny CLIP, 1,000 rendered pictures: beside the test loop"
ONE_BY_ONE = "the same: beside one image at a time, prompts encoded anew"
IMAGES, NAIVE_IMAGES = 1000, 100
SETTINGS = "--seed 1 OPTIM.MAX_EPOCH 2 DATASET.NUM_SHOTS 2 TEST.NO_TEST True VERBOSE False"
CONFIGS = record.ROOT / "configs"


class Prediction:
    """The three ways to answer the same images by the same run.

    Args:
        folder: Gets the run.
        data: Flags of train.py that name the data set.
        naive_images: How many of the test images the straight way gets.
    """

    def __init__(self, folder: Path, data: Sequence[str], naive_images: int) -> None:
        import datasets  # noqa: F401  registers them
        import train
        from benchmarks.naive_methods import NaiveCoOp
        from dassl.data import build_data_loader
        from dassl.data.transforms import build_transform
        from dassl.engine import build_trainer
        from trainers import load_run

        argv = ["--output-dir", str(folder), *data, "--config-file", str(CONFIGS / "trainers/CoOp/tiny.yaml")]
        argv += SETTINGS.split()
        with contextlib.redirect_stdout(sys.stderr):
            train.main(argv)
            cfg = train.build_config(train.parse_args(argv))
            self.trainer: Any = build_trainer(cfg)
            self.trainer.load_model(str(folder))
            self.run = load_run(folder)
        items = self.trainer.dataset.test[:IMAGES]
        self.paths, self.naive_paths = [item.impath for item in items], [item.impath for item in items[:naive_images]]
        size, transform = cfg.DATALOADER.TEST.BATCH_SIZE, build_transform(cfg, is_train=False)
        self.loader = build_data_loader(cfg, "SequentialSampler", items, size, tfm=transform, is_train=False)
        clip = self.trainer.clip
        self.reference = NaiveCoOp(clip.model, clip.tokenize, self.run.classnames).eval()
        self.reference.load_state_dict(self.trainer.model.learner.state_dict())

    def ours(self) -> Any:
        """Answers of all images."""
        return self.run.predict(self.paths)

    def test_loop(self) -> Any:
        """What `SimpleTrainer.test` does with them; the logits."""
        import torch

        self.trainer.set_model_mode("eval")
        self.trainer.evaluator.reset()
        logits = []
        with torch.no_grad():
            for images, labels in self.trainer.test_inputs("test", self.loader):
                with self.trainer.autocast():
                    logits.append(self.trainer.model_inference(images))
                self.trainer.evaluator.process(logits[-1], labels)
        return torch.cat(logits)

    def naive(self) -> Any:
        """One image after another; the logits."""
        import torch
        from PIL import Image

        logits = []
        with torch.no_grad():
            for path in self.naive_paths:
                image = self.run.transform(Image.open(path).convert("RGB"))
                logits.append(self.reference(image.unsqueeze(0)))
        return torch.cat(logits)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, models=False)
    with tempfile.TemporaryDirectory() as folder:
        root, name, naive_images = record.ROOT / "data", "shapes", NAIVE_IMAGES
        if args.quick:
            root, name, naive_images = make_pictures(Path(folder) / "pictures", 3, 8, 64, 64), "image_folder", 2
        data = ["--root", str(root), "--dataset-config-file", str(CONFIGS / "datasets" / f"{name}.yaml")]
        data += [] if args.quick else ["--target-domains", "sketch", "photo"]
        ways = Prediction(Path(folder) / "run", data, naive_images)
        expected = ways.test_loop()
        loop_error = measure.relative_error([ways.run.logits(ways.paths)], [expected])
        naive_error = measure.relative_error([expected[:naive_images]], [ways.naive()])
        measure.require(loop_error, 0, TEST_LOOP)  # bit by bit
        measure.require(naive_error, 1e-4, ONE_BY_ONE)
        print(f"load average before: {os.getloadavg()[0]:.2f}")
        sides = {"ours": ways.ours, "loop": ways.test_loop, "naive": ways.naive}
        times = measure.measure(sides, args.repeats)
    counts = {"ours": len(ways.paths), "loop": len(ways.paths), "naive": len(ways.naive_paths)}
    ours, loop, naive = (record.per_image(times[name], count) for name, count in counts.items())
    rows = [
        record.row({"what": TEST_LOOP}, ours, loop, error=loop_error),
        record.row({"what": ONE_BY_ONE}, ours, naive, error=naive_error),
    ]
    return record.finish("prediction", args, rows, per="image")


if __name__ == "__main__":
    main()
