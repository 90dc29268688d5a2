"""The loop, its hooks, precision and the choice of the model."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dassl_toy as toy
import pytest
import torch
from torch import nn

from dassl.engine import TrainerBase, TrainerX, build_trainer
from dassl.optim import build_optimizer
from dassl.utils import load_checkpoint

PRECISIONS = ("fp32", "fp16", "bf16", "amp")
MakeCfg = Callable[..., Any]
no_steps = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # these tests take no step


def rates(folder: Path) -> list[float]:
    """Learning rate of every epoch's first batch."""
    return [record["lr"] for record in toy.read_metrics(folder) if record.get("batch") == 1]


# Learning rate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps_itself", ["False", "True"])
def test_schedule_is_stepped_once_an_epoch_whoever_does_it(
    steps_itself: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(make_cfg("TRAINER.TOY.STEPS_ITSELF", steps_itself, "OPTIM.MAX_EPOCH", "4"))
    # Warm-up, then 0.1 * (1 + cos(pi * k / 4)) / 2 for k = 0, 1, 2.
    assert rates(tmp_path / "run") == pytest.approx([0.01, 0.1, 0.0853553391, 0.05])


def test_rate_is_constant_within_an_epoch_and_logged_as_it_was_used(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg("TRAINER.TOY.STEPS_ITSELF", "True"))
    used = [record["lr"] for record in toy.read_metrics(tmp_path / "run") if record["split"] == "train"]
    assert used == pytest.approx([0.01] * 3 + [0.1] * 3 + [0.075] * 3)


def test_every_registered_schedule_is_stepped(make_cfg: MakeCfg) -> None:
    trainer = toy.run_toy(make_cfg("TRAINER.TOY.TWO_MODELS", "True"))
    assert [sched.get_last_lr() for sched in trainer._scheds.values()] == [pytest.approx([0.025])] * 2


@pytest.mark.parametrize("steps_itself", ["False", "True"])
def test_schedule_may_be_stepped_once_a_batch_whoever_does_the_last(
    steps_itself: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(make_cfg("TRAINER.TOY.STEPS_ITSELF", steps_itself, "OPTIM.LR_STEP", "batch"))
    used = [record["lr"] for record in toy.read_metrics(tmp_path / "run") if record["split"] == "train"]
    # One epoch of warm-up, then cosine over 3 epochs of 3 batches.
    assert used == pytest.approx([0.01] * 3 + [0.05 * (1 + math.cos(math.pi * k / 9)) for k in range(6)])


# Length -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(("limit", "sizes"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2]), (10, [3, 3, 3, 1])])
def test_training_ends_after_so_many_batches(
    limit: int,
    sizes: list[int],
    workers: str,
    make_cfg: MakeCfg,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opts = ("OPTIM.MAX_ITER", str(limit), "OPTIM.LR_STEP", "batch", "TEST.FINAL_MODEL", "best_val")
    trainer = toy.run_toy(make_cfg(*opts, "DATALOADER.NUM_WORKERS", workers))
    records = toy.read_metrics(tmp_path / "run")
    train = [record for record in records if record["split"] == "train"]
    assert [record["step"] for record in train] == list(range(limit))
    assert [sum(record["epoch"] == e + 1 for record in train) for e in range(len(sizes))] == sizes
    assert trainer.max_epoch == len(sizes)
    ends = [sum(sizes[: e + 1]) - 1 for e in range(len(sizes))]
    assert [record["step"] for record in records if record["split"] == "val"] == ends
    assert [record["step"] for record in records if record["split"] == "test"] == [limit]
    said = f"OPTIM.MAX_ITER {limit}: {len(sizes)} epochs of 3 batches, the last of {sizes[-1]}; OPTIM.MAX_EPOCH 3 has"
    printed = capsys.readouterr().out
    assert said in printed
    assert f"epoch [{len(sizes)}/{len(sizes)}] batch [{sizes[-1]}/{sizes[-1]}]" in printed


def test_limit_means_nothing_to_a_test(make_cfg: MakeCfg, tmp_path: Path) -> None:
    opts = ("OPTIM.MAX_ITER", "4")
    toy.run_toy(make_cfg(*opts))
    tested = toy.test_toy(make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "eval")), tmp_path / "run")
    assert tested.epoch == 2


# Averaged weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_final_weights_are_the_mean_over_the_epochs_in_test_and_checkpoint(
    kind: str, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, tested = [], []
    run_epoch, test = toy.ToyTrainer.run_epoch, toy.ToyTrainer.test

    def keep_weights(self: Any) -> None:
        run_epoch(self)
        seen.append({key: value.clone() for key, value in self.model.state_dict().items()})

    def keep_tested(self: Any) -> float:
        tested.append({key: value.clone() for key, value in self.model.state_dict().items()})
        return test(self)

    monkeypatch.setattr(toy.ToyTrainer, "run_epoch", keep_weights)
    monkeypatch.setattr(toy.ToyTrainer, "test", keep_tested)
    opts = ("OPTIM.AVERAGE", kind, "OPTIM.AVERAGE_MEAN", "2.0", "OPTIM.AVERAGE_STD", "0.5")
    toy.run_toy(make_cfg(*opts, "TRAIN.CHECKPOINT_FREQ", "1"))
    raw = [1.0, 1.0, 1.0] if kind == "uniform" else [math.exp(-2), 1.0, math.exp(-2)]
    files = [load_checkpoint(f"{tmp_path}/run/model/model.pth.tar-{epoch}")["state_dict"] for epoch in (1, 2, 3)]
    for key in seen[0]:
        mean = sum(w * state[key] for w, state in zip(raw, seen, strict=True)) / sum(raw)
        torch.testing.assert_close(files[2][key], mean)
        assert torch.equal(files[2][key], tested[0][key]) and not torch.equal(files[2][key], seen[2][key])
        assert torch.equal(files[0][key], seen[0][key]) and torch.equal(files[1][key], seen[1][key])
    assert f"The final weights are the {kind} mean over 3 epochs" in capsys.readouterr().out


def test_averaged_weights_and_the_best_on_validation_data_do_not_go_together(make_cfg: MakeCfg) -> None:
    message = "OPTIM.AVERAGE uniform needs TEST.FINAL_MODEL last_step, got best_val: the averaged weights exist only"
    with pytest.raises(ValueError, match=message):
        build_trainer(make_cfg("OPTIM.AVERAGE", "uniform", "TEST.FINAL_MODEL", "best_val", "DATASET.NAME", "NoSuchSet"))


# Hooks --------------------------------------------------------------------------------------------------------------


def test_hooks_are_called_in_order_with_the_epoch_set(make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for name in ("before_train", "before_epoch", "run_epoch", "update_lr", "after_epoch", "after_train"):
        original = getattr(toy.ToyTrainer, name)

        def hook(self: Any, *args: Any, name: str = name, original: Any = original) -> Any:
            calls.append(name if "train" in name else (name, self.epoch))
            return original(self, *args)

        monkeypatch.setattr(toy.ToyTrainer, name, hook)
    build_trainer(make_cfg()).train()
    of_an_epoch = ("before_epoch", "run_epoch", "update_lr", "after_epoch")
    epochs = [(name, epoch) for epoch in range(toy.EPOCHS) for name in of_an_epoch]
    assert calls == ["before_train", *epochs, "after_train"]


def test_trainer_attributes_that_dassl_trainers_read(make_cfg: MakeCfg) -> None:
    trainer = build_trainer(make_cfg())
    assert trainer.device == torch.device("cpu")
    assert trainer.num_classes == 3
    assert trainer.lab2cname == {0: "blue", 1: "green", 2: "red"}
    assert trainer.dm.dataset.classnames == ["blue", "green", "red"]
    assert (trainer.start_epoch, trainer.max_epoch) == (0, toy.EPOCHS)
    assert [len(x) for x in (trainer.train_loader_x, trainer.val_loader, trainer.test_loader)] == [3, 2, 3]
    assert trainer.train_loader_u is None
    assert trainer.get_model_names() == ["model"]
    assert trainer.evaluator is not None


@no_steps
def test_batches_differ_by_epoch_even_if_a_trainer_overrides_before_epoch(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def forward_backward(self: Any, batch: Any) -> dict[str, float]:
        seen.append(batch["impath"])
        return {"loss": 0.0}

    monkeypatch.setattr(toy.ToyTrainer, "before_epoch", lambda self: None)  # upstream's hook does nothing
    monkeypatch.setattr(toy.ToyTrainer, "forward_backward", forward_backward)
    build_trainer(make_cfg("TEST.NO_TEST", "True")).train()
    epochs = [sum(seen[i : i + 3], []) for i in (0, 3, 6)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_unlabelled_images_follow_the_epoch_too(make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    init = toy.DatasetBase.__init__
    monkeypatch.setattr(
        toy.DatasetBase, "__init__", lambda self, **lists: init(self, train_u=lists["train_x"], **lists)
    )
    trainer = build_trainer(make_cfg("TEST.NO_TEST", "True"))
    trainer.train()
    for loader in (trainer.train_loader_x, trainer.train_loader_u):
        assert (loader.sampler.epoch, int(loader.dataset.epoch)) == (toy.EPOCHS - 1, toy.EPOCHS - 1)


@no_steps
def test_trainer_may_log_nothing(make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toy.ToyTrainer, "forward_backward", lambda self, batch: None)
    toy.run_toy(make_cfg())
    train = [record for record in toy.read_metrics(tmp_path / "run") if record["split"] == "train"]
    assert len(train) == toy.EPOCHS * toy.BATCHES
    assert set(train[0]) == {"split", "epoch", "step", "batch", "lr"}


@no_steps
def test_figure_that_a_batch_does_not_give_is_not_logged_for_it(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def forward_backward(self: Any, batch: Any) -> dict[str, float]:
        return {"loss": 1.0} if self.batch_idx else {"loss": 1.0, "first": 2.0}

    monkeypatch.setattr(toy.ToyTrainer, "forward_backward", forward_backward)
    toy.run_toy(make_cfg())
    train = [record for record in toy.read_metrics(tmp_path / "run") if record["split"] == "train"]
    assert [record.get("first") for record in train] == [2.0, None, None] * toy.EPOCHS


def test_models_are_in_train_mode_for_training_and_eval_mode_for_testing(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    forward = toy.ToyTrainer.forward_backward

    def forward_backward(self: Any, batch: Any) -> Any:
        modes.append(("train", self.model.training))
        return forward(self, batch)

    def model_inference(self: Any, input: torch.Tensor) -> torch.Tensor:
        modes.append(("test", self.model.training))
        assert not torch.is_grad_enabled()
        return self.model(input)

    monkeypatch.setattr(toy.ToyTrainer, "forward_backward", forward_backward)
    monkeypatch.setattr(toy.ToyTrainer, "model_inference", model_inference)
    build_trainer(make_cfg("TEST.FINAL_MODEL", "best_val")).train()
    assert set(modes) == {("train", True), ("test", False)}


def test_check_cfg_comes_before_anything_is_built(make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_cfg(self: Any, cfg: Any) -> None:
        raise ValueError("refused at once")

    monkeypatch.setattr(toy.ToyTrainer, "check_cfg", check_cfg)
    with pytest.raises(ValueError, match="refused at once"):
        build_trainer(make_cfg("DATASET.NAME", "NoSuchSet"))


def test_model_names_are_checked() -> None:
    trainer = TrainerBase()
    trainer.register_model("a", nn.Linear(1, 1))
    with pytest.raises(ValueError, match="'a' is registered already"):
        trainer.register_model("a", nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"\['b'\]; registered: \['a'\]"):
        trainer.get_model_names("b")
    with pytest.raises(ValueError, match="train, test or eval, got 'learn'"):
        trainer.set_model_mode("learn")


def test_register_model_before_init_is_explained() -> None:
    class Hasty(TrainerBase):
        def __init__(self) -> None:
            self.register_model("a")

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Hasty()


def test_trainer_without_build_model_says_so(make_cfg: MakeCfg) -> None:
    with pytest.raises(NotImplementedError, match="TrainerX must implement build_model"):
        TrainerX(make_cfg())


def test_parse_batch_train_gives_images_labels_and_domains(make_cfg: MakeCfg) -> None:
    trainer = build_trainer(make_cfg())
    batch = next(iter(trainer.train_loader_x))
    images, labels, domains = trainer.parse_batch_train(batch)
    assert images.shape == (4, 3, 8, 8)
    assert labels.tolist() == batch["label"].tolist()
    assert domains.tolist() == batch["domain"].tolist()


# Gradients ----------------------------------------------------------------------------------------------------------


def test_gradients_of_a_loss_are_scaled_in_order_and_leave_grad_alone() -> None:
    trainer, used, unused = TrainerBase(), nn.Linear(2, 1), nn.Linear(2, 1)
    nn.init.zeros_(used.weight.requires_grad_(False))
    nn.init.constant_(used.bias, 0.5)
    trainer.register_model("unused", unused)
    trainer.register_model("used", used)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loss = used(torch.ones(3, 2)).square().sum()
    for retain_graph in (True, False):
        assert trainer.model_gradients(loss, retain_graph) == [None, None, torch.tensor([24.0])]
    with pytest.raises(RuntimeError, match="second time"):
        trainer.model_gradients(loss)
    assert all(p.grad is None for model in (used, unused) for p in model.parameters())
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        trainer.model_gradients(used(torch.ones(3, 2)).sum() / 0)


def test_gradients_may_be_written_into() -> None:
    trainer, pair = TrainerBase(), nn.ParameterList([torch.zeros(2), torch.zeros(2)])
    trainer.register_model("pair", pair)
    first, second = trainer.model_gradients((pair[0] + pair[1]).sum())  # one broadcast view to autograd
    assert first is not None and second is not None
    first += torch.tensor([1.0, 2.0])
    assert (first.tolist(), second.tolist()) == ([2.0, 3.0], [1.0, 1.0])


def test_hook_before_the_step_sees_every_models_gradients_and_no_step(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_trainer(make_cfg("TRAINER.TOY.TWO_MODELS", "True", "TRAINER.TOY.PREC", "amp"))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    seen = []

    def before_step(name: str) -> None:
        seen.append(name)
        for p, old in zip(trainer.model.parameters(), before, strict=True):
            assert torch.equal(p, old)
            p.grad.zero_()

    monkeypatch.setattr(trainer, "before_step", before_step)
    trainer.forward_backward(next(iter(trainer.train_loader_x)))
    assert seen == ["body", "head"]
    scale = trainer.scaler.get_scale()
    assert scale == 65536 and not any(p.grad.any() for p in trainer.model.parameters())


# Precision and bad losses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_trains_with_learnables_in_fp32(
    precision: str, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dtypes = set()
    build = toy.ToyTrainer.build_model

    def build_model(self: Any) -> None:
        build(self)
        self.head.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))

    monkeypatch.setattr(toy.ToyTrainer, "build_model", build_model)
    start = build_trainer(make_cfg("TRAINER.TOY.PREC", precision))
    initial = [p.detach().clone() for p in start.model.parameters()]
    dtypes.clear()
    start.train()
    expected = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "amp": torch.float16}
    assert dtypes == {expected[precision]}
    assert (start.scaler is not None) == (precision in ("fp16", "amp"))
    assert {p.dtype for p in start.model.parameters()} == {torch.float32}
    checkpoint = load_checkpoint(str(tmp_path / "run" / "model" / "model.pth.tar-3"))
    assert {p.dtype for p in checkpoint["state_dict"].values()} == {torch.float32}
    assert all((p != old).any() for p, old in zip(start.model.parameters(), initial, strict=True))


def test_precisions_agree_to_rounding(make_cfg: MakeCfg, tmp_path: Path) -> None:
    losses = {}
    for precision in PRECISIONS:
        folder = tmp_path / precision
        small = ("OPTIM.LR", "0.01", "OPTIM.WARMUP_CONS_LR", "0.001")  # a skipped step then matters little
        toy.run_toy(make_cfg("TRAINER.TOY.PREC", precision, "OUTPUT_DIR", str(folder), *small))
        losses[precision] = [record["loss"] for record in toy.read_metrics(folder) if record["split"] == "train"]
    for precision, tolerance in (("fp16", 0.02), ("amp", 0.02), ("bf16", 0.1)):
        assert losses[precision] == pytest.approx(losses["fp32"], abs=tolerance)
        assert losses[precision] != losses["fp32"]


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['fp32', 'fp16', 'bf16', 'amp'\], got 'fp8'"):
        TrainerBase().set_precision("fp8")


@pytest.mark.parametrize("precision", ["fp32", "amp"])
def test_loss_that_is_not_finite_names_epoch_batch_parts_and_images(
    precision: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    cfg = make_cfg("TRAINER.TOY.NAN_AT_STEP", "4", "TRAINER.TOY.PREC", precision)
    with pytest.raises(FloatingPointError) as caught:
        toy.run_toy(cfg)
    message = str(caught.value)
    assert "epoch 2, batch 2" in message
    assert "ce 0." in message and "nothing nan" in message
    trainer = build_trainer(make_cfg())
    trainer.epoch = 1
    trainer._set_epoch()
    batch = list(trainer.train_loader_x)[1]
    assert ", ".join(batch["impath"]) in message
    failure = json.loads((tmp_path / "run" / "failed.json").read_text())
    assert failure["error"] == f"FloatingPointError: {message}"


class OneWeight(TrainerBase):
    """A weight per model, with a loss scaler."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.set_precision("fp16")
        self.weights = {}
        for name in names:
            module = nn.Linear(1, 1, bias=False)
            nn.init.ones_(module.weight)
            self.weights[name] = module.weight
            self.register_model(name, module, torch.optim.SGD(module.parameters(), lr=0.5))


def test_step_with_overflowing_gradients_is_skipped_and_the_scale_lowered(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = OneWeight("a")
    weight = trainer.weights["a"]
    before = trainer.scaler.get_scale()
    trainer.model_backward_and_update((weight - 1).abs().sqrt().sum())  # loss 0, gradient infinite or NaN
    assert weight.item() == 1
    assert trainer.scaler.get_scale() == before / 2
    assert f"Step skipped: gradients overflowed at loss scale {before:g}" in capsys.readouterr().out
    trainer.model_backward_and_update(weight.sum())
    assert weight.item() == 0.5
    assert "skipped" not in capsys.readouterr().out


def test_scaled_gradients_take_the_same_step_as_unscaled_ones() -> None:
    trainer = OneWeight("a")
    trainer.model_backward_and_update((3 * trainer.weights["a"]).sum())
    assert trainer.weights["a"].item() == 1 - 0.5 * 3


def test_model_that_a_loss_does_not_reach_is_left_alone_with_a_scaler_too() -> None:
    trainer = OneWeight("a", "b")
    trainer.model_backward_and_update(trainer.weights["a"].sum())
    assert trainer.weights["a"].item() == 0.5
    assert trainer.weights["b"].item() == 1


def test_only_the_named_models_are_updated() -> None:
    trainer = OneWeight("a", "b")
    trainer.model_backward_and_update(sum(w.sum() for w in trainer.weights.values()), names="b")
    assert (trainer.weights["a"].item(), trainer.weights["b"].item()) == (1, 0.5)


# Checkpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frequency", "kept"), [(0, [5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (7, [5])])
def test_checkpoint_freq_decides_which_epochs_are_kept(
    frequency: int, kept: list[int], make_cfg: MakeCfg, tmp_path: Path
) -> None:
    toy.run_toy(
        make_cfg("TRAIN.CHECKPOINT_FREQ", str(frequency), "OPTIM.MAX_EPOCH", "5", "TRAINER.TOY.TWO_MODELS", "True")
    )
    expected = {"checkpoint", *(f"model.pth.tar-{epoch}" for epoch in kept)}
    for name in ("body", "head"):
        assert {path.name for path in (tmp_path / "run" / name).iterdir()} == expected
        assert (tmp_path / "run" / name / "checkpoint").read_text() == "model.pth.tar-5\n"


def test_checkpoint_holds_everything_needed_and_only_plain_values(make_cfg: MakeCfg, tmp_path: Path) -> None:
    trainer = toy.run_toy(make_cfg("TRAINER.TOY.PREC", "amp", "OPTIM.LR_SCHEDULER", "multi_step"))
    checkpoint = torch.load(tmp_path / "run" / "model" / "model.pth.tar-3", weights_only=True)
    assert set(checkpoint["state_dict"]) == {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert all(torch.equal(checkpoint["state_dict"][k], v) for k, v in trainer.model.state_dict().items())
    assert checkpoint["epoch"] == 3
    assert checkpoint["optimizer"]["state"][0]["momentum_buffer"].shape == (4, 192)
    assert checkpoint["scheduler"]["last_epoch"] == 1
    assert checkpoint["scaler"]["scale"] == trainer.scaler.get_scale()
    assert set(checkpoint["rng"]) == {"python", "numpy", "torch", "cuda"}
    meta = checkpoint["meta"]
    assert meta["trainer"] == "ToyTrainer"
    assert meta["classnames"] == ["blue", "green", "red"]
    assert meta["config"]["OPTIM"]["MAX_EPOCH"] == 3


def test_best_val_keeps_the_first_model_with_the_highest_validation_result(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {"val": iter([60.0, 80.0, 80.0]), "test": iter([5.0])}
    test = toy.ToyTrainer.test

    def fake_test(self: Any, split: str | None = None) -> float:
        test(self, split)
        return next(given[split or "test"])

    monkeypatch.setattr(toy.ToyTrainer, "test", fake_test)
    trainer = toy.run_toy(make_cfg("TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", "1"))
    folder = tmp_path / "run" / "model"
    best, second = (load_checkpoint(str(folder / name)) for name in ("model-best.pth.tar", "model.pth.tar-2"))
    assert (best["epoch"], best["val_result"]) == (2, 80.0)
    assert all(torch.equal(v, second["state_dict"][k]) for k, v in best["state_dict"].items())
    assert all(torch.equal(v, trainer.model.state_dict()[k]) for k, v in best["state_dict"].items())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["epoch"], results["split"], results["eval_only"]) == (2, "test", False)
    assert results["train"]["seed"] == 1


@pytest.mark.parametrize("final", ["best_val", "last_step"])
def test_test_images_are_read_once_after_training_and_select_nothing(
    final: str, make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, int]] = []
    inference = toy.ToyTrainer.parse_batch_test

    def parse_batch_test(self: Any, batch: Any) -> Any:
        read.extend((Path(path).parts[-3], self.optim_steps) for path in batch["impath"])
        return inference(self, batch)

    update = toy.ToyTrainer.model_update

    def model_update(self: Any, names: Any = None) -> None:
        update(self, names)
        self.optim_steps += 1

    monkeypatch.setattr(toy.ToyTrainer, "optim_steps", 0, raising=False)
    monkeypatch.setattr(toy.ToyTrainer, "parse_batch_test", parse_batch_test)
    monkeypatch.setattr(toy.ToyTrainer, "model_update", model_update)
    build_trainer(make_cfg("TEST.FINAL_MODEL", final)).train()
    of_val = [("val", step) for step in (3, 6, 9) for _ in range(6)] if final == "best_val" else []
    assert read == of_val + [("test", 9)] * 9


def test_best_val_without_validation_images_is_an_error(make_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match="TEST.FINAL_MODEL best_val needs validation images.*last_step"):
        build_trainer(make_cfg("TEST.FINAL_MODEL", "best_val", "DATASET.VAL_PERCENT", "0"))


def test_testing_on_validation_images_that_are_not_there_is_an_error(make_cfg: MakeCfg) -> None:
    trainer = build_trainer(make_cfg("DATASET.VAL_PERCENT", "0"))
    with pytest.raises(ValueError, match="no validation images"):
        trainer.test("val")


@pytest.mark.parametrize(
    ("key", "allowed"), [("TEST.FINAL_MODEL", "last_step or best_val"), ("TEST.SPLIT", "val or test")]
)
def test_unknown_choice_of_model_or_split_is_refused(key: str, allowed: str, make_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match=f"{key} must be {allowed}, got 'best_test'"):
        build_trainer(make_cfg(key, "best_test"))


def test_no_test_trains_only(make_cfg: MakeCfg, tmp_path: Path) -> None:
    toy.run_toy(make_cfg("TEST.NO_TEST", "True"))
    assert {record["split"] for record in toy.read_metrics(tmp_path / "run")} == {"train"}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["results"] == {}


# Loading ------------------------------------------------------------------------------------------------------------


def test_loaded_model_gives_the_trained_ones_results_and_says_what_it_was_trained_on(
    make_cfg: MakeCfg, tmp_path: Path
) -> None:
    trained = toy.run_toy(make_cfg("TRAIN.CHECKPOINT_FREQ", "1"))
    tested = toy.test_toy(make_cfg("SEED", "7", "OUTPUT_DIR", str(tmp_path / "eval")), tmp_path / "run")
    assert tested.results == trained.results
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert (results["eval_only"], results["epoch"], results["seed"]) == (True, 3, 7)
    assert results["train"]["seed"] == 1
    earlier = toy.test_toy(make_cfg("OUTPUT_DIR", str(tmp_path / "eval2")), tmp_path / "run", epoch=1)
    assert earlier.epoch == 1
    weights = load_checkpoint(str(tmp_path / "run" / "model" / "model.pth.tar-1"))["state_dict"]
    assert all(torch.equal(v, weights[k]) for k, v in earlier.model.state_dict().items())


def test_last_epoch_that_all_models_have_is_loaded(make_cfg: MakeCfg, tmp_path: Path) -> None:
    opts = ("TRAINER.TOY.TWO_MODELS", "True")
    toy.run_toy(make_cfg(*opts, "TRAIN.CHECKPOINT_FREQ", "1"))
    (tmp_path / "run" / "body" / "model.pth.tar-3").unlink()
    trainer = build_trainer(make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "eval")))
    trainer.load_model(str(tmp_path / "run"))
    assert trainer.epoch == 2
    for name in ("body", "head"):
        weights = load_checkpoint(str(tmp_path / "run" / name / "model.pth.tar-2"))["state_dict"]
        assert all(torch.equal(v, weights[k]) for k, v in trainer._models[name].state_dict().items())


def test_missing_epoch_lists_those_there_are(make_cfg: MakeCfg, tmp_path: Path) -> None:
    trainer = toy.run_toy(make_cfg("TRAIN.CHECKPOINT_FREQ", "2"))
    with pytest.raises(FileNotFoundError, match=r"model.pth.tar-9; epochs in .*run: \[2, 3\]"):
        trainer.load_model(str(tmp_path / "run"), epoch=9)
    with pytest.raises(FileNotFoundError, match="epochs in .*nowhere: none"):
        trainer.load_model(str(tmp_path / "nowhere"))


def test_loading_without_a_folder_is_an_error(make_cfg: MakeCfg) -> None:
    with pytest.raises(ValueError, match="--model-dir"):
        build_trainer(make_cfg()).load_model("")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("3.bias"), "missing 3.bias"),
        (lambda weights: weights.update(stray=torch.zeros(1)), "unexpected stray"),
        (lambda weights: weights.update({"3.bias": torch.zeros(7)}), r"3.bias has shape \[7\], not \[3\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(
    change: Callable[[dict[str, Any]], Any], problem: str, make_cfg: MakeCfg, tmp_path: Path
) -> None:
    trainer = toy.run_toy(make_cfg())
    path = tmp_path / "run" / "model" / "model.pth.tar-3"
    checkpoint = load_checkpoint(str(path))
    checkpoint["state_dict"] = {k: v + 1 for k, v in checkpoint["state_dict"].items()}
    change(checkpoint["state_dict"])
    torch.save(checkpoint, path)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    with pytest.raises(ValueError, match=f"model.pth.tar-3: its tensors do not fit model: {problem}"):
        trainer.load_model(str(tmp_path / "run"))
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


def test_checkpoint_of_another_trainer_or_without_weights_is_refused(make_cfg: MakeCfg, tmp_path: Path) -> None:
    trainer = toy.run_toy(make_cfg())
    path = tmp_path / "run" / "model" / "model.pth.tar-3"
    checkpoint = load_checkpoint(str(path))
    torch.save({**checkpoint, "meta": {"trainer": "Other"}}, path)
    with pytest.raises(ValueError, match="model.pth.tar-3.*belongs to trainer 'Other', this is 'ToyTrainer'"):
        trainer.load_model(str(tmp_path / "run"))
    torch.save({"weights": {}, "epoch": 3}, path)
    with pytest.raises(ValueError, match="model.pth.tar-3 holds no state_dict; it holds weights, epoch"):
        trainer.load_model(str(tmp_path / "run"))


def test_set_without_training_images_can_only_be_tested(make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch) -> None:
    init = toy.DatasetBase.__init__
    monkeypatch.setattr(toy.DatasetBase, "__init__", lambda self, train_x, **kwargs: init(self, **kwargs))
    trainer = build_trainer(make_cfg())
    assert trainer.train_loader_x is None
    with pytest.raises(ValueError, match="ToyImages has no training images"):
        trainer.train()
    assert 0 <= trainer.test() <= 100


def test_trainer_without_learnables_only_tests(
    make_cfg: MakeCfg, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build_model(self: Any) -> None:
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    monkeypatch.setattr(toy.ToyTrainer, "build_model", build_model)
    trainer = toy.run_toy(make_cfg())
    trainer.load_model("anywhere")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["eval_only"], results["train"], results["epoch"]) == (True, None, 0)
    assert {record["split"] for record in toy.read_metrics(tmp_path / "run")} == {"test"}


def test_frozen_parameters_are_not_optimised(make_cfg: MakeCfg) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optim = build_optimizer(model, make_cfg().OPTIM)
    assert [id(p) for p in optim.param_groups[0]["params"]] == [id(p) for p in model[1].parameters()]
