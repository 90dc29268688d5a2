"""Two processes train as one does. They are forked here and talk over gloo, as torchrun's would."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dassl.engine import build_trainer, run
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
    toy.in_two_processes(lambda: train_and_keep_weights(cfg))
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
    toy.in_two_processes(lambda: train_and_keep_weights(cfg))
    ranks = [torch.load(tmp_path / "run" / f"rank{rank}.pt") for rank in range(2)]
    assert all(torch.equal(tensor, ranks[1]["weights"][key]) for key, tensor in ranks[0]["weights"].items())


def test_processes_share_out_the_training_images_of_an_epoch(make_cfg: MakeCfg, tmp_path: Path) -> None:
    def keep_order() -> None:
        cfg = make_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", "2")
        with run(cfg):
            loader = build_trainer(cfg).train_loader_x
            order = [index for batch in loader for index in batch["index"].tolist()]
            Path(tmp_path, f"order{get_rank()}.json").write_text(json.dumps(order))

    toy.in_two_processes(keep_order)
    orders = [json.loads((tmp_path / f"order{rank}.json").read_text()) for rank in range(2)]
    assert [len(order) for order in orders] == [6, 6]  # 15 images: 7 each, in whole batches of 2
    assert len(set(orders[0] + orders[1])) == 12


def test_two_processes_take_the_step_of_one_with_the_whole_batch(
    make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without dropout and random crops the mean gradient over both halves is that of the whole batch.
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, x: x)
    opts = ("INPUT.TRANSFORMS", "('normalize',)", "DATALOADER.TRAIN_X.SAMPLER", "SequentialSampler")

    def train(folder: str, batch_size: int) -> None:
        cfg = make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / folder), "DATALOADER.TRAIN_X.BATCH_SIZE", str(batch_size))
        with run(cfg):
            build_trainer(cfg).train()

    toy.in_two_processes(lambda: train("two", 2))
    train("one", 4)
    one, two = (torch.load(tmp_path / name / "model" / "model.pth.tar-3")["state_dict"] for name in ("one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-5)
    figures = {
        name: [(r["loss"], r["acc"]) for r in toy.read_metrics(tmp_path / name) if r["split"] == "train"]
        for name in ("one", "two")
    }
    assert figures["one"] and len(figures["one"]) == len(figures["two"])
    for expected, got in zip(figures["one"], figures["two"], strict=True):  # of the whole batch, not of rank 0's half
        assert got == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("two_models", ["False", "True"])
def test_projected_gradients_are_those_of_one_process_with_the_whole_batch(
    two_models: str, make_cfg: MakeCfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    toy.in_two_processes(lambda: train("two", 2))
    train("one", 4)
    plain, one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("plain", "one", "two"))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain[key], tensor, rtol=1e-4, atol=1e-5)
