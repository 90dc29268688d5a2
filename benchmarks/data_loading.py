"""Data loading: the three training views, ours against the straight way with the same random numbers.

    python -m benchmarks.data_loading
    python -m benchmarks.data_loading --quick

Ours decodes images and makes their views in worker processes, the straight way in the training process, one after
another. Both give the same pixels, which is checked. Floors: the views of decoded images alone, spread over the cores;
and for training with data, the steps alone.
"""

from __future__ import annotations

import sys
import tempfile
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine, measure, record
from benchmarks.pictures import make_pictures

VIEWS = ("img", "img2", "img3")


class Loading:
    """Both ways to load one set of pictures; counts the epochs, so that each pass has new views.

    Args:
        pictures: Folder with <class>/<image>.
        config: Stem of a file in configs/trainers/GOPro.
        size: Height = width of the views, pixels.
        batch: Images a batch.
        workers: Worker processes of our loader.
    """

    def __init__(self, pictures: Path, config: str, size: int, batch: int, workers: int) -> None:
        import datasets  # noqa: F401  registers them
        import train
        from dassl.data import DataManager
        from dassl.data.transforms import build_transform
        from trainers.gopro.views import augmix_view, moco_view

        configs = record.ROOT / "configs"
        argv = ["--root", str(pictures), "--dataset-config-file", str(configs / "datasets/image_folder.yaml")]
        argv += ["--seed", "1", "--config-file", str(configs / f"trainers/GOPro/{config}.yaml")]
        opts = f"INPUT.SIZE ({size},{size}) DATALOADER.TRAIN_X.BATCH_SIZE {batch} DATALOADER.NUM_WORKERS {workers}"
        cfg = train.build_config(train.parse_args([*argv, *opts.split(), "VERBOSE", "False"]))
        mean, std, how = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, cfg.INPUT.INTERPOLATION
        both = (view(size, mean, std, how) for view in (moco_view, augmix_view))
        self.views = [build_transform(cfg, is_train=True), *both]
        manager = DataManager(cfg, custom_tfm_train=self.views)
        self.loader = loader = cast(Any, manager.train_loader_x)
        self.items = loader.dataset.data_source
        self.seed, self.batch, self.epoch = cfg.SEED, batch, -1
        self.images = len(loader) * batch  # of an epoch

    def ours(self) -> Any:
        """An epoch of batches from the engine's loader."""
        self.epoch += 1
        self.loader.sampler.set_epoch(self.epoch)
        self.loader.dataset.set_epoch(self.epoch)
        return self.loader

    def naive(self) -> Iterator[dict[str, Any]]:
        """An epoch of batches, the straight way."""
        import torch
        from PIL import Image

        from dassl.utils import seeded

        order = list(self.ours().sampler)[: self.images]
        for start in range(0, self.images, self.batch):
            rows, labels = [], []
            for index in order[start : start + self.batch]:
                item = self.items[index]
                labels.append(item.label)
                image = Image.open(item.impath).convert("RGB")
                with seeded(self.seed, self.epoch, index):
                    rows.append([view(image) for view in self.views])
            batch = {name: torch.stack(views) for name, views in zip(VIEWS, zip(*rows, strict=True), strict=True)}
            yield batch | {"label": torch.tensor(labels)}

    def error(self) -> float:
        """Difference of the first batch's views."""
        ours = next(iter(self.ours()))
        self.epoch -= 1
        naive = next(self.naive())
        return measure.relative_error([ours[name] for name in VIEWS], [naive[name] for name in VIEWS])

    def views_alone(self) -> float:
        """Seconds an image that its views take on all cores, decoding and workers' overhead left out."""
        import torch

        from dassl.utils import read_image

        images = [read_image(item.impath) for item in self.items[:8]]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        spent = timeit.timeit(lambda: [view(image) for image in images for view in self.views], number=1)
        torch.set_num_threads(threads)
        return spent / len(images) / int(machine.describe("cpu")["cores"])


def trainer_step(classes: int) -> Callable[[dict[str, Any]], None]:
    """One training step of the tiny CLIP on a batch, as the demo's."""
    from benchmarks import models, steps

    model = models.build_ours(models.backbone("tiny", "cpu"), classes).train()
    return steps.sgd(lambda batch: steps.our_loss(model(*(batch[v] for v in VIEWS)), batch["label"]), model.learner)


def compare(loading: Loading, what: str, repeats: int, step: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """A row of the record: an epoch each way, with training steps if given; times are per image."""
    error = measure.require(loading.error(), 1e-6, what)

    def epoch(batches: Callable[[], Iterable[Any]]) -> None:
        for batch in batches():
            if step is not None:
                step(batch)

    times = measure.measure({s: partial(epoch, getattr(loading, s)) for s in ("ours", "naive")}, repeats)
    if step is None:
        least = loading.views_alone()
    else:
        alone = measure.measure({"step": partial(step, next(loading.naive()))}, repeats)
        least = alone["step"]["seconds"] / loading.batch
    sides = {name: record.per_image(side, loading.images) for name, side in times.items()}
    floor = {"seconds": least, "share": least / sides["ours"]["seconds"]}
    return record.row({"what": what}, **sides, error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, models=False)
    from benchmarks import models

    tiny = models.backbone("tiny", "cpu").image_size
    classes, per_class, width, height = (2, 8, 64, 48) if args.quick else (8, 16, 500, 375)
    size, batch, workers = (32, 4, 1) if args.quick else (224, 16, machine.describe("cpu")["cores"])
    with tempfile.TemporaryDirectory() as folder:
        large = make_pictures(Path(folder) / "large", classes, per_class, width, height)
        small = make_pictures(Path(folder) / "small", classes, 2 * per_class, 80, 80)
        loading = Loading(large, "vit_b16", size, 4, workers)
        rows = [compare(loading, f"three views of {size} px from {width} x {height} JPEG", args.repeats)]
        loading, step = Loading(small, "tiny", tiny, batch, workers), trainer_step(classes)
        rows.append(compare(loading, "training of the tiny CLIP, data included", args.repeats, step))
        del loading
    return record.finish("data_loading", args, rows, per="image")


if __name__ == "__main__":
    main()
