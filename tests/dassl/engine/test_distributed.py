"""Several processes train and test as one does. They are forked here and talk over gloo, as torchrun's would."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import processes
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import build_trainer, run
from dassl.evaluation import build_evaluator
from dassl.utils.distributed import get_rank, get_world_size

pytestmark = pytest.mark.slow
MakeCfg = Callable[..., Any]


def train_and_keep_weights(cfg: Any) -> None:
    with run(cfg) as this_run:
        trainer = build_trainer(cfg)
        this_run.begin()
        trainer.train()
        assert get_world_size() == 2
        seen = [path for path in trainer.seen_in_test]
        torch.save(
            {"weights": trainer.model.state_dict(), "results": trainer.results, "seen": seen, "seed": cfg.SEED},
            Path(cfg.OUTPUT_DIR, f"rank{get_rank()}.pt"),
        )
        this_run.finish(trainer.result_record())


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers keep the paths of the test images they saw; each process starts from weights of its own."""
    parse, build = toy.ToyTrainer.parse_batch_test, toy.ToyTrainer.build_model

    def parse_batch_test(self: Any, batch: Any) -> Any:
        self.seen_in_test = [*getattr(self, "seen_in_test", []), *batch["impath"]]
        return parse(self, batch)

    def build_model(self: Any) -> None:
        build(self)
        with torch.no_grad():
            self.head.bias.add_(get_rank())

    monkeypatch.setattr(toy.ToyTrainer, "parse_batch_test", parse_batch_test)
    monkeypatch.setattr(toy.ToyTrainer, "build_model", build_model)


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("TRAINER.TOY.PREC", "amp", "TRAINER.TOY.TWO_MODELS", "True"),
        ("TEST.FINAL_MODEL", "best_val"),
        ("SEED", "-1"),
        ("OPTIM.AVERAGE", "uniform", "OPTIM.LR_STEP", "batch", "OPTIM.MAX_ITER", "10"),
    ],
)
def test_weights_stay_equal_and_every_test_image_is_counted_once(
    opts: tuple[str, ...], make_cfg: MakeCfg, tmp_path: Path, watched: None
) -> None:
    cfg = make_cfg(*opts, "DATALOADER.TRAIN_X.BATCH_SIZE", "2")
    processes.together(lambda: train_and_keep_weights(cfg))
    ranks = [torch.load(tmp_path / "run" / f"rank{rank}.pt") for rank in range(2)]
    assert ranks[0]["seed"] == ranks[1]["seed"] >= 0
    for key, tensor in ranks[0]["weights"].items():
        assert torch.equal(tensor, ranks[1]["weights"][key]), key
    assert ranks[0]["results"] == ranks[1]["results"]
    of_test = [[path for path in rank["seen"] if "/test/" in path] for rank in ranks]
    assert sorted(map(len, of_test)) == [4, 5]
    assert len(set(of_test[0] + of_test[1])) == 9
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["num_images"] == 9
    assert results["results"]["accuracy"] in [pytest.approx(100 * hits / 9) for hits in range(10)]
    assert len(toy.read_metrics(tmp_path / "run")) >= 10
    assert (tmp_path / "run" / "done").exists()


EVERYTHING = ("TEST.PER_CLASS_RESULT", "True", "TEST.COMPUTE_CMAT", "True")


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("images", [3, 30, 31, 33])  # of four processes, one gets none; shares of different sizes
def test_figures_of_several_processes_are_those_of_one_with_all_images(
    images: int, count: int, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(images, 4, generator=generator), torch.randint(0, 3, (images,), generator=generator)
    logits[:, 3] -= 100  # a class that is neither there nor predicted has its row and column all the same
    cfg = make_cfg(*EVERYTHING)

    def evaluate(share: slice) -> dict[str, Any]:
        evaluator = build_evaluator(cfg, lab2cname=dict(enumerate("abcd")))
        for logit, label in zip(logits[share].split(2), labels[share].split(2), strict=True):
            if len(label):
                evaluator.process(logit, label)
        return {"results": dict(evaluator.evaluate()), "images": evaluator.num_images} | {
            name: getattr(evaluator, name) for name in ("per_class", "confusion")
        }

    def job() -> None:
        with run(cfg):
            torch.save(evaluate(slice(get_rank(), None, count)), tmp_path / f"figures{get_rank()}.pt")

    processes.together(job, count)
    shares = [torch.load(tmp_path / f"figures{rank}.pt") for rank in range(count)]
    written = torch.load(tmp_path / "run" / "cmat.pt")
    whole = evaluate(slice(None))
    for share in shares:
        assert share["images"] == whole["images"] == images
        assert torch.equal(share["confusion"], whole["confusion"]) and share["confusion"].shape == (4, 4)
        assert share["confusion"].sum() == images
        assert share["per_class"] == whole["per_class"]
        assert share["results"] == pytest.approx(whole["results"], rel=1e-12)
        assert list(share["results"]) == ["accuracy", "error_rate", "macro_f1", "ece", "perclass_accuracy"]
    assert torch.equal(written, torch.load(tmp_path / "run" / "cmat.pt"))
    if images > 3:  # a part alone would not do
        assert abs(evaluate(slice(0, None, count))["results"]["ece"] - whole["results"]["ece"]) > 0.1


@pytest.mark.parametrize("count", [2, 4])
def test_a_test_by_several_processes_counts_every_image_once(
    count: int, make_cfg: MakeCfg, tmp_path: Path, watched: None
) -> None:
    cfg = make_cfg(*EVERYTHING, "DATALOADER.TRAIN_X.BATCH_SIZE", "1", "DATALOADER.TEST.BATCH_SIZE", "2")

    def test() -> dict[str, Any]:
        with run(cfg):
            trainer = build_trainer(cfg)
            trainer.test()
            record = trainer.result_record()
        kept = {name: record[name] for name in ("results", "per_class", "num_images")}
        return kept | {"confusion": trainer.evaluator.confusion, "seen": trainer.seen_in_test}

    processes.together(lambda: torch.save(test(), tmp_path / f"{os.environ['RANK']}.pt"), count)
    one, shares = test(), [torch.load(tmp_path / f"{rank}.pt") for rank in range(count)]
    assert sorted(path for share in shares for path in share["seen"]) == sorted(one["seen"])
    assert len(one["seen"]) == 9 and sorted(len(share["seen"]) for share in shares)[:: count - 1] == [
        9 // count,
        9 // count + 1,
    ]
    for share in shares:
        assert torch.equal(share["confusion"], one["confusion"])
        assert share["num_images"] == 9 and share["per_class"] == one["per_class"]
        assert share["results"] == pytest.approx(one["results"], rel=1e-5)  # ece: the logits of other batches


def test_best_model_is_read_only_after_the_first_process_has_written_it(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: None
) -> None:
    save, test = toy.ToyTrainer.save_model, toy.ToyTrainer.test

    def slow_save(self: Any, *args: Any, **kwargs: Any) -> None:
        if get_rank() == 0 and self.epoch == toy.EPOCHS - 1:
            time.sleep(0.5)
        save(self, *args, **kwargs)

    def every_epoch_is_better(self: Any, split: str | None = None) -> float:
        return test(self, split) + 1000 * self.epoch

    monkeypatch.setattr(toy.ToyTrainer, "save_model", slow_save)
    monkeypatch.setattr(toy.ToyTrainer, "test", every_epoch_is_better)
    cfg = make_cfg("TEST.FINAL_MODEL", "best_val", "DATALOADER.TRAIN_X.BATCH_SIZE", "2")
    processes.together(lambda: train_and_keep_weights(cfg))
    ranks = [torch.load(tmp_path / "run" / f"rank{rank}.pt") for rank in range(2)]
    assert all(torch.equal(tensor, ranks[1]["weights"][key]) for key, tensor in ranks[0]["weights"].items())


def test_processes_share_out_the_training_images_of_an_epoch(make_cfg: MakeCfg, tmp_path: Path) -> None:
    def keep_order() -> None:
        cfg = make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", "2")
        with run(cfg):
            loader = build_trainer(cfg).train_loader_x
            order = [index for batch in loader for index in batch["index"].tolist()]
            Path(tmp_path, f"order{get_rank()}.json").write_text(json.dumps(order))

    processes.together(keep_order)
    orders = [json.loads((tmp_path / f"order{rank}.json").read_text()) for rank in range(2)]
    assert [len(order) for order in orders] == [6, 6]  # 15 images: 7 each, in whole batches of 2
    assert len(set(orders[0] + orders[1])) == 12


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_take_the_step_of_one_with_the_whole_batch(
    count: int, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without dropout the mean gradient over the shares is that of the whole batch.
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)

    def train(folder: str, batch_size: int) -> None:
        cfg = make_cfg("OUTPUT_DIR", str(tmp_path / folder), "DATALOADER.TRAIN_X.BATCH_SIZE", str(batch_size))
        with run(cfg):
            build_trainer(cfg).train()

    processes.together(lambda: train("several", 4 // count), count)
    train("one", 4)
    names = ("one", "several")
    one, several = (torch.load(tmp_path / name / "model" / "model.pth.tar-3")["state_dict"] for name in names)
    for key, tensor in one.items():
        torch.testing.assert_close(several[key], tensor, rtol=1e-4, atol=1e-5)
    figures = {
        name: [(r["loss"], r["acc"]) for r in toy.read_metrics(tmp_path / name) if r["split"] == "train"]
        for name in names
    }
    assert figures["one"] and len(figures["one"]) == len(figures["several"])
    for expected, got in zip(
        figures["one"], figures["several"], strict=True
    ):  # of the whole batch, not of rank 0's share
        assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("two_models", "count"), [("False", 2), ("True", 2), ("True", 4)])
def test_projected_gradients_are_those_of_one_process_with_the_whole_batch(
    two_models: str, count: int, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    build = toy.ToyTrainer.build_model

    def build_model(self: Any) -> None:
        build(self)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # loss scaling without the rounding of fp16

    def forward_backward(self: Any, batch: Any) -> dict[str, Any]:
        image, label, _ = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.reference = self.model_gradients(output.square().mean(), retain_graph=True)
        self.model_backward_and_update(loss)
        return {"loss": loss.detach()}

    def before_step(self: Any, name: str) -> None:
        """What of the gradient is orthogonal to the reference's, over all models at once."""
        if name == self.get_model_names()[-1]:
            own = [p.grad for model in self._models.values() for p in model.parameters()]
            dot = sum((g * r).sum() for g, r in zip(own, self.reference, strict=True))
            square = sum(r.square().sum() for r in self.reference)
            for gradient, reference in zip(own, self.reference, strict=True):
                gradient -= dot / square * reference

    def train(folder: str, batch_size: int) -> None:
        opts = ("INPUT.TRANSFORMS", "('normalize',)", "DATALOADER.TRAIN_X.SAMPLER", "SequentialSampler")
        own = ("OUTPUT_DIR", str(tmp_path / folder), "DATALOADER.TRAIN_X.BATCH_SIZE", str(batch_size))
        cfg = make_cfg(*opts, *own, "TRAINER.TOY.TWO_MODELS", two_models)
        with run(cfg):
            trainer = build_trainer(cfg)
            trainer.train()
        torch.save(trainer.model.state_dict(), tmp_path / f"{folder}.pt")

    monkeypatch.setattr(toy.ToyTrainer, "build_model", build_model)
    monkeypatch.setattr(toy.ToyTrainer, "forward_backward", forward_backward)
    train("plain", 4)
    monkeypatch.setattr(toy.ToyTrainer, "before_step", before_step)
    processes.together(lambda: train("two", 4 // count), count)
    train("one", 4)
    plain, one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("plain", "one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain[key], tensor, rtol=1e-4, atol=1e-5)
